//! Files that programs read although the pipeline does not name them.

use std::process::Command;

use crate::support::{Project, has_python, wait_for};

/// A pipeline with a stage `work` that runs this shell script. The script lists the files that it reads.
fn shell(script: &str) -> Project {
    Project::new(&format!(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nshell = true\n\
         argv = ['''{script}''']\noutputs = {{ out = \"out.txt\" }}\n"
    ))
}

fn exported(project: &Project) -> String {
    project.vadpipe(["export", "p.toml", "work", "--to", "exported", "--overwrite"]);
    project.read("exported/work/out.txt")
}

fn reason(project: &Project) -> String {
    project.plan(&[])["work"]["reason"]["text"].as_str().unwrap_or("none").to_owned()
}

const READS_WORDS: &str = "cat {base}/words/* > out.txt\nfor f in {base}/words/*; do echo $f; done >> $VADPIPE_DEPFILE";

#[test]
fn program_runs_again_when_a_file_that_it_listed_changes() {
    let project = shell(READS_WORDS);
    project.write("words/a.txt", "one ");
    project.write("words/b.txt", "two ");
    project.write("other.txt", "");
    assert_eq!(project.run(&[]).executed(), ["work"]);
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    project.write("other.txt", "changed");
    assert_eq!(project.run(&[]).executed(), [""; 0], "the program did not read it");
    project.write("words/b.txt", "three ");
    assert_eq!(reason(&project), "file words/b.txt changed");
    assert_eq!(project.run(&[]).executed(), ["work"]);
    assert_eq!(exported(&project), "one three ");
    project.write("words/b.txt", "two ");
    assert_eq!(project.run(&[]).executed(), [""; 0], "the first result still counts");
    assert_eq!(exported(&project), "one two ");
    std::fs::remove_file(project.path("words/a.txt")).expect("it exists");
    assert_eq!(reason(&project), "file words/a.txt changed");
    assert_eq!(project.run(&[]).executed(), ["work"]);
    assert_eq!(exported(&project), "two ");
}

#[test]
fn explain_and_diff_name_the_files_that_a_program_read() {
    let project = shell(READS_WORDS);
    project.write("words/a.txt", "one");
    project.run(&[]);
    project.write("words/a.txt", "two");
    project.run(&[]);
    let explained = project.vadpipe(["explain", "p.toml", "work"]);
    assert!(explained.stdout.contains("file read   words/a.txt = "), "{}", explained.stdout);
    let diff = project.vadpipe(["diff", "last~1", "last"]);
    assert!(diff.stdout.contains("file words/a.txt"), "{}", diff.stdout);
}

#[test]
fn dependents_run_again_only_if_the_result_changes() {
    let project = shell("grep -c . {base}/list.txt > out.txt; echo list.txt >> $VADPIPE_DEPFILE");
    let pipeline = project.read("p.toml")
        + "[stages.after]\nkind = \"command\"\ninputs = { w = \"work\" }\nargv = [\"true\", \"{inputs.w}\"]\n";
    project.write("p.toml", &pipeline);
    project.write("list.txt", "a\nb\n");
    assert_eq!(project.run(&[]).executed(), ["work", "after"]);
    project.write("list.txt", "c\nd\n");
    assert_eq!(project.plan(&[])["after"]["state"], "maybe");
    assert_eq!(project.run(&[]).executed(), ["work"], "its output is the same");
    project.write("list.txt", "c\n");
    assert_eq!(project.run(&[]).executed(), ["work", "after"]);
}

#[test]
fn file_that_changes_while_it_is_read_makes_the_next_run_repeat_the_stage() {
    let project = shell(
        "cat {base}/words/a.txt > out.txt; echo {base}/words/a.txt >> $VADPIPE_DEPFILE; \
         if test -e {base}/words/edit; then echo two > {base}/words/b; mv {base}/words/b {base}/words/a.txt; fi",
    );
    project.write("words/a.txt", "one\n");
    project.write("words/edit", "");
    let run = project.vadpipe(["run", "p.toml"]);
    let warning = "words/a.txt changed while `work` ran, so its result won't be reused";
    assert!(run.stderr.contains(warning), "{}", run.stderr);
    std::fs::remove_file(project.path("words/edit")).expect("it exists");
    assert_eq!(reason(&project), "file words/a.txt changed");
    assert_eq!(project.run(&[]).executed(), ["work"]);
    assert_eq!(exported(&project), "two\n");
    assert_eq!(project.run(&[]).executed(), [""; 0]);
}

#[test]
fn file_that_was_read_before_may_be_edited_while_the_program_runs() {
    let project = shell(
        "echo started > {base}/state/started; while ! test -e {base}/state/go; do sleep 0.01; done; \
         cat {base}/word.txt > out.txt; echo {base}/word.txt >> $VADPIPE_DEPFILE",
    );
    project.write("state/go", "");
    project.write("word.txt", "one\n");
    project.run(&[]);
    for name in ["state/go", "state/started"] {
        std::fs::remove_file(project.path(name)).expect("it exists");
    }
    project.write("word.txt", "two\n");
    let run = project.start(&["run", "p.toml"]);
    wait_for(&project.path("state/started"));
    project.write("word.txt", "three\n");
    project.write("state/go", "");
    assert!(run.wait_with_output().expect("it ends").status.success());
    assert_eq!(reason(&project), "file word.txt changed");
    project.write("word.txt", "two\n");
    assert_eq!(project.run(&[]).executed(), [""; 0], "it read the file as it was at the start");
    assert_eq!(exported(&project), "two\n");
}

#[test]
fn folder_in_which_very_many_files_were_read_counts_as_a_whole() {
    let project = shell("cat {base}/images/* | wc -c > out.txt; ls -d {base}/images/* >> $VADPIPE_DEPFILE");
    for image in 0..150 {
        project.write(&format!("images/{image}.png"), "1");
    }
    project.run(&[]);
    let explained = project.vadpipe(["explain", "p.toml", "work"]).stdout;
    assert_eq!(explained.matches("file read").count(), 1, "{explained}");
    assert!(explained.contains("file read   images/ = "), "{explained}");
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    project.write("images/150.png", "1");
    assert_eq!(reason(&project), "file images/ changed");
    assert_eq!(project.run(&[]).executed(), ["work"]);
    project.write("images/77.png", "11");
    assert_eq!(project.run(&[]).executed(), ["work"]);
}

#[test]
fn results_with_files_survive_gc_and_are_removed_with_their_files() {
    let project = shell(READS_WORDS);
    for word in ["one", "two", "three"] {
        project.write("words/a.txt", word);
        project.run(&[]);
    }
    project.vadpipe(["gc", "--keep-runs", "1"]);
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    project.write("words/a.txt", "two");
    assert_eq!(project.run(&[]).executed(), ["work"], "its result was collected");
    let doctor = project.vadpipe(["doctor"]);
    assert_eq!(doctor.code, 0, "{}", doctor.stdout);
}

#[test]
fn forced_result_counts_although_an_earlier_one_read_fewer_files() {
    let script = "cat {base}/words/* > out.txt; echo x >> {base}/runs/count; wc -l < {base}/runs/count >> out.txt; \
                  for f in {base}/words/*; do echo $f; done >> $VADPIPE_DEPFILE";
    let project = shell(script);
    project.write("runs/.keep", "");
    project.write("words/a.txt", "one ");
    for runs in 1..=4 {
        project.write(&format!("words/{runs}.txt"), "");
        assert_eq!(project.run(&["-f"]).executed(), ["work"]);
        assert_eq!(project.run(&[]).executed(), [""; 0]);
        assert_eq!(exported(&project).trim(), format!("one {runs}"));
    }
}

#[test]
fn cache_behind_a_link_is_not_part_of_the_project() {
    let project =
        shell("ls {inputs.d}/* >> $VADPIPE_DEPFILE; echo $VADPIPE_CHECKPOINT {checkpoint} > /dev/null; echo > out.txt");
    project.edit("shell = true", "shell = true\ninputs = { d = \"data\" }");
    project.write("p.toml", &(project.read("p.toml") + "[stages.data]\nkind = \"command\"\nargv = [\"true\"]\n"));
    std::fs::create_dir(project.path("elsewhere")).expect("a folder");
    std::os::unix::fs::symlink("elsewhere", project.path("cache")).expect("a link");
    let run = project.vadpipe(["run", "p.toml"]);
    assert!(run.code == 0 && !run.stderr.contains("changed"), "{}", run.stderr);
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    assert!(!project.vadpipe(["explain", "p.toml"]).stdout.contains("file read"));
}

#[test]
fn program_that_writes_to_a_file_that_it_read_before_changes_the_file_itself() {
    let project = shell(
        "n=$(cat {base}/n.txt); echo $((n+1)) > {base}/n.txt; echo $n > out.txt; echo {base}/n.txt >> $VADPIPE_DEPFILE",
    );
    project.write("n.txt", "1\n");
    for n in 2..=4 {
        project.run(&["-f"]);
        assert_eq!(project.read("n.txt"), format!("{n}\n"));
    }
}

/// A stage that runs `train.py`, which imports `model.py` and opens `settings.json`.
fn python() -> Project {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\n\
         argv = [\"python3\", \"src/train.py\", \"{outputs.out}\"]\noutputs = { out = \"out.txt\" }\n",
    );
    project.write(
        "src/train.py",
        "import json, os, sys\nfrom model import words\n\
         with open(os.path.join(os.path.dirname(__file__), '../settings.json')) as file:\n    n = json.load(file)['n']\n\
         with open(sys.argv[1], 'w') as out:\n    out.write(words() * n)\n",
    );
    project.write("src/model.py", "def words():\n    return 'one '\n");
    project.write("settings.json", "{\"n\": 2}");
    project
}

#[test]
fn python_script_runs_again_when_a_module_or_a_file_that_it_opens_changes() {
    if !has_python() {
        return;
    }
    let project = python();
    assert_eq!(project.run(&[]).executed(), ["work"]);
    let explained = project.vadpipe(["explain", "p.toml", "work"]).stdout;
    let read: Vec<&str> = explained.lines().filter(|line| line.contains("file read")).collect();
    assert_eq!(read.len(), 2, "only files of the project: {explained}");
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    project.write("src/model.py", "def words():\n    return 'more '\n");
    assert_eq!(reason(&project), "file src/model.py changed");
    assert_eq!(project.run(&[]).executed(), ["work"]);
    assert_eq!(exported(&project), "more more ");
    project.write("settings.json", "{\"n\": 1}");
    assert_eq!(reason(&project), "file settings.json changed");
    assert_eq!(project.run(&[]).executed(), ["work"]);
    assert_eq!(exported(&project), "more ");
    // Python does not open the source of a module that is compiled.
    let compiled =
        Command::new("python3").args(["-m", "compileall", "-q", "src"]).current_dir(project.path("")).status();
    assert!(compiled.expect("it starts").success());
    assert_eq!(project.run(&["-f"]).executed(), ["work"]);
    project.write("src/model.py", "def words():\n    return 'last '\n");
    assert_eq!(reason(&project), "file src/model.py changed");
}

#[test]
fn python_keeps_the_users_sitecustomize_and_its_path() {
    if !has_python() {
        return;
    }
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nenv = [\"PYTHONPATH\"]\n\
         argv = [\"python3\", \"work.py\", \"{outputs.out}\"]\noutputs = { out = \"out.txt\" }\n",
    );
    project.write("site/sitecustomize.py", "word = 'mine'\n");
    project.write(
        "work.py",
        "import sys, sitecustomize\nopen(sys.argv[1], 'w').write(f'{sitecustomize.word} {len(sys.path[1:2])} {sys.path[1]}')\n",
    );
    let site = project.path("site").display().to_string();
    let output = project.command(["run", "p.toml"]).env("PYTHONPATH", &site).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        {
            let exported = project.command(["export", "p.toml", "--to", "exported"]).env("PYTHONPATH", &site).output();
            assert!(exported.expect("it starts").status.success());
            project.read("exported/work/out.txt")
        },
        format!("mine 1 {site}")
    );
}

#[test]
fn file_that_a_python_script_writes_does_not_count() {
    if !has_python() {
        return;
    }
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nargv = [\"python3\", \"work.py\"]\n",
    );
    project.write(
        "work.py",
        "import os\npath = os.path.join(os.path.dirname(__file__), 'notes.txt')\n\
         open(path, 'w').write('note')\nassert open(path).read() == 'note'\n",
    );
    let run = project.vadpipe(["run", "p.toml"]);
    assert!(!run.stderr.contains("changed"), "{}", run.stderr);
    assert_eq!(project.read("notes.txt"), "note");
    project.write("notes.txt", "edited");
    assert_eq!(project.run(&[]).executed(), [""; 0]);
}
