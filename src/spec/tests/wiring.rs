//! Errors in inputs, axes and sizes, as their author sees them. Each text gets a first line with the
//! pipeline's name.

use insta::assert_snapshot;

use super::super::testing::{graph, names, read, wrong, wrong_with};

#[test]
fn errors_in_inputs() {
    let text = r#"
[stages.data]
kind = "load"
inputs = { data = "model" }
[stages.none]
kind = "train"
[stages.wrong]
kind = "train"
inputs = { data = "dta", dat = "data" }
[stages.type]
kind = "train"
inputs = { data = 5 }
[stages.list]
kind = "train"
inputs = { data = ["data"] }
[stages.self]
kind = "show"
inputs = { a = "self", b = [] }
[stages.shape]
kind = "train"
inputs = "data"
[stages.model]
kind = "fit"
inputs = { data = "data", model = "data" }
"#;
    assert_snapshot!(wrong(text), @r#"
    error: kind `load` takes no inputs
     --> p.toml:5:12
      |
    5 | inputs = { data = "model" }
      |            ^^^^

    error: these stages depend on each other: data → model → data
     --> p.toml:5:19
      |
    5 | inputs = { data = "model" }
      |                   ^^^^^^^
      |
      = help: a stage can't depend on itself; remove one of these inputs

    error: stage `none` has no input `data`
     --> p.toml:6:9
      |
    6 | [stages.none]
      |         ^^^^
      |
      = help: inputs = { data = "…" }: stages that provide `images`: `data`

    error: there is no stage `dta`
      --> p.toml:10:20
       |
    10 | inputs = { data = "dta", dat = "data" }
       |                    ^^^
       |
       = help: did you mean `data`?

    error: kind `train` has no role `dat`
      --> p.toml:10:26
       |
    10 | inputs = { data = "dta", dat = "data" }
       |                          ^^^
       |
       = help: did you mean `data`?

    error: an input must be the name of a stage, not an integer
      --> p.toml:13:19
       |
    13 | inputs = { data = 5 }
       |                   ^

    error: role `data` of kind `train` takes one stage, not a list
      --> p.toml:16:19
       |
    16 | inputs = { data = ["data"] }
       |                   ^^^^^^^^
       |
       = help: name one stage, without brackets

    error: stage `self` is its own input
      --> p.toml:19:16
       |
    19 | inputs = { a = "self", b = [] }
       |                ^^^^^^

    error: the list of input `b` is empty
      --> p.toml:19:28
       |
    19 | inputs = { a = "self", b = [] }
       |                            ^^
       |
       = help: remove the role, or name a stage

    error: `inputs` must be a table of roles, not a string
      --> p.toml:22:10
       |
    22 | inputs = "data"
       |          ^^^^^^
       |
       = help: inputs = { role = "stage" }

    error: role `model` of kind `fit` needs `decoder`, which stage `data` does not provide
      --> p.toml:25:35
       |
    25 | inputs = { data = "data", model = "data" }
       |                                   ^^^^^^
       |
       = help: stage `data`, of kind `load`, provides `images`; stages that provide `decoder`: `none`, `wrong`, `type`, `list`, `shape`

    11 errors in the pipeline
    "#);
}

#[test]
fn input_without_needed_capability_is_error() {
    let text = r#"
[stages.data]
kind = "load"
[stages.model]
kind = "train"
inputs = { data = "show" }
[stages.show]
kind = "show"
[stages.fit]
kind = "fit"
inputs = { data = "data", model = "data", start = "data" }
[stages.again]
kind = "fit"
note = "needs a decoder"
inputs = { data = "data", model = "model", start = "fit" }
[stages.fine]
kind = "fit"
note = "needs a decoder"
inputs = { data = "data", model = "model", start = "model" }
"#;
    assert_snapshot!(wrong(text), @r#"
    error: role `data` of kind `train` needs `images`, which stage `show` does not provide
     --> p.toml:7:19
      |
    7 | inputs = { data = "show" }
      |                   ^^^^^^
      |
      = help: stage `show`, of kind `show`, provides nothing; stages that provide `images`: `data`

    error: role `model` of kind `fit` needs `decoder`, which stage `data` does not provide
      --> p.toml:12:35
       |
    12 | inputs = { data = "data", model = "data", start = "data" }
       |                                   ^^^^^^
       |
       = help: stage `data`, of kind `load`, provides `images`; stages that provide `decoder`: `model`

    error: role `start` of kind `fit` needs `latents`, which stage `data` does not provide
      --> p.toml:12:51
       |
    12 | inputs = { data = "data", model = "data", start = "data" }
       |                                                   ^^^^^^
       |
       = help: stage `data`, of kind `load`, provides `images`; stages that provide `latents`: `model`, `again`, `fine`

    error: `note` needs `decoder`, which the input `start` does not provide
      --> p.toml:16:44
       |
    16 | inputs = { data = "data", model = "model", start = "fit" }
       |                                            ^^^^^
       |
       = help: name a stage that provides `decoder`

    4 errors in the pipeline
    "#);
    let text = "[stages.show]\nkind = \"show\"\n[stages.model]\nkind = \"train\"\ninputs.data = \"show\"";
    assert_snapshot!(wrong(text), @r#"
    error: role `data` of kind `train` needs `images`, which stage `show` does not provide
     --> p.toml:6:15
      |
    6 | inputs.data = "show"
      |               ^^^^^^
      |
      = help: stage `show`, of kind `show`, provides nothing; kinds that provide `images`: `load`

    1 error in the pipeline
    "#);
}

#[test]
fn errors_in_coordinates_of_inputs() {
    let text = r#"
[stages.d]
kind = "load"
matrix.size = ["small", "large"]
[stages.a]
kind = "show"
inputs = { a = "d@size=smal", b = ["d@sise=*"], c = "d@*", e = "d@size=*", f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*", "d"] }
"#;
    assert_snapshot!(wrong(text), @r#"
    error: axis `size` has no value `smal`
     --> p.toml:8:16
      |
    8 | inputs = { a = "d@size=smal", b = ["d@sise=*"], c = "d@*", e = "d@size=*", f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*...
      |                ^^^^^^^^^^^^^
      |
      = help: did you mean `small`?

    error: stage `d` has no axis `sise`
     --> p.toml:8:36
      |
    8 | inputs = { a = "d@size=smal", b = ["d@sise=*"], c = "d@*", e = "d@size=*", f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*...
      |                                    ^^^^^^^^^^
      |
      = help: did you mean `size`?

    error: `d@*` gathers points, so it must be in a list
     --> p.toml:8:53
      |
    8 | inputs = { a = "d@size=smal", b = ["d@sise=*"], c = "d@*", e = "d@size=*", f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*...
      |                                                     ^^^^^
      |
      = help: ["d@*"]

    error: `d@size=*` gathers points, so it must be in a list
     --> p.toml:8:64
      |
    8 | inputs = { a = "d@size=smal", b = ["d@sise=*"], c = "d@*", e = "d@size=*", f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*...
      |                                                                ^^^^^^^^^^
      |
      = help: ["d@size=*"]

    error: "size" is not of the form `axis=value`
     --> p.toml:8:84
      |
    8 | inputs = { a = "d@size=smal", b = ["d@sise=*"], c = "d@*", e = "d@size=*", f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*...
      |                                                                                    ^^^^
      |
      = help: coordinates are written axis=value,axis=value

    error: axis `size` is given twice
     --> p.toml:8:111
      |
    8 | inputs = { a = "d@size=smal", b = ["d@sise=*"], c = "d@*", e = "d@size=*", f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*...
      |                                                                                                               ^^^^^^^^^^
      |
      = help: coordinates are written axis=value,axis=value

    error: a point of `d` is in this list twice
     --> p.toml:8:137
      |
    8 | ..., f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*", "d"] }
      |                                                                   ^^^
      |
      = help: remove one of them

    7 errors in the pipeline
    "#);
}

#[test]
fn cycle_of_stages_is_error() {
    let text = r#"
[stages.a]
kind = "show"
inputs.x = "c"
[stages.b]
kind = "show"
inputs = { x = "a", free = "d" }
[stages.c]
kind = "show"
inputs.x = ["b@*"]
note = 1
[stages.d]
kind = "load"
"#;
    assert_snapshot!(wrong(text), @r#"
    error: these stages depend on each other: a → c → b → a
     --> p.toml:5:12
      |
    5 | inputs.x = "c"
      |            ^^^
      |
      = help: a stage can't depend on itself; remove one of these inputs

    error: unknown field `note`
      --> p.toml:12:1
       |
    12 | note = 1
       | ^^^^
       |
       = help: known here: kind, inputs, matrix, at, seed, resources, title, reference

    2 errors in the pipeline
    "#);
}

#[test]
fn errors_in_axes() {
    let text = r#"
[matrix]
none = []
one = 5
same = [1, 2, 1.0, "1", 0.5, 5e-1, 9007199254740993, 9007199254740992]
bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
"a b" = [1]
[stages.a]
kind = "load"
matrix = { include = [] }
"#;
    assert_snapshot!(wrong(text), @r#"
    error: axis `none` has no values
     --> p.toml:4:8
      |
    4 | none = []
      |        ^^
      |
      = help: give at least one

    error: axis `one` must be a list of values, not an integer
     --> p.toml:5:7
      |
    5 | one = 5
      |       ^
      |
      = help: one = [value, value]

    error: axis `same` has 1 and 1.0, which are too similar for point names
     --> p.toml:6:15
      |
    6 | same = [1, 2, 1.0, "1", 0.5, 5e-1, 9007199254740993, 9007199254740992]
      |               ^^^

    error: axis `same` has 1 and "1", which are too similar for point names
     --> p.toml:6:20
      |
    6 | same = [1, 2, 1.0, "1", 0.5, 5e-1, 9007199254740993, 9007199254740992]
      |                    ^^^

    error: axis `same` has 0.5 twice
     --> p.toml:6:30
      |
    6 | same = [1, 2, 1.0, "1", 0.5, 5e-1, 9007199254740993, 9007199254740992]
      |                              ^^^^

    error: "a/b" can't be part of a point's name: it contains '/'
     --> p.toml:7:8
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |        ^^^^^

    error: ".." can't be part of a point's name: it contains ".."
     --> p.toml:7:15
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |               ^^^^

    error: "a,b" can't be part of a point's name: it contains ','
     --> p.toml:7:21
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                     ^^^^^

    error: "a=b" can't be part of a point's name: it contains '='
     --> p.toml:7:28
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                            ^^^^^

    error: "a@b" can't be part of a point's name: it contains '@'
     --> p.toml:7:35
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                                   ^^^^^

    error: "" can't be part of a point's name: it is empty
     --> p.toml:7:42
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                                          ^^

    error: "a\u{7}" can't be part of a point's name: it contains '\u{7}'
     --> p.toml:7:46
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                                              ^^^^^^^^^

    error: axis `bad` mixes a string and a list
     --> p.toml:7:57
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                                                         ^^^
      |
      = help: the values of an axis are all lists, or all tables, or none of them is one

    error: axis `bad` has "A" and "a", which are too similar for point names
     --> p.toml:7:67
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                                                                   ^^^

    error: "a b" can't be the name of an axis
     --> p.toml:8:1
      |
    8 | "a b" = [1]
      | ^^^^^
      |
      = help: use letters, digits, `_` and `-`

    error: a stage's `matrix` can't have `include`
      --> p.toml:11:12
       |
    11 | matrix = { include = [] }
       |            ^^^^^^^
       |
       = help: only [matrix] can

    16 errors in the pipeline
    "#);
    assert_snapshot!(wrong("[matrix]\nn = [1, 2]\nm = [1, 2]\nexclude = [{ n = 3 }, { k = 1 }, {}, 5]\ninclude = [{ n = 1 }]\n[stages.a]\nkind = \"load\""), @r"
    error: axis `n` has no value 3
     --> p.toml:5:18
      |
    5 | exclude = [{ n = 3 }, { k = 1 }, {}, 5]
      |                  ^
      |
      = help: known here: 1, 2

    error: [matrix] has no axis `k`
     --> p.toml:5:25
      |
    5 | exclude = [{ n = 3 }, { k = 1 }, {}, 5]
      |                         ^
      |
      = help: known here: n, m

    error: `exclude` holds an empty table
     --> p.toml:5:34
      |
    5 | exclude = [{ n = 3 }, { k = 1 }, {}, 5]
      |                                  ^^

    error: `exclude` must hold tables such as { axis = value }, not an integer
     --> p.toml:5:38
      |
    5 | exclude = [{ n = 3 }, { k = 1 }, {}, 5]
      |                                      ^

    error: an included combination needs a value for every axis
     --> p.toml:6:12
      |
    6 | include = [{ n = 1 }]
      |            ^^^^^^^^^
      |
      = help: add m

    5 errors in the pipeline
    ");
}

#[test]
fn two_axes_with_one_name_in_a_stage_are_error() {
    let text = r#"
matrix.n = [1]
[stages.a]
kind = "load"
n = "${matrix.n}"
[stages.b]
kind = "load"
matrix.n = [1, 2]
n = "${matrix.n}"
[stages.both]
kind = "show"
inputs = { a = "a", b = "b" }
[stages.again]
kind = "show"
matrix.n = [3]
inputs = { a = "a" }
[stages.gathered]
kind = "show"
inputs = { b = ["b@*"] }
matrix.k = [1]
title = "${matrix.k} ${matrix.m}"
[stages.below]
kind = "show"
inputs = { a = "both" }
title = "n is ${matrix.n}"
"#;
    assert_snapshot!(wrong(text), @r#"
    error: stage `both` would have two axes `n`: from [matrix] and from stage `b`
      --> p.toml:13:25
       |
    13 | inputs = { a = "a", b = "b" }
       |                         ^^^
       |
       = help: rename one of them, or fix it in the input: `b@n=…`

    error: stage `again` declares axis `n`, but its input `a` has an axis of that name
      --> p.toml:16:8
       |
    16 | matrix.n = [3]
       |        ^
       |
       = help: rename one of them, or fix it in the input: `a@n=…`

    error: stage `gathered` has no axis `m`
      --> p.toml:22:22
       |
    22 | title = "${matrix.k} ${matrix.m}"
       |                      ^^^^^^^^^^^
       |
       = help: known here: k, n

    3 errors in the pipeline
    "#);
    let text = "[stages.b]\nkind = \"load\"\nmatrix.k = [1]\n[stages.c]\nkind = \"show\"\ninputs.b = [\"b@*\"]\ntitle = \"${matrix.k}\"";
    assert_snapshot!(wrong(text), @r#"
    error: stage `c` has no axis `k`
     --> p.toml:8:10
      |
    8 | title = "${matrix.k}"
      |          ^^^^^^^^^^^
      |
      = help: stage `b` declares it; read that stage without gathering over this axis

    1 error in the pipeline
    "#);
}

#[test]
fn errors_in_at() {
    let text = r#"
[stages.d]
kind = "load"
matrix = { size = ["small", "large"], k = [1, 2] }
[stages.d.at."size=smal"]
n = 1
[stages.d.at."sizes=small"]
n = 1
[stages.d.at."small"]
n = 1
[stages.d.at."size=small"]
n = 1
m = 2
inputs = {}
[stages.d.at."k=1"]
n = 1
[stages.d.at]
"k=2" = 5
"#;
    assert_snapshot!(wrong(text), @r#"
    error: axis `size` has no value `smal`
     --> p.toml:6:14
      |
    6 | [stages.d.at."size=smal"]
      |              ^^^^^^^^^^^
      |
      = help: did you mean `small`?

    error: stage `d` has no axis `sizes`
     --> p.toml:8:14
      |
    8 | [stages.d.at."sizes=small"]
      |              ^^^^^^^^^^^^^
      |
      = help: did you mean `size`?

    error: "small" is not of the form `axis=value`
      --> p.toml:10:14
       |
    10 | [stages.d.at."small"]
       |              ^^^^^^^
       |
       = help: coordinates are written axis=value,axis=value

    error: unknown field `m`
      --> p.toml:14:1
       |
    14 | m = 2
       | ^
       |
       = help: did you mean `matrix`?

    error: `inputs` can't differ between the points of a stage
      --> p.toml:15:1
       |
    15 | inputs = {}
       | ^^^^^^
       |
       = help: write two stages instead

    error: `n` is also set by "size=small" for some of these points
      --> p.toml:17:1
       |
    17 | n = 1
       | ^
       |
       = help: set it in an `at` with the coordinates of both

    error: each entry of `at` must be a table, not an integer
      --> p.toml:19:1
       |
    19 | "k=2" = 5
       | ^^^^^
       |
       = help: [stages.NAME.at."axis=value"]

    7 errors in the pipeline
    "#);
    let text = r#"
[stages.d]
kind = "load"
matrix = { size = ["small", "large"], k = [1, 2] }
at."size=small" = { n = 1, source = "a" }
at."k=1" = { n = 2 }
at."k=2,size=large" = { n = 3 }
at."size=large,k=2" = { source = "b", n = 3 }
"#;
    assert_snapshot!(wrong(text), @r#"
    error: `n` is also set by "size=small" for some of these points
     --> p.toml:7:14
      |
    7 | at."k=1" = { n = 2 }
      |              ^
      |
      = help: set it in an `at` with the coordinates of both

    error: `n` is also set by "k=2,size=large" for some of these points
     --> p.toml:9:39
      |
    9 | at."size=large,k=2" = { source = "b", n = 3 }
      |                                       ^
      |
      = help: set it in an `at` with the coordinates of both

    2 errors in the pipeline
    "#);
    let text = "[matrix]\na = [1, 2]\nb = [1, 2]\nexclude = [{ a = 1, b = 1 }]\n[stages.d]\nkind = \"load\"\nn = \"${matrix.a}\"\nsource = \"b ${matrix.b}\"\nat.\"a=1,b=1\".n = 5\n[stages.s]\nkind = \"show\"\ninputs.d = \"d@a=1\"\n";
    assert_snapshot!(wrong(text), @r#"
    error: this matches no point of stage `d`
      --> p.toml:10:4
       |
    10 | at."a=1,b=1".n = 5
       |    ^^^^^^^^^
       |
       = help: the matrix excludes this combination

    error: no point of `d` has these coordinates
      --> p.toml:13:12
       |
    13 | inputs.d = "d@a=1"
       |            ^^^^^^^
       |
       = help: the matrix excludes this combination

    2 errors in the pipeline
    "#);
}

#[test]
fn too_large_pipelines_are_refused() {
    let axis = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let text = format!("[stages.a]\nkind = \"load\"\nmatrix = {{ a = [{0}], b = [{0}], c = [{0}] }}\n", axis(101));
    let message = wrong(&text);
    assert!(
        message.contains("stage `a` has 101 × 101 × 101 = 1,030,301 points (a × b × c), more than the limit"),
        "{message}"
    );
    assert!(message.contains("can be at most 1,000,000"), "{message}");

    let mut text = String::from("[params]\np0 = \"0123456789\"\n");
    for i in 1..60 {
        text.push_str(&format!("p{i} = \"${{params.p{0}}}${{params.p{0}}}\"\n", i - 1));
    }
    let message = wrong(&format!("{text}[stages.a]\nkind = \"load\"\n"));
    assert!(message.contains("expand to more than 16 MB"), "{message}");

    let text: String = (0..300).map(|i| format!("[stages.s{i}]\nkind = \"lod\"\n")).collect();
    let message = wrong(&text);
    assert!(message.ends_with("50 errors in the pipeline, and 250 more"), "{message}");

    let deep = vec!["a"; 5_000].join(".");
    assert!(wrong_with("[stages.a]\nkind = \"load\"\n", &[&format!("{deep}=1")]).contains("too deep"));
    let chain: String = (1..20_000).map(|i| format!("p{i} = \"${{params.p{}}}\"\n", i - 1)).collect();
    let spec = read(&format!("pipeline.name = 'p'\n[stages.a]\nkind = 'load'\n[params]\np0 = 1\n{chain}"), &[]);
    assert_eq!(names(&spec.unwrap()), ["a"]);
    let long = "x".repeat(195);
    let message = wrong(&format!("[stages.a]\nkind = \"load\"\nmatrix.name = [\"{long}\"]\n"));
    assert!(message.contains("a name of 202 bytes"), "{message}");
}

#[test]
fn list_that_leaves_out_missing_points_gathers_as_a_plain_list() {
    let text = r#"
[pipeline]
name = "p"
[stages.data]
kind = "load"
matrix = { size = [1, 2] }
[stages.plain]
kind = "show"
inputs = { shown = ["data@*"] }
[stages.table]
kind = "show"
inputs = { shown = { from = ["data@*"] } }
[stages.skips]
kind = "show"
inputs = { shown = { from = ["data@size=*"], missing = "skip" } }
"#;
    assert_snapshot!(graph(&read(text, &[]).unwrap()), @r"
    data@size=1
    data@size=2
    plain <- shown: [data@size=1, data@size=2]
    table <- shown: [data@size=1, data@size=2]
    skips <- shown: [data@size=1, data@size=2] or fewer
    ");
}

#[test]
fn errors_in_lists_that_leave_out_missing_points() {
    let text = r#"
[stages.data]
kind = "load"
[stages.word]
kind = "show"
inputs = { a = { from = ["data"], missing = "other" }, b = { from = ["data"], missing = "skpi" } }
[stages.type]
kind = "show"
inputs = { a = { from = ["data"], missing = true } }
[stages.one]
kind = "show"
inputs = { a = { from = "data", missing = "skip" } }
[stages.fields]
kind = "show"
inputs = { a = { form = ["data"], missing = "skip" }, b = { missing = "skip" } }
[stages.role]
kind = "train"
inputs = { data = { from = ["data"], missing = "skip" } }
"#;
    assert_snapshot!(wrong(text), @r#"
    error: `missing` can't be "other"
     --> p.toml:7:45
      |
    7 | inputs = { a = { from = ["data"], missing = "other" }, b = { from = ["data"], missing = "skpi" } }
      |                                             ^^^^^^^
      |
      = help: write `missing = "skip"`

    error: `missing` can't be "skpi"
     --> p.toml:7:89
      |
    7 | inputs = { a = { from = ["data"], missing = "other" }, b = { from = ["data"], missing = "skpi" } }
      |                                                                                         ^^^^^^
      |
      = help: did you mean `skip`?

    error: `missing` must be "skip", not a boolean
      --> p.toml:10:45
       |
    10 | inputs = { a = { from = ["data"], missing = true } }
       |                                             ^^^^

    error: `from` must be a list: only a list can leave out points that are missing
      --> p.toml:13:25
       |
    13 | inputs = { a = { from = "data", missing = "skip" } }
       |                         ^^^^^^
       |
       = help: from = ["data"]

    error: unknown field `form` in the input `a`
      --> p.toml:16:18
       |
    16 | inputs = { a = { form = ["data"], missing = "skip" }, b = { missing = "skip" } }
       |                  ^^^^
       |
       = help: did you mean `from`?

    error: the input `b` does not say what it gathers
      --> p.toml:16:59
       |
    16 | inputs = { a = { form = ["data"], missing = "skip" }, b = { missing = "skip" } }
       |                                                           ^^^^^^^^^^^^^^^^^^^^
       |
       = help: b = { from = ["STAGE@*"], missing = "skip" }

    error: role `data` of kind `train` takes one stage, not a list
      --> p.toml:19:28
       |
    19 | inputs = { data = { from = ["data"], missing = "skip" } }
       |                            ^^^^^^^^
       |
       = help: name one stage, without brackets

    7 errors in the pipeline
    "#);
}
