//! Everything that is refused, as its author reads it. `[pipeline]` stands on the first line.

use insta::assert_snapshot;

use super::super::testing::{names, read, wrong, wrong_with};

#[test]
fn all_syntax_errors_at_once() {
    assert_snapshot!(wrong("[stages.a\nkind = \"load\"\nx = = 1\ny = \"open\n[stages.a]\n"), @r"
    error: this is not TOML: unclosed table, expected `]`
     --> p.toml:2:10
      |
    2 | [stages.a
      |          ^

    error: this is not TOML: extra `=`, expected nothing
     --> p.toml:4:5
      |
    4 | x = = 1
      |     ^

    error: this is not TOML: unexpected key or value, expected newline, `#`
     --> p.toml:4:7
      |
    4 | x = = 1
      |       ^

    3 errors in the pipeline
    ");
    assert_snapshot!(wrong("[stages.a]\nkind = \"load\"\nkind = \"train\"\n"), @r#"
    error: this is not TOML: duplicate key
     --> p.toml:4:1
      |
    4 | kind = "train"
      | ^^^^

    1 error in the pipeline
    "#);
    assert_snapshot!(wrong("params = { d = 2024-01-01, i = 99999999999999999999, f = nan }"), @r"
    error: a pipeline holds no dates
     --> p.toml:2:16
      |
    2 | params = { d = 2024-01-01, i = 99999999999999999999, f = nan }
      |                ^^^^^^^^^^
      |
      = help: write it as a string, in quotes

    error: this integer does not fit into 64 bits
     --> p.toml:2:32
      |
    2 | params = { d = 2024-01-01, i = 99999999999999999999, f = nan }
      |                                ^^^^^^^^^^^^^^^^^^^^

    error: `nan` is not a finite number
     --> p.toml:2:58
      |
    2 | params = { d = 2024-01-01, i = 99999999999999999999, f = nan }
      |                                                          ^^^

    3 errors in the pipeline
    ");
}

#[test]
fn sections() {
    assert_snapshot!(wrong("[stage.a]\nkind = \"load\"\n"), @r"
    error: unknown section `stage`
     --> p.toml:2:2
      |
    2 | [stage.a]
      |  ^^^^^
      |
      = help: did you mean `stages`?

    1 error in the pipeline
    ");
    assert_snapshot!(wrong("params = 1\nmatrix = []\nstages = \"a\""), @r#"
    error: the pipeline has no stages
     --> p.toml:1:1
      |
    1 | pipeline.name = "p"
      | ^^^^^^^^
      |
      = help: add a table such as [stages.data]

    error: `params` must be a table, not an integer
     --> p.toml:2:10
      |
    2 | params = 1
      |          ^

    error: `matrix` must be a table, not a list
     --> p.toml:3:10
      |
    3 | matrix = []
      |          ^^

    error: `stages` must be a table, not a string
     --> p.toml:4:10
      |
    4 | stages = "a"
      |          ^^^

    4 errors in the pipeline
    "#);
    assert_snapshot!(read("", &[]).err().unwrap(), @r#"
    error: the pipeline has no `name`
     --> p.toml:1:1
      |
    1 |
      | ^
      |
      = help: add `name = "…"` to [pipeline]

    error: the pipeline has no stages
     --> p.toml:1:1
      |
    1 |
      | ^
      |
      = help: add a table such as [stages.data]

    2 errors in the pipeline
    "#);
}

#[test]
fn the_header() {
    let text = "[pipeline]\nname = \"a/b\"\nseeds = 1\nseed = 1.5\ndevice = \"gpu\"\nprecision = \"bf32\"\n\
                checkpoint_seconds = -1\n[stages.a]\nkind = \"load\"\n";
    assert_snapshot!(read(text, &[]).err().unwrap(), @r#"
    error: "a/b" can't be the name of a pipeline
     --> p.toml:2:8
      |
    2 | name = "a/b"
      |        ^^^^^
      |
      = help: letters, digits, `_` and `-` make a name

    error: unknown field `seeds`
     --> p.toml:3:1
      |
    3 | seeds = 1
      | ^^^^^
      |
      = help: did you mean `seed`?

    error: `seed` must be an integer, not 1.5
     --> p.toml:4:8
      |
    4 | seed = 1.5
      |        ^^^

    error: a device must be auto, cpu, cuda or cuda:N, not "gpu"
     --> p.toml:5:10
      |
    5 | device = "gpu"
      |          ^^^^^
      |
      = help: `auto` takes a GPU where there is one

    error: `precision` must be one of f32, tf32, bf16, not "bf32"
     --> p.toml:6:13
      |
    6 | precision = "bf32"
      |             ^^^^^^
      |
      = help: did you mean `f32`?

    error: `checkpoint_seconds` must be a number that is 0 or more, not -1
     --> p.toml:7:22
      |
    7 | checkpoint_seconds = -1
      |                      ^^

    6 errors in the pipeline
    "#);
}

#[test]
fn kinds_and_fields() {
    assert_snapshot!(wrong("stages.a = {}\nstages.b.kind = \"laod\"\nstages.c.kind = 1\nstages.d = 1\n"), @r#"
    error: stage `a` has no `kind`
     --> p.toml:2:8
      |
    2 | stages.a = {}
      |        ^
      |
      = help: one of fit, load, show, train

    error: there is no stage kind `laod`
     --> p.toml:3:17
      |
    3 | stages.b.kind = "laod"
      |                 ^^^^^^
      |
      = help: did you mean `load`?

    error: `kind` must be a string, not an integer
     --> p.toml:4:17
      |
    4 | stages.c.kind = 1
      |                 ^

    error: stage `d` has no `kind`
     --> p.toml:5:8
      |
    5 | stages.d = 1
      |        ^
      |
      = help: one of fit, load, show, train

    error: stage `d` must be a table, not an integer
     --> p.toml:5:12
      |
    5 | stages.d = 1
      |            ^

    5 errors in the pipeline
    "#);
    assert_snapshot!(wrong("[stages.a]\nkind = \"load\"\nsuorce = \"x\"\nn = 0\n[stages.b]\nkind = \"load\"\nn = \"many\"\nseed = 1.5\n"), @r#"
    error: unknown field `suorce`
     --> p.toml:4:1
      |
    4 | suorce = "x"
      | ^^^^^^
      |
      = help: did you mean `source`?

    error: `n` must be an integer, at least 1, not 0
     --> p.toml:5:5
      |
    5 | n = 0
      |     ^

    error: `n` must be an integer, at least 1, not "many"
     --> p.toml:8:5
      |
    8 | n = "many"
      |     ^^^^^^

    error: `seed` must be an integer, not 1.5
     --> p.toml:9:8
      |
    9 | seed = 1.5
      |        ^^^

    4 errors in the pipeline
    "#);
    assert_snapshot!(wrong("[stages.\"a b\"]\nkind = \"load\"\n[stages.c]\nkind = \"load\"\n[stages.C]\nkind = \"load\"\n"), @r#"
    error: "a b" can't be the name of a stage
     --> p.toml:2:9
      |
    2 | [stages."a b"]
      |         ^^^^^
      |
      = help: letters, digits, `_` and `-` make a name

    error: stages `c` and `C` differ only in case
     --> p.toml:6:9
      |
    6 | [stages.C]
      |         ^
      |
      = help: their points' names become names of files, where case may make no difference

    2 errors in the pipeline
    "#);
}

#[test]
fn a_value_from_elsewhere_is_faulted_where_it_is_written() {
    let text = "params.n = 0\nmatrix.split = [\"test\", \"tset\"]\n[stages.a]\nkind = \"load\"\nn = \"${params.n}\"\n\
                [stages.m]\nkind = \"train\"\ninputs.data = \"a\"\n\
                [stages.f]\nkind = \"fit\"\ninputs = { data = \"a\", model = \"m\" }\nsplit = \"${matrix.split}\"\n";
    assert_snapshot!(wrong(text), @r#"
    error: `n` must be an integer, at least 1, not 0
     --> p.toml:2:12
      |
    2 | params.n = 0
      |            ^ used by stage `a`

    error: `split` must be one of train, test, not "tset"
     --> p.toml:3:25
      |
    3 | matrix.split = ["test", "tset"]
      |                         ^^^^^^ used by stage `f`
      |
      = help: did you mean `test`?

    2 errors in the pipeline
    "#);
    assert_snapshot!(wrong_with("params.n = 3\n[stages.a]\nkind = \"load\"\nn = \"${params.n}\"\n", &["params.n=-1"]), @r"
    error: `n` must be an integer, at least 1, not -1
     --> -S params.n=-1:1:10
      |
    1 | params.n=-1
      |          ^^ used by stage `a`

    1 error in the pipeline
    ");
}

#[test]
fn overrides() {
    let text = "[stages.a]\nkind = \"load\"\nn = 3\n";
    assert_snapshot!(wrong_with(text, &["stages.a.m=4", "stages.a.n=few", "stage.b=1", "pipeline.sede=2"]), @r#"
    error: unknown field `m`
     --> -S stages.a.m=4:1:10
      |
    1 | stages.a.m=4
      |          ^
      |
      = help: did you mean `matrix`?

    error: `n` must be an integer, at least 1, not "few"
     --> -S stages.a.n=few:1:12
      |
    1 | stages.a.n=few
      |            ^^^

    error: unknown section `stage`
     --> -S stage.b=1:1:1
      |
    1 | stage.b=1
      | ^^^^^
      |
      = help: did you mean `stages`?

    error: unknown field `sede`
     --> -S pipeline.sede=2:1:10
      |
    1 | pipeline.sede=2
      |          ^^^^
      |
      = help: did you mean `seed`?

    4 errors in the pipeline
    "#);
    assert_snapshot!(wrong_with(text, &["stages.a.n.x=1", "stages.a", "stages..a=1"]), @r"
    error: `stages.a.n` is an integer, not a table
     --> -S stages.a.n.x=1:1:10
      |
    1 | stages.a.n.x=1
      |          ^
      |
      = help: an override can replace it as a whole

    error: there is no `=value` behind this path
     --> -S stages.a:1:1
      |
    1 | stages.a
      | ^^^^^^^^
      |
      = help: write `-S path=value`, such as `-S params.epochs=8`

    error: a name of the path is missing here
     --> -S stages..a=1:1:8
      |
    1 | stages..a=1
      |        ^
      |
      = help: write `-S path=value`, such as `-S params.epochs=8`

    3 errors in the pipeline
    ");
}

#[test]
fn references() {
    let stage = |value: &str| {
        format!(
            "params = {{ rate = 1, list = [1] }}\nmatrix.n = [1]\n[stages.a]\nkind = \"load\"\nsource = \"{value}\"\n"
        )
    };
    assert_snapshot!(wrong(&stage("${params.rats}")), @r#"
    error: there is no parameter `rats` in [params]
     --> p.toml:6:11
      |
    6 | source = "${params.rats}"
      |           ^^^^^^^^^^^^^^
      |
      = help: did you mean `rate`?

    1 error in the pipeline
    "#);
    assert_snapshot!(wrong(&stage("${params.list.x}")), @r#"
    error: `list.x`: a list has no `x`
     --> p.toml:6:11
      |
    6 | source = "${params.list.x}"
      |           ^^^^^^^^^^^^^^^^

    1 error in the pipeline
    "#);
    assert_snapshot!(wrong(&stage("é ${matrix.m} and ${HOME}")), @r#"
    error: stage `a` has no axis `m`
     --> p.toml:6:13
      |
    6 | source = "é ${matrix.m} and ${HOME}"
      |             ^^^^^^^^^^^
      |
      = help: known here: n

    error: `HOME` refers to nothing
     --> p.toml:6:29
      |
    6 | source = "é ${matrix.m} and ${HOME}"
      |                             ^^^^^^^
      |
      = help: `${params.x}` and `${matrix.axis}` are known; write `$${` for a literal `${`

    2 errors in the pipeline
    "#);
    assert_snapshot!(wrong(&stage("x ${params.list}")), @r#"
    error: `${params.list}` is a list, which can't stand inside a longer text
     --> p.toml:6:13
      |
    6 | source = "x ${params.list}"
      |             ^^^^^^^^^^^^^^

    1 error in the pipeline
    "#);
    assert_snapshot!(wrong(&stage("${params.rate")), @r#"
    error: this `${` is not closed
     --> p.toml:6:11
      |
    6 | source = "${params.rate"
      |           ^^^^^^^^^^^^^
      |
      = help: write `$${` for a literal `${`

    1 error in the pipeline
    "#);
    assert_snapshot!(wrong("params = { a = \"${params.b}\", b = [\"${params.c}\"], c = \"${params.a}\", d = \"${params.d}\", e = \"${params.a}\" }\n[stages.a]\nkind = \"load\"\nsource = \"${params.e}\""), @r#"
    error: parameters refer to each other in a ring: a, b, c
     --> p.toml:2:16
      |
    2 | params = { a = "${params.b}", b = ["${params.c}"], c = "${params.a}", d = "${params.d}", e = "${params.a}" }
      |                ^^^^^^^^^^^^^

    error: parameters refer to each other in a ring: d
     --> p.toml:2:75
      |
    2 | params = { a = "${params.b}", b = ["${params.c}"], c = "${params.a}", d = "${params.d}", e = "${params.a}" }
      |                                                                           ^^^^^^^^^^^^^

    2 errors in the pipeline
    "#);
    assert_snapshot!(wrong("matrix.n = [1]\nparams.a = \"${matrix.n}\"\n[stages.a]\nkind = \"${matrix.n}\"\n"), @r#"
    error: no axis can be mentioned here
     --> p.toml:3:13
      |
    3 | params.a = "${matrix.n}"
      |             ^^^^^^^^^^^
      |
      = help: only a stage's parameters and `seed` can mention an axis

    error: no axis can be mentioned here
     --> p.toml:5:9
      |
    5 | kind = "${matrix.n}"
      |         ^^^^^^^^^^^
      |
      = help: only a stage's parameters and `seed` can mention an axis

    2 errors in the pipeline
    "#);
}

#[test]
fn inputs() {
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
      = help: a stage can't need its own result; take one of these inputs away

    error: stage `none` has no input `data`
     --> p.toml:6:9
      |
    6 | [stages.none]
      |         ^^^^
      |
      = help: inputs = { data = "…" }, a stage of kind load

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

    error: the list of `b` is empty
      --> p.toml:19:28
       |
    19 | inputs = { a = "self", b = [] }
       |                            ^^
       |
       = help: leave the role out, or name a stage

    error: `inputs` must be a table of roles, not a string
      --> p.toml:22:10
       |
    22 | inputs = "data"
       |          ^^^^^^
       |
       = help: inputs = { role = "stage" }

    error: role `model` of kind `fit` does not take `data`, which is of kind `load`
      --> p.toml:25:35
       |
    25 | inputs = { data = "data", model = "data" }
       |                                   ^^^^^^
       |
       = help: it takes train

    11 errors in the pipeline
    "#);
}

#[test]
fn coordinates_of_inputs() {
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

    error: `d@*` gathers points, which takes a list
     --> p.toml:8:53
      |
    8 | inputs = { a = "d@size=smal", b = ["d@sise=*"], c = "d@*", e = "d@size=*", f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*...
      |                                                     ^^^^^
      |
      = help: ["d@*"]

    error: `d@size=*` gathers points, which takes a list
     --> p.toml:8:64
      |
    8 | inputs = { a = "d@size=smal", b = ["d@sise=*"], c = "d@*", e = "d@size=*", f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*...
      |                                                                ^^^^^^^^^^
      |
      = help: ["d@size=*"]

    error: "size" is not `axis=value`
     --> p.toml:8:84
      |
    8 | inputs = { a = "d@size=smal", b = ["d@sise=*"], c = "d@*", e = "d@size=*", f = ["d@size"], g = ["d@size=small,size=large"], h = ["d@*...
      |                                                                                    ^^^^
      |
      = help: coordinates are written axis=value,axis=value

    error: axis `size` stands here twice
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
      = help: take one of the two out

    7 errors in the pipeline
    "#);
}

#[test]
fn rings() {
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
      = help: a stage can't need its own result; take one of these inputs away

    error: unknown field `note`
      --> p.toml:12:1
       |
    12 | note = 1
       | ^^^^
       |
       = help: known here: kind, inputs, matrix, at, seed, title, reference

    2 errors in the pipeline
    "#);
}

#[test]
fn axes() {
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

    error: axis `same` has 1 and 1.0, which are too alike for the names of points
     --> p.toml:6:15
      |
    6 | same = [1, 2, 1.0, "1", 0.5, 5e-1, 9007199254740993, 9007199254740992]
      |               ^^^

    error: axis `same` has 1 and "1", which are too alike for the names of points
     --> p.toml:6:20
      |
    6 | same = [1, 2, 1.0, "1", 0.5, 5e-1, 9007199254740993, 9007199254740992]
      |                    ^^^

    error: axis `same` has 0.5 twice
     --> p.toml:6:30
      |
    6 | same = [1, 2, 1.0, "1", 0.5, 5e-1, 9007199254740993, 9007199254740992]
      |                              ^^^^

    error: "a/b" can't be in the name of a point: it has '/' in it
     --> p.toml:7:8
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |        ^^^^^

    error: ".." can't be in the name of a point: it has ".." in it
     --> p.toml:7:15
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |               ^^^^

    error: "a,b" can't be in the name of a point: it has ',' in it
     --> p.toml:7:21
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                     ^^^^^

    error: "a=b" can't be in the name of a point: it has '=' in it
     --> p.toml:7:28
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                            ^^^^^

    error: "a@b" can't be in the name of a point: it has '@' in it
     --> p.toml:7:35
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                                   ^^^^^

    error: "" can't be in the name of a point: it is empty
     --> p.toml:7:42
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                                          ^^

    error: "a\u{7}" can't be in the name of a point: it has '\u{7}' in it
     --> p.toml:7:46
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                                              ^^^^^^^^^

    error: an axis has texts, numbers and booleans, not a list
     --> p.toml:7:57
      |
    7 | bad = ["a/b", "..", "a,b", "a=b", "a@b", "", "a\u0007", [1], "A", "a"]
      |                                                         ^^^
      |
      = help: name the variants, and set the parameter for each in the stage's `at`

    error: axis `bad` has "A" and "a", which are too alike for the names of points
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
      = help: letters, digits, `_` and `-` make a name

    error: a stage's matrix has no `include`
      --> p.toml:11:12
       |
    11 | matrix = { include = [] }
       |            ^^^^^^^
       |
       = help: [matrix] has

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

    error: an empty table in `exclude`
     --> p.toml:5:34
      |
    5 | exclude = [{ n = 3 }, { k = 1 }, {}, 5]
      |                                  ^^

    error: `exclude` holds tables such as { axis = value }, not an integer
     --> p.toml:5:38
      |
    5 | exclude = [{ n = 3 }, { k = 1 }, {}, 5]
      |                                      ^

    error: an included combination has a value for every axis
     --> p.toml:6:12
      |
    6 | include = [{ n = 1 }]
      |            ^^^^^^^^^
      |
      = help: give m too

    5 errors in the pipeline
    ");
}

#[test]
fn axes_that_meet() {
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
    error: two axes `n` meet in stage `both`: of [matrix] and of stage `b`
      --> p.toml:13:25
       |
    13 | inputs = { a = "a", b = "b" }
       |                         ^^^
       |
       = help: give one another name, or fix it in the input: `b@n=…`

    error: stage `again` declares axis `n`, which also comes in with `a`
      --> p.toml:16:8
       |
    16 | matrix.n = [3]
       |        ^
       |
       = help: give one another name, or fix it in the input: `a@n=…`

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
      = help: stage `b` declares one; it comes with an input that is not gathered over it

    1 error in the pipeline
    "#);
}

#[test]
fn at() {
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

    error: "small" is not `axis=value`
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
       = help: make it two stages

    error: `n` is set for the same points by "size=small"
      --> p.toml:17:1
       |
    17 | n = 1
       | ^
       |
       = help: say which is meant in an `at` that has the coordinates of both

    error: `at` holds tables by coordinates, not an integer
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
    error: `n` is set for the same points by "size=small"
     --> p.toml:7:14
      |
    7 | at."k=1" = { n = 2 }
      |              ^
      |
      = help: say which is meant in an `at` that has the coordinates of both

    error: `n` is set for the same points by "k=2,size=large"
     --> p.toml:9:39
      |
    9 | at."size=large,k=2" = { source = "b", n = 3 }
      |                                       ^
      |
      = help: say which is meant in an `at` that has the coordinates of both

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
fn too_much() {
    let axis = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let text = format!("[stages.a]\nkind = \"load\"\nmatrix = {{ a = [{0}], b = [{0}], c = [{0}] }}\n", axis(101));
    let message = wrong(&text);
    assert!(message.contains("stage `a` has more than 1000000 points"), "{message}");

    let mut text = String::from("[params]\np0 = \"0123456789\"\n");
    for i in 1..60 {
        text.push_str(&format!("p{i} = \"${{params.p{0}}}${{params.p{0}}}\"\n", i - 1));
    }
    let message = wrong(&format!("{text}[stages.a]\nkind = \"load\"\n"));
    assert!(message.contains("bring in more than 16 MB"), "{message}");

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
    assert!(message.contains("name takes 202 bytes"), "{message}");
}
