//! Rules for single files.

use std::path::Path;

use super::Finding;
use super::tree::File;

const LINES_MAX: usize = 600;

/// The words this file looks for are put together here, so that it does not find itself.
const UNSAFE_WORDS: [&str; 5] = [
    concat!("un", "safe {"),
    concat!("un", "safe fn"),
    concat!("un", "safe impl"),
    concat!("un", "safe extern"),
    concat!("allow(un", "safe_code"),
];

const ENVIRONMENT_READERS: [&str; 3] =
    [concat!("env::", "var("), concat!("env::", "var_os("), concat!("env::", "vars")];

/// Registries and mirrors. Which one to use is the host's configuration or the user's choice.
const HOSTS: [&str; 10] = [
    concat!("debian", ".org"),
    concat!("ubuntu", ".com"),
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("docker", ".io"),
    concat!("docker", ".com"),
    concat!("ghcr", ".io"),
    concat!("quay", ".io"),
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let mut findings = check_hosts(file);
    if file.has_extension("rs") {
        findings.extend(check_length(file));
        findings.extend(check_opening(file));
        findings.extend(check_unsafe(file));
        findings.extend(check_environment(file));
    }
    findings
}

fn check_length(file: &File) -> Option<Finding> {
    let lines = file.text.lines().count();
    (lines > LINES_MAX).then(|| Finding {
        place: file.path.clone(),
        problem: format!("has {lines} lines, more than {LINES_MAX}"),
        reason: "a file has one subject; split it where the subject changes",
    })
}

fn check_opening(file: &File) -> Option<Finding> {
    let opens_well = file.text.starts_with("//!") || file.text.starts_with("#!");
    (!opens_well).then(|| Finding {
        place: file.path.clone(),
        problem: "does not begin with `//!`".to_owned(),
        reason: "whoever opens a file for the first time is told what it is for",
    })
}

fn check_unsafe(file: &File) -> Vec<Finding> {
    if file.name() == "sys.rs" {
        return Vec::new();
    }
    let reason = "code that the compiler cannot check lies where reviewers look for it";
    lines_with(file, &UNSAFE_WORDS, "belongs into a file named `sys.rs`", reason)
}

fn check_environment(file: &File) -> Vec<Finding> {
    let reads_rightly = file.path == "crates/pyro-core/src/config.rs"
        || file.name() == "build.rs"
        || file.path.starts_with("xtask/")
        || file.path.starts_with("crates/pyro-vm-tests/")
        || file.path.contains("/tests/");
    if reads_rightly {
        return Vec::new();
    }
    let reason = "configuration has one place, so that its document can be complete";
    lines_with(
        file,
        &ENVIRONMENT_READERS,
        "only pyro-core's config.rs reads the environment",
        reason,
    )
}

fn check_hosts(file: &File) -> Vec<Finding> {
    // Cargo's lock files name the index of every package.
    if file.name() == "Cargo.lock" {
        return Vec::new();
    }
    let reason = "mirrors and registries are the host's or the user's choice, not ours";
    lines_with(file, &HOSTS, "names a mirror or registry", reason)
}

/// Finds the place of this checkout in its own files.
pub(super) fn check_private_paths(files: &[File], root: &Path) -> Vec<Finding> {
    // In a directory like `/src` the path would be found in harmless places.
    if root.components().count() < 3 {
        return Vec::new();
    }
    let path = root.to_string_lossy();
    let reason = "a path of one machine means nothing on another";
    let found = files
        .iter()
        .flat_map(|file| lines_with(file, &[&path], "names a directory of this machine", reason));
    found.collect()
}

/// A finding for every line that holds one of `words` outside a comment.
fn lines_with(file: &File, words: &[&str], problem: &str, reason: &'static str) -> Vec<Finding> {
    let is_rust = file.has_extension("rs");
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let code = if is_rust { line.split("// ").next().unwrap_or(line) } else { line };
        if let Some(word) = words.iter().find(|word| code.contains(**word)) {
            findings.push(Finding {
                place: format!("{}:{}", file.path, index + 1),
                problem: format!("`{}`: {problem}", word.trim()),
                reason,
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    fn places(path: &str, text: &str) -> Vec<String> {
        check(&file(path, text)).into_iter().map(|finding| finding.place).collect()
    }

    #[test]
    fn a_file_that_is_too_long_or_says_nothing_of_itself_is_found() {
        let long = format!("//! Long.\n{}", "\n".repeat(LINES_MAX));
        assert_eq!(places("a.rs", &long), ["a.rs"]);
        assert_eq!(places("a.rs", "fn main() {}\n"), ["a.rs"]);
        assert!(places("a.rs", "//! Good.\n").is_empty());
    }

    #[test]
    fn code_the_compiler_cannot_check_is_found_outside_its_files() {
        let text = format!("//! X.\n{} read() }}\n", UNSAFE_WORDS[0]);
        assert_eq!(places("crates/a/src/b.rs", &text), ["crates/a/src/b.rs:2"]);
        assert!(places("crates/a/src/sys.rs", &text).is_empty());
    }

    #[test]
    fn the_environment_is_read_in_one_place() {
        let text = format!("//! X.\nstd::{}\"HOME\");\n", ENVIRONMENT_READERS[0]);
        assert_eq!(places("crates/pyro-cli/src/main.rs", &text), ["crates/pyro-cli/src/main.rs:2"]);
        assert!(places("crates/pyro-core/src/config.rs", &text).is_empty());
        assert!(places("crates/pyro-cli/tests/run.rs", &text).is_empty());
    }

    #[test]
    fn a_mirror_is_found_in_any_file_but_cargos_own() {
        let text = format!("deb http://deb.{}/debian bookworm main\n", HOSTS[0]);
        assert_eq!(places("docs/a.md", &text), ["docs/a.md:1"]);
        assert!(places("Cargo.lock", &text).is_empty());
    }

    #[test]
    fn the_place_of_the_checkout_is_found() {
        let files = [file("a.md", "cd /home/ada/pyro\n"), file("b.md", "cd pyro\n")];
        let found = check_private_paths(&files, Path::new("/home/ada/pyro"));
        assert_eq!(found.len(), 1);
        assert!(check_private_paths(&files, Path::new("/pyro")).is_empty());
    }
}
