//! The pure functions of the benches. `cargo bench` runs no tests of them.

#[path = "../../benches/common/reply.rs"]
mod reply;
#[path = "../../benches/common/stats.rs"]
mod stats;

use stats::{Options, median};

fn parse(line: &str) -> Result<Options, String> {
    let args = line.split_whitespace().map(str::to_owned);
    Options::parse(args, &[("--batch", true), ("--peer-settings", false)], &["ad", "fit"])
}

#[test]
fn median_is_the_middle_value_or_the_mean_of_the_middle_two() {
    assert_eq!(median(&[3.0]), 3.0);
    assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
    assert!(median(&[]).is_nan());
}

#[test]
fn command_line_chooses_rounds_parts_and_options_of_the_bench() {
    let all = parse("--bench").expect("cargo's own flag");
    assert!(all == Options::default() && all.wants("ad") && all.wants("fit"));
    let some = parse("ad --rounds 4 --quick --batch 16 --peer-settings --bench").expect("a valid command line");
    assert!(some.wants("ad") && !some.wants("fit") && some.quick);
    assert_eq!(some.rounds, Some(4));
    assert_eq!(some.others, [("--batch".to_owned(), Some(16.0)), ("--peer-settings".to_owned(), None)]);
    assert_eq!(parse("--rounds 0").expect("a valid command line").rounds, Some(1), "a median needs a measurement");
}

#[test]
fn invalid_command_line_is_reported() {
    let known = "Known: --quick, --rounds N, --batch N, --peer-settings, ad, fit";
    assert_eq!(parse("--fast"), Err(format!("unknown argument \"--fast\". {known}")));
    assert_eq!(parse("--rounds"), Err("`--rounds` needs a number".to_owned()));
    assert_eq!(parse("--batch many"), Err("`--batch` needs a number, not \"many\"".to_owned()));
}

#[test]
fn reply_of_a_peer_is_an_object_or_an_error() {
    let seconds = reply::parse("{\"seconds\": 1.5}\n").expect("a reply");
    assert_eq!(seconds["seconds"], 1.5);
    assert_eq!(reply::parse("{\"error\": \"No module named 'torch'\"}"), Err("No module named 'torch'".to_owned()));
    assert_eq!(reply::parse("{\"error\": 3}"), Err("3".to_owned()));
    assert_eq!(reply::parse("Traceback …\n"), Err("unexpected reply of the peer: \"Traceback …\"".to_owned()));
    assert_eq!(reply::parse("[1]"), Err("unexpected reply of the peer: \"[1]\"".to_owned()));
}
