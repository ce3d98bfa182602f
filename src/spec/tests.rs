//! Valid pipelines.

mod errors;
mod groups;
mod include;
mod listed;
mod properties;
mod sweeps;
mod wiring;

use super::testing::{good, good_with, graph, names, point, shown};
use super::{DeviceChoice, Precision};
use crate::id::PointId;
use crate::value::Value;

/// The example of the format's contract, with the kinds of these tests.
const MINI: &str = r#"
[pipeline]
name = "mini"            # a comment
seed = 7
device = "cuda:1"
precision = "bf16"
checkpoint_seconds = 5

[params]
epochs = 4

[matrix]
lr = [1e-3, 1e-2]

[stages.data]
kind = "load"
n = 96

[stages.ad]
kind = "train"
inputs = { data = "data" }
epochs = "${params.epochs}"
rate = "${matrix.lr}"
channels = [64, 32, 16, 16]

[stages.vad]
kind = "train"
inputs = { data = "data" }
matrix = { distribution = ["gaussian", "uniform"] }
distribution = "${matrix.distribution}"
epochs = 3

[stages.vad.at."distribution=gaussian"]
epochs = 5

[stages.fit]
kind = "fit"
inputs = { data = "data", model = "vad" }
split = "test"

[stages.report]
kind = "show"
inputs = { shown = ["ad@*", "vad@*", "fit@*"] }
"#;

fn epochs(spec: &super::Spec, name: &str) -> u64 {
    point(spec, name).parsed.stage.epochs().unwrap().total()
}

#[test]
fn example_expands_to_documented_points() {
    let spec = good(MINI);
    insta::assert_snapshot!(graph(&spec), @r"
    data
    ad@lr=0.001 <- data: data
    ad@lr=0.01 <- data: data
    vad@distribution=gaussian <- data: data
    vad@distribution=uniform <- data: data
    fit@distribution=gaussian <- data: data; model: vad@distribution=gaussian
    fit@distribution=uniform <- data: data; model: vad@distribution=uniform
    report <- shown: [ad@lr=0.001, ad@lr=0.01, vad@distribution=gaussian, vad@distribution=uniform, fit@distribution=gaussian, fit@distribution=uniform]
    ");
    let stages: Vec<_> =
        spec.stages.iter().map(|s| (s.name.as_str(), s.kind.as_str(), s.axes.join(","), s.range())).collect();
    assert_eq!(stages[1], ("ad", "train", "lr".to_owned(), 1..3));
    assert_eq!(stages[4], ("report", "show", String::new(), 7..8));
    assert_eq!((epochs(&spec, "vad@distribution=gaussian"), epochs(&spec, "vad@distribution=uniform")), (5, 3));
    assert_eq!(epochs(&spec, "ad@lr=0.01"), 4);
    let ad = point(&spec, "ad@lr=0.01");
    assert_eq!(ad.coordinates, [("lr".to_owned(), Value::Float(0.01))]);
    assert_eq!(ad.parsed.stage.epochs().unwrap().segments[0].params["rate"], Value::Float(0.01));
}

#[test]
fn header_is_read_and_has_defaults() {
    let header = good(MINI).pipeline;
    assert_eq!((header.name.as_str(), header.seed, header.device), ("mini", 7, DeviceChoice::Cuda(1)));
    assert_eq!((header.precision, header.checkpoint_seconds), (Precision::Bf16, 5.0));
    let header = good("pipeline.name = 'p'\n[stages.a]\nkind = 'load'").pipeline;
    assert_eq!((header.seed, header.device, header.precision), (0, DeviceChoice::Auto, Precision::F32));
    assert_eq!(header.checkpoint_seconds, 60.0);
}

#[test]
fn device_parses_from_its_display_form() {
    for text in ["auto", "cpu", "cuda:0", "cuda:12"] {
        assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
    }
    assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
    for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "CPU"] {
        assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
    }
}

