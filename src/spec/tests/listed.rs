//! Axes whose values are lists or tables.

use insta::assert_snapshot;

use super::super::testing::{good, good_with, graph, names, point, wrong};
use crate::value::Value;

/// Two axes and three stages. `net` uses both axes.
const NETS: &str = r#"
[pipeline]
name = "p"

[matrix]
channels = [[64, 32], [128, 64]]
model = [{ name = "small", width = 8, opt = { rate = 0.1 } }, { name = "Wide", width = 16, opt = { rate = 1 } }]

[stages.data]
kind = "load"

[stages.net]
kind = "train"
inputs = { data = "data" }
channels = "${matrix.channels}"
width = "${matrix.model.width}"
rate = "${matrix.model.opt.rate}"

[stages.net.at."channels=1,model=Wide"]
distribution = "uniform"

[stages.fit]
kind = "fit"
inputs = { data = "data", model = "net@model=small" }
"#;

fn params(text: &str, name: &str) -> String {
    let spec = good(text);
    let stage = &point(&spec, name).parsed;
    let segments = stage.stage.epochs().map(|e| e.segments[0].params["rate"].clone());
    let segments = segments.map_or_else(String::new, |rate| format!("; rate = {rate}"));
    format!("{}{segments}", Value::Table(stage.params.as_ref().clone()))
}

