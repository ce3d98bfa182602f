//! Properties of every pipeline: its meaning does not depend on how it is written, and reading never panics.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::super::PointInput;
use super::super::testing::{good, read};
use super::MINI;

/// The meaning of a pipeline: the names, kinds, canonical parameters, seeds and inputs of its points, sorted by name.
fn meaning(text: &str) -> Vec<String> {
    let spec = good(text);
    let mut found: Vec<String> = spec
        .points
        .iter()
        .map(|p| {
            let segments = p.parsed.stage.epochs().map(|e| e.segments);
            let mut inputs = String::new();
            for (role, input) in &p.inputs {
                let mut names: Vec<&str> = input.points().iter().map(|i| spec.point(*i).name.as_str()).collect();
                names.sort_unstable();
                let _ = write!(inputs, "{role}: {names:?} ");
            }
            format!("{} {} {:?} {segments:?} {} {inputs}", p.name, p.parsed.kind.name(), p.parsed.params, p.seed)
        })
        .collect();
    found.sort();
    found
}

/// The sections of a text, each with its lines.
fn sections(text: &str) -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = vec![];
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if line.starts_with('[') {
            found.push(vec![]);
        }
        if let Some(section) = found.last_mut() {
            section.push(line.to_owned());
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_comments_and_white_space_do_not_change_meaning(
        shuffled in Just(sections(MINI)).prop_shuffle(),
        turn in 0usize..5,
        space in "[ \t]{0,3}",
        comment in "(# [a-z\"\\[\\]=]{0,12})?",
    ) {
        let mut text = String::new();
        for mut section in shuffled {
            let count = section.len().max(2) - 1;
            section[1..].rotate_left(turn % count);
            for line in section {
                let line = line.replace(" = ", &format!("{space}= {space}"));
                let _ = writeln!(text, "{space}{line}{space}{comment}\n{comment}");
            }
        }
        prop_assert_eq!(meaning(&text), meaning(MINI));
    }

    #[test]
    fn no_damage_to_text_panics(
        at in 0usize..MINI.len(),
        cut in 0usize..40,
        put in "[\\]\\[\"'${}=.,@*#a-c0-9\n é-]{0,6}",
    ) {
        let mut text = MINI.to_owned();
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &put);
        if let Err(message) = read(&text, &[]) {
            prop_assert!(message.contains("in the pipeline"), "{}", message);
        }
    }

    #[test]
    fn no_overridden_value_panics(
        path in prop::sample::select(vec![
            "pipeline", "params", "matrix", "stages", "pipeline.name", "pipeline.device", "params.epochs", "matrix.lr",
            "matrix.include", "matrix.exclude", "stages.ad", "stages.ad.kind", "stages.ad.inputs", "stages.ad.seed",
            "stages.ad.inputs.data", "stages.vad.matrix", "stages.vad.at", "stages.vad.matrix.distribution",
            "stages.report.inputs.shown", "stages.ad.epochs", "stages.fit.segments", "stages.ad.segments",
        ]),
        value in prop::sample::select(vec![
            "1", "-1", "0.5", "true", "''", "'*'", "'data@*'", "'ad'", "['vad@distribution=*', 'vad']", "['vad@lr=1']", "[]", "{}",
            "[{}]", "[{ lr = 0.001 }]", "[{ lr = 5.0 }]", "[1, 1]", "[[1]]", "{ 'lr=0.001' = { epochs = 1 } }", "{ a = {} }", "'${'",
            "'${matrix.lr}'", "'${params.epochs}'", "['${matrix.distribution}']", "1979-05-27", "9223372036854775808",
            "'vad@'", "'vad@distribution'", "'vad@distribution=gaussian,distribution=uniform'", "'report'", "[{ epochs = 5 }]",
        ]),
    ) {
        let _ = read(MINI, &[&format!("{path}={value}")]);
    }
}

/// A pipeline of `show` stages. Each declares an axis, may use shared ones, and reads some of the stages before it.
fn arb_pipeline() -> impl Strategy<Value = String> {
    let stage =
        (0usize..3, prop::collection::vec(any::<bool>(), 2), prop::collection::vec((0usize..6, 0usize..3), 0..3));
    prop::collection::vec(stage, 1..6).prop_map(|stages| {
        let mut text = "pipeline.name = 'p'\nmatrix = { x = [1, 2, 3], y = ['a', 'b'] }\n".to_owned();
        for (i, (own, mentioned, inputs)) in stages.into_iter().enumerate() {
            let values = ["1", "1, 2", "1, 2, 3"][own];
            let _ = writeln!(text, "[stages.s{i}]\nkind = 'show'\nmatrix.own{i} = [{values}]");
            let axes = ["x", "y"].iter().zip(mentioned).filter(|(_, m)| *m);
            // The first stage uses all axes, since an unused axis is an error.
            let axes = axes.chain(["x", "y"].iter().zip(std::iter::repeat(true)).filter(|_| i == 0));
            let _ = writeln!(text, "title = '-{}'", axes.map(|(a, _)| format!("${{matrix.{a}}}")).collect::<String>());
            for (role, (input, form)) in inputs.into_iter().enumerate().filter(|(_, (input, _))| *input < i) {
                let form = ["'IN'", "['IN@*']", "['IN@OWN=*']"][form];
                let form = form.replace("IN", &format!("s{input}")).replace("OWN", &format!("own{input}"));
                let _ = writeln!(text, "inputs.r{role} = {form}");
            }
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn points_are_product_of_axes_and_agree_with_inputs_on_shared_axes(text in arb_pipeline()) {
        let spec = good(&text);
        let size = |axis: &str| {
            let mut found: Vec<String> = spec.points.iter().flat_map(|p| &p.coordinates).filter(|(a, _)| a == axis)
                .map(|(_, v)| v.to_string()).collect();
            found.sort();
            found.dedup();
            found.len()
        };
        for stage in &spec.stages {
            prop_assert_eq!(stage.range().len(), stage.axes.iter().map(|a| size(a)).product::<usize>());
        }
        for point in &spec.points {
            for input in point.inputs.values() {
                let members: Vec<_> = input.points().iter().map(|i| spec.point(*i)).collect();
                let of = spec.stages.iter().find(|s| s.name == members[0].stage).unwrap();
                // Members of a list differ only on the axes over which it gathers.
                let varies = |axis: usize| members.iter().any(|m| m.coordinates[axis] != members[0].coordinates[axis]);
                let gathered: usize = (0..of.axes.len()).filter(|a| varies(*a)).map(|a| size(&of.axes[a])).product();
                prop_assert_eq!(members.len(), gathered);
                if let PointInput::One(index) = input {
                    let shared = spec.point(*index).coordinates.iter();
                    prop_assert!(shared.clone().all(|c| point.coordinates.contains(c)));
                }
            }
        }
        let names: std::collections::BTreeSet<_> = spec.points.iter().map(|p| &p.name).collect();
        prop_assert_eq!(names.len(), spec.points.len());
    }
}
