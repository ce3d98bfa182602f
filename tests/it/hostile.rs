//! Files and texts that are not what they should be: nothing hangs, nothing is lost, and the message says what is wrong.

use std::io::Write as _;

use vadpipe::artifact::{Tensor, to_safetensors};

use crate::support::Desk;

/// A pipeline of one command, whose script is `script`.
fn pipeline_of(script: &str, more: &str) -> String {
    format!(
        "[pipeline]\nname = \"p\"\n[stages.it]\nkind = \"command\"\nshell = true\nargv = ['''{script}''']\n{more}\n"
    )
}

#[test]
fn a_damaged_safetensors_output_is_said_to_be_damaged_where() {
    let script = "cp {base}/t.safetensors out.safetensors";
    let desk = Desk::new(&pipeline_of(script, "outputs = { o = \"out.safetensors\" }\nsources = [\"t.safetensors\"]"));
    let whole = to_safetensors([("x", &Tensor::vector(&[1f32, 2.0]))]).expect("a file");
    let text = |from: &str, to: &str| {
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).expect("it is there");
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    for (bytes, what) in [
        (whole[..whole.len() - 1].to_vec(), "tensor `x` has the data offsets [0, 8], but the file has 7 bytes of data"),
        (whole[..20].to_vec(), "its first 8 bytes say that its header has 56 bytes, but only 12 follow"),
        (text("F32", "F99"), "tensor `x` has the unknown dtype `F99`"),
        (text("[2]", "[3]"), "tensor `x` of type F32 and shape [3] takes 12 bytes, but its data offsets hold 8"),
        (text("{\"x\"", "}\"x\""), "its header is not JSON: expected value at line 1 column 1"),
    ] {
        std::fs::File::create(desk.path("t.safetensors")).and_then(|mut f| f.write_all(&bytes)).expect("a file");
        let said = desk.vadpipe(["run", "p.toml"]);
        assert_eq!(said.code, 1, "{}", said.err);
        assert!(said.err.contains(&format!("not a safetensors file: {what}")), "{what}: {}", said.err);
    }
}
