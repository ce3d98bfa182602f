//! Pipelines of a user's own programs.

use crate::support::{Project, wait_for};

/// A stage that runs `work.sh`. The script writes `first`, waits for `signals/go`, and writes `last`.
fn project(more: &str) -> Project {
    let project = Project::new(&format!(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nargv = [\"sh\", \"work.sh\", \"{{outputs.out}}\"]\n\
         outputs = {{ out = \"out.txt\" }}\n{more}"
    ));
    std::fs::create_dir(project.path("signals")).expect("a folder");
    project.write("work.sh", &script("one"));
    project
}

fn script(word: &str) -> String {
    format!(
        "here=$(dirname \"$0\")\ntouch \"$here/signals/started\"\nwhile ! test -e \"$here/signals/go\"; do sleep 0.01; done\n\
         echo {word} > \"$1\"\n"
    )
}

#[test]
fn edit_while_a_program_runs_changes_only_the_next_run() {
    let project = project("");
    let run = project.start(&["run", "p.toml", "--json"]);
    wait_for(&project.path("signals/started"));
    project.write("work.sh", &script("two"));
    project.write("signals/go", "");
    let output = run.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let exported = |folder: &str| {
        project.vadpipe(["export", "p.toml", "work", "--to", folder]);
        project.read(&format!("{folder}/work/out.txt"))
    };
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file work.sh changed");
    assert_eq!(project.run(&[]).executed(), ["work"], "the edited script runs");
    assert_eq!(exported("after"), "two\n");
    project.write("work.sh", &script("one"));
    assert_eq!(project.run(&[]).executed(), [""; 0], "the first result was kept");
    assert_eq!(exported("before"), "one\n");
}

#[test]
fn program_finds_its_modules_and_its_data_next_to_itself() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\n\
         argv = [\"sh\", \"scripts/work.sh\", \"{outputs.out}\", \"{base}/data\"]\noutputs = { out = \"out.txt\" }\n",
    );
    project.write(
        "scripts/work.sh",
        ". \"$(dirname \"$0\")/../lib/words.sh\"\necho $word $(find $2 -name '*.txt' | wc -l) > $1\n",
    );
    project.write("lib/words.sh", "word=hello\n");
    project.write("data/a/1.txt", "");
    project.write("data/2.txt", "");
    project.run(&[]);
    project.vadpipe(["export", "p.toml", "--to", "out"]);
    assert_eq!(project.read("out/work/out.txt"), "hello 2\n");
}

