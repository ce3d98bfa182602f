//! Little memory, few open files, a full standard output or very long names give an error, not a panic.

use std::fs::File;

use crate::support::{CommandOutput, MINI, Project};

impl Project {
    /// Runs `vadpipe` under a limit of `ulimit`, such as `-n 32`.
    fn limited(&self, limit: &str, args: &[&str]) -> CommandOutput {
        let program = self.command(args);
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(format!("ulimit {limit} && exec \"$0\" \"$@\"")).arg(program.get_program());
        shell.args(program.get_args()).current_dir(self.path("")).env_clear().env("HOME", self.path(""));
        shell.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        CommandOutput::of(shell.output().expect("the shell starts"))
    }
}

#[test]
fn too_little_memory_is_an_error_with_exit_code_5() {
    for kilobytes in [60_000, 100_000, 150_000, 200_000, 250_000, 300_000, 500_000, 1_000_000] {
        let project = Project::new(MINI);
        let output = project.limited(&format!("-v {kilobytes}"), &["run", "p.toml"]);
        let (code, err) = (output.code, &output.stderr);
        assert!(code == 0 || code == 5, "{code} with {kilobytes} KB: {err}");
        assert!(code == 0 || err.contains("memory") || err.contains("ulimit"), "{kilobytes} KB: {err}");
        assert!(!err.contains("panicked"), "{kilobytes} KB: {err}");
        assert!(kilobytes > 100_000 || err.contains("error: too little memory: the address space is limited"), "{err}");
    }
}

#[test]
fn stage_that_runs_out_of_memory_is_an_error_with_exit_code_5() {
    // A decoder of 700 MB.
    let project = Project::new(MINI);
    project.edit("channels = [16, 12, 8, 8]", "channels = [8192, 2048, 64, 8]");
    let output = project.limited("-v 1000000", &["run", "p.toml"]);
    assert_eq!(output.code, 5, "{}", output.stderr);
    assert!(output.stderr.contains("error: out of memory: the system refused "), "{}", output.stderr);
    assert!(!output.stderr.contains("backtrace"), "{}", output.stderr);
    assert_eq!(project.vadpipe(["doctor"]).code, 0, "the cache is undamaged");
}

#[test]
fn too_few_threads_are_an_error_with_exit_code_5() {
    use std::os::unix::fs::PermissionsExt as _;
    if !rustix::process::geteuid().is_root() {
        // The test needs a user without processes, and only root can become one.
        return;
    }
    for threads in ["2", "5", "8", "10"] {
        let project = Project::new(MINI);
        std::fs::copy(env!("CARGO_BIN_EXE_vadpipe"), project.path("vadpipe")).expect("a copy");
        std::fs::set_permissions(project.path(""), std::fs::Permissions::from_mode(0o777)).expect("permissions");
        let limit = format!("ulimit -u {threads}; exec timeout 30 ./vadpipe run p.toml data");
        let mut other = std::process::Command::new("setpriv");
        other.args(["--reuid=64321", "--clear-groups", "--inh-caps=-all", "bash", "-c", &limit]);
        let Ok(output) = other.current_dir(project.path("")).output() else { return };
        let output = CommandOutput::of(output);
        assert!(output.code == 5 || output.code == 0, "{threads} threads: {} {}", output.code, output.stderr);
    }
}

#[test]
fn many_stages_run_with_few_open_files() {
    let values: Vec<_> = (0..60).map(|i| format!("\"{i}\"")).collect();
    let project = Project::new(&format!(
        "[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nmatrix = {{ i = [{}] }}\n\
         argv = [\"sh\", \"-c\", \"echo $0 > out\", \"${{matrix.i}}\"]\noutputs = {{ out = \"out\" }}\n",
        values.join(", ")
    ));
    for (files, jobs) in [("32", "2"), ("32", "16"), ("64", "16")] {
        let output = project.limited(&format!("-n {files}"), &["run", "p.toml", "-q", "-f", "-j", jobs]);
        assert_eq!(output.code, 0, "{files} files, {jobs} jobs: {}", output.stderr);
    }
}

#[test]
fn command_that_can_not_start_for_lack_of_files_is_not_a_stage_failure() {
    let project = Project::new("[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nargv = [\"true\"]\n");
    for files in ["8", "10", "12", "14", "16"] {
        let output = project.limited(&format!("-n {files}"), &["run", "p.toml", "-f"]);
        assert!(output.code == 5 || output.code == 0, "{files} files: {} {}", output.code, output.stderr);
    }
}

#[test]
fn events_that_can_not_be_written_end_the_run_with_exit_code_5() {
    let project = Project::new(MINI);
    let full = File::options().write(true).open("/dev/full").expect("a device");
    let output = project.command(["run", "p.toml", "data", "--json"]).stdout(full).output().expect("vadpipe starts");
    let output = CommandOutput::of(output);
    assert_eq!(output.code, 5, "{}", output.stderr);
    assert!(output.stderr.contains("can't write to standard output"), "{}", output.stderr);
    assert_eq!(project.vadpipe(["plan", "p.toml", "data", "--check"]).code, 0, "the run continued to its end");
}

#[test]
fn very_long_names_and_values_are_shortened_in_text_output() {
    // Longer names are refused. A value may have a megabyte.
    let metrics = |json: &str, length: usize| {
        Project::new(&format!(
            "[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nshell = true\nargv = ['''\n\
             long=$(head -c {length} /dev/zero | tr '\\0' x); printf '{json}' \"$long\" > $VADPIPE_METRICS''']\n"
        ))
    };
    let project = metrics("{\"%s\": 1}", 1000);
    for command in [&["run", "p.toml"][..], &["metrics", "p.toml"], &["show", "p.toml"], &["log", "last"]] {
        let output = project.vadpipe(command);
        assert_eq!(output.code, 0, "{command:?}: {}", output.stderr);
        let shown = format!("{}{}", output.stdout, output.stderr);
        assert!(!shown.contains(&"x".repeat(300)), "{command:?}: {shown}");
    }
    let whole = project.vadpipe(["metrics", "p.toml", "--json"]);
    assert!(whole.stdout.contains(&"x".repeat(1000)), "JSON is complete");
    let project = metrics("{\"a\": \"%s\"}", 1_000_000);
    let output = project.vadpipe(["run", "p.toml"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("`a` is \"xxx") && output.stderr.len() < 10_000, "{} bytes", output.stderr.len());
}
