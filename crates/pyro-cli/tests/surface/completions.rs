//! Completion scripts, in the shells they are for.

use std::io::Write;
use std::process::Command;

use crate::{Outcome, pyro};

/// Parses `script` with the real shell, without executing it.
fn assert_parses(shell: &str, script: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(script.as_bytes()).unwrap();
    let outcome = Outcome::of(Command::new(shell).arg("-n").arg(file.path()));
    assert_eq!((outcome.exit_code, outcome.stderr.as_str()), (0, ""), "{shell}");
}

fn is_installed(shell: &str) -> bool {
    Command::new(shell).arg("--version").output().is_ok()
}

#[test]
fn bash_completes_commands_options_and_shells() {
    let script = pyro(&["completions", "bash"]);
    assert_parses("bash", script.success());
    let complete = |words: &[&str]| {
        let typed = words.join(" ");
        let last = words.len() - 1;
        let commands = format!(
            "{}\nCOMP_WORDS=({typed})\nCOMP_CWORD={last}\n_pyro pyro {} {}\necho \"${{COMPREPLY[@]}}\"",
            script.stdout,
            words[last],
            words[last - 1]
        );
        Outcome::of(Command::new("bash").args(["--norc", "-c", &commands])).stdout
    };
    assert_eq!(complete(&["pyro", "do"]), "doctor\n");
    assert_eq!(complete(&["pyro", "env", "in"]), "inspect\n");
    let allow = "--allow-host-compat --allow-host --allow-cidr --allow-public\n";
    assert_eq!(complete(&["pyro", "run", "--allow"]), allow);
    assert_eq!(complete(&["pyro", "completions", "zs"]), "zsh\n");
}

/// Debian has neither shell by default; what they are given is looked at in any case.
#[test]
fn zsh_and_fish_get_scripts_with_every_command() {
    for shell in ["zsh", "fish"] {
        let outcome = pyro(&["completions", shell]);
        let script = outcome.success();
        for word in ["run", "env", "doctor", "completions", "timeout-seconds", "inspect"] {
            assert!(script.contains(word), "{shell} does not know `{word}`");
        }
        if is_installed(shell) {
            assert_parses(shell, script);
        }
    }
}

#[test]
fn what_is_hidden_is_not_completed() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(!pyro(&["completions", shell]).success().contains("supervise"), "{shell}");
    }
}
