//! Completions, tested in the shells themselves.

use crate::answers::{SWEEP, pipe};
use crate::support::Project;

/// The lines that a shell prints when it runs this script in the folder of a project. `None` if it is not installed.
fn shell(name: &str, project: &Project, script: &str) -> Option<Vec<String>> {
    let script = format!("cd '{}'\n{script}", project.path("").display());
    let args: &[&str] = if name == "fish" { &["--no-config"] } else { &[] };
    let (succeeded, stdout, stderr) = pipe(name, args, &script)?;
    assert!(succeeded, "{stderr}");
    Some(stdout.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect())
}

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_vadpipe")
}

/// The completions of bash. Like readline, it breaks words at `@`, `=` and some other characters.
fn bash(project: &Project, line: &str) -> Option<Vec<String>> {
    let script = format!(
        r#"source <({} completions bash)
        COMP_WORDBREAKS=$' \t\n"\'><=;|&(:@'
        COMP_LINE='{line}' COMP_POINT=${{#COMP_LINE}}
        complete -p vadpipe > /dev/null || exit 1
        _vadpipe
        printf '%s\n' "${{COMPREPLY[@]}}"
        "#,
        program()
    );
    let script = script.replace(&format!("COMP_LINE='{line}' COMP_POINT"), &format!("COMP_LINE='{line}'; COMP_POINT"));
    shell("bash", project, &script)
}

#[test]
fn bash_completes_stages_and_points_of_the_file() {
    let project = Project::new(SWEEP);
    let Some(stages) = bash(&project, "vadpipe run p.toml r") else {
        eprintln!("bash is not installed: its completions were not tested");
        return;
    };
    assert_eq!(stages, ["report"]);
    assert_eq!(bash(&project, "vadpipe log -f p.toml r").expect("bash"), ["report"]);
    let all = bash(&project, "vadpipe plan p.toml ").expect("bash");
    assert!(["data", "ad", "ad@lr=0.01,latent_dim=6"].iter().all(|name| all.contains(&(*name).to_owned())), "{all:?}");
    // bash treats the text before the last `=` or `@` as other words.
    assert_eq!(
        bash(&project, "vadpipe run p.toml ad@lr=0.01").expect("bash"),
        ["0.01,latent_dim=4", "0.01,latent_dim=6"]
    );
    assert_eq!(bash(&project, "vadpipe run p.toml data ad@lr=0.001,latent_dim=").expect("bash"), ["4", "6"]);
    assert_eq!(bash(&project, "vadpipe metr").expect("bash"), ["metrics"]);
    assert!(bash(&project, "vadpipe run p").expect("bash").contains(&"p.toml".to_owned()));
    // An invalid pipeline has no completions, and no error is printed.
    project.write("p.toml", "[stages");
    assert_eq!(bash(&project, "vadpipe run p.toml a").expect("bash"), [""]);
}

#[test]
fn fish_completes_stages_and_points_of_the_file() {
    let project = Project::new(SWEEP);
    let ask = |line: &str| {
        shell("fish", &project, &format!("{} completions fish | source\ncomplete -C '{line}'\n", program()))
    };
    let Some(points) = ask("vadpipe run p.toml ad@lr=0.01") else {
        eprintln!("fish is not installed: its completions were not tested");
        return;
    };
    assert_eq!(points, ["ad@lr=0.01,latent_dim=4", "ad@lr=0.01,latent_dim=6"]);
    assert_eq!(ask("vadpipe metr").expect("fish"), ["metrics"]);
}

#[test]
fn zsh_completes_stages_and_points_of_the_file() {
    let project = Project::new(SWEEP);
    // There is no terminal, so stubs replace functions of zsh. They print the completions of the script.
    let ask = |words: &str, current: usize| {
        let script = format!(
            "compdef() {{ : }}\n_describe() {{ print -l -- ${{(P)argv[-1]}} }}\n\
             eval \"$({} completions zsh)\"\nwords=({words}) CURRENT={current}\n_clap_dynamic_completer_vadpipe\n",
            program()
        );
        shell("zsh", &project, &script)
    };
    let Some(points) = ask("vadpipe run p.toml ad@lr=0.01", 4) else {
        eprintln!("zsh is not installed: its completions were not tested");
        return;
    };
    assert_eq!(points, ["ad@lr=0.01,latent_dim=4:train-ad", "ad@lr=0.01,latent_dim=6:train-ad"]);
}
