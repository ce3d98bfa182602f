//! What the program shows on a terminal: progress, and text that fits the terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use vt100::{Parser, Screen};

use crate::answers::SWEEP;
use crate::support::Project;

/// The longest wait on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const ROWS: u16 = 200;

/// The program on a terminal of its own.
struct Terminal {
    child: Child,
    keyboard: File,
    parser: Arc<Mutex<Parser>>,
    reader: JoinHandle<()>,
}

/// How a program on a terminal ended.
struct Ended {
    code: Option<i32>,
    text: String,
    /// The lines that the terminal itself had to break.
    broken: Vec<String>,
}

fn slave(master: &OwnedFd) -> OwnedFd {
    grantpt(master).expect("a terminal");
    unlockpt(master).expect("a terminal");
    let name = ptsname(master, Vec::new()).expect("its name");
    rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .expect("a terminal")
}

fn size(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("not 0")
}

impl Terminal {
    fn start(project: &Project, columns: u16, args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        let winsize = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, winsize).expect("a size");
        let vadpipe = project.command(args);
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(vadpipe.get_program()).args(vadpipe.get_args());
        command.current_dir(project.path("")).env_clear().env("TERM", "xterm-256color").env("HOME", project.path(""));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(slave(&master)).stdout(slave(&master)).stderr(slave(&master));
        let child = command.spawn().expect("vadpipe starts");
        // Closes the terminal's files in this process, so that reading ends when the program does.
        drop(command);
        let mut output = File::from(master.try_clone().expect("a file"));
        let parser = Arc::new(Mutex::new(Parser::new(size(ROWS), size(columns), 0)));
        let screen = Arc::clone(&parser);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                screen.lock().expect("the screen").process(&bytes[..read]);
            }
        });
        Self { child, keyboard: File::from(master), parser, reader }
    }

    fn run(project: &Project, columns: u16, args: &[&str]) -> Ended {
        Self::start(project, columns, args).ended()
    }

    /// Waits until the screen shows this. Returns the screen.
    fn wait_for(&self, text: &str) -> String {
        let started = Instant::now();
        loop {
            let shown = self.parser.lock().expect("the screen").screen().contents();
            if shown.contains(text) {
                return shown;
            }
            assert!(started.elapsed() < PATIENCE, "{text:?} is not on the screen:\n{shown}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press_ctrl_c(&mut self) {
        self.keyboard.write_all(b"\x03").expect("a key");
    }

    fn ended(mut self) -> Ended {
        let code = self.child.wait().expect("it ends").code();
        self.reader.join().expect("all is read");
        let parser = self.parser.lock().expect("the screen");
        Ended { code, text: parser.screen().contents(), broken: broken(parser.screen()) }
    }
}

fn broken(screen: &Screen) -> Vec<String> {
    let (_, columns) = screen.size();
    let rows = (0..ROWS).zip(screen.rows(0, columns.get()));
    rows.filter(|(row, _)| screen.row_wrapped(*row)).map(|(_, text)| text).collect()
}

/// A program that runs until there is a file `go`, with a point whose name is long.
const WAITING: &str = r#"
[pipeline]
name = "waiting"

[matrix]
learning_rate = [0.001]
weight_decay = [0.0001]

[stages.train-the-network]
kind = "command"
argv = ["sh", "wait.sh", "${matrix.learning_rate}", "${matrix.weight_decay}", "{base}/go", "{outputs.o}"]
outputs = { o = "o" }

[stages.after]
kind = "command"
inputs = { net = "train-the-network" }
argv = ["cp", "/dev/null", "{outputs.o}"]
outputs = { o = "o" }
"#;

fn waiting(end: &str) -> Project {
    let project = Project::new(WAITING);
    // It also ends when the test has ended, even if vadpipe was killed.
    let wait = "while [ ! -e \"$3\" ] && [ -d \"${3%/go}\" ]; do sleep 0.02; done";
    project.write("wait.sh", &format!("echo first line; echo 'epoch 3 of 10: loss 0.25'; {wait}\n{end}\n"));
    project
}

/// The signs of bars and spinners.
fn has_bar(text: &str) -> bool {
    text.contains(|c: char| "━╸─".contains(c) || ('\u{2800}'..='\u{28ff}').contains(&c))
}

#[test]
fn progress_shows_the_time_and_the_last_line_of_a_program() {
    let project = waiting("touch \"$4\"");
    let terminal = Terminal::start(&project, 80, &["run", "p.toml"]);
    let shown = terminal.wait_for("loss 0.25");
    let lines: Vec<&str> = shown.lines().filter(|line| has_bar(line)).collect();
    let [stage, run] = lines.as_slice() else { panic!("a line for the stage and one for the run:\n{shown}") };
    let rest = stage.split_once("train-the-network@0.001,0.0001  ").expect("its short name").1;
    let (time, line) = rest.trim_start().split_once("s  ").expect("its time");
    assert!(time.parse::<u32>().is_ok() && line == "epoch 3 of 10: loss 0.25", "{stage}");
    assert!(run.contains("  0/2 stages  "), "{run}");
    project.write("go", "");
    let ended = terminal.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert!(!has_bar(&ended.text) && ended.broken.is_empty(), "{}", ended.text);
}

#[test]
fn nothing_is_left_of_the_bars_after_ctrl_c() {
    let project = waiting("");
    let mut terminal = Terminal::start(&project, 80, &["run", "p.toml"]);
    terminal.wait_for("loss 0.25");
    terminal.press_ctrl_c();
    let ended = terminal.ended();
    assert_eq!(ended.code, Some(130), "{}", ended.text);
    assert!(ended.text.contains("stopping: ") && !has_bar(&ended.text), "{}", ended.text);
}

#[test]
fn nothing_is_left_of_the_bars_after_a_second_ctrl_c() {
    let project = waiting("");
    project.write("wait.sh", "trap '' INT TERM; echo stubborn; sleep 30; sleep 30\n");
    let mut terminal = Terminal::start(&project, 80, &["run", "p.toml"]);
    terminal.wait_for("stubborn");
    terminal.press_ctrl_c();
    terminal.wait_for("stopping: ");
    terminal.press_ctrl_c();
    let ended = terminal.ended();
    assert_eq!(ended.code, Some(130), "{}", ended.text);
    assert!(!has_bar(&ended.text), "{}", ended.text);
}

#[test]
fn failures_are_listed_at_the_end_with_the_next_command() {
    let project = waiting("echo 'ValueError: bad rate' >&2; exit 3");
    project.write("go", "");
    let ended = Terminal::run(&project, 80, &["run", "p.toml", "--cache", "mine"]);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    let (_, id) = ended.text.split_once("threads, run").expect("the run");
    let id = id.split_whitespace().next().expect("its id");
    let (_, list) = ended.text.split_once("1 failed, 1 skipped in ").expect("the end");
    let (_, list) = list.split_once('\n').expect("a list");
    insta::assert_snapshot!(list.replace(id, "ID").trim_end(), @r"
    failed: train-the-network@learning_rate=0.001,weight_decay=0.0001
      cause:  `sh` exited with code 3: ValueError: bad rate
      log:    mine/logs/ID/train-the-network@
              learning_rate=0.001,weight_decay=0.0001.log
      next:   vadpipe log last --stage
              'train-the-network@learning_rate=0.001,weight_decay=0.0001' --cache
              mine
    error: the run failed
      hint: run the same command again after a fix; finished stages are cached
    ");
    assert_eq!(ended.broken, [""; 0], "{}", ended.text);
    let name = "train-the-network@learning_rate=0.001,weight_decay=0.0001";
    let log = project.vadpipe(["log", "last", "--stage", name, "--cache", "mine"]);
    assert!(log.stdout.contains("ValueError: bad rate"), "{}", log.stderr);
}

#[test]
fn no_line_is_broken_by_terminals_of_80_and_100_columns() {
    let project =
        Project::new(&SWEEP.replace("lr", "decoder_learning_rate").replace("decoder_learning_rate = \"", "lr = \""));
    project.write(
        "broken.toml",
        &SWEEP.replace("epochs = 2", "epochs = \"a long text that is not a number, and goes on and on\""),
    );
    let first = "ad@decoder_learning_rate=0.001,latent_dim=4";
    let second = "ad@decoder_learning_rate=0.01,latent_dim=6";
    assert_eq!(project.vadpipe(["run", "p.toml", first, second]).code, 0);
    for columns in [80, 100] {
        for args in [
            &["run", "p.toml"][..],
            &["run", "p.toml", "-f", "ad"],
            &["plan", "p.toml", "-S", "params.epochs=3"],
            &["status", "p.toml", "-S", "params.epochs=3"],
            &["explain", "p.toml", first, "-S", "params.epochs=3"],
            &["metrics", "p.toml"],
            &["metrics", "p.toml", "--over", "latent_dim"],
            &["show", "p.toml", first],
            &["graph", "p.toml"],
            &["diff", "p.toml", first, second],
            &["log"],
            &["log", "last"],
            &["log", "--stage", "ad"],
            &["kinds"],
            &["doctor"],
            &["gc", "-n"],
            &["run", "--help"],
            &["plan", "broken.toml"],
        ] {
            let ended = Terminal::run(&project, columns, args);
            assert!(!ended.text.is_empty() && ended.broken.is_empty(), "{args:?}: {:#?}\n{}", ended.broken, ended.text);
        }
    }
}

#[test]
fn wide_table_of_metrics_fits_the_terminal_and_pipes_get_it_whole() {
    let project = Project::new(
        "[pipeline]\nname = \"m\"\n[stages.measure]\nkind = \"command\"\nargv = [\"cp\", \"m.json\", \"{metrics}\"]\n",
    );
    let metrics: Vec<_> = (1..=9).map(|n| format!("\"validation_accuracy_{n}\": 0.{n}")).collect();
    project.write("m.json", &format!("{{{}}}", metrics.join(", ")));
    project.run(&[]);
    let piped = project.vadpipe(["metrics", "p.toml"]).stdout;
    assert_eq!(piped.lines().count(), 2, "{piped}");
    let shown = Terminal::run(&project, 80, &["metrics", "p.toml"]);
    assert!(shown.broken.is_empty(), "{}", shown.text);
    insta::assert_snapshot!(shown.text.lines().take(4).collect::<Vec<_>>().join("\n"), @r"
    measure
      validation_accuracy_1  0.1000
      validation_accuracy_2  0.2000
      validation_accuracy_3  0.3000
    ");
}

/// Waits until a stage of the newest run has logged this.
fn wait_for_log(project: &Project, text: &str) {
    let logs = || -> Option<String> {
        let run = std::fs::read_dir(project.path("cache/logs")).ok()?.next()?.ok()?.path();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        Some(std::fs::read_dir(run).ok()?.flatten().map(|entry| read(&entry.path())).collect())
    };
    let started = Instant::now();
    while !logs().is_some_and(|logs| logs.contains(text)) {
        assert!(started.elapsed() < PATIENCE, "no stage logged {text:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn log_follow_prints_the_output_of_a_running_program_until_the_run_ends() {
    let project = waiting("echo last line; touch \"$4\"");
    let none = project.vadpipe(["log", "-f"]);
    assert!(none.code == 2 && none.stderr.contains("there is no run yet"), "{}", none.stderr);
    let run = project.start(&["run", "p.toml", "--json"]);
    wait_for_log(&project, "loss 0.25");
    let terminal = Terminal::start(&project, 100, &["log", "--follow"]);
    let name = "train-the-network@learning_rate=0.001,weight_decay=0.0001";
    // Two stages match, so lines begin with the stage.
    terminal.wait_for(&format!("{name} | epoch 3 of 10: loss 0.25"));
    let one = project.start(&["log", "-f", "--stage", "train-the-network"]);
    project.write("go", "");
    let ended = terminal.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert!(ended.text.contains(&format!("{name} | last line")), "{}", ended.text);
    assert!(ended.text.contains(" has ended: ok"), "{}", ended.text);
    let one = one.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&one.stdout), "first line\nepoch 3 of 10: loss 0.25\nlast line\n");
    assert!(run.wait_with_output().expect("it ends").status.success());
    // Later, there is nothing to follow. A stage that is named is printed.
    let later = project.vadpipe(["log", "-f"]);
    assert!(later.code == 0 && later.stdout.is_empty() && later.stderr.contains(" has ended: ok"), "{}", later.stderr);
    let named = project.vadpipe(["log", "last", "-f", "--stage", "train*"]);
    assert!(named.code == 0 && named.stdout.ends_with("last line\n"), "{}{}", named.stdout, named.stderr);
    let wrong = project.vadpipe(["log", "-f", "--stage", "nothing"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("no stage of run "), "{}", wrong.stderr);
}

#[test]
fn log_follow_ends_when_the_run_is_killed() {
    let project = waiting("");
    let mut run = project.start(&["run", "p.toml", "--json"]);
    wait_for_log(&project, "loss 0.25");
    let follower = project.start(&["log", "-f"]);
    std::thread::sleep(Duration::from_millis(300));
    run.kill().expect("killed");
    run.wait().expect("it ends");
    let followed = follower.wait_with_output().expect("it ends");
    project.write("go", "");
    let (out, err) = (String::from_utf8_lossy(&followed.stdout), String::from_utf8_lossy(&followed.stderr));
    assert!(followed.status.success() && out.contains("loss 0.25") && err.contains(" has ended: killed"), "{out}{err}");
}
