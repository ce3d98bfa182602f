//! Workers on two hosts, which are network namespaces, one of which loses its connection. Needs root.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::servers::Moto;
use crate::support::{CommandOutput, Project, Run, has, has_python, wait_for};

const PIPELINE: &str = r#"
[pipeline]
name = "p"
seed = 3

[stages.net]
kind = "train-command"
argv = ["python3", "train.py", "{base}"]
segment_epochs = 5
epochs = 40

[stages.net.start]
width = 4

[stages.net.epoch]
lr = 0.05
"#;

/// The one who trains first waits after epoch 20 while there is a file `block`.
const HOOK: &str = r#"
import os
import sys
import time

def HOOK(epoch):
    block = os.path.join(sys.argv[1], "signals", "block")
    if epoch == 20 and os.path.exists(block):
        open(os.path.join(sys.argv[1], "signals", "blocked"), "w").close()
        while os.path.exists(block):
            time.sleep(0.01)
"#;

/// A host with one connection, to this machine. Removed on drop.
struct Host {
    name: String,
    /// The end of the connection on this machine.
    link: String,
    /// The address of this machine on it.
    gateway: String,
}

fn ip(words: &str) -> bool {
    let status = Command::new("ip").args(words.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Host {
    /// `None` without the right to make one.
    fn new(number: u8) -> Option<Self> {
        let id = std::process::id();
        let (name, link) = (format!("vadpipe-{id}-{number}"), format!("vp{id}-{number}"));
        let host = Self { gateway: format!("10.213.{number}.1"), link, name };
        let Self { name, link, gateway } = &host;
        let made = ip(&format!("netns add {name}"))
            && ip(&format!("link add {link} type veth peer name eth0 netns {name}"))
            && ip(&format!("addr add {gateway}/24 dev {link}"))
            && ip(&format!("link set {link} up"))
            && ip(&format!("-n {name} addr add 10.213.{number}.2/24 dev eth0"))
            && ip(&format!("-n {name} link set eth0 up"));
        made.then_some(host)
    }

    fn connect(&self, is_connected: bool) {
        assert!(ip(&format!("link set {} {}", self.link, if is_connected { "up" } else { "down" })));
    }

    /// Starts vadpipe on this host.
    fn start(&self, project: &Project, moto: &Moto, args: &[&str]) -> Child {
        let port = moto.endpoint.rsplit(':').next().expect("a port");
        let vadpipe = project.command(args.iter().chain(&["--store", "s3://team/vadpipe", "--json"]));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(vadpipe.get_program()).args(vadpipe.get_args());
        command.envs(vadpipe.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(vadpipe.get_current_dir().expect("a folder"));
        command.env("AWS_ENDPOINT_URL", format!("http://{}:{port}", self.gateway)).env("AWS_ALLOW_HTTP", "true");
        command.env("AWS_REGION", "us-east-1").env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    }

    fn run(&self, project: &Project, moto: &Moto, args: &[&str]) -> Run {
        Run::of(ended(self.start(project, moto, args)))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // This also removes its connection.
        ip(&format!("netns del {}", self.name));
    }
}

fn ended(child: Child) -> CommandOutput {
    CommandOutput::of(child.wait_with_output().expect("it ends"))
}

fn project() -> Project {
    let project = Project::new(PIPELINE);
    project.write("train.py", &format!("{HOOK}\n{}", include_str!("../training/train.py")));
    project.write("signals/.keep", "");
    project
}

#[test]
fn training_of_a_host_that_is_cut_off_is_continued_by_another_host() {
    let hosts = if has_python() && has("ip") { [1, 2].map(Host::new) } else { [None, None] };
    let [Some(first), Some(second)] = hosts else {
        eprintln!("skipped: without root and `ip` there are no network namespaces");
        return;
    };
    let local = project();
    local.run(&[]);
    let (moto, cut_off, other) = (Moto::on_all_interfaces(), project(), project());
    cut_off.write("signals/block", "");
    let worker = ["worker", "p.toml", "--heartbeat", "0.5"];
    let lost = first.start(&cut_off, &moto, &worker);
    wait_for(&cut_off.path("signals/blocked"));
    // Its states are pushed every three seconds.
    std::thread::sleep(Duration::from_secs(5));
    first.connect(false);
    let begun = Instant::now();
    let run = second.run(&other, &moto, &worker);
    assert_eq!(run.executed(), ["net"], "{}", run.output.stderr);
    assert!(begun.elapsed() < Duration::from_secs(30), "it takes over after three heartbeats: {:?}", begun.elapsed());
    let resumed = run.of_kind("resumed").next().expect("it continues")["epoch"].as_u64();
    assert!(resumed >= Some(15), "{resumed:?}");
    // The first host goes on alone, and ends: nobody would get what it makes.
    std::fs::remove_file(cut_off.path("signals/block")).expect("removed");
    let alone = ended(lost);
    assert_eq!(alone.code, 5, "{}", alone.stderr);
    assert!(alone.stderr.contains("this worker has lost the store"), "{}", alone.stderr);
    // Connected again, it takes the result of the other host.
    first.connect(true);
    let again = first.run(&cut_off, &moto, &["run", "p.toml"]);
    assert_eq!(again.executed(), [""; 0], "{}", again.output.stderr);
    assert_eq!(cut_off.digests(), local.digests());
}
