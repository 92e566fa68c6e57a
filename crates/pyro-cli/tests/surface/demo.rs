//! `pyro demo` without a VM: what is refused before anything is begun.

use std::fs::File;
use std::process::Command;

use crate::{Outcome, pyro, pyro_with};

#[test]
fn a_demo_that_makes_no_sense_says_why() {
    for (arguments, code, message) in [
        (&["--probe", "example.com"][..], 2, "the following required arguments were not provided:"),
        (
            &["--network", "--probe", "example.com:0"],
            2,
            "invalid value 'example.com:0' for '--probe <HOST[:PORT]>': the port must be between 1 and 65535; write a \
             host and a port, for instance example.com:443",
        ),
        (&["-v", "ollama"], 2, "the subcommand 'ollama' cannot be used with '--verbose'"),
        (
            &["--environment", "x"],
            1,
            "unknown environment 'x'; expected one of: debian:12, debian:12-base, debian:12-build",
        ),
        (&["--host-ca"], 1, "host_ca needs a network"),
    ] {
        let outcome = pyro(&[&["demo"], arguments].concat());
        assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (code, ""), "{outcome:#?}");
        assert_eq!(outcome.stderr.lines().next(), Some(&*format!("error: {message}")));
    }
    let outcome = pyro(&["demo", "--json", "--environment", "x"]);
    assert_eq!(outcome.exit_code, 1);
    assert_eq!(outcome.json()["error"]["code"], "unknown_environment");
}

#[test]
fn a_model_that_makes_no_sense_is_refused_and_the_summary_says_so() {
    for (arguments, message) in [
        (
            &["--base-url", "localhost:11434"][..],
            "base_url must be the URL of an endpoint, not 'localhost:11434': it does not begin with http:// or https://",
        ),
        (&["--base-url", "http://me:secret@localhost"], "base_url must have no password in it"),
        (&["--model", ""], "model must not be empty"),
        (&["--timeout-seconds", "0"], "timeout_seconds must be positive, not 0"),
    ] {
        let outcome = pyro(&[&["demo", "ollama"], arguments].concat());
        assert_eq!(outcome.exit_code, 1, "{outcome:#?}");
        let start = "[summary] status=failed exit_code=none execution_mode=none tool_calls=0 rounds=0 seconds=";
        assert!(outcome.stdout.starts_with(start), "{outcome:#?}");
        assert_eq!(outcome.stdout.lines().count(), 1);
        assert_eq!(outcome.stderr.lines().next(), Some(&*format!("error: {message}")));
        assert!(!outcome.stderr.contains("secret"), "{outcome:#?}");
    }
    let key = [("OPENAI_API_KEY", "sec\nret")];
    let outcome = pyro_with(&key, &["demo", "ollama"]);
    assert!(outcome.stderr.starts_with("error: OPENAI_API_KEY has characters"), "{outcome:#?}");
    assert!(!outcome.stderr.contains("ret\n"), "{outcome:#?}");
}

#[test]
fn lines_that_cannot_be_written_are_an_error() {
    let home = tempfile::tempdir().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pyro"));
    command.args(["demo", "ollama"]).env_clear().env("HOME", home.path()).stdout(full);
    command.args(["--base-url", "http://127.0.0.1:1/v1"]);
    let outcome = Outcome::of(&mut command);
    assert_eq!(outcome.exit_code, 1, "{outcome:#?}");
    assert!(outcome.stderr.contains("No space left on device"), "{outcome:#?}");
}