#[test]
fn different_axes_multiply_and_shared_axes_join() {
    let spec = good(
        r#"
        pipeline.name = "p"
        matrix = { n = [1, 2], rate = [0.5, 0.25] }
        [stages.data]
        kind = "load"
        n = "${matrix.n}"
        [stages.model]
        kind = "train"
        inputs = { data = "data" }
        rate = "${matrix.rate}"
        [stages.fit]
        kind = "fit"
        inputs = { data = "data", model = "model" }
        "#,
    );
    insta::assert_snapshot!(graph(&spec), @r"
    data@n=1
    data@n=2
    model@n=1,rate=0.5 <- data: data@n=1
    model@n=1,rate=0.25 <- data: data@n=1
    model@n=2,rate=0.5 <- data: data@n=2
    model@n=2,rate=0.25 <- data: data@n=2
    fit@n=1,rate=0.5 <- data: data@n=1; model: model@n=1,rate=0.5
    fit@n=1,rate=0.25 <- data: data@n=1; model: model@n=1,rate=0.25
    fit@n=2,rate=0.5 <- data: data@n=2; model: model@n=2,rate=0.5
    fit@n=2,rate=0.25 <- data: data@n=2; model: model@n=2,rate=0.25
    ");
}

#[test]
fn list_gathers_over_one_axis_and_passes_others_on() {
    let spec = good(
        r#"
        pipeline.name = "p"
        matrix.rate = [0.5, 0.25]
        [stages.data]
        kind = "load"
        [stages.model]
        kind = "train"
        inputs.data = "data"
        matrix.width = [1, 2]
        width = "${matrix.width}"
        rate = "${matrix.rate}"
        [stages.per-rate]
        kind = "show"
        inputs = { m = ["model@width=*", "data"] }
        [stages.fixed]
        kind = "show"
        inputs = { m = ["model@width=2"], one = "model@rate=0.5,width=1", data = "data" }
        [stages.all]
        kind = "show"
        inputs = { m = ["model@rate=*,width=*", "data@*"], f = ["per-rate"] }
        "#,
    );
    insta::assert_snapshot!(graph(&spec), @r"
    data
    model@rate=0.5,width=1 <- data: data
    model@rate=0.5,width=2 <- data: data
    model@rate=0.25,width=1 <- data: data
    model@rate=0.25,width=2 <- data: data
    per-rate@rate=0.5 <- m: [model@rate=0.5,width=1, model@rate=0.5,width=2, data]
    per-rate@rate=0.25 <- m: [model@rate=0.25,width=1, model@rate=0.25,width=2, data]
    fixed@rate=0.5 <- data: data; m: [model@rate=0.5,width=2]; one: model@rate=0.5,width=1
    fixed@rate=0.25 <- data: data; m: [model@rate=0.25,width=2]; one: model@rate=0.5,width=1
    all@rate=0.5 <- f: [per-rate@rate=0.5]; m: [model@rate=0.5,width=1, model@rate=0.5,width=2, model@rate=0.25,width=1, model@rate=0.25,width=2, data]
    all@rate=0.25 <- f: [per-rate@rate=0.25]; m: [model@rate=0.5,width=1, model@rate=0.5,width=2, model@rate=0.25,width=1, model@rate=0.25,width=2, data]
    ");
}

#[test]
fn spelling_of_number_does_not_matter() {
    let spec = good(
        r#"
        pipeline.name = "p"
        [stages.data]
        kind = "load"
        [stages.model]
        kind = "train"
        inputs.data = "data"
        matrix = { rate = [1e-3, 10.0, 1e-9], on = [true], n = [0x10] }
        rate = "${matrix.rate}"
        at."rate=0.0010".width = 7
        at."rate=1e-9,n=16".width = 9
        [stages.one]
        kind = "show"
        inputs = { m = "model@rate=1e-3,n=16,on=true" }
        "#,
    );
    assert_eq!(
        names(&spec)[1..4],
        ["model@rate=0.001,on=true,n=16", "model@rate=10.0,on=true,n=16", "model@rate=1e-9,on=true,n=16"]
    );
    let width = |name| point(&spec, name).parsed.params["width"].clone();
    assert_eq!(width(names(&spec)[1]), Value::Int(7));
    assert_eq!(width(names(&spec)[2]), Value::Int(8));
    assert_eq!(width(names(&spec)[3]), Value::Int(9));
    assert_eq!(point(&spec, "one").inputs["m"].points(), [PointId::new(1)]);
}

#[test]
fn lone_reference_keeps_type_and_embedded_reference_becomes_text() {
    let spec = good(
        r#"
        pipeline.name = "${params.who}"
        [params]
        sizes = [1, 2]
        twice = "${params.who}-${params.who}"
        who = "me"
        model = { width = 32, sizes = "${params.sizes}" }
        [matrix]
        rate = "${params.rates}"
        [params.rates-of]
        all = [0.5]
        [stages.data]
        kind = "load"
        source = "${params.twice}/${params.model.width}, $${params.who} costs $5 {}"
        [stages.model]
        kind = "train"
        inputs = { data = "data" }
        width = "${ params.model.width }"
        channels = "${params.model.sizes}"
        rate = "${matrix.rate}"
        [stages.text]
        kind = "show"
        title = "rate ${matrix.rate}"
        reference = { table = ["${matrix.rate}", "$${matrix.rate}"] }
        "#
        .replace("${params.rates}", "${params.rates-of.all}")
        .as_str(),
    );
    assert_eq!(spec.pipeline.name, "me");
    assert_eq!(point(&spec, "data").parsed.params["source"], "me-me/32, ${params.who} costs $5 {}".into());
    let model = point(&spec, "model@rate=0.5");
    assert_eq!(model.parsed.params["width"], Value::Int(32));
    assert_eq!(model.parsed.params["channels"], vec![1i64, 2].into());
    let text = point(&spec, "text@rate=0.5");
    assert_eq!(text.parsed.params["title"], "rate 0.5".into());
    assert_eq!(text.parsed.params["reference"].to_string(), r#"{ table = [0.5, "${matrix.rate}"] }"#);
}

#[test]
fn replacement_is_not_scanned_for_references() {
    let spec = good(
        r#"
        pipeline.name = "p"
        params = { half = "$", b = "$${params.half}" }
        [stages.data]
        kind = "load"
        source = "${params.half}{params.half} ${params.b}"
        "#,
    );
    assert_eq!(point(&spec, "data").parsed.params["source"], "${params.half} ${params.half}".into());
}

#[test]
fn at_overrides_matching_points_and_more_coordinates_win() {
    let spec = good(
        r#"
        pipeline = { name = "p", seed = 3 }
        matrix.rate = [0.5, 0.25]
        [stages.data]
        kind = "load"
        [stages.model]
        kind = "train"
        inputs.data = "data"
        matrix.kind = ["a", "b"]
        rate = "${matrix.rate}"
        epochs = 1
        at."kind=a,rate=0.5" = { epochs = 3, seed = 9 }
        at."rate=0.5" = { epochs = 2, width = "${params.wide}" }
        at."kind=a" = { epochs = 7 }
        [params]
        wide = 64
        "#,
    );
    let of = |name| (epochs(&spec, name), point(&spec, name).parsed.params["width"].clone(), point(&spec, name).seed);
    assert_eq!(of("model@rate=0.5,kind=a"), (3, Value::Int(64), 9));
    assert_eq!(of("model@rate=0.5,kind=b"), (2, Value::Int(64), 3));
    assert_eq!(of("model@rate=0.25,kind=a"), (7, Value::Int(8), 3));
    assert_eq!(of("model@rate=0.25,kind=b"), (1, Value::Int(8), 3));
}

#[test]
fn seed_can_be_an_axis() {
    let spec = good(
        "pipeline = { name = 'p', seed = 5 }\nmatrix.s = [1, 2]\n[stages.a]\nkind = 'load'\nseed = '${matrix.s}'\n\
         [stages.b]\nkind = 'load'\n",
    );
    assert_eq!(spec.points.iter().map(|p| p.seed).collect::<Vec<_>>(), [1, 2, 5]);
}

#[test]
fn overrides_change_every_section() {
    let change = [
        "params.epochs=8",
        "pipeline.seed=-3",
        "pipeline.device=cpu",
        "stages.ad.channels=[1, 2]",
        "matrix.lr=[0.5]",
        "stages.vad.at.\"distribution=gaussian\".epochs=6",
        "stages.more.kind=show",
        "stages.more.inputs={ a = 'fit@distribution=uniform' }",
    ];
    let spec = good_with(MINI, &change);
    assert_eq!((spec.pipeline.seed, spec.pipeline.device), (-3, DeviceChoice::Cpu));
    assert_eq!((epochs(&spec, "ad@lr=0.5"), epochs(&spec, "vad@distribution=gaussian")), (8, 6));
    assert_eq!(point(&spec, "ad@lr=0.5").parsed.params["channels"], vec![1i64, 2].into());
    assert_eq!(point(&spec, "more").inputs["a"].points(), [PointId::new(5)]);
    assert_eq!(spec.sources.0.len(), 1 + change.len());
}

#[test]
fn stage_has_included_and_not_excluded_values_of_its_axes() {
    let spec = good(
        r#"
        pipeline.name = "p"
        [matrix]
        n = [1, 2]
        rate = [0.5, 0.25]
        exclude = [{ n = 2, rate = 0.25 }]
        include = [{ n = 3, rate = 0.125 }]
        [stages.data]
        kind = "load"
        n = "${matrix.n}"
        [stages.model]
        kind = "train"
        inputs.data = "data"
        rate = "${matrix.rate}"
        [stages.per-n]
        kind = "show"
        inputs = { models = ["model@rate=*"] }
        "#,
    );
    insta::assert_snapshot!(graph(&spec), @r"
    data@n=1
    data@n=2
    data@n=3
    model@n=1,rate=0.5 <- data: data@n=1
    model@n=1,rate=0.25 <- data: data@n=1
    model@n=2,rate=0.5 <- data: data@n=2
    model@n=3,rate=0.125 <- data: data@n=3
    per-n@n=1 <- models: [model@n=1,rate=0.5, model@n=1,rate=0.25]
    per-n@n=2 <- models: [model@n=2,rate=0.5]
    per-n@n=3 <- models: [model@n=3,rate=0.125]
    ");
}

#[test]
fn stages_can_be_in_any_order() {
    let backwards = good(
        "pipeline.name = 'p'\n[stages.c]\nkind = 'show'\ninputs.a = ['b@*']\n[stages.b]\nkind = 'train'\ninputs.data = 'a'\n\
         matrix.width = [2, 1]\nwidth = '${matrix.width}'\n[stages.a]\nkind = 'load'",
    );
    insta::assert_snapshot!(graph(&backwards), @r"
    c <- a: [b@width=2, b@width=1]
    b@width=2 <- data: a
    b@width=1 <- data: a
    a
    ");
}

#[test]
fn points_with_equal_parameters_share_one_parsed_stage() {
    let many: Vec<String> = (1..=50).map(|i| i.to_string()).collect();
    let spec = good(&format!(
        "pipeline.name = 'p'\nmatrix.n = [{}]\n[stages.data]\nkind = 'load'\nn = '${{matrix.n}}'\n\
         [stages.model]\nkind = 'train'\ninputs.data = 'data'\n",
        many.join(", ")
    ));
    assert_eq!(spec.points.len(), 100);
    let model = |i: usize| &spec.points[50 + i].parsed.stage;
    assert!((1..50).all(|i| std::sync::Arc::ptr_eq(model(0), model(i))));
    assert!(!std::sync::Arc::ptr_eq(&spec.points[0].parsed.stage, &spec.points[1].parsed.stage));
}

#[test]
fn forty_thousand_points_are_expanded() {
    let axis = |n: usize| (1..=n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let spec = good(&format!(
        "pipeline.name = 'p'\nmatrix = {{ limit = 20000, a = [{}], b = [{}] }}\n[stages.d]\nkind = 'load'\nn = '${{matrix.a}}'\n\
         [stages.m]\nkind = 'train'\ninputs.data = 'd'\nwidth = '${{matrix.b}}'\n\
         [stages.f]\nkind = 'fit'\ninputs = {{ data = 'd', model = 'm' }}\n[stages.all]\nkind = 'show'\ninputs.x = ['f@*']\n",
        axis(200),
        axis(100),
    ));
    assert_eq!(spec.points.len(), 200 + 20_000 + 20_000 + 1);
    assert_eq!(shown(&spec, point(&spec, "f@a=7,b=9")), "f@a=7,b=9 <- data: d@a=7; model: m@a=7,b=9");
    assert_eq!(point(&spec, "all").inputs["x"].points().len(), 20_000);
}
