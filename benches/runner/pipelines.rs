//! The pipelines that are measured.

use std::fmt::Write as _;

/// A matrix of this many points with up to four stages per point. Each stage reads the one before.
pub(crate) fn matrix(points: usize, stages: usize) -> String {
    let values: Vec<String> = (0..points).map(|i| i.to_string()).collect();
    let mut text = format!("[pipeline]\nname = \"matrix\"\n[matrix]\ni = [{}]\n", values.join(","));
    text.push_str("[stages.a]\nkind = \"trivial\"\nn = \"${matrix.i}\"\n");
    for (before, stage) in ["a", "b", "c"].iter().zip(["b", "c", "d"]).take(stages - 1) {
        let _ = write!(text, "[stages.{stage}]\nkind = \"trivial\"\ninputs = {{ x = \"{before}\" }}\n");
    }
    text
}

/// This many stages, each with its own table, in chains of four.
pub(crate) fn tables(stages: usize) -> String {
    let mut text = String::from("[pipeline]\nname = \"tables\"\n");
    for i in 0..stages {
        let _ = write!(text, "[stages.s{i}]\nkind = \"trivial\"\nn = {i}\n");
        if i % 4 > 0 {
            let _ = writeln!(text, "inputs = {{ x = \"s{}\" }}", i - 1);
        }
    }
    text
}

/// The pipeline with one stage changed: point 5,003 of the matrix, or table 5,003. No stage reads it.
pub(crate) fn edited(text: &str, round: usize) -> String {
    let (matrix, table) = (",5003,", "\nn = 5003\n");
    if text.contains(table) {
        return text.replacen(table, &format!("\nn = {round}.5\n"), 1);
    }
    text.replacen(matrix, &format!(",{round}.5,"), 1)
}

/// A decoder whose training takes nearly no time.
pub(crate) const SMALL: &str = "latent_dim = 6\nchannels = [16, 12, 8, 8]\n";
/// The decoder of the shipped pipelines: 20.5 M parameters, a state of 250 MB.
pub(crate) const SHIPPED: &str = "latent_dim = 128\nchannels = [2048, 512, 256, 128]\n";

/// A training with one batch per epoch. Only its last state is saved.
pub(crate) fn training(model: &str, epochs: u64) -> String {
    format!(
        "[pipeline]\nname = \"epochs\"\nseed = 7\ncheckpoint_seconds = 1e6\n[stages.data]\nkind = \"load-data\"\n\
         source = \"synthetic\"\ntrain = 16\ntest = 10\n[stages.ad]\nkind = \"train-ad\"\ninputs = {{ data = \"data\" }}\n\
         epochs = {epochs}\n{model}"
    )
}
