//! The modules are in layers, and each uses only what stands above it in `lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn a_module_uses_only_what_stands_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = fs::read_to_string(src.join("lib.rs")).expect("lib.rs");
    let layers: Vec<&str> =
        lib.lines().filter_map(|l| l.strip_prefix("pub mod ")).map(|m| m.trim_end_matches(';')).collect();
    assert!(layers.len() > 10, "lib.rs lists the modules: {layers:?}");
    let rank = |module: &str| layers.iter().position(|l| *l == module);
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).expect("below src");
        let module = inside.iter().next().expect("a name").to_string_lossy().trim_end_matches(".rs").to_owned();
        if module == "main" || module == "lib" {
            continue;
        }
        let own = rank(&module).unwrap_or_else(|| panic!("{} is in no layer", inside.display()));
        let text = fs::read_to_string(&file).expect("a source");
        // Tests may use anything.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        if inside.ends_with("tests.rs") || inside.ends_with("testing.rs") || inside.iter().any(|p| p == "tests") {
            continue;
        }
        for (number, line) in code.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if rank(&used).is_some_and(|r| r > own) {
                    wrong.push(format!("{}:{}: {module} uses {used}", inside.display(), number + 1));
                }
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn only_the_ui_prints_and_only_the_store_names_sled() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        let name = file.strip_prefix(&src).expect("below src").display().to_string();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: Vec<&str> = code.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        if !name.starts_with("store") {
            assert!(!code.iter().any(|l| l.contains("sled::")), "{name} names sled");
        }
        let tests = name.ends_with("tests.rs") || name.ends_with("testing.rs") || name.contains("/tests/");
        if !name.starts_with("cli/ui") && !tests {
            let prints = |l: &&str| l.contains("println!(") || l.contains("io::stdout()") || l.contains("anstream::");
            assert!(!code.iter().any(prints), "{name} prints");
        }
    }
}
