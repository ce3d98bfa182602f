//! Describes the fault in a damaged safetensors file. The errors of the safetensors crate do not name the tensor or the
//! sizes.
//!
//! ```text
//! 8 bytes     length of the header, little-endian
//! header      JSON: { "NAME": { "dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24] }, … }
//! data        the tensors, each at its offsets, without gaps
//! ```

use safetensors::tensor::TensorInfo;
use serde_json::Value;

/// The size in bytes of the field that holds the header's length.
const LENGTH: usize = 8;
/// The size in bytes of the largest header that the crate reads.
pub(super) const LARGEST_HEADER: u64 = 100_000_000;
/// The most characters of a name that a message quotes.
const QUOTED: usize = 100;

/// Describes the fault in a damaged file, as a clause: "its header has …".
pub(super) fn explain(bytes: &[u8]) -> String {
    let (start, rest) = bytes.split_at(LENGTH.min(bytes.len()));
    let length = usize::try_from(header_length(start)).ok().filter(|length| *length as u64 <= LARGEST_HEADER);
    match length.and_then(|length| rest.split_at_checked(length)) {
        Some((header, data)) if start.len() == LENGTH => explain_header(header, data.len()),
        _ => explain_start(start, bytes.len() as u64),
    }
}

/// Describes the fault in the first bytes of a file of `size` bytes.
pub(super) fn explain_start(start: &[u8], size: u64) -> String {
    if start.len() < LENGTH {
        return format!("it has {size} bytes, but the length of its header alone takes {LENGTH}");
    }
    let (length, rest) = (header_length(start), size.saturating_sub(LENGTH as u64));
    let gives = format!("its first {LENGTH} bytes give a header of {length} bytes");
    match length > LARGEST_HEADER {
        true => format!("{gives}; the limit is {LARGEST_HEADER}"),
        false => format!("{gives}, but only {rest} follow"),
    }
}

fn header_length(start: &[u8]) -> u64 {
    start.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte))
}

/// Describes the fault in a header that is followed by `data` bytes.
pub(super) fn explain_header(header: &[u8], data: usize) -> String {
    let text = match std::str::from_utf8(header) {
        Ok(text) => text,
        Err(utf8) => return format!("its header is not valid UTF-8 from byte {} on", utf8.valid_up_to()),
    };
    match serde_json::from_str(text) {
        Ok(header) => header_fault(&header, data).unwrap_or_else(|| "its header can't be read".to_owned()),
        Err(json) => format!("its header is not JSON: {json}"),
    }
}

