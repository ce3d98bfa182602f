//! Groups, and choices from them.

use insta::assert_snapshot;

use super::super::testing::{good, good_with, names, point, read, wrong, wrong_with};
use crate::value::Value;

/// A group with two members.
const GROUP: &str = r#"
[groups.model.small]
width = 8
channels = [64, 32]
[groups.model.wide]
width = "${params.width}"
channels = [128, 64]
[params]
width = 16
"#;

/// A pipeline that chooses one member.
fn one() -> String {
    format!(
        "pipeline.name = \"p\"\n{GROUP}model = \"@small\"\n[stages.data]\nkind = \"load\"\n[stages.net]\nkind = \"train\"\n\
         inputs.data = \"data\"\nwidth = \"${{params.model.width}}\"\nchannels = \"${{params.model.channels}}\"\n"
    )
}

/// A pipeline that sweeps over members.
fn swept(axis: &str) -> String {
    one().replace("model = \"@small\"\n", "").replace("params.model", "matrix.model")
        + &format!("[matrix]\nmodel = {axis}\n")
}

fn params(text: &str, overrides: &[&str], name: &str) -> String {
    Value::Table(point(&good_with(text, overrides), name).parsed.params.as_ref().clone()).to_string()
}

#[test]
fn chosen_parameter_is_the_table_of_the_member() {
    let net = |overrides: &[&str]| params(&one(), overrides, "net").replace(", distribution = \"gaussian\"", "");
    assert_eq!(net(&[]), "{ channels = [64, 32], width = 8 }");
    assert_eq!(net(&["model=@wide"]), "{ channels = [128, 64], width = 16 }");
    assert_eq!(net(&["params.model=@wide", "params.width=20"]), "{ channels = [128, 64], width = 20 }");
    assert_eq!(net(&["model.width=9"]), "{ channels = [64, 32], width = 9 }");
    assert_eq!(net(&["model=@wide", "model.width=9"]), "{ channels = [128, 64], width = 9 }");
    assert_eq!(net(&["groups.model.small.channels=[1]"]), "{ channels = [1], width = 8 }");
    let more = ["groups.model.huge={ width = 99, channels = [9] }", "model=@huge"];
    assert_eq!(net(&more), "{ channels = [9], width = 99 }");
    assert_eq!(net(&["model={ width = 7, channels = [] }"]), "{ channels = [], width = 7 }");
}

#[test]
fn members_in_an_axis_are_values_with_their_names() {
    let all = ["data", "net@model=small", "net@model=wide"];
    assert_eq!(names(&good(&swept("[\"@small\", \"@wide\"]"))), all);
    assert_eq!(names(&good(&swept("[\"@*\"]"))), all);
    let mixed = "[\"@wide\", { name = \"tiny\", width = 1, channels = [2] }]";
    assert_eq!(names(&good(&swept(mixed))), ["data", "net@model=wide", "net@model=tiny"]);
    assert_eq!(names(&good_with(&swept("[\"@*\"]"), &["model=@wide"])), ["data", "net@model=wide"]);
    assert_eq!(names(&good_with(&swept("[\"@small\"]"), &["model=[\"@*\"]"])), all);
    let drawn = good(&swept("{ choice = [\"@*\"], samples = 20 }"));
    assert_eq!(names(&drawn).len(), 3);
    let net = |point: &str| params(&swept("[\"@*\"]"), &[], point);
    assert_eq!(net("net@model=wide"), params(&one(), &["model=@wide"], "net"), "the name is not in the key");
    let own = swept("[\"@*\"]")
        .replace("[matrix]", "[other]")
        .replace("[other]\nmodel = [\"@*\"]\n", "matrix.model = [\"@*\"]\n");
    assert_eq!(names(&good(&own)), all, "also in an axis of a stage");
}

#[test]
fn mark_is_ordinary_text_without_a_group_of_that_name() {
    let text =
        "pipeline.name = \"p\"\n[params]\nuser = \"@me\"\n[stages.s]\nkind = \"show\"\ntitle = \"${params.user}\"\n";
    assert_eq!(params(text, &[], "s"), "{ title = \"@me\" }");
    let text = format!("{text}[groups.model.small]\nwidth = 8\n");
    assert_eq!(params(&text, &["params.user=@you"], "s"), "{ title = \"@you\" }");
}

