//! JSON objects that programs write: metrics, and the lines of a log.

use jiter::{Jiter, JiterError, Peek};

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::stages) enum Field {
    /// A number, which may be NaN or infinite, as Python writes it. Integers of any size are rounded.
    Number(f64),
    /// Something else, in words: "null", "a list".
    Other(String),
}

impl Field {
    /// The number, if it is one.
    pub(in crate::stages) fn number(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }
}

/// The fields of a JSON object, in order.
///
/// # Errors
/// If the text is not a JSON object: the reason.
pub(in crate::stages) fn fields(text: &[u8]) -> Result<Vec<(String, Field)>, String> {
    let mut jiter = Jiter::new(text).with_allow_inf_nan();
    let mut found = Vec::new();
    match read(&mut jiter, &mut found) {
        Ok(true) => Ok(found),
        Ok(false) => Err("it is not a JSON object".to_owned()),
        Err(error) => Err(error.description(&jiter)),
    }
}

/// Whether the text is an object, whose fields are added to `found`.
fn read(jiter: &mut Jiter<'_>, found: &mut Vec<(String, Field)>) -> Result<bool, JiterError> {
    let start = jiter.peek()?;
    if start != Peek::Object {
        jiter.known_skip(start)?;
        jiter.finish()?;
        return Ok(false);
    }
    let mut name = jiter.known_object()?.map(str::to_owned);
    while let Some(known) = name {
        let start = jiter.peek()?;
        found.push((known, field(jiter, start)?));
        name = jiter.next_key()?.map(str::to_owned);
    }
    jiter.finish()?;
    Ok(true)
}

fn field(jiter: &mut Jiter<'_>, start: Peek) -> Result<Field, JiterError> {
    if start.is_num() {
        // Rust reads NaN and Infinity as JSON writes them.
        let text = std::str::from_utf8(jiter.known_number_bytes(start)?).unwrap_or_default();
        return Ok(text.parse().map_or_else(|_| Field::Other("not a number".to_owned()), Field::Number));
    }
    Ok(Field::Other(match start {
        Peek::String => shortened(&format!("{:?}", jiter.known_str()?)),
        Peek::Null => {
            jiter.known_null()?;
            "null".to_owned()
        }
        Peek::True | Peek::False => jiter.known_bool(start)?.to_string(),
        _ => {
            jiter.known_skip(start)?;
            if start == Peek::Array { "a list" } else { "an object" }.to_owned()
        }
    }))
}

/// The beginning of a long text.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let start: String = text.chars().take(MOST).collect();
    if start.len() < text.len() { start + "…" } else { start }
}
