//! Statistics and the command line of the benches.

/// The middle value, or the mean of the two middle values. NaN without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len() / 2, sorted.len() % 2) {
        (0, 0) => f64::NAN,
        (middle, 0) => (sorted[middle - 1] + sorted[middle]) / 2.0,
        (middle, _) => sorted[middle],
    }
}

/// The arguments after `--`: options with a value (`--rounds 3`), flags (`--quick`) and words that choose parts (`ad`).
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// The number of rounds, if given.
    pub(crate) rounds: Option<usize>,
    /// Whether to measure less.
    pub(crate) quick: bool,
    /// The flags and options of this bench, in order.
    pub(crate) others: Vec<(String, Option<f64>)>,
    /// The parts to run. Empty to run all.
    pub(crate) parts: Vec<String>,
}

impl Options {
    /// Parses a command line without the name of the program. `known` lists the options of this bench, and whether they
    /// take a number. An error is a line for the user.
    pub(crate) fn parse(
        args: impl IntoIterator<Item = String>,
        known: &[(&str, bool)],
        parts: &[&str],
    ) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut number = || {
                let value = args.next().ok_or(format!("`{arg}` needs a number"))?;
                value.parse::<f64>().map_err(|_| format!("`{arg}` needs a number, not {value:?}"))
            };
            match arg.as_str() {
                // Cargo passes this to every bench.
                "--bench" => {}
                "--quick" => options.quick = true,
                "--rounds" => options.rounds = Some((number()? as usize).max(1)),
                other => match known.iter().find(|(name, _)| *name == other) {
                    Some((_, true)) => options.others.push((other.to_owned(), Some(number()?))),
                    Some(_) => options.others.push((other.to_owned(), None)),
                    None if parts.contains(&other) => options.parts.push(other.to_owned()),
                    None => {
                        let own =
                            known.iter().map(|(name, number)| format!(", {name}{}", if *number { " N" } else { "" }));
                        let own: String = own.collect();
                        return Err(format!(
                            "unknown argument {other:?}. Known: --quick, --rounds N{own}, {}",
                            parts.join(", ")
                        ));
                    }
                },
            }
        }
        Ok(options)
    }

    /// Whether to run this part.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|p| p == part)
    }
}
