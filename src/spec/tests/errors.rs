//! Errors in pipelines, as their author sees them. Each text gets a first line with the pipeline's name.

use insta::assert_snapshot;

use super::super::testing::{read, wrong, wrong_with};

#[test]
fn all_syntax_errors_are_reported_at_once() {
    assert_snapshot!(wrong("[stages.a\nkind = \"load\"\nx = = 1\ny = \"open\n[stages.a]\n"), @r"
    error: invalid TOML: unclosed table, expected `]`
     --> p.toml:2:10
      |
    2 | [stages.a
      |          ^

    error: invalid TOML: extra `=`, expected nothing
     --> p.toml:4:5
      |
    4 | x = = 1
      |     ^

    error: invalid TOML: unexpected key or value, expected newline, `#`
     --> p.toml:4:7
      |
    4 | x = = 1
      |       ^

    3 errors in the pipeline
    ");
    assert_snapshot!(wrong("[stages.a]\nkind = \"load\"\nkind = \"train\"\n"), @r#"
    error: invalid TOML: duplicate key
     --> p.toml:4:1
      |
    4 | kind = "train"
      | ^^^^

    1 error in the pipeline
    "#);
    assert_snapshot!(wrong("params = { d = 2024-01-01, i = 99999999999999999999, f = nan }"), @r"
    error: a pipeline can't hold dates
     --> p.toml:2:16
      |
    2 | params = { d = 2024-01-01, i = 99999999999999999999, f = nan }
      |                ^^^^^^^^^^
      |
      = help: write it as a string, in quotes

    error: this integer does not fit in 64 bits
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
fn errors_in_sections() {
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

    3 errors in the pipeline
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
fn errors_in_header() {
    let text = "[pipeline]\nname = \"a/b\"\nseeds = 1\nseed = 1.5\ndevice = \"gpu\"\nprecision = \"bf32\"\n\
                checkpoint_seconds = -1\n[stages.a]\nkind = \"load\"\n";
    assert_snapshot!(read(text, &[]).err().unwrap(), @r#"
    error: "a/b" can't be the name of a pipeline
     --> p.toml:2:8
      |
    2 | name = "a/b"
      |        ^^^^^
      |
      = help: use letters, digits, `_` and `-`

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
      = help: `auto` uses a GPU if there is one

    error: `precision` must be one of f32, tf32, bf16, not "bf32"
     --> p.toml:6:13
      |
    6 | precision = "bf32"
      |             ^^^^^^
      |
      = help: did you mean `f32`?

    error: `checkpoint_seconds` must be a number from 0 to 31536000, not -1
     --> p.toml:7:22
      |
    7 | checkpoint_seconds = -1
      |                      ^^

    6 errors in the pipeline
    "#);
}

#[test]
fn errors_in_kinds_and_fields() {
    assert_snapshot!(wrong("stages.a = {}\nstages.b.kind = \"laod\"\nstages.c.kind = 1\nstages.d = 1\n"), @r#"
    error: stage `a` has no `kind`
     --> p.toml:2:8
      |
    2 | stages.a = {}
      |        ^
      |
      = help: choose one of fit, load, show, train

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

    error: stage `d` must be a table, not an integer
     --> p.toml:5:12
      |
    5 | stages.d = 1
      |            ^

    4 errors in the pipeline
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
      = help: use letters, digits, `_` and `-`

    error: stages `c` and `C` differ only in case
     --> p.toml:6:9
      |
    6 | [stages.C]
      |         ^
      |
      = help: point names become file names, and some file systems ignore case

    2 errors in the pipeline
    "#);
}

#[test]
fn wrong_value_from_reference_is_reported_where_it_is_written() {
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
fn errors_in_overrides() {
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
    assert_snapshot!(wrong_with(&format!("{text}sorce = 1"), &["stages.a.n.x=1", "stages.a", "stages..a=1"]), @r"
    error: unknown field `sorce`
     --> p.toml:5:1
      |
    5 | sorce = 1
      | ^^^^^
      |
      = help: did you mean `source`?

    error: `stages.a.n` is an integer, not a table
     --> -S stages.a.n.x=1:1:10
      |
    1 | stages.a.n.x=1
      |          ^
      |
      = help: an override can replace the whole value

    error: `=value` is missing after this path
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

    4 errors in the pipeline
    ");
}

#[test]
fn errors_in_references() {
    let stage = |value: &str| {
        format!(
            "params = {{ rate = 1, list = [1] }}\nmatrix.n = [1]\n[stages.a]\nkind = \"load\"\nsource = \"{value}\"\n"
        )
    };
    assert_snapshot!(wrong(&stage("${params.rats}")), @r#"
    error: [params] has no parameter `rats`
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

    error: `HOME` is not a valid reference
     --> p.toml:6:29
      |
    6 | source = "é ${matrix.m} and ${HOME}"
      |                             ^^^^^^^
      |
      = help: use `${params.x}`, `${matrix.axis}` or `${pipeline.seed}`; write `$${` for a literal `${`

    2 errors in the pipeline
    "#);
    assert_snapshot!(wrong(&stage("x ${params.list}")), @r#"
    error: `${params.list}` is a list, which can't be part of a longer string
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
    error: parameters refer to each other in a cycle: a, b, c
     --> p.toml:2:16
      |
    2 | params = { a = "${params.b}", b = ["${params.c}"], c = "${params.a}", d = "${params.d}", e = "${params.a}" }
      |                ^^^^^^^^^^^^^

    error: parameters refer to each other in a cycle: d
     --> p.toml:2:75
      |
    2 | params = { a = "${params.b}", b = ["${params.c}"], c = "${params.a}", d = "${params.d}", e = "${params.a}" }
      |                                                                           ^^^^^^^^^^^^^

    2 errors in the pipeline
    "#);
    assert_snapshot!(wrong("matrix.n = [1]\nparams.a = \"${matrix.n}\"\n[stages.a]\nkind = \"${matrix.n}\"\n"), @r#"
    error: an axis can't be used here
     --> p.toml:3:13
      |
    3 | params.a = "${matrix.n}"
      |             ^^^^^^^^^^^
      |
      = help: only a stage's parameters and `seed` can use an axis

    error: an axis can't be used here
     --> p.toml:5:9
      |
    5 | kind = "${matrix.n}"
      |         ^^^^^^^^^^^
      |
      = help: only a stage's parameters and `seed` can use an axis

    2 errors in the pipeline
    "#);
}

#[test]
fn seconds_between_checkpoints_have_an_upper_bound() {
    let with = |seconds: &str| {
        let text = format!("[pipeline]\nname = \"p\"\ncheckpoint_seconds = {seconds}\n[stages.a]\nkind = \"load\"\n");
        read(&text, &[])
    };
    assert_eq!(with("31_536_000").unwrap().pipeline.checkpoint_seconds, 31_536_000.0);
    assert_eq!(with("0").unwrap().pipeline.checkpoint_seconds, 0.0);
    assert_snapshot!(with("1e20").err().unwrap(), @r"
    error: `checkpoint_seconds` must be a number from 0 to 31536000, not 1e20
     --> p.toml:3:22
      |
    3 | checkpoint_seconds = 1e20
      |                      ^^^^

    1 error in the pipeline
    ");
}

#[test]
fn wrong_type_is_one_error_where_it_is_written() {
    let with = |set: &str| {
        wrong_with("[stages.data]\nkind = \"load\"\n[stages.b]\nkind = \"show\"\ninputs = { d = \"data\" }", &[set])
    };
    assert_snapshot!(with("stages.data=load"), @r"
    error: stage `data` must be a table, not a string
     --> -S stages.data=load:1:13
      |
    1 | stages.data=load
      |             ^^^^

    1 error in the pipeline
    ");
    assert_snapshot!(with("stages=3"), @r"
    error: `stages` must be a table, not an integer
     --> -S stages=3:1:8
      |
    1 | stages=3
      |        ^

    1 error in the pipeline
    ");
    assert_snapshot!(with("pipeline=3"), @r"
    error: `pipeline` must be a table, not an integer
     --> -S pipeline=3:1:10
      |
    1 | pipeline=3
      |          ^

    1 error in the pipeline
    ");
    assert_snapshot!(with("stages.b.inputs=3"), @r#"
    error: `inputs` must be a table of roles, not an integer
     --> -S stages.b.inputs=3:1:17
      |
    1 | stages.b.inputs=3
      |                 ^
      |
      = help: inputs = { role = "stage" }

    1 error in the pipeline
    "#);
    assert_snapshot!(wrong("[stages]\na = 5\n"), @r"
    error: stage `a` must be a table, not an integer
     --> p.toml:3:5
      |
    3 | a = 5
      |     ^

    1 error in the pipeline
    ");
}

#[test]
fn wrong_list_item_is_named_and_marked() {
    let train = "[stages.data]\nkind = \"load\"\n[stages.t]\nkind = \"train\"\ninputs = { data = \"data\" }\n";
    assert_snapshot!(wrong(&format!("{train}channels = [1, 2, 3, 4.0]\nepochs = 8\nkeep = [1, 9]\n")), @r"
    error: `channels` must hold integers from 1 to 4096, not 4.0
     --> p.toml:7:22
      |
    7 | channels = [1, 2, 3, 4.0]
      |                      ^^^

    error: `keep` must hold integers from 0 to 8, not 9
     --> p.toml:9:12
      |
    9 | keep = [1, 9]
      |            ^

    2 errors in the pipeline
    ");
    assert_snapshot!(wrong(&format!("{train}channels = [\n  1,\n  0,\n  [2],\n]\n")), @r"
    error: `channels` must hold integers from 1 to 4096, not 0
     --> p.toml:9:3
      |
    9 |   0,
      |   ^

    error: `channels` must hold integers from 1 to 4096, not a list
      --> p.toml:10:3
       |
    10 |   [2],
       |   ^^^

    2 errors in the pipeline
    ");
    assert_snapshot!(wrong(&format!("{train}channels = 7\n")), @r"
    error: `channels` must be a list of integers from 1 to 4096, not 7
     --> p.toml:7:12
      |
    7 | channels = 7
      |            ^

    1 error in the pipeline
    ");
}

#[test]
fn known_field_names_are_listed_once() {
    let text = "[stages.data]\nkind = \"load\"\n[stages.t]\nkind = \"train\"\ninputs = { data = \"data\" }\nzzz = 1\n";
    assert_snapshot!(wrong(text), @r"
    error: unknown field `zzz`
     --> p.toml:7:1
      |
    7 | zzz = 1
      | ^^^
      |
      = help: known here: kind, inputs, matrix, at, seed, resources, width, channels, distribution, segments, epochs, keep, keep_every, rate

    1 error in the pipeline
    ");
}

#[test]
fn errors_in_segments() {
    let train = "[stages.data]\nkind = \"load\"\n[stages.t]\nkind = \"train\"\ninputs = { data = \"data\" }\n";
    let error = |line: &str| wrong(&format!("{train}{line}\n"));
    assert_snapshot!(error("epochs = 4\nsegments = [{ epochs = 4 }]"), @r"
    error: `epochs` and `segments` exclude each other
     --> p.toml:8:12
      |
    8 | segments = [{ epochs = 4 }]
      |            ^^^^^^^^^^^^^^^^
      |
      = help: give each segment its own `epochs`

    1 error in the pipeline
    ");
    assert_snapshot!(error("segments = []"), @r"
    error: `segments` is empty
     --> p.toml:7:12
      |
    7 | segments = []
      |            ^^
      |
      = help: give at least one `{ epochs = … }`

    1 error in the pipeline
    ");
    assert_snapshot!(error("segments = [4, { epochs = 2, rat = 0.1 }]"), @r"
    error: a segment must be a table, not an integer
     --> p.toml:7:13
      |
    7 | segments = [4, { epochs = 2, rat = 0.1 }]
      |             ^

    error: unknown field `rat` in a segment
     --> p.toml:7:30
      |
    7 | segments = [4, { epochs = 2, rat = 0.1 }]
      |                              ^^^
      |
      = help: did you mean `rate`?

    2 errors in the pipeline
    ");
    assert_snapshot!(error("segments = { epochs = 4 }"), @r"
    error: `segments` must be a list of tables, not a table
     --> p.toml:7:12
      |
    7 | segments = { epochs = 4 }
      |            ^^^^^^^^^^^^^^

    1 error in the pipeline
    ");
}

#[test]
fn error_of_many_points_is_reported_once_with_number_of_points() {
    let sweep = |axes: &str, fields: &str| {
        let kind = "[stages.d]\nkind = \"load\"\n[stages.a]\nkind = \"train\"\ninputs = { data = \"d\" }\n";
        wrong(&format!("[matrix]\n{axes}\n{kind}{fields}\n"))
    };
    // All values of a range have the same place.
    assert_snapshot!(sweep("r = { from = -20, to = -1, steps = 20 }", "rate = \"${matrix.r}\""), @r"
    error: `rate` must be a number above 0, not -20 (the same for 19 other values)
     --> p.toml:3:5
      |
    3 | r = { from = -20, to = -1, steps = 20 }
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ used by stage `a`, in 20 points

    1 error in the pipeline
    ");
    // One wrong value of several: the number of points with it is shown.
    assert_snapshot!(sweep("r = [0.1, -1]\nw = [1, 2, 3]", "rate = \"${matrix.r}\"\nwidth = \"${matrix.w}\""), @r"
    error: `rate` must be a number above 0, not -1
     --> p.toml:3:11
      |
    3 | r = [0.1, -1]
      |           ^^ used by stage `a`, in 3 points

    1 error in the pipeline
    ");
    // The wrong value is part of a string.
    assert_snapshot!(sweep("i = [1, 2]", "distribution = \"gauss${matrix.i}\""), @r#"
    error: `distribution` must be one of gaussian, uniform, not "gauss1" (the same for 1 other value)
     --> p.toml:9:16
      |
    9 | distribution = "gauss${matrix.i}"
      |                ^^^^^^^^^^^^^^^^^^ in 2 points
      |
      = help: did you mean `gaussian`?

    1 error in the pipeline
    "#);
    // The number is not shown for an error of every point.
    assert_snapshot!(sweep("w = [1, 2]", "width = \"${matrix.w}\"\nwdth = 3"), @r"
    error: unknown field `wdth`
      --> p.toml:10:1
       |
    10 | wdth = 3
       | ^^^^
       |
       = help: did you mean `width`?

    1 error in the pipeline
    ");
}

#[test]
fn many_wrong_values_do_not_hide_another_error() {
    let text = "[matrix]\nr = { from = -40, to = -1, steps = 40 }\nw = [1, 0]\n[stages.d]\nkind = \"load\"\n[stages.a]\n\
                kind = \"train\"\ninputs = { data = \"d\" }\nwidth = \"${matrix.w}\"\nrate = \"${matrix.r}\"\n";
    let message = wrong(text).replace("w = [1, 0]", "");
    assert!(message.contains("`width` must be") && message.ends_with("2 errors in the pipeline"), "{message}");
}

#[test]
fn wrong_axis_drawn_together_with_another_is_reported() {
    let text = "[matrix]\nu = { uniform = [0, 1], samples = 4, together = \"t\" }\n\
                l = { log_uniform = [0, 100], samples = 4, together = \"t\" }\n\
                [stages.d]\nkind = \"load\"\n[stages.a]\nkind = \"train\"\ninputs = { data = \"d\" }\n\
                rate = \"${matrix.u}\"\nwidth = \"${matrix.l}\"\n";
    let message = wrong(text);
    assert!(message.contains("log_uniform"), "{message}");
}

#[test]
fn axis_that_is_not_a_list_is_one_error() {
    let text = "[matrix]\nk = [8, 16]\n[stages.d]\nkind = \"load\"\nn = \"${matrix.k}\"\nat.\"k=8\".source = \"b\"\n\
                [stages.s]\nkind = \"show\"\ninputs = { d = [\"d@*\"], e = \"d@k=8\" }\n";
    assert_snapshot!(wrong_with(text, &["matrix.k=32"]), @r"
    error: axis `k` must be a list of values, not an integer
     --> -S matrix.k=32:1:10
      |
    1 | matrix.k=32
      |          ^^
      |
      = help: k = [value, value]

    1 error in the pipeline
    ");
}
