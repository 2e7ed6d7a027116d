//! The house rules that a compiler does not check: imports run one way, siblings do not know each other, a file is one
//! idea.

use std::path::{Path, PathBuf};

/// Modules by how far up they stand; a module imports only from below, and those on the same floor only where listed.
const FLOORS: [&[&str]; 5] = [
    &["types", "error", "fingerprint", "lines", "offload", "sharded"],
    &["client", "deferred", "tokens", "env"],
    &["layer", "embedder", "redis"],
    &["cache", "history", "schedule", "batch", "resilience", "route", "observe", "providers"],
    &["stack", "testing"],
];

/// On the ground floor and the first, a few modules make one another up.
const NEIGHBOURS: [(&str, &str); 3] = [("types", "error"), ("error", "types"), ("env", "tokens")];

fn floor(module: &str) -> usize {
    FLOORS.iter().position(|floor| floor.contains(&module)).unwrap_or_else(|| panic!("{module} stands on no floor"))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What follows `crate::` in this text, comments and tests left out.
fn names(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let word = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || "_{".contains(*c)).collect::<String>();
    code.split("crate::").skip(1).map(word).collect()
}

/// The crate's modules that this text imports.
fn imports(text: &str) -> Vec<String> {
    names(text).into_iter().filter(|name| name.starts_with(char::is_lowercase)).collect()
}

#[test]
fn imports_run_one_way_and_siblings_do_not_import_each_other() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in files(&src).into_iter().filter(|file| !file.to_string_lossy().ends_with("tests.rs")) {
        let inside = file.strip_prefix(&src).unwrap();
        let own = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if own == "lib" {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        if own != "testing" && names(&text).iter().any(|name| !name.starts_with(char::is_lowercase)) {
            // A list behind `crate::`, or a name re-exported at the root, hides where an import comes from.
            wrong.push(format!("{} imports from the root", inside.display()));
        }
        for import in imports(&text) {
            let allowed =
                import == own || floor(&import) < floor(&own) || NEIGHBOURS.contains(&(own.as_str(), import.as_str()));
            if !allowed {
                wrong.push(format!("{} imports {import}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_file_is_one_idea() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let long: Vec<_> = files(&root.join("src"))
        .into_iter()
        .map(|file| (std::fs::read_to_string(&file).unwrap().lines().count(), file))
        .filter(|(lines, _)| *lines > 400)
        .collect();
    assert!(long.is_empty(), "over 400 lines: {long:#?}");
}