#[test]
fn metrics_that_are_not_finite_are_recorded_and_shown() {
    let stage = |name: &str, metrics: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\nshell = true\nargv = ['echo \"$1\" > {{metrics}}', '{metrics}']\n"
        )
    };
    let pipeline = ["[pipeline]\nname = \"p\"\n".to_owned(), stage("a", r#"{"loss": NaN, "best": 0.5}"#)];
    let project =
        Project::new(&(pipeline.concat() + &stage("b", r#"{"loss": -Infinity}"#) + &stage("c", r#"{"loss": 2}"#)));
    let run = project.run(&["-j", "1"]);
    let metrics: Vec<_> = run.of_kind("stage-finished").map(|event| event["metrics"].to_string()).collect();
    assert_eq!(metrics, [r#"{"best":0.5,"loss":"nan"}"#, r#"{"loss":"-inf"}"#, r#"{"loss":2.0}"#]);
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    let output = project.vadpipe(["metrics", "p.toml", "--json"]).stdout;
    assert_eq!(
        output.trim_end(),
        r#"{"a":{"best":0.5,"loss":null},"b":{"loss":null},"c":{"loss":2.0},"nonfinite":{"a":{"loss":"nan"},"b":{"loss":"-inf"}}}"#
    );
    insta::assert_snapshot!(project.vadpipe(["metrics", "p.toml", "--csv", "--sort", "-loss"]).stdout, @r"
    stage,best,loss
    c,,2
    b,,-inf
    a,0.5,NaN
    ");
    let listed = |condition: &str| {
        let table = project.vadpipe(["metrics", "p.toml", "--csv", "--where", condition]).stdout;
        table.lines().skip(1).filter_map(|line| line.split(',').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(listed("loss<3"), ["b", "c"]);
    assert_eq!(listed("loss>-3"), ["c"]);
    assert_eq!(project.vadpipe(["verify", "p.toml"]).code, 0, "NaN is equal to itself");
}

#[test]
fn numbers_the_seed_and_the_device_are_words_of_argv() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\nseed = 7\n[matrix]\nlr = [0.001, 1e-5]\n[stages.work]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"echo $0 $1 $2 $3 > out.txt\", \"${matrix.lr}\", 3, \"s{seed}\", \"{device}\"]\n\
         outputs = { out = \"out.txt\" }\n",
    );
    project.run(&[]);
    project.vadpipe(["export", "p.toml", "--to", "out"]);
    assert_eq!(project.read("out/work@lr=0.001/out.txt"), "0.001 3 s7 cpu\n");
    assert_eq!(project.read("out/work@lr=1e-5/out.txt"), "1e-5 3 s7 cpu\n");
    let explained = project.vadpipe(["explain", "p.toml", "work@lr=0.001"]).stdout;
    assert!(explained.contains("  seed        7\n"), "{explained}");
    assert_eq!(project.run(&["-S", "pipeline.seed=8"]).executed().len(), 2, "a seed in argv is in the key");
}

#[test]
fn variables_of_pass_env_reach_the_program_but_not_the_key() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\npass_env = [\"CARD\"]\n\
         argv = [\"sh\", \"-c\", \"echo $CARD > out.txt\"]\noutputs = { out = \"out.txt\" }\n",
    );
    let executed = |card: &str| {
        let output = project.command(["run", "p.toml", "--json"]).env("CARD", card).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).contains("\"executed\":[\"work\"]")
    };
    assert!(executed("1"));
    assert!(!executed("0"), "another card runs nothing again");
    project.vadpipe(["export", "p.toml", "--to", "out"]);
    assert_eq!(project.read("out/work/out.txt"), "1\n");
}

#[test]
fn missing_script_and_misspelled_placeholder_are_found_by_plan() {
    let plan = |argv: &str| {
        let project =
            Project::new(&format!("[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nargv = {argv}\n"));
        let output = project.vadpipe(["plan", "p.toml"]);
        (output.code, output.stderr.replace(&project.path("").display().to_string(), "PROJECT/"))
    };
    let (code, error) = plan(r#"["python3.12", "trian.py", "--verbose"]"#);
    assert_eq!(code, 2);
    insta::assert_snapshot!(error, @r"
    error: stage `work`: `argv` names the script `trian.py`, which does not exist
     --> p.toml:3:9
      |
    3 | [stages.work]
      |         ^^^^
      |
      = help: looked for PROJECT/trian.py

    1 error in the pipeline
    ");
    let (code, error) = plan(r#"["echo", "--metrics={metric}"]"#);
    assert_eq!(code, 2);
    insta::assert_snapshot!(error, @r#"
    error: `argv` contains `{metric}`, which is not a placeholder
     --> p.toml:5:8
      |
    5 | argv = ["echo", "--metrics={metric}"]
      |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: did you mean `{metrics}`?

    1 error in the pipeline
    "#);
    for argv in [
        r#"["python3", "-c", "print(f'{metric}')"]"#,
        r#"["sh", "-c", "echo $${seeds} $${seed}"]"#,
        r#"["awk", "{print}"]"#,
        r#"["sh", "{base}/made/later.sh"]"#,
    ] {
        assert_eq!(plan(argv).0, 0, "{argv}");
    }
}

#[test]
fn metrics_over_seeds_are_means_with_standard_deviations() {
    let project = Project::new(
        r#"
[pipeline]
name = "p"

[matrix]
lr = [0.1, 1]
seed = [1, 2, 4]

[stages.net]
kind = "command"
argv = ["sh", "-c", 'echo "{\"loss\": $0$1}" > {metrics}', "${matrix.seed}", "${matrix.lr}"]
"#,
    );
    project.run(&[]);
    let table = |more: &[&str]| project.vadpipe(["metrics", "p.toml"].iter().chain(more)).stdout;
    insta::assert_snapshot!(table(&["--over", "seed", "--sort", "-lr"]), @r"
    stage  lr   n  loss
    net    1    3  24.3333 ± 15.2753
    net    0.1  3  23.4333 ± 15.2753
    ");
    insta::assert_snapshot!(table(&["--group-by", "seed", "--where", "lr=1", "--csv"]), @r"
    stage,seed,n,loss,loss.std
    net,1,1,11,
    net,2,1,21,
    net,4,1,41,
    ");
    insta::assert_snapshot!(table(&["--over", "seed", "--where", "lr=1", "--md"]), @r"
    | stage | lr | n | loss |
    | --- | ---: | ---: | ---: |
    | net | 1 | 3 | 24.3333 ± 15.2753 |
    ");
    insta::assert_snapshot!(table(&["--over", "seed,lr", "--json"]), @r#"{"groups":[{"axes":{},"metrics":{"loss":{"mean":23.883333333333336,"n":6,"std":13.671491018417365}},"points":6,"stage":"net"}]}"#);
    let wrong = project.vadpipe(["metrics", "p.toml", "--over", "sed"]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""));
    assert!(wrong.stderr.contains("did you mean `seed`?"), "{}", wrong.stderr);
}

#[test]
fn output_may_be_a_folder_which_readers_and_export_get_whole() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.save]\nkind = \"command\"\nshell = true\noutputs = { model = \"model/\" }\n\
         argv = ['mkdir $1/deep; echo one > $1/a.txt; echo two > $1/deep/b.txt', '{outputs.model}']\n\
         [stages.load]\nkind = \"command\"\nshell = true\ninputs = { m = \"save\" }\noutputs = { all = \"all.txt\" }\n\
         argv = ['cat {inputs.m}/model/a.txt {inputs.m}/model/deep/b.txt > {outputs.all}']\n",
    );
    project.run(&[]);
    project.vadpipe(["export", "p.toml", "--to", "out"]);
    assert_eq!(project.read("out/load/all.txt"), "one\ntwo\n");
    assert_eq!(project.read("out/save/model/deep/b.txt"), "two\n");
    let failed = |script: &str| {
        project.write(
            "p.toml",
            &project.read("p.toml").replace("mkdir $1/deep; echo one > $1/a.txt; echo two > $1/deep/b.txt", script),
        );
        let run = project.try_run(&["save"]);
        assert_eq!(run.failed(), ["save"]);
        run.of_kind("stage-failed").map(|event| event["error"].to_string()).collect::<String>()
    };
    let linked = failed("ln -s /etc/passwd $1/a");
    assert!(linked.contains("the output `model` (model/a) is a link or is behind one"), "{linked}");
    project.write(
        "p.toml",
        &project
            .read("p.toml")
            .replace("ln -s /etc/passwd $1/a", "mkdir $1/deep; echo one > $1/a.txt; echo two > $1/deep/b.txt"),
    );
    let empty = failed("true");
    assert!(empty.contains("the command wrote no file to the output `model` (model/)"), "{empty}");
}

#[test]
fn paths_are_inputs_by_their_content() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nshell = true\noutputs = { out = \"out.txt\" }\n\
         paths = { images = \"data/images\", labels = \"labels.csv\" }\n\
         argv = ['cat \"$1\"/* \"$2\" > out.txt; cmp \"$2\" $VADPIPE_INPUTS/labels', '{inputs.images}', '{inputs.labels}']\n",
    );
    // Its folder is a real folder of the mirror.
    project.edit("paths =", "sources = [\"data/images/deep/source.txt\"]\npaths =");
    project.edit("\"$1\"/*", "$(find \"$1\" -type f | sort)");
    project.write("data/images/deep/source.txt", "");
    project.write("data/images/deep/deeper/0.txt", "");
    project.write("data/images/1.txt", "one ");
    project.write("data/images/2.txt", "two ");
    project.write("labels.csv", "labels");
    project.run(&[]);
    project.vadpipe(["export", "p.toml", "--to", "out"]);
    assert_eq!(project.read("out/work/out.txt"), "one two labels");
    project.write("data/images/2.txt", "three ");
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file data/images changed");
    project.write("data/images/2.txt", "two ");
    assert_eq!(project.run(&[]).executed(), [""; 0], "the content counts");
    project.edit("\"labels.csv\"", "\"nowhere.csv\"");
    let plan = project.vadpipe(["plan", "p.toml"]);
    assert_eq!(plan.code, 2);
    assert!(plan.stderr.contains("the input `nowhere.csv` can't be read"), "{}", plan.stderr);
    project.edit("images = \"data/images\"", "images = 3");
    let plan = project.vadpipe(["plan", "p.toml"]);
    assert!(plan.stderr.contains("the path of an input must be a string, not an integer"), "{}", plan.stderr);
}

#[test]
fn gathering_program_finds_the_axes_of_each_member() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[matrix]\nlr = [0.1, 0.5]\nact = [\"relu\"]\n[stages.net]\nkind = \"command\"\n\
         shell = true\nargv = ['echo \"{\\\"loss\\\": $1}\" > {metrics}', \"${matrix.lr}\", \"${matrix.act}\"]\n\
         [stages.all]\nkind = \"command\"\nshell = true\ninputs = { nets = [\"net@*\"] }\noutputs = { out = \"out.txt\" }\n\
         argv = ['for f in {inputs.nets}/*/; do tr -d \" \\n\" < $f/values.json; tr -d \" \\n\" < $f/metrics.json; done > out.txt']\n",
    );
    project.run(&[]);
    project.vadpipe(["export", "p.toml", "all", "--to", "out"]);
    let each = |lr: f64| format!("{{\"act\":\"relu\",\"lr\":{lr}}}{{\"loss\":{lr}}}");
    assert_eq!(project.read("out/all/out.txt"), each(0.1) + &each(0.5));
}

#[test]
fn home_of_the_user_and_the_seed_of_the_pipeline_are_available() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\nseed = 11\n[stages.work]\nkind = \"command\"\nshell = true\nseed = 5\n\
         outputs = { out = \"out.txt\" }\nargv = ['echo $HOME $1 > out.txt', '${pipeline.seed}']\n",
    );
    let read = || {
        project.run(&[]);
        project.vadpipe(["export", "p.toml", "--to", "out", "--overwrite"]);
        project.read("out/work/out.txt")
    };
    let scratch = read();
    assert!(scratch.contains("scratch") && scratch.ends_with(" 11\n"), "{scratch}");
    project.edit("seed = 5", "seed = 5\nhome = \"user\"");
    assert_eq!(read(), format!("{} 11\n", project.path("").display().to_string().trim_end_matches('/')));
    project.edit("name = \"p\"", "name = \"${pipeline.seed}\"");
    let plan = project.vadpipe(["plan", "p.toml"]);
    assert_eq!(plan.code, 2);
    assert!(plan.stderr.contains("the seed of the pipeline can't be used here"), "{}", plan.stderr);
}

#[test]
fn program_that_fails_is_started_again_as_often_as_retries_says() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nshell = true\nretries = 2\n\
         outputs = { out = \"out.txt\" }\n\
         argv = ['test ! -e out.txt && echo x >> $1/attempts; cp $1/attempts out.txt; test $(wc -l < $1/attempts) = 3', \
         '{base}/state']\n",
    );
    project.write("state/.keep", "");
    let run = project.run(&[]);
    assert_eq!(project.read("state/attempts"), "x\nx\nx\n", "it starts in an empty folder");
    let id = run.last()["run"].as_str().expect("an id");
    let log = project.read(&format!("cache/logs/{id}/work.log"));
    assert!(log.contains("exited with code 1") && log.contains("retries left: 1; the program starts again"), "{log}");
    project.edit("retries = 2", "retries = 1");
    assert_eq!(project.run(&[]).executed(), [""; 0], "not in the key");
    project.write("state/attempts", "");
    assert_eq!(project.try_run(&["-f"]).failed(), ["work"], "two attempts are not enough");
    assert_eq!(project.read("state/attempts"), "x\nx\n");
}

#[test]
fn explain_says_that_path_finds_another_program_than_before() {
    let project = Project::new("[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nargv = [\"tool\"]\n");
    for version in ["one", "two"] {
        project.write(&format!("{version}/tool"), "#!/bin/sh\n");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(project.path(&format!("{version}/tool")), executable).expect("permissions");
    }
    let with = |version: &str, args: [&str; 2]| {
        let output = project.command(args).env("PATH", project.path(version)).output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    with("one", ["run", "p.toml"]);
    assert!(!with("one", ["explain", "p.toml"]).contains("program"));
    let explained = with("two", ["explain", "p.toml"]);
    let (then, now) = (project.path("one/tool"), project.path("two/tool"));
    let line = format!("  program     was {}, is now {}", then.display(), now.display());
    assert!(explained.contains(&line) && explained.contains("work: hit"), "{explained}");
}

#[test]
fn values_are_read_from_a_file_and_overridden_one_by_one() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[matrix]\nlr = [1, 2]\nsizes = [[8, 4], [6]]\n[stages.net]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"tr -d ' \\\\n' < $VADPIPE_VALUES; echo; echo $*\", \"--sizes\", \"${matrix.sizes}\"]\n\
         [stages.net.values]\nlr = \"${matrix.lr}\"\nepochs = 5\n[stages.net.at.\"lr=2\".values]\nepochs = 9\n",
    );
    project.run(&[]);
    let log = |point: &str| project.vadpipe(["log", "last", "--stage", point]).stdout;
    assert!(log("net@lr=1,sizes=0").contains("{\"epochs\":5,\"lr\":1}\n8 4"), "{}", log("net@lr=1,sizes=0"));
    assert!(log("net@lr=2,sizes=1").contains("{\"epochs\":9,\"lr\":2}\n6"), "{}", log("net@lr=2,sizes=1"));
    project.edit("epochs = 9", "epochs = 10");
    assert_eq!(project.run(&[]).executed(), ["net@lr=2,sizes=0", "net@lr=2,sizes=1"]);
}
