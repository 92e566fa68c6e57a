//! Manual pages and completions, as they are packed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, pyro};

fn written() -> tempfile::TempDir {
    let share = tempfile::tempdir().unwrap();
    let outcome = pyro(&["internal", "write-pages", share.path().to_str().unwrap()]);
    assert_eq!(outcome.success(), "");
    share
}

fn manuals(share: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(share.join("man/man1")).unwrap();
    let mut pages: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    pages
}

#[test]
fn every_command_has_a_manual_page_and_what_is_hidden_has_none() {
    let share = written();
    let pages = manuals(share.path());
    let names: Vec<_> =
        pages.iter().map(|page| page.file_name().unwrap().to_str().unwrap()).collect();
    for name in ["pyro", "pyro-run", "pyro-vm", "pyro-vm-exec", "pyro-mcp-serve", "pyro-doctor"] {
        assert!(names.contains(&format!("{name}.1").as_str()), "{name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("internal")), "{names:?}");
    let doctor = fs_err::read_to_string(share.path().join("man/man1/pyro-doctor.1")).unwrap();
    assert!(doctor.contains(r"\-\-fix"), "{doctor}");
}

/// `man` comes with the prerequisites of the tests.
#[test]
fn man_shows_every_page_without_a_complaint() {
    let share = written();
    for page in manuals(share.path()) {
        let mut man = Command::new("man");
        man.args(["--warnings", "--local-file"]).arg(&page);
        let shown = Outcome::of(man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "100"));
        assert_eq!((shown.exit_code, shown.stderr.as_str()), (0, ""), "{}", page.display());
        assert!(shown.stdout.contains("SYNOPSIS"), "{}", shown.stdout);
    }
}

#[test]
fn completions_are_where_shells_look_for_them() {
    let share = written();
    let file = |name: &str| share.path().join(name);
    let bash = file("bash-completion/completions/pyro");
    let commands = format!(". '{}' && complete -p pyro", bash.display());
    let sourced = Outcome::of(Command::new("bash").args(["--norc", "-c", &commands]));
    assert!(sourced.success().contains("_pyro"), "{sourced:?}");
    for (shell, name) in
        [("zsh", "zsh/site-functions/_pyro"), ("fish", "fish/vendor_completions.d/pyro.fish")]
    {
        let script = fs_err::read_to_string(file(name)).unwrap();
        assert_eq!(script, pyro(&["completions", shell]).success(), "{shell}");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let outcome = pyro(&["internal", "write-pages", "/proc/no"]);
    assert_eq!(outcome.exit_code, 1);
    assert!(outcome.stderr.contains("/proc/no"), "{}", outcome.stderr);
}
