//! What an artifact provides to the stages and reports that read it.

use std::fmt;

/// A kind of content that other stages and reports can read: a name, and the tensors that hold it.
///
/// A stage kind lists the capabilities of its artifacts, and a role lists those that it needs. Neither names the other,
/// so a training from another crate can feed `fit-latents`. Capabilities with the same name are equal.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    name: &'static str,
    /// Names of tensors that must exist. `*` at the end matches any text.
    required: &'static [&'static str],
    /// Names of tensors that may also exist.
    optional: &'static [&'static str],
}

/// The bits of the NaN that stands for an epoch in which a metric was not logged. A program that computes or logs a NaN
/// never makes this one: its payload is that of R's `NA`.
pub(crate) const NOT_LOGGED: u64 = 0x7ff8_0000_0000_07a2;

impl Capability {
    /// `train.images` and `test.images`: u8 [n, 28, 28], grey levels.
    pub const IMAGES: Self = Self::new("images", &["train.images"], &["test.images"]);
    /// `train.labels` and `test.labels`: `u8 [n]`, indices into the fact `classes`, a list of names.
    pub const LABELS: Self = Self::new("labels", &["train.labels"], &["test.labels"]);
    /// `examples`: u8 [n, height, width], images for display. If the fact `examples_per_class` is k, the first k images
    /// belong to the first of the fact `classes`, the next k to the second, and so on.
    pub const EXAMPLES: Self = Self::new("examples", &["examples"], &[]);
    /// `decoder.*`: the weights under the names of `train-ad`. The prior is the fact `distribution`, or else N(0, 1).
    pub const DECODER: Self = Self::new("decoder", &["decoder.*"], &[]);
    /// `latents`: f32 [n, d], one vector for each image of the split that the fact `split` names. If the fact
    /// `distribution` is set, `posterior.*` are the parameters of the posteriors, and `latents` are their means.
    pub const LATENTS: Self = Self::new("latents", &["latents"], &["posterior.*"]);
    /// The latents were fitted to the decoder of another stage.
    pub const FITTED_LATENTS: Self = Self::new("fitted-latents", &["latents"], &["posterior.*"]);
    /// `history.NAME`: `f64 [epochs]`, one value for each epoch, such as `history.loss`.
    pub const HISTORY: Self = Self::new("history", &["history.*"], &[]);
    /// `originals` and `reconstructions`: u8 [n, height, width].
    pub const RECONSTRUCTIONS: Self = Self::new("reconstructions", &["originals", "reconstructions"], &[]);
    /// `images`: u8 [n, height, width], decoded latents. The facts `what` and `scale` describe the latents.
    pub const SAMPLES: Self = Self::new("samples", &["images"], &["latents"]);
    /// `images`: u8 [steps, height, width], the steps from one image to another. Facts: `from`, `to`, `mode`.
    pub const INTERPOLATION: Self = Self::new("interpolation", &["images"], &["latents"]);
    /// `embedding`: `f32 [n, 2]`. `labels`: `u8 [n]`, indices into the fact `classes`.
    pub const EMBEDDING: Self = Self::new("embedding", &["embedding"], &["labels"]);
    /// The outputs of a program: files and tensors under names that the pipeline chooses.
    pub const OUTPUTS: Self = Self::new("outputs", &[], &[]);

    /// The capabilities that this crate's kinds provide.
    pub const ALL: [Self; 12] = [
        Self::IMAGES,
        Self::LABELS,
        Self::EXAMPLES,
        Self::DECODER,
        Self::LATENTS,
        Self::FITTED_LATENTS,
        Self::HISTORY,
        Self::RECONSTRUCTIONS,
        Self::SAMPLES,
        Self::INTERPOLATION,
        Self::EMBEDDING,
        Self::OUTPUTS,
    ];

    /// Defines a capability, for example in another crate: its name, the tensors that an artifact must hold, and those
    /// that it may hold. A `*` at the end of a tensor's name matches any text.
    pub const fn new(name: &'static str, required: &'static [&'static str], optional: &'static [&'static str]) -> Self {
        Self { name, required, optional }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The first required tensor that is not among these names.
    pub fn missing<'a>(&self, tensors: impl Iterator<Item = &'a String> + Clone) -> Option<&'static str> {
        self.required.iter().find(|wanted| !tensors.clone().any(|name| matches(wanted, name))).copied()
    }

    /// Whether it defines a tensor of this name.
    pub fn defines(&self, tensor: &str) -> bool {
        self.required.iter().chain(self.optional).any(|pattern| matches(pattern, tensor))
    }

    /// The names of these capabilities, for messages: "`images`, `labels`".
    pub fn names(capabilities: &[Self]) -> String {
        let names: Vec<String> = capabilities.iter().map(|c| format!("`{}`", c.name)).collect();
        names.join(", ")
    }
}

impl PartialEq for Capability {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Capability {}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_tensors_are_found_by_name_or_by_prefix() {
        let held = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        let missing = |what: Capability, names: &[&str]| what.missing(held(names).iter());
        assert_eq!(missing(Capability::DECODER, &["decoder.fc.weight"]), None);
        assert_eq!(missing(Capability::DECODER, &["decoder"]), Some("decoder.*"));
        assert_eq!(missing(Capability::RECONSTRUCTIONS, &["originals"]), Some("reconstructions"));
        assert_eq!(missing(Capability::OUTPUTS, &[]), None);
        assert!(Capability::LATENTS.defines("posterior.mu") && !Capability::LATENTS.defines("latents.m"));
    }

    #[test]
    fn names_are_unique() {
        for (at, one) in Capability::ALL.iter().enumerate() {
            assert!(!Capability::ALL[at + 1..].contains(one), "{one}");
        }
    }
}
