//! Little memory, few open files, a full standard output, very long names: an error message and an exit code, no panic.

use std::fs::File;

use crate::support::{Desk, MINI, Said};

impl Desk {
    /// Runs `vadpipe` under a limit of the shell, such as `-n 32`.
    fn limited(&self, limit: &str, args: &[&str]) -> Said {
        let program = self.command(args);
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(format!("ulimit {limit} && exec \"$0\" \"$@\"")).arg(program.get_program());
        shell.args(program.get_args()).current_dir(self.path("")).env_clear().env("HOME", self.path(""));
        shell.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Said::of(shell.output().expect("the shell starts"))
    }
}

#[test]
fn too_little_memory_is_an_error_with_exit_code_5() {
    for kilobytes in [60_000, 100_000, 150_000, 200_000, 250_000, 300_000, 500_000, 1_000_000] {
        let desk = Desk::new(MINI);
        let said = desk.limited(&format!("-v {kilobytes}"), &["run", "p.toml"]);
        let (code, err) = (said.code, &said.err);
        assert!(code == 0 || code == 5, "{code} with {kilobytes} KB: {err}");
        assert!(code == 0 || err.contains("memory") || err.contains("ulimit"), "{kilobytes} KB: {err}");
        assert!(!err.contains("panicked"), "{kilobytes} KB: {err}");
        assert!(kilobytes > 100_000 || err.contains("error: too little memory: the address space is limited"), "{err}");
    }
}

#[test]
fn memory_that_runs_out_in_a_stage_is_an_error_with_exit_code_5() {
    // An output of 2 GB that takes no room on the disk.
    let desk = Desk::new(
        "[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nargv = [\"truncate\", \"-s\", \"2G\", \"out\"]\n\
         outputs = { out = \"out\" }\n",
    );
    let said = desk.limited("-v 1000000", &["run", "p.toml"]);
    assert_eq!(said.code, 5, "{}", said.err);
    assert!(said.err.contains("error: out of memory: the system refused "), "{}", said.err);
    assert!(!said.err.contains("backtrace"), "{}", said.err);
    assert_eq!(desk.vadpipe(["doctor"]).code, 0, "the cache is whole");
}

#[test]
fn too_few_threads_are_an_error_with_exit_code_5() {
    use std::os::unix::fs::PermissionsExt as _;
    if !rustix::process::geteuid().is_root() {
        // The number of the user's processes is unknown; as root, another user without any can be taken.
        return;
    }
    for threads in ["2", "5", "8", "10"] {
        let desk = Desk::new(MINI);
        std::fs::copy(env!("CARGO_BIN_EXE_vadpipe"), desk.path("vadpipe")).expect("a copy");
        std::fs::set_permissions(desk.path(""), std::fs::Permissions::from_mode(0o777)).expect("permissions");
        let limit = format!("ulimit -u {threads}; exec timeout 30 ./vadpipe run p.toml data");
        let mut other = std::process::Command::new("setpriv");
        other.args(["--reuid=64321", "--clear-groups", "--inh-caps=-all", "bash", "-c", &limit]);
        let Ok(output) = other.current_dir(desk.path("")).output() else { return };
        let said = Said::of(output);
        assert!(said.code == 5 || said.code == 0, "{threads} threads: {} {}", said.code, said.err);
    }
}

#[test]
fn many_stages_run_with_few_open_files() {
    let values: Vec<_> = (0..60).map(|i| format!("\"{i}\"")).collect();
    let desk = Desk::new(&format!(
        "[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nmatrix = {{ i = [{}] }}\n\
         argv = [\"sh\", \"-c\", \"echo $0 > out\", \"${{matrix.i}}\"]\noutputs = {{ out = \"out\" }}\n",
        values.join(", ")
    ));
    for (files, jobs) in [("32", "2"), ("32", "16"), ("64", "16")] {
        let said = desk.limited(&format!("-n {files}"), &["run", "p.toml", "-q", "-f", "-j", jobs]);
        assert_eq!(said.code, 0, "{files} files, {jobs} jobs: {}", said.err);
    }
}

#[test]
fn command_that_can_not_start_without_file_handles_is_a_system_error() {
    let desk = Desk::new("[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nargv = [\"true\"]\n");
    for files in ["8", "10", "12", "14", "16"] {
        let said = desk.limited(&format!("-n {files}"), &["run", "p.toml", "-f"]);
        assert!(said.code == 5 || said.code == 0, "{files} files: {} {}", said.code, said.err);
    }
}

#[test]
fn events_that_can_not_be_written_end_the_run_with_exit_code_5() {
    let desk = Desk::new(MINI);
    let full = File::options().write(true).open("/dev/full").expect("a device");
    let output = desk.command(["run", "p.toml", "data", "--json"]).stdout(full).output().expect("vadpipe starts");
    let said = Said::of(output);
    assert_eq!(said.code, 5, "{}", said.err);
    assert!(said.err.contains("can't write to standard output"), "{}", said.err);
    assert_eq!(desk.vadpipe(["plan", "p.toml", "data", "--check"]).code, 0, "the run went on to its end");
}

#[test]
fn very_long_names_and_values_are_shortened_in_text() {
    // Longer names are refused; a value may have a megabyte.
    let metrics = |json: &str, length: usize| {
        Desk::new(&format!(
            "[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nshell = true\nargv = ['''\n\
             long=$(head -c {length} /dev/zero | tr '\\0' x); printf '{json}' \"$long\" > $VADPIPE_METRICS''']\n"
        ))
    };
    let desk = metrics("{\"%s\": 1}", 1000);
    for command in [&["run", "p.toml"][..], &["metrics", "p.toml"], &["show", "p.toml"], &["log", "last"]] {
        let said = desk.vadpipe(command);
        assert_eq!(said.code, 0, "{command:?}: {}", said.err);
        let shown = format!("{}{}", said.out, said.err);
        assert!(!shown.contains(&"x".repeat(300)), "{command:?}: {shown}");
    }
    let whole = desk.vadpipe(["metrics", "p.toml", "--json"]);
    assert!(whole.out.contains(&"x".repeat(1000)), "JSON is whole");
    let desk = metrics("{\"a\": \"%s\"}", 1_000_000);
    let said = desk.vadpipe(["run", "p.toml"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("`a` is \"xxx") && said.err.len() < 10_000, "{} bytes", said.err.len());
}