#[test]
fn lists_and_tables_are_named_by_position_or_name() {
    assert_snapshot!(graph(&good(NETS)), @r"
    data
    net@channels=0,model=small <- data: data
    net@channels=0,model=Wide <- data: data
    net@channels=1,model=small <- data: data
    net@channels=1,model=Wide <- data: data
    fit@channels=0 <- data: data; model: net@channels=0,model=small
    fit@channels=1 <- data: data; model: net@channels=1,model=small
    ");
}

#[test]
fn references_keep_the_type_and_reach_into_tables() {
    assert_snapshot!(params(NETS, "net@channels=0,model=small"), @r#"{ channels = [64, 32], distribution = "gaussian", width = 8 }; rate = 0.1"#);
    assert_snapshot!(params(NETS, "net@channels=1,model=Wide"), @r#"{ channels = [128, 64], distribution = "uniform", width = 16 }; rate = 1.0"#);
}

#[test]
fn coordinates_are_labels() {
    let spec = good(NETS);
    let found: Vec<(&str, Value)> =
        point(&spec, "net@channels=1,model=Wide").coordinates.iter().map(|(a, v)| (a.as_str(), v.clone())).collect();
    assert_eq!(found, [("channels", Value::Int(1)), ("model", Value::from("Wide"))]);
    let numbered = good(&NETS.replace("small", "007"));
    let (_, name) = &point(&numbered, "net@channels=0,model=007").coordinates[1];
    assert_eq!(*name, Value::from("007"), "a name is text, as it is written");
}

#[test]
fn label_is_not_part_of_the_value() {
    let text = |name: &str| {
        format!(
            "pipeline.name = \"p\"\n[matrix]\nmodel = [{{ name = \"{name}\", width = 8 }}, {{ name = \"b\", width = 9 }}]\n\
             [stages.s]\nkind = \"show\"\nreference = \"${{matrix.model}}\"\n"
        )
    };
    assert_eq!(params(&text("a"), "s@model=a"), params(&text("other"), "s@model=other"));
    assert_eq!(params(&text("a"), "s@model=a"), "{ reference = { width = 8 } }");
    let named =
        text("a").replace("reference = \"${matrix.model}\"", "title = \"${matrix.model.name} ${matrix.model.width}\"");
    assert_eq!(params(&named, "s@model=a"), "{ title = \"a 8\" }");
}

#[test]
fn exclude_and_include_select_values_by_label_or_value() {
    let more = "exclude = [{ channels = 0, model = \"Wide\" }, { channels = [128, 64] }]\n\
                include = [{ channels = 1, model = \"small\" }]\n";
    let text = NETS.replace("\n[stages.data]", &format!("{more}\n[stages.data]")).replace("[stages.net.at", "[skipped");
    let text = &text[..text.find("[skipped").unwrap()];
    assert_eq!(names(&good(text)), ["data", "net@channels=0,model=small", "net@channels=1,model=small"]);
}

#[test]
fn stage_and_override_and_choice_can_have_lists_and_tables() {
    let spec = good_with(
        "pipeline.name = \"p\"\n[stages.a]\nkind = \"show\"\nmatrix.v = [{ x = 1 }, { x = 2 }]\ntitle = \"x ${matrix.v.x}\"\n\
         [stages.b]\nkind = \"show\"\nreference = \"${matrix.c}\"\n[matrix]\nc = [1]\n",
        &["matrix.c={ choice = [[1], [2], [3]], samples = 20 }"],
    );
    assert_eq!(names(&spec)[..2], ["a@v=0", "a@v=1"]);
    let mut drawn = names(&spec)[2..].to_vec();
    drawn.sort_unstable();
    assert_eq!(drawn, ["b@c=0", "b@c=1", "b@c=2"]);
}

#[test]
fn errors_in_lists_and_tables_are_reported_at_their_place() {
    let stage = "[stages.s]\nkind = \"show\"\ntitle = \"x: ${matrix.t.x}\"\nreference = \"${matrix.l}\"\n[matrix]\n";
    let error = |axes: &str| wrong(&format!("{stage}{axes}"));
    assert_snapshot!(error("l = [[1], 2, { x = 1 }, [1]]\nt = [{ x = 1 }, { y = 1 }, {}, { x = 1 }, { x = 1, z = 2 }]"), @r#"
    error: axis `l` mixes a list and an integer
     --> p.toml:7:11
      |
    7 | l = [[1], 2, { x = 1 }, [1]]
      |           ^
      |
      = help: the values of an axis are all lists, or all tables, or none of them is one

    error: axis `l` mixes a list and a table
     --> p.toml:7:14
      |
    7 | l = [[1], 2, { x = 1 }, [1]]
      |              ^^^^^^^^^
      |
      = help: the values of an axis are all lists, or all tables, or none of them is one

    error: axis `l` has [1] twice
     --> p.toml:7:25
      |
    7 | l = [[1], 2, { x = 1 }, [1]]
      |                         ^^^

    error: the first value of axis `t` has no field `y`
     --> p.toml:8:19
      |
    8 | t = [{ x = 1 }, { y = 1 }, {}, { x = 1 }, { x = 1, z = 2 }]
      |                   ^
      |
      = help: known here: x

    error: this value of axis `t` has no field `x`
     --> p.toml:8:28
      |
    8 | t = [{ x = 1 }, { y = 1 }, {}, { x = 1 }, { x = 1, z = 2 }]
      |                            ^^
      |
      = help: all values of an axis have the same fields

    error: axis `t` has { x = 1 } twice
     --> p.toml:8:32
      |
    8 | t = [{ x = 1 }, { y = 1 }, {}, { x = 1 }, { x = 1, z = 2 }]
      |                                ^^^^^^^^^

    error: the first value of axis `t` has no field `z`
     --> p.toml:8:52
      |
    8 | t = [{ x = 1 }, { y = 1 }, {}, { x = 1 }, { x = 1, z = 2 }]
      |                                                    ^

    7 errors in the pipeline
    "#);
    let named = "l = [1]\nt = [{ name = \"a\", x = 1 }, { name = \"A\", x = 2 }, { name = \"a\", x = 3 }, { x = 4 }, \
                 { name = 5, x = 5 }, { name = \"a/b\", x = 5 }, { naem = \"c\", x = 6 }]";
    assert_snapshot!(error(named), @r#"
    error: axis `t` has "a" and "A", which are too similar for point names
     --> p.toml:8:38
      |
    8 | t = [{ name = "a", x = 1 }, { name = "A", x = 2 }, { name = "a", x = 3 }, { x = 4 }, { name = 5, x = 5 }, { name = "a/b", x = 5 }, { ...
      |                                      ^^^

    error: axis `t` has "A" and "a", which are too similar for point names
     --> p.toml:8:61
      |
    8 | t = [{ name = "a", x = 1 }, { name = "A", x = 2 }, { name = "a", x = 3 }, { x = 4 }, { name = 5, x = 5 }, { name = "a/b", x = 5 }, { ...
      |                                                             ^^^

    error: this value of axis `t` has no field `name`
     --> p.toml:8:75
      |
    8 | t = [{ name = "a", x = 1 }, { name = "A", x = 2 }, { name = "a", x = 3 }, { x = 4 }, { name = 5, x = 5 }, { name = "a/b", x = 5 }, { ...
      |                                                                           ^^^^^^^^^
      |
      = help: all values of an axis have the same fields

    error: `name` must be a string, not an integer
     --> p.toml:8:95
      |
    8 | t = [{ name = "a", x = 1 }, { name = "A", x = 2 }, { name = "a", x = 3 }, { x = 4 }, { name = 5, x = 5 }, { name = "a/b", x = 5 }, { ...
      |                                                                                               ^
      |
      = help: it is shown in the names of points

    error: "a/b" can't be part of a point's name: it contains '/'
     --> p.toml:8:116
      |
    8 | t = [{ name = "a", x = 1 }, { name = "A", x = 2 }, { name = "a", x = 3 }, { x = 4 }, { name = 5, x = 5 }, { name = "a/b", x = 5 }, { ...
      |                                                                                                                    ^^^^^

    error: the first value of axis `t` has no field `naem`
     --> p.toml:8:134
      |
    8 | ... }, { x = 4 }, { name = 5, x = 5 }, { name = "a/b", x = 5 }, { naem = "c", x = 6 }]
      |                                                                   ^^^^
      |
      = help: did you mean `name`?

    6 errors in the pipeline
    "#);
    assert_snapshot!(error("l = [1]\nt = [{ y = 1, xx = 2 }]"), @r#"
    error: there is no `x` in `t.x`
     --> p.toml:4:13
      |
    4 | title = "x: ${matrix.t.x}"
      |             ^^^^^^^^^^^^^
      |
      = help: did you mean `xx`?

    1 error in the pipeline
    "#);
    let picks = "l = [1]\nt = [{ name = \"wide\", x = 1 }, { name = \"small\", x = 2 }]\n";
    let exclude =
        "exclude = [{ t = \"wiide\" }, { t = 0 }]\ninclude = [{ l = 1, t = { x = 7 } }, { l = [2], t = \"wide\" }]";
    assert_snapshot!(error(&format!("{picks}{exclude}")), @r#"
    error: axis `t` has no value "wiide"
     --> p.toml:9:18
      |
    9 | exclude = [{ t = "wiide" }, { t = 0 }]
      |                  ^^^^^^^
      |
      = help: did you mean `wide`?

    error: axis `t` has no value 0
     --> p.toml:9:35
      |
    9 | exclude = [{ t = "wiide" }, { t = 0 }]
      |                                   ^
      |
      = help: known here: wide, small

    error: axis `t` has no value { x = 7 }
      --> p.toml:10:25
       |
    10 | include = [{ l = 1, t = { x = 7 } }, { l = [2], t = "wide" }]
       |                         ^^^^^^^^^
       |
       = help: known here: wide, small

    error: an axis value must be a string, a number or a boolean, not a list
      --> p.toml:10:44
       |
    10 | include = [{ l = 1, t = { x = 7 } }, { l = [2], t = "wide" }]
       |                                            ^^^

    4 errors in the pipeline
    "#);
}

#[test]
fn table_in_longer_string_suggests_its_fields() {
    let text = "[stages.s]\nkind = \"show\"\ntitle = \"x: ${matrix.t}\"\n[matrix]\nt = [{ x = 1 }]\n";
    assert_snapshot!(wrong(text), @r#"
    error: `${matrix.t}` is a table, which can't be part of a longer string
     --> p.toml:4:13
      |
    4 | title = "x: ${matrix.t}"
      |             ^^^^^^^^^^^
      |
      = help: use one of its fields, such as `${matrix.t.x}`

    1 error in the pipeline
    "#);
}
