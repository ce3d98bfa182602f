//! Workers on two hosts, which are network namespaces, one of which loses its connection. Needs root.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::servers::Moto;
use crate::support::{Project, Run, has, wait_for};
use crate::workers::{ended, plain_digests, training};

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

#[test]
fn training_of_a_host_that_is_cut_off_is_continued_by_another_host() {
    let hosts = if has("ip") { [1, 2].map(Host::new) } else { [None, None] };
    let [Some(first), Some(second)] = hosts else {
        eprintln!("skipped: network namespaces need root and `ip`");
        return;
    };
    let (Some(cut_off), Some(other)) = (training(), training()) else { return };
    let (moto, expected) = (Moto::on_all_interfaces(), plain_digests(&other));
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
    assert_eq!(cut_off.digests(), expected);
}