#[test]
fn mistakes_in_choices_are_reported_at_their_place() {
    let of_params =
        |choice: &str| read(&one().replace("model = \"@small\"", &format!("model = {choice}")), &[]).unwrap_err();
    assert_snapshot!(of_params("\"@smal\""), @r#"
    error: group `model` has no member `smal`
      --> p.toml:11:9
       |
    11 | model = "@smal"
       |         ^^^^^^^
       |
       = help: did you mean `small`?

    1 error in the pipeline
    "#);
    assert_snapshot!(of_params("\"small\""), @r#"
    error: "small" is a string, not the member of group `model`
      --> p.toml:11:9
       |
    11 | model = "small"
       |         ^^^^^^^
       |
       = help: "@small" chooses the member

    1 error in the pipeline
    "#);
    assert_snapshot!(of_params("[\"@small\", \"@wide\"]"), @r#"
    error: the parameter `model` chooses one member of its group, not several
      --> p.toml:11:9
       |
    11 | model = ["@small", "@wide"]
       |         ^^^^^^^^^^^^^^^^^^^
       |
       = help: declare model in [matrix] and use ${matrix.model}

    1 error in the pipeline
    "#);
    let swept = |axis: &str| read(&swept(axis), &[]).unwrap_err();
    assert_snapshot!(swept("[\"@small\", \"@smal\", \"wide\"]"), @r#"
    error: group `model` has no member `smal`
      --> p.toml:19:20
       |
    19 | model = ["@small", "@smal", "wide"]
       |                    ^^^^^^^
       |
       = help: did you mean `small`?

    error: "wide" is a string, not the member of group `model`
      --> p.toml:19:29
       |
    19 | model = ["@small", "@smal", "wide"]
       |                             ^^^^^^
       |
       = help: "@wide" chooses the member

    2 errors in the pipeline
    "#);
    assert_snapshot!(swept("[\"@small\", \"@*\"]"), @r#"
    error: axis `model` has two values with the name "small"
      --> p.toml:19:20
       |
    19 | model = ["@small", "@*"]
       |                    ^^^^

    1 error in the pipeline
    "#);
    let named = one()
        .replace("[groups.model.wide]", "name = \"s\"\n[groups.model.wide]")
        .replace("params.model", "matrix.model");
    assert_snapshot!(read(&format!("{named}[matrix]\nmodel = [\"@small\"]\n"), &[]).unwrap_err(), @r#"
    error: member `small` of group `model` has another `name`
     --> p.toml:6:1
      |
    6 | name = "s"
      | ^^^^
      |
      = help: in an axis, `name` is the name of the member; give this field another name

    1 error in the pipeline
    "#);
}

#[test]
fn mistakes_in_overrides_of_groups_are_reported_at_their_place() {
    let error = |set: &str| read(&one(), &[set]).err().unwrap_or_else(|| panic!("{set} is no error"));
    assert_snapshot!(error("modle=@wide"), @r"
    error: there is no group `modle`
     --> -S modle=@wide:1:1
      |
    1 | modle=@wide
      | ^^^^^
      |
      = help: did you mean `model`?

    1 error in the pipeline
    ");
    assert_snapshot!(error("model=@wid"), @r"
    error: group `model` has no member `wid`
     --> -S model=@wid:1:7
      |
    1 | model=@wid
      |       ^^^^
      |
      = help: did you mean `wide`?

    1 error in the pipeline
    ");
    assert_snapshot!(error("model.widht=3"), @r"
    error: member `small` of group `model` has no field `widht`
     --> -S model.widht=3:1:7
      |
    1 | model.widht=3
      |       ^^^^^
      |
      = help: did you mean `width`?

    1 error in the pipeline
    ");
    assert_snapshot!(error("groups.model.smal.width=3"), @r"
    error: group `model` has no member `smal`
     --> -S groups.model.smal.width=3:1:14
      |
    1 | groups.model.smal.width=3
      |              ^^^^
      |
      = help: did you mean `small`?

    1 error in the pipeline
    ");
    assert_snapshot!(error("groups.modle.small.width=3"), @r"
    error: there is no group `modle`
     --> -S groups.modle.small.width=3:1:8
      |
    1 | groups.modle.small.width=3
      |        ^^^^^
      |
      = help: did you mean `model`?

    1 error in the pipeline
    ");
}

#[test]
fn malformed_groups_are_reported() {
    assert_snapshot!(wrong("groups = 1\n[stages.s]\nkind = \"show\""), @r"
    error: `groups` must be a table, not an integer
     --> p.toml:2:10
      |
    2 | groups = 1
      |          ^
      |
      = help: [groups.NAME.MEMBER]

    1 error in the pipeline
    ");
    assert_snapshot!(wrong("[groups]\na = 1\n\"b c\" = { d = 2, \"e f\" = { g = 1 } }\n[stages.s]\nkind = \"show\""), @r#"
    error: group `a` must be a table of its members, not an integer
     --> p.toml:3:5
      |
    3 | a = 1
      |     ^
      |
      = help: [groups.a.MEMBER]

    error: "b c" can't be the name of a group
     --> p.toml:4:1
      |
    4 | "b c" = { d = 2, "e f" = { g = 1 } }
      | ^^^^^
      |
      = help: use letters, digits, `_` and `-`

    error: member `d` of group `b c` must be a table, not an integer
     --> p.toml:4:15
      |
    4 | "b c" = { d = 2, "e f" = { g = 1 } }
      |               ^
      |
      = help: [groups.b c.d]

    error: "e f" can't be the name of a member of a group
     --> p.toml:4:18
      |
    4 | "b c" = { d = 2, "e f" = { g = 1 } }
      |                  ^^^^^
      |
      = help: use letters, digits, `_` and `-`

    4 errors in the pipeline
    "#);
    assert_snapshot!(wrong_with("[stages.s]\nkind = \"show\"", &["model=@wide"]), @r"
    error: there is no group `model`
     --> -S model=@wide:1:1
      |
    1 | model=@wide
      | ^^^^^

    1 error in the pipeline
    ");
}

#[test]
fn errors_in_a_member_quote_the_member() {
    assert_snapshot!(read(&one().replace("width = 8", "width = \"x\""), &[]).unwrap_err(), @r#"
    error: `width` must be an integer from 1 to 4096, not "x"
     --> p.toml:4:9
      |
    4 | width = "x"
      |         ^^^ used by stage `net`

    1 error in the pipeline
    "#);
    let missing = one().replace("width = \"${params.width}\"\n", "");
    good(&missing);
    assert_snapshot!(read(&missing, &["model=@wide"]).unwrap_err(), @r#"
    error: there is no `width` in `model.width`
      --> p.toml:16:10
       |
    16 | width = "${params.model.width}"
       |          ^^^^^^^^^^^^^^^^^^^^^
       |
       = help: known here: channels

    1 error in the pipeline
    "#);
}
