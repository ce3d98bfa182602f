//! Programs that continue from a checkpoint.

use std::process::Child;

use rustix::process::Signal;

use crate::support::{Project, signal, wait_for};

/// A stage that counts its attempts in its checkpoint. It waits for the file `go` before it ends.
fn project() -> Project {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nargv = [\"sh\", \"work.sh\", \"{checkpoint}\", \
         \"{outputs.out}\"]\noutputs = { out = \"out.txt\" }\n",
    );
    project.write(
        "work.sh",
        "here=$(dirname $0)\ncat $here/words.txt > /dev/null\necho words.txt >> $VADPIPE_DEPFILE\n\
         echo attempt >> $1/attempts\ntest $1 = $VADPIPE_CHECKPOINT && touch $here/signals/started\n\
         while ! test -e $here/signals/go; do sleep 0.01; done\ncp $1/attempts $2\n",
    );
    project.write("words.txt", "one");
    std::fs::create_dir(project.path("signals")).expect("a folder");
    project
}

/// Starts a run, and waits until its program has saved something.
fn start(project: &Project) -> Child {
    let _ = std::fs::remove_file(project.path("signals/started"));
    let run = project.start(&["run", "p.toml"]);
    wait_for(&project.path("signals/started"));
    run
}

/// Runs to the end. Returns the number of attempts that the program has counted.
fn attempts(project: &Project, more: &[&str]) -> usize {
    project.write("signals/go", "");
    assert_eq!(project.run(more).executed(), ["work"]);
    project.vadpipe(["export", "p.toml", "--to", "out", "--overwrite"]);
    project.read("out/work/out.txt").lines().count()
}

fn interrupted(project: &Project) -> String {
    let run = start(project);
    signal(&run, Signal::INT);
    let output = run.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn program_continues_after_an_interruption() {
    let project = project();
    let first = interrupted(&project);
    assert!(first.contains("work: the next run continues from its checkpoint, if it saved one"), "{first}");
    let second = interrupted(&project);
    assert!(second.contains("resume work from its checkpoint of run "), "{second}");
    assert_eq!(attempts(&project, &[]), 3);
    assert_eq!(std::fs::read_dir(project.path("cache/checkpoints")).expect("a folder").count(), 0);
    assert_eq!(project.run(&[]).executed(), [""; 0], "the files of all attempts are as they were");
    project.write("words.txt", "two");
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file words.txt changed");
}

#[test]
fn program_continues_after_vadpipe_was_killed() {
    let project = project();
    let mut run = start(&project);
    run.kill().expect("it runs");
    run.wait().expect("it ends");
    assert_eq!(attempts(&project, &[]), 2);
}

#[test]
fn program_continues_after_a_failure() {
    let project = project();
    project.edit("\"sh\", \"work.sh\"", "\"sh\", \"-e\", \"work.sh\"");
    project.write("work.sh", &project.read("work.sh").replace("cp $1", "test $(wc -l < $1/attempts) = 2\ncp $1"));
    project.write("signals/go", "");
    assert_eq!(project.try_run(&[]).failed(), ["work"]);
    assert_eq!(attempts(&project, &[]), 2);
}

#[test]
fn checkpoint_is_dropped_if_a_file_that_the_program_read_changes_or_if_it_is_forced() {
    let project = project();
    interrupted(&project);
    // The content counts, not the time.
    project.write("words.txt", "one");
    interrupted(&project);
    project.write("words.txt", "two");
    let second = interrupted(&project);
    assert!(second.contains("words.txt changed: the checkpoint of `work` was dropped"), "{second}");
    assert_eq!(attempts(&project, &[]), 2, "it read another file in the first attempt");
    std::fs::remove_file(project.path("signals/go")).expect("it exists");
    project.write("words.txt", "three");
    interrupted(&project);
    assert_eq!(attempts(&project, &["-f"]), 1, "it starts over");
}

#[test]
fn checkpoint_is_dropped_if_a_file_changes_of_which_the_next_attempt_has_a_copy() {
    let project = project();
    // Files that the stored result has read are copied for later attempts.
    assert_eq!(attempts(&project, &[]), 1);
    std::fs::remove_file(project.path("signals/go")).expect("it exists");
    project.write("words.txt", "two");
    interrupted(&project);
    project.write("words.txt", "three");
    let second = interrupted(&project);
    assert!(second.contains("words.txt changed: the checkpoint of `work` was dropped"), "{second}");
    assert_eq!(attempts(&project, &[]), 2);
}

#[test]
fn looking_for_a_file_that_does_not_exist_keeps_the_checkpoint() {
    let project = project();
    project.write("work.sh", &format!("echo local.json >> $VADPIPE_DEPFILE\n{}", project.read("work.sh")));
    interrupted(&project);
    assert_eq!(attempts(&project, &[]), 2);
}

#[test]
fn stage_without_a_checkpoint_starts_over_and_says_so() {
    let project = project();
    project.edit("\"{checkpoint}\"", "\"$(mktemp -d)\"");
    project.write("work.sh", "touch $(dirname $0)/signals/started\nsleep 60\n");
    let stopped = interrupted(&project);
    assert!(stopped.contains("work: the next run starts over"), "{stopped}");
}
