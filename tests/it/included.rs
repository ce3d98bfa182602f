//! Pipelines that include files.

use crate::support::{MINI, Project};

/// A pipeline that includes one file, which has all stages of [`MINI`].
fn split() -> Project {
    let (head, stages) = MINI.split_at(MINI.find("[stages.data]").expect("a stage"));
    let project = Project::new(&format!("include = [\"parts/stages.toml\"]\n{head}"));
    project.write("parts/stages.toml", stages);
    project
}

#[test]
fn pipeline_in_two_files_has_the_results_of_one_file() {
    let (one, two) = (Project::new(MINI), split());
    let keys =
        |project: &Project| -> Vec<_> { project.plan(&[]).into_iter().map(|(n, s)| (n, s["key"].clone())).collect() };
    assert_eq!(keys(&one), keys(&two));
    one.run(&["vad"]);
    let run = two.run(&["--isolate", "vad"]);
    assert_eq!(run.executed(), ["data", "vad@distribution=gaussian", "vad@distribution=uniform"]);
    assert_eq!(one.outputs(&["vad"]), two.outputs(&["vad"]), "also in processes of their own");
}

#[test]
fn earlier_results_of_a_pipeline_with_includes_can_be_read() {
    let project = split();
    project.run(&["vad", "-S", "params.epochs=1"]);
    project
        .write("parts/stages.toml", &project.read("parts/stages.toml").replace("kl_weight = 0.5", "kl_weight = 0.7"));
    project.run(&["vad", "-S", "params.epochs=1"]);
    for args in [
        &["metrics", "p.toml", "vad", "--run", "last~1"][..],
        &["log", "last"],
        &["diff", "last~1", "last"],
        &["status", "p.toml"],
        &["explain", "p.toml", "vad@distribution=gaussian"],
    ] {
        let output = project.vadpipe(args);
        assert_eq!(output.code, 0, "{args:?}: {}", output.stderr);
        assert!(output.stdout.contains("gaussian"), "{args:?}: {}", output.stdout);
    }
}

#[test]
fn error_in_an_included_file_names_it_and_a_missing_file_is_suggested() {
    let project = split();
    let parts = project.read("parts/stages.toml");
    project.write("parts/stages.toml", &parts.replace("latent_dim = 6", "latent_dims = 6"));
    let output = project.vadpipe(["plan", "p.toml"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("--> parts/stages.toml:"), "{}", output.stderr);
    assert!(output.stderr.contains("did you mean `latent_dim`?"), "{}", output.stderr);
    project.edit("parts/stages.toml", "parts/stage.toml");
    let output = project.vadpipe(["run", "p.toml"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("p.toml:1:12") && output.stderr.contains("did you mean `stages.toml`?"),
        "{}",
        output.stderr
    );
    std::fs::write(project.path("parts/stage.toml"), b"# \xff").expect("a file");
    let output = project.vadpipe(["run", "p.toml"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("parts/stage.toml:1:3"), "{}", output.stderr);
}

#[test]
fn paths_in_an_included_file_start_from_the_folder_of_the_pipeline() {
    let project = Project::new("include = [\"parts/work.toml\"]\n[pipeline]\nname = \"p\"\n");
    project.write(
        "parts/work.toml",
        "[stages.work]\nkind = \"command\"\nargv = [\"sh\", \"work.sh\", \"{outputs.out}\"]\noutputs = { out = \"out.txt\" }\n",
    );
    project.write("work.sh", "echo main > $1\n");
    project.write("parts/work.sh", "echo parts > $1\n");
    project.run(&[]);
    project.vadpipe(["export", "p.toml", "work", "--to", "out"]);
    assert_eq!(project.read("out/work/out.txt"), "main\n");
}
