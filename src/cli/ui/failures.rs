//! The failures of a run, which are listed again at its end.

use super::style::{GREEN, RED, paint};
use crate::event::Event;

/// At most this many failures are listed.
const MOST: usize = 10;
/// How the error of a program ends before it quotes the program's output.
const QUOTE: &str = "; the end of its output:";

/// The failed stages of a run.
#[derive(Default)]
pub(super) struct Failures(Vec<Failure>);

struct Failure {
    stage: String,
    cause: String,
    hint: Option<String>,
    log: String,
}

impl Failures {
    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::RunStarted { .. } => self.0.clear(),
            // A lost result failed when it was made again.
            Event::StageFailed { stage, error, hint, log } if self.0.iter().all(|f| f.stage != *stage) => {
                let (stage, hint, log) = (stage.clone(), hint.clone(), log.clone());
                self.0.push(Failure { stage, cause: cause(error), hint, log });
            }
            _ => {}
        }
    }

    /// A list of the failures with their causes, logs and the commands that print the logs. `cache` is the option that
    /// these commands need to find the cache.
    pub(super) fn list(&self, cache: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for failure in self.0.iter().take(MOST) {
            let Failure { stage, cause, hint, log } = failure;
            let name = shlex::try_quote(stage).unwrap_or(stage.into());
            lines.push(format!("{} {stage}", paint(RED, "failed:")));
            lines.push(format!("  cause:  {cause}"));
            lines.extend(hint.iter().map(|hint| format!("  {}   {hint}", paint(GREEN, "hint:"))));
            lines.push(format!("  log:    {log}"));
            lines.push(format!("  next:   vadpipe log last --stage {name}{cache}"));
        }
        let more = self.0.len().saturating_sub(MOST);
        if more > 0 {
            lines.push(format!("and {more} more: vadpipe log --run last --status failed{cache}"));
        }
        lines
    }
}

/// The first line of an error. For a program, also the last line of its output.
fn cause(error: &str) -> String {
    let first = error.lines().next().unwrap_or_default();
    match (first.strip_suffix(QUOTE), error.lines().next_back()) {
        (Some(first), Some(last)) => format!("{first}: {}", last.trim()),
        _ => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::style::printable;

    fn failed(stage: &str, error: &str, hint: Option<&str>) -> Event {
        let (stage, log) = (stage.to_owned(), format!("cache/logs/1/{stage}.log"));
        Event::StageFailed { stage, error: error.to_owned(), hint: hint.map(str::to_owned), log }
    }

    fn list(failures: &Failures, cache: &str) -> String {
        anstream::adapter::strip_str(&printable(&failures.list(cache).join("\n"))).to_string()
    }

    #[test]
    fn failures_are_listed_with_cause_log_and_next_command() {
        let mut failures = Failures::default();
        let error = "`python3` exited with code 1; the end of its output:\n  Traceback\n  ValueError: bad rate";
        failures.event(&failed("net@lr=0.1,name=a b", error, None));
        failures.event(&failed("net@lr=0.1,name=a b", error, None));
        failures.event(&failed("ad", "train.py is missing", Some("is it beside the pipeline?")));
        insta::assert_snapshot!(list(&failures, " --cache c"), @r"
        failed: net@lr=0.1,name=a b
          cause:  `python3` exited with code 1: ValueError: bad rate
          log:    cache/logs/1/net@lr=0.1,name=a b.log
          next:   vadpipe log last --stage 'net@lr=0.1,name=a b' --cache c
        failed: ad
          cause:  train.py is missing
          hint:   is it beside the pipeline?
          log:    cache/logs/1/ad.log
          next:   vadpipe log last --stage ad --cache c
        ");
    }

    #[test]
    fn only_the_first_failures_are_listed() {
        let mut failures = Failures::default();
        (0..12).for_each(|n| failures.event(&failed(&format!("s{n}"), "no", None)));
        let text = list(&failures, "");
        assert!(text.contains("failed: s9\n") && !text.contains("failed: s10\n"), "{text}");
        assert!(text.ends_with("and 2 more: vadpipe log --run last --status failed"), "{text}");
    }
}
