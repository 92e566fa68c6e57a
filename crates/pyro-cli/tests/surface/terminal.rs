//! Colours: for people at a terminal who did not say no.

use std::process::Command;

use crate::{Outcome, pyro, pyro_with};

const ESCAPE: char = '\x1b';

/// What `pyro env list` prints on a terminal.
fn on_a_terminal(variables: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command"])
        .arg(format!("{} env list", env!("CARGO_BIN_EXE_pyro")))
        .arg("/dev/null")
        .env_clear()
        .env("HOME", home.path())
        .env("TERM", "xterm")
        .envs(variables.iter().copied());
    let outcome = Outcome::of(&mut script);
    assert_eq!(outcome.exit_code, 0, "{outcome:#?}");
    outcome.stdout
}

#[test]
fn a_terminal_gets_colours_unless_they_are_not_wanted() {
    let coloured = on_a_terminal(&[]);
    assert!(coloured.contains(ESCAPE), "{coloured:?}");
    let plain = on_a_terminal(&[("NO_COLOR", "1")]);
    assert!(plain.contains("debian:12-base") && !plain.contains(ESCAPE), "{plain:?}");
}

#[test]
fn whatever_is_no_terminal_gets_plain_text() {
    let calls: [&[&str]; 5] =
        [&["env", "list"], &["doctor"], &["--help"], &["run", "x", "--", "true"], &["bogus"]];
    for arguments in calls {
        let Outcome { stdout, stderr, .. } = pyro(arguments);
        assert!(!stdout.contains(ESCAPE) && !stderr.contains(ESCAPE), "{arguments:?}");
    }
}

#[test]
fn colours_can_be_forced() {
    assert!(pyro_with(&[("CLICOLOR_FORCE", "1")], &["env", "list"]).stdout.contains(ESCAPE));
}