/// Describes the fault in a header that is valid JSON.
fn header_fault(header: &Value, data: usize) -> Option<String> {
    let Value::Object(entries) = header else { return Some("its header is not a JSON object".to_owned()) };
    let mut tensors = Vec::new();
    for (name, entry) in entries {
        if name == "__metadata__" {
            let fine = entry.as_object().is_some_and(|map| map.values().all(Value::is_string)) || entry.is_null();
            if !fine {
                return Some("its `__metadata__` is not a JSON object of strings".to_owned());
            }
            continue;
        }
        match serde_json::from_value::<TensorInfo>(entry.clone()) {
            Ok(info) => tensors.push((name, info)),
            Err(error) => return Some(entry_fault(name, entry, &error)),
        }
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in &tensors {
        if let Some(fault) = tensor_fault(info, end, data) {
            return Some(format!("tensor `{}` {fault}", quoted(name)));
        }
        end = info.data_offsets.1;
    }
    (end < data).then(|| format!("{} bytes follow its last tensor", data - end))
}

/// Describes the fault in a header entry that is not a tensor description.
fn entry_fault(name: &str, entry: &Value, error: &serde_json::Error) -> String {
    let name = quoted(name);
    let known = |dtype: &Value| serde_json::from_value::<safetensors::Dtype>(dtype.clone()).is_ok();
    match entry.get("dtype") {
        Some(Value::String(dtype)) if !known(&Value::from(dtype.as_str())) => {
            format!("tensor `{name}` has the unknown dtype `{}`", quoted(dtype))
        }
        _ => format!("tensor `{name}` is not described as a tensor: {}", quoted(&error.to_string())),
    }
}

/// Describes the fault in a tensor. Its data must begin at `expected` and end within `data` bytes.
fn tensor_fault(info: &TensorInfo, expected: usize, data: usize) -> Option<String> {
    let (start, end) = info.data_offsets;
    let TensorInfo { dtype, shape, .. } = info;
    if end < start {
        return Some(format!("has the data offsets [{start}, {end}]: the end is before the start"));
    }
    if end > data {
        return Some(format!("has the data offsets [{start}, {end}], but the file has {data} bytes of data"));
    }
    if start != expected {
        return Some(format!("has the data offsets [{start}, {end}], but its data must start at byte {expected}"));
    }
    let bits = shape.iter().try_fold(dtype.bitsize(), |n, size| n.checked_mul(*size));
    let Some(bits) = bits else { return Some(format!("of shape {shape:?} has too many elements")) };
    let wrong = bits % 8 != 0 || bits / 8 != end - start;
    wrong.then(|| {
        let (takes, has) = (bits.div_ceil(8), end - start);
        format!("of type {dtype} and shape {shape:?} takes {takes} bytes, but its data offsets hold {has}")
    })
}

fn quoted(text: &str) -> String {
    let mut start: String = text.chars().take(QUOTED).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use crate::artifact::from_safetensors;

    /// A file with this header and this many bytes of data.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn refused(bytes: &[u8]) -> String {
        let message = from_safetensors(bytes).unwrap_err().to_string();
        message.strip_prefix("not a safetensors file: ").unwrap_or_else(|| panic!("{message}")).to_owned()
    }

    #[test]
    fn wrong_header_length_is_reported() {
        insta::assert_snapshot!(refused(b""), @"it has 0 bytes, but the length of its header alone takes 8");
        insta::assert_snapshot!(refused(b"PK\x03\x04 torch zip"), @"its first 8 bytes give a header of 8245937123593767760 bytes; the limit is 100000000");
        insta::assert_snapshot!(refused(&file("{}", 0)[..9]), @"its first 8 bytes give a header of 2 bytes, but only 1 follow");
    }

    #[test]
    fn invalid_header_is_reported_with_position() {
        insta::assert_snapshot!(refused(&file("{\"x\": }", 0)), @"its header is not JSON: expected value at line 1 column 7");
        insta::assert_snapshot!(refused(&file("{", 0)), @"its header is not JSON: EOF while parsing an object at line 1 column 1");
        let mut bytes = file("{}  ", 0);
        bytes[10] = 0xff;
        insta::assert_snapshot!(refused(&bytes), @"its header is not valid UTF-8 from byte 2 on");
        insta::assert_snapshot!(refused(&file("[1]", 0)), @"its header is not a JSON object");
    }

    #[test]
    fn tensor_fault_is_reported_with_tensor_name() {
        let one = |entry: &str, data: usize| refused(&file(&format!("{{\"x\": {entry}}}"), data));
        insta::assert_snapshot!(one(r#"{"dtype":"F33","shape":[2],"data_offsets":[0,8]}"#, 8), @"tensor `x` has the unknown dtype `F33`");
        insta::assert_snapshot!(one(r#"{"dtype":"F32","data_offsets":[0,8]}"#, 8), @"tensor `x` is not described as a tensor: missing field `shape`");
        insta::assert_snapshot!(one(r#"{"dtype":"F32","shape":[200],"data_offsets":[0,800]}"#, 16), @"tensor `x` has the data offsets [0, 800], but the file has 16 bytes of data");
        insta::assert_snapshot!(one(r#"{"dtype":"F32","shape":[1],"data_offsets":[8,4]}"#, 8), @"tensor `x` has the data offsets [8, 4]: the end is before the start");
        insta::assert_snapshot!(one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#, 8), @"tensor `x` has the data offsets [4, 8], but its data must start at byte 0");
        insta::assert_snapshot!(one(r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}"#, 12), @"tensor `x` of type F32 and shape [2, 2] takes 16 bytes, but its data offsets hold 12");
        insta::assert_snapshot!(one(r#"{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8]}"#, 8), @"tensor `x` of shape [9223372036854775807, 4] has too many elements");
        insta::assert_snapshot!(one(r#"{"dtype":"U8","shape":[2],"data_offsets":[0,2]}"#, 5), @"3 bytes follow its last tensor");
        insta::assert_snapshot!(one("3", 0), @"tensor `x` is not described as a tensor: invalid type: integer `3`, expected struct TensorInfo");
        insta::assert_snapshot!(refused(&file(r#"{"__metadata__": {"a": 1}}"#, 0)), @"its `__metadata__` is not a JSON object of strings");
    }

    #[test]
    fn long_tensor_name_is_truncated_in_message() {
        let name = "n".repeat(1 << 20);
        let message =
            refused(&file(&format!("{{\"{name}\": {{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,9]}}}}"), 4));
        assert!(message.len() < 300, "{} bytes", message.len());
    }
}
