//! Ranges, samples, and the limit on a stage's points.

use insta::assert_snapshot;

use super::super::Mode;
use super::super::testing::{good, good_with, names, wrong, wrong_with};

/// The names of the points of a stage that uses all axes of this `[matrix]`.
fn swept(matrix: &str) -> String {
    swept_with(matrix, &[])
}

fn swept_with(matrix: &str, overrides: &[&str]) -> String {
    let text = pipeline(matrix);
    let spec = good_with(&text, overrides);
    names(&spec).join("\n").replace("s@", "")
}

/// A pipeline with a stage that uses every axis in `matrix`. Each axis is on a line of its own.
fn pipeline(matrix: &str) -> String {
    let axis = |line: &str| line.split_once(" =").map(|(name, _)| name.trim().to_owned());
    let axes = matrix.lines().filter_map(axis).filter(|a| !["limit", "include", "exclude"].contains(&a.as_str()));
    let title: String = axes.map(|a| format!("${{matrix.{a}}} ")).collect();
    format!("pipeline.name = \"p\"\n[stages.s]\nkind = \"show\"\ntitle = \"{title}\"\n[matrix]\n{matrix}\n")
}

#[test]
fn range_keeps_ends_as_written_and_rounds_values_between() {
    assert_snapshot!(swept("lr = { from = 1e-4, to = 1e-2, steps = 5, scale = \"log\" }"), @r"
    lr=0.0001
    lr=0.00031623
    lr=0.001
    lr=0.0031623
    lr=0.01
    ");
    assert_snapshot!(swept("x = { from = 0.0, to = 1, steps = 4 }"), @r"
    x=0.0
    x=0.33333
    x=0.66667
    x=1.0
    ");
    assert_snapshot!(swept("down = { from = 3, to = -3, steps = 3 }"), @r"
    down=3
    down=0
    down=-3
    ");
}

#[test]
fn range_of_integers_has_integers_if_all_are_whole_or_requested() {
    assert_eq!(swept("n = { from = 8, to = 64, steps = 4, scale = \"log\" }"), "n=8\nn=16\nn=32\nn=64");
    assert_eq!(swept("n = { from = 1, to = 1048576, steps = 3, scale = \"log\" }"), "n=1\nn=1024\nn=1048576");
    assert_eq!(swept("n = { from = 1, to = 2, steps = 3 }"), "n=1.0\nn=1.5\nn=2.0");
    // The values are rounded, and duplicates are dropped.
    assert_eq!(swept("n = { from = 1, to = 3, steps = 9, integer = true }"), "n=1\nn=2\nn=3");
    assert_eq!(swept("n = { from = 1, to = 4, steps = 3, integer = true }"), "n=1\nn=3\nn=4");
}

#[test]
fn samples_equal_pinned_values() {
    assert_snapshot!(swept("lr = { log_uniform = [1e-4, 1e-2], samples = 4 }"), @r"
    lr=0.00072866
    lr=0.00043314
    lr=0.0015403
    lr=0.0075126
    ");
    assert_snapshot!(swept("w = { uniform = [-1, 1], samples = 4, seed = 3 }"), @r"
    w=-0.1241
    w=-0.4326
    w=-0.4799
    w=0.6964
    ");
    assert_snapshot!(swept("n = { uniform = [1, 3], samples = 20, integer = true }"), @r"
    n=1
    n=3
    n=2
    ");
    assert_snapshot!(swept("k = { choice = [\"a\", \"b\", \"c\", \"d\"], samples = 3 }"), @r"
    k=b
    k=c
    ");
}

#[test]
fn raising_samples_keeps_first_values() {
    let of = |axis: &str, n: usize| swept(&axis.replace('N', &n.to_string()));
    for axis in [
        "lr = { log_uniform = [1e-4, 1e-2], samples = N, seed = -1 }",
        "x = { uniform = [0, 5], samples = N }",
        "n = { log_uniform = [1, 100], samples = N, integer = true }",
        "c = { choice = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], samples = N }",
    ] {
        let (few, many) = (of(axis, 7), of(axis, 30));
        assert!(many.starts_with(&few) && many.len() > few.len(), "{axis}:\n{few}\n\n{many}");
    }
    let seeds = |s: i64| swept(&format!("x = {{ uniform = [0, 1], samples = 3, seed = {s} }}"));
    assert_ne!(seeds(0), seeds(1));
    let named = |name: &str| swept(&format!("{name} = {{ uniform = [0, 1], samples = 3 }}")).replace(name, "");
    assert_ne!(named("x"), named("y"), "axes with different names get different draws");
    let x = |more: &str| swept(&format!("x = {{ uniform = [0, 1], samples = 3 }}{more}"));
    let beside = x("\ny = { uniform = [0, 1], samples = 3 }");
    assert_eq!(beside.lines().count(), 9, "sampled axes multiply");
    assert!(x("").lines().all(|x| beside.contains(x)), "another axis does not change the draws");
}

#[test]
fn axes_drawn_together_do_not_multiply() {
    let matrix = |n: usize| {
        format!(
            "k = {{ choice = [\"a\", \"b\"], samples = {n}, together = \"random\" }}\nseed-like = [1, 2]\n\
             lr = {{ log_uniform = [1e-4, 1e-2], samples = {n}, together = \"random\" }}"
        )
    };
    assert_snapshot!(swept(&matrix(3)), @r"
    k=b,seed-like=1,lr=0.00072866
    k=b,seed-like=2,lr=0.00072866
    k=a,seed-like=1,lr=0.00043314
    k=a,seed-like=2,lr=0.00043314
    k=b,seed-like=1,lr=0.0015403
    k=b,seed-like=2,lr=0.0015403
    ");
    // New draws come last, although they draw `a` and `b` again.
    let pairs = |n: usize| swept(&matrix(n).replace("seed-like = [1, 2]\n", ""));
    assert!(pairs(9).starts_with(&pairs(5)), "{}\n\n{}", pairs(5), pairs(9));
    assert_eq!(pairs(9).lines().count(), 9);
    // A stage that uses only one of the axes has this axis's values.
    let text = pipeline(&matrix(3)).replace("${matrix.lr}", "").replace("${matrix.seed-like}", "");
    let text = format!("{text}[stages.t]\nkind = \"show\"\ntitle = \"${{matrix.lr}}${{matrix.seed-like}}\"\n");
    let spec = good(&text);
    assert!(spec.stages[0].range().len() <= 2, "{:?}", names(&spec));
    assert_eq!(spec.stages[1].range().len(), 6);
}

#[test]
fn include_and_exclude_apply_to_ranges_and_samples() {
    let matrix = "n = { from = 1, to = 3, steps = 3 }\nlr = { log_uniform = [1e-4, 1e-2], samples = 2 }\n\
                  exclude = [{ n = 2 }]\ninclude = [{ n = 2, lr = 0.5 }]";
    let all = swept(matrix);
    assert_eq!(all.lines().count(), 5, "{all}");
    assert!(all.contains("n=2,lr=0.5"), "{all}");
    let stage = "pipeline.name = \"p\"\n[stages.s]\nkind = \"show\"\ntitle = \"n ${matrix.n}\"\nmatrix.n = { from = 1, to = 2, steps = 2 }\n";
    assert_eq!(names(&good(stage)), ["s@n=1", "s@n=2"], "a stage's own matrix can have a range");
}

#[test]
fn errors_in_ranges_and_samples_are_reported_at_their_place() {
    let matrix = r#"
a = { from = 1, to = 1, steps = 3 }
b = { from = 0, to = 1, steps = 3, scale = "log" }
c = { from = 1, too = 2, steps = 1 }
d = { from = 1, to = 2, steps = 3, scale = "lag" }
e = { uniform = [2, 1], samples = 3 }
f = { log_uniform = [-1, 1], samples = 3 }
g = { uniform = [0, 1] }
h = { uniform = [0.5, 2], samples = 3, integer = true }
i = { choice = [1, 1], samples = 3 }
j = { choice = 3, samples = 3 }
k = { smaples = 3 }
l = { uniform = [0, 1], samples = 3, together = "t" }
m = { uniform = [0, 1], samples = 4, together = "t" }
"#;
    assert_snapshot!(wrong(&pipeline(matrix).replace("pipeline.name = \"p\"\n", "")), @r#"
    error: both ends are the same
     --> p.toml:7:14
      |
    7 | a = { from = 1, to = 1, steps = 3 }
      |              ^
      |
      = help: for a single value, write a list: [value]

    error: a logarithmic scale needs ends above 0
     --> p.toml:8:14
      |
    8 | b = { from = 0, to = 1, steps = 3, scale = "log" }
      |              ^
      |
      = help: start at a small number, such as 1e-4

    error: axis `c` has no `to`
     --> p.toml:9:5
      |
    9 | c = { from = 1, too = 2, steps = 1 }
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: a range is { from = a, to = b, steps = n }

    error: unknown field `too`
     --> p.toml:9:17
      |
    9 | c = { from = 1, too = 2, steps = 1 }
      |                 ^^^
      |
      = help: did you mean `to`?

    error: `steps` must be an integer from 2 to 1000000, not 1
     --> p.toml:9:34
      |
    9 | c = { from = 1, too = 2, steps = 1 }
      |                                  ^

    error: `scale` must be one of linear, log, not "lag"
      --> p.toml:10:44
       |
    10 | d = { from = 1, to = 2, steps = 3, scale = "lag" }
       |                                            ^^^^^
       |
       = help: did you mean `log`?

    error: `uniform` must be two numbers, the smaller one first
      --> p.toml:11:17
       |
    11 | e = { uniform = [2, 1], samples = 3 }
       |                 ^^^^^^
       |
       = help: uniform = [1e-4, 1e-2]

    error: a logarithmic scale needs ends above 0
      --> p.toml:12:21
       |
    12 | f = { log_uniform = [-1, 1], samples = 3 }
       |                     ^^^^^^^
       |
       = help: start at a small number, such as 1e-4

    error: axis `g` has no `samples`
      --> p.toml:13:5
       |
    13 | g = { uniform = [0, 1] }
       |     ^^^^^^^^^^^^^^^^^^^^
       |
       = help: set the number of values to draw: samples = 20

    error: with `integer`, the ends of `uniform` must be whole numbers
      --> p.toml:14:17
       |
    14 | h = { uniform = [0.5, 2], samples = 3, integer = true }
       |                 ^^^^^^^^
       |
       = help: uniform = [1, 10]

    error: axis `i` has 1 twice
      --> p.toml:15:20
       |
    15 | i = { choice = [1, 1], samples = 3 }
       |                    ^

    error: `choice` must be a list of values, not an integer
      --> p.toml:16:16
       |
    16 | j = { choice = 3, samples = 3 }
       |                ^
       |
       = help: choice = [value, value]

    error: axis `k` is neither a range nor samples
      --> p.toml:17:5
       |
    17 | k = { smaples = 3 }
       |     ^^^^^^^^^^^^^^^
       |
       = help: write [a, b, c], { from = a, to = b, steps = n }, or { uniform = [a, b], samples = n } (or log_uniform, or choice)

    error: unknown field `smaples`
      --> p.toml:17:7
       |
    17 | k = { smaples = 3 }
       |       ^^^^^^^
       |
       = help: did you mean `samples`?

    error: axis `m` has 4 samples, `l` has 3
      --> p.toml:19:49
       |
    19 | m = { uniform = [0, 1], samples = 4, together = "t" }
       |                                                 ^^^
       |
       = help: axes that are drawn together need the same number of samples

    15 errors in the pipeline
    "#);
}

#[test]
fn range_of_integers_needs_whole_ends() {
    for end in ["4.5", "1e20"] {
        let axis = format!("n = {{ from = 1, to = {end}, steps = 3, integer = true }}");
        let error = wrong(&format!("[matrix]\n{axis}\n"));
        assert!(error.contains("with `integer`, both ends of a range must be whole numbers"), "{error}");
        assert!(error.contains("p.toml:3:"), "{error}");
    }
}

#[test]
fn too_many_points_are_refused_with_their_product() {
    let axis = |name: &str, n: usize| format!("{name} = {{ from = 1, to = {n}, steps = {n} }}\n");
    let of = |a, b, c| axis("lr", a) + &axis("kl", b) + &axis("d", c);
    let stage = |matrix: &str| pipeline(matrix).replace("pipeline.name = \"p\"\n", "");
    assert_snapshot!(wrong(&stage(&of(20, 30, 40))), @r"
    error: stage `s` has 20 × 30 × 40 = 24,000 points (lr × kl × d), more than the limit of 10,000
     --> p.toml:2:9
      |
    2 | [stages.s]
      |         ^
      |
      = help: if this is intended, set `limit = 24000` in [matrix] or use `-S matrix.limit=24000`

    1 error in the pipeline
    ");
    assert_eq!(swept(&of(10, 20, 50)).lines().count(), 10_000, "exactly the limit is allowed");
    assert_eq!(swept_with(&of(10, 20, 51), &["matrix.limit=10200"]).lines().count(), 10_200);
    assert!(wrong_with(&stage(&of(2, 2, 2)), &["matrix.limit=7"]).contains("2 × 2 × 2 = 8 points"));
    assert!(wrong(&stage("limit = 0\nn = [1]")).contains("`limit` must be an integer from 1 to 1,000,000, not 0"));
    // `limit` can be an axis, as it could before it was a setting.
    assert_eq!(
        names(&good(
            "pipeline.name = 'p'\nmatrix.limit = [1, 2]\n[stages.s]\nkind = 'show'\ntitle = 'at ${matrix.limit}'"
        ))
        .len(),
        2
    );
}

#[test]
fn axis_that_no_stage_uses_is_refused() {
    let text = "[matrix]\nlr = [1, 2]\nn = [1, 2]\n[stages.s]\nkind = \"load\"\nn = \"${matrix.n}\"\n";
    assert_snapshot!(wrong(text), @r"
    error: no stage uses the axis `lr`
     --> p.toml:3:1
      |
    3 | lr = [1, 2]
      | ^^
      |
      = help: use `${matrix.lr}` in a stage, or remove the axis

    1 error in the pipeline
    ");
    // A value that an override fixes does not require removing its axis.
    let text = "pipeline.name = 'p'\nmatrix.n = [1, 2]\n[stages.s]\nkind = 'load'\nn = '${matrix.n}'\n";
    assert_eq!(names(&good_with(text, &["stages.s.n=5"])), ["s"]);
}

/// A pipeline with a training that has an axis, and with this `[matrix.prune]`.
fn pruning(prune: &str) -> String {
    format!(
        "[stages.d]\nkind = \"load\"\n[stages.t]\nkind = \"train\"\ninputs.data = \"d\"\nrate = \"${{matrix.rate}}\"\n\
         epochs = 9\n[matrix]\nrate = [0.1, 0.2]\n[matrix.prune]\n{prune}\n"
    )
}

#[test]
fn prune_section_is_read() {
    let read = |prune: &str| good(&format!("pipeline.name = \"p\"\n{}", pruning(prune))).prune;
    let found = read("metric = \"t.rmse\"\nrungs = [1, 8]").expect("a pruning");
    assert_eq!((found.stage.index(), found.curve.as_str(), found.mode), (1, "rmse", Mode::Min));
    assert_eq!((found.rungs, found.reduction), (vec![1, 8], 3));
    assert_eq!(read("metric = \"t.loss\"\nrungs = []\nmode = \"max\"\nreduction = 2"), None);
}

#[test]
fn errors_in_prune_section_are_reported() {
    let errors = |prune: &str| {
        let message = wrong(&pruning(prune));
        message
            .lines()
            .filter(|l| l.starts_with("error") || l.contains("help"))
            .map(str::trim)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_snapshot!(errors("metric = \"t.loss\"\nrungs = [3, 3, 9]"), @"error: rungs must ascend, but 3 follows 3");
    assert_snapshot!(errors("metric = \"t.loss\"\nrungs = [3, 9]"), @r"
    error: `t@rate=0.1` has 9 epochs, so it can't be pruned after 9
    = help: rungs must be before the last epoch; `-S matrix.prune.rungs=[]` turns pruning off
    ");
    assert_snapshot!(errors("metric = \"t.los\"\nrungs = [3]"), @r"
    error: kind `train` has no metric `los` for each epoch
    = help: did you mean `loss`?
    ");
    assert_snapshot!(errors("metric = \"loss\"\nrungs = [3]"), @r#"
    error: "loss" is not of the form `stage.metric`
    = help: write for example `ad.loss`
    "#);
    assert_snapshot!(errors("metric = \"tt.loss\"\nrungs = [3]"), @r"
    error: there is no stage `tt`
    = help: did you mean `t`?
    ");
    assert_snapshot!(errors("rung = [3]\nmode = \"least\"\nreduction = 1"), @r#"
    error: [matrix.prune] has no `metric`
    = help: metric = "stage.loss"
    error: [matrix.prune] has no `rungs`
    = help: rungs = [5, 20]
    error: unknown field `rung`
    = help: did you mean `rungs`?
    error: `mode` must be one of min, max, not "least"
    error: `reduction` must be an integer from 2 to 1000000, not 1
    "#);
    let stage = "[stages.a]\nkind = \"show\"\nmatrix.prune = { metric = \"a.loss\" }\n";
    assert!(wrong(stage).contains("a stage's `matrix` can't have `prune`"));
}

/// The warnings about a pipeline with this `[matrix]`.
fn warnings(matrix: &str, overrides: &[&str]) -> String {
    let spec = good_with(&pipeline(matrix), overrides);
    spec.warnings.iter().map(|warning| warning.render_warning(&spec.sources)).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn axes_with_fewer_values_than_they_ask_for_give_warnings() {
    let matrix = "
w = { choice = [8, 16], samples = 20 }
n = { from = 1, to = 3, steps = 9, integer = true }
a = { choice = [1, 2], samples = 6, together = \"g\" }
b = { choice = [1, 2], samples = 6, together = \"g\", seed = 1 }";
    assert_snapshot!(warnings(matrix, &[]), @r#"
    axis `w` has only 2 different values, but `samples` asks for 20
     --> p.toml:7:35
      |
    7 | w = { choice = [8, 16], samples = 20 }
      |                                   ^^
      |
      = help: a value that is drawn again counts once

    axis `n` has only 3 different values, but `steps` asks for 9
     --> p.toml:8:33
      |
    8 | n = { from = 1, to = 3, steps = 9, integer = true }
      |                                 ^
      |
      = help: steps that round to the same value count once

    the axes `a`, `b` have only 3 different combinations, but `samples` asks for 6
     --> p.toml:9:34
      |
    9 | a = { choice = [1, 2], samples = 6, together = "g" }
      |                                  ^
      |
      = help: a combination that is drawn again counts once
    "#);
}

#[test]
fn axes_with_all_values_that_they_ask_for_give_no_warning() {
    let matrix = "
list = [1, 2]
range = { from = 1, to = 3, steps = 3 }
draw = { uniform = [0, 1], samples = 4 }
a = { uniform = [0, 1], samples = 9, together = \"g\" }
b = { choice = [1, 2], samples = 9, together = \"g\" }";
    assert_eq!(warnings(matrix, &[]), "", "`b` has few values, but 9 combinations with `a`");
    let more = warnings("n = { uniform = [1, 2], samples = 1, integer = true }", &["matrix.n.samples=9"]);
    assert_snapshot!(more, @r"
    axis `n` has only 2 different values, but `samples` asks for 9
     --> -S matrix.n.samples=9:1:18
      |
    1 | matrix.n.samples=9
      |                  ^
      |
      = help: a value that is drawn again counts once
    ");
}
