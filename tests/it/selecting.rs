//! `select`: the metric that tells the best epoch.

use crate::support::Project;

const PIPELINE: &str = r#"
[pipeline]
name = "p"

[stages.net]
kind = "train-command"
argv = ["python3", "train.py"]
segment_epochs = 10
epochs = 40
select = { metric = "lss" }

[stages.net.epoch]
lr = 0.05
"#;

/// A project that trains with this program. `None` without Python.
fn project(program: &str) -> Option<Project> {
    Project::with_script(PIPELINE, program)
}

const PROGRAM: &str = include_str!("warm/train.py");

#[test]
fn misspelled_metric_fails_after_the_first_segment() {
    let program = PROGRAM.replace("log(epoch=epoch + 1,", "log(epoch=epoch + 1, accuracy=0.5,");
    let Some(project) = project(&program) else { return };
    let run = project.try_run(&[]);
    assert_eq!((run.output.code, run.of_kind("epoch").count()), (2, 10), "{}", run.output.stderr);
    let message = run.of_kind("stage-failed").next().expect("an event").to_string();
    assert!(message.contains("`select` names the metric `lss`, which the program did not log"), "{message}");
    assert!(message.contains("it logged: loss, accuracy"), "the nearest first: {message}");
    // The segment is not lost.
    project.edit("\"lss\"", "\"loss\"");
    assert_eq!(project.run(&[]).of_kind("epoch").count(), 30);
}

#[test]
fn metric_that_select_adds_must_not_be_one_of_the_program() {
    for (metric, epochs) in [("best_epoch", 10), ("loss_best", 10)] {
        let program = PROGRAM.replace("log(epoch=epoch + 1,", &format!("log(epoch=epoch + 1, {metric}=0.5,"));
        let Some(project) = project(&program) else { return };
        project.edit("\"lss\"", "\"loss\"");
        let run = project.try_run(&[]);
        assert_eq!((run.output.code, run.of_kind("epoch").count()), (2, epochs), "{}", run.output.stderr);
        let message = format!("the program has a metric `{metric}`, but `select` adds a metric with this name");
        let failed = run.of_kind("stage-failed").next().expect("an event").to_string();
        assert!(failed.contains(&message), "{failed}");
        // Without `select`, it is a metric like others.
        project.edit("select = { metric = \"loss\" }\n", "");
        assert_eq!(project.run(&[]).of_kind("epoch").count(), 30);
    }
    // The metrics that the last process writes count, too.
    let outputs = "    Path(os.environ[\"VADPIPE_METRICS\"]).write_text('{\"best_epoch\": 1}')\n";
    let program = PROGRAM.replace("if START == END:\n", &format!("if START == END:\n{outputs}"));
    let Some(project) = project(&program) else { return };
    project.edit("select = { metric = \"lss\" }", "select = { metric = \"loss\" }\noutputs = { w = \"weights.txt\" }");
    let run = project.try_run(&[]);
    assert_eq!(run.output.code, 2, "{}", run.output.stderr);
    let failed = run.of_kind("stage-failed").next().expect("an event").to_string();
    assert!(failed.contains("the program has a metric `best_epoch`"), "{failed}");
}
