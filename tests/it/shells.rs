//! Completions as shells ask for them.

use crate::answers::{SWEEP, pipe};
use crate::support::Desk;

/// What a shell prints when it runs this script in a desk's folder, as lines; `None` where it is not here.
fn shell(name: &str, desk: &Desk, script: &str) -> Option<Vec<String>> {
    let script = format!("cd '{}'\n{script}", desk.path("").display());
    let args: &[&str] = if name == "fish" { &["--no-config"] } else { &[] };
    let (fine, out, err) = pipe(name, args, &script)?;
    assert!(fine, "{err}");
    Some(out.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect())
}

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_vadpipe")
}

/// Asks bash as readline would: with words broken at `@`, `=` and the like.
fn bash(desk: &Desk, line: &str) -> Option<Vec<String>> {
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
    shell("bash", desk, &script)
}

#[test]
fn bash_completes_stages_and_points_of_the_file() {
    let desk = Desk::new(SWEEP);
    let Some(stages) = bash(&desk, "vadpipe run p.toml r") else {
        eprintln!("bash is not here: its completions were not tried");
        return;
    };
    assert_eq!(stages, ["report"]);
    let all = bash(&desk, "vadpipe plan p.toml ").expect("bash");
    assert!(["data", "ad", "ad@lr=0.01,latent_dim=6"].iter().all(|name| all.contains(&(*name).to_owned())), "{all:?}");
    // bash has taken what stands before the last `=` or `@` for other words.
    assert_eq!(bash(&desk, "vadpipe run p.toml ad@lr=0.01").expect("bash"), ["0.01,latent_dim=4", "0.01,latent_dim=6"]);
    assert_eq!(bash(&desk, "vadpipe run p.toml data ad@lr=0.001,latent_dim=").expect("bash"), ["4", "6"]);
    assert_eq!(bash(&desk, "vadpipe metr").expect("bash"), ["metrics"]);
    assert!(bash(&desk, "vadpipe run p").expect("bash").contains(&"p.toml".to_owned()));
    // A pipeline that is wrong has no points, and nobody is told in the middle of a word.
    desk.write("p.toml", "[stages");
    assert_eq!(bash(&desk, "vadpipe run p.toml a").expect("bash"), [""]);
}

#[test]
fn fish_completes_stages_and_points_of_the_file() {
    let desk = Desk::new(SWEEP);
    let ask =
        |line: &str| shell("fish", &desk, &format!("{} completions fish | source\ncomplete -C '{line}'\n", program()));
    let Some(points) = ask("vadpipe run p.toml ad@lr=0.01") else {
        eprintln!("fish is not here: its completions were not tried");
        return;
    };
    assert_eq!(points, ["ad@lr=0.01,latent_dim=4", "ad@lr=0.01,latent_dim=6"]);
    assert_eq!(ask("vadpipe metr").expect("fish"), ["metrics"]);
}

#[test]
fn zsh_completes_stages_and_points_of_the_file() {
    let desk = Desk::new(SWEEP);
    // Without a terminal, zsh's own functions are stood in for: they get what the script found.
    let ask = |words: &str, current: usize| {
        let script = format!(
            "compdef() {{ : }}\n_describe() {{ print -l -- ${{(P)argv[-1]}} }}\n\
             eval \"$({} completions zsh)\"\nwords=({words}) CURRENT={current}\n_clap_dynamic_completer_vadpipe\n",
            program()
        );
        shell("zsh", &desk, &script)
    };
    let Some(points) = ask("vadpipe run p.toml ad@lr=0.01", 4) else {
        eprintln!("zsh is not here: its completions were not tried");
        return;
    };
    assert_eq!(points, ["ad@lr=0.01,latent_dim=4:train-ad", "ad@lr=0.01,latent_dim=6:train-ad"]);
}
