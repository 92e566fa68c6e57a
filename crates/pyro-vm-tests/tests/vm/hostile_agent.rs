//! An agent that lies, stalls and dies: whatever it does ends in a clear word, soon, with nothing left.
//!
//! In QEMU's place runs the program of `src/bin/hostile-guest`, with the real client, the real
//! supervisor and the real confinement around it.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use pyro_vm_tests::{Host, Outcome, Pyro};
use serde_json::Value;

/// Where everything is but QEMU.
const TOOL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// From the start of `pyro` to its end, where nothing has to be waited for. The longest wait in it is
/// for a guest that closed its port to end: 2 seconds.
const PROMPT: Duration = Duration::from_secs(8);

/// What an error may say in all, in bytes.
const WORDS_MAX: usize = 8 * 1024;

/// How long the supervisor waits for a run to end that it has ended.
const KILL_GRACE_MS: u64 = 10_000;

/// At how many places a conversation is cut off.
const DEATHS: usize = 24;

#[test]
fn an_agent_that_breaks_the_boot_is_a_failed_start() {
    let host = Host::new();
    let garbled = "the other side sent what is no frame";
    let unexpected = "the guest's agent answered with an unexpected message";
    let cases = [
        ("dies before the greeting", "QEMU ended during the boot (signal: "),
        ("exits with many last words", "QEMU ended during the boot (exit status: 3)"),
        ("greets with another nonce, and dies", "QEMU ended during the boot (signal: "),
        ("greets in another version", "the other side speaks version 2, this side speaks 1"),
        ("greets never, and talks without end", "no greeting within 16777216 bytes"),
        ("talks junk after the greeting", "frame kind 255 is unknown"),
        ("closes the port before the greeting", "the other side closed the connection"),
        ("dies instead of being ready", "the other side closed the connection"),
        ("closes the port instead of being ready", "the other side closed the connection"),
        ("says something else instead of being ready", unexpected),
        ("has written a file before it is ready", unexpected),
        ("starts a run before it is ready", unexpected),
        ("sends output before it is ready", unexpected),
        ("sends a message of 4 GiB before it is ready", "frame of 4294967295 bytes is longer"),
        ("sends no message before it is ready", garbled),
        ("gives up with many words before it is ready", "the guest's agent gave up: "),
        ("claims a text that is longer than its message", garbled),
        ("claims more phases than its message holds", garbled),
    ];
    for (case, cause) in cases {
        let error = error_of(&host, case);
        assert_eq!(error["code"], "vm_start_failed", "{case}: {error:#}");
        assert_eq!(error["message"], "cannot boot the VM", "{case}");
        assert!(error["causes"].to_string().contains(cause), "{case}: {error:#}");
    }
}

#[test]
fn an_agent_that_breaks_the_protocol_is_a_lost_vm() {
    let host = Host::new();
    let garbled = "the guest's agent broke the protocol";
    let too_long = "frame of 4294967295 bytes is longer than the limit";
    let beyond_credit = "the guest's agent sent more than it may";
    let no_run = "the guest's agent spoke of a run that does not exist";
    let out_of_turn = "the guest's agent sent a message out of turn";
    let impossible = "the guest's agent told of an end by signal";
    let cases = [
        ("fails to start another run", no_run),
        ("starts another run", no_run),
        ("claims the exit of a run that never started", out_of_turn),
        ("sends output of a run that never started", out_of_turn),
        ("takes input of a run that never started", out_of_turn),
        ("sends a message of 4 GiB", too_long),
        ("sends a chunk of 4 GiB", too_long),
        ("sends no message", garbled),
        ("sends a frame of an unknown kind", "frame kind 99 is unknown"),
        ("sends more than it may", beyond_credit),
        ("sends nothing as output", out_of_turn),
        ("sends output of no run", no_run),
        ("sends input", out_of_turn),
        ("starts twice", out_of_turn),
        ("fails to start what it has started", out_of_turn),
        ("claims the exit of no run", no_run),
        ("claims an end by signal 0", impossible),
        ("claims an end by signal 255", impossible),
        ("takes no input", out_of_turn),
        ("takes more input than there is", beyond_credit),
        ("is ready twice", out_of_turn),
        ("gives a sign of life unasked", out_of_turn),
        ("has written a file that nobody gave", out_of_turn),
        ("says goodbye unasked", out_of_turn),
        ("gives up with many words", "the guest's agent gave up: "),
        ("gives up with more words than a frame holds", "is longer than the limit"),
    ];
    for (case, cause) in cases {
        let error = error_of(&host, case);
        assert_is_lost_vm(case, &error);
        assert!(error["causes"].to_string().contains(cause), "{case}: {error:#}");
    }
}

#[test]
fn a_machine_that_breaks_its_network_is_a_lost_vm() {
    let host = Host::new();
    let case = "sends packets longer than any";
    let outcome = outcome_of(pyro_with(&host, &["--network", "--json"], case), case);
    let error = outcome.json_error();
    assert_is_lost_vm(case, &error);
    let cause = "the VM's network broke down over what the guest had sent";
    assert_eq!(error["causes"][0], cause, "{error:#}");
}

#[test]
fn a_machine_that_ends_or_falls_silent_during_a_run_is_a_lost_vm() {
    let host = Host::new();
    let cases = [
        ("sends half a frame and dies", "the machine stopped (signal: "),
        ("closes the port and lives on", "the other side closed the connection"),
        ("dies", "the machine stopped (signal: "),
        ("exits as if all were well", "the machine stopped (exit status: 0)"),
        ("dies with many last words", "its last lines: "),
    ];
    for (case, cause) in cases {
        let error = error_of(&host, case);
        assert_is_lost_vm(case, &error);
        assert!(error["causes"].to_string().contains(cause), "{case}: {error:#}");
    }
}

#[test]
fn a_guest_that_dies_anywhere_in_a_conversation_is_never_an_outcome() {
    let host = Host::new();
    // Most of the conversation is output, and most of what can go wrong is before it.
    let lengths = std::iter::successors(Some(1_usize), |length| Some(length * 8 / 5 + 1));
    for length in lengths.take(DEATHS) {
        let case = format!("dies after bytes {length}");
        let error = error_of(&host, &case);
        let code = error["code"].as_str().unwrap();
        assert!(["vm_start_failed", "vm_lost"].contains(&code), "{case}: {error:#}");
    }
}

#[test]
fn a_command_that_an_agent_cannot_start_is_refused_in_short_clean_words() {
    let host = Host::new();
    let error = error_of(&host, "fails to start with many words");
    assert_eq!(error["code"], "invalid_input", "{error:#}");
    assert_eq!(error["message"], "cannot start the command");
}

#[test]
fn lies_that_are_none_of_the_runs_change_nothing() {
    let host = Host::new();
    let cases = [
        "talks junk before the greeting, and then behaves",
        "reports a boot of many words, and then behaves",
        "exits twice",
        "sends output after the exit",
    ];
    for case in cases {
        let outcome = outcome_of(pyro_with(&host, &["--verbose"], case), case);
        assert_eq!(outcome.exit_code(), 7, "{case}: {outcome:?}");
        assert_eq!(outcome.text(), "", "{case}");
        let said = &outcome.stderr;
        assert!(!said.contains(|char: char| char.is_control() && char != '\n'), "{case}: {said:?}");
    }
}

#[test]
fn a_run_that_an_agent_never_starts_is_timed_out() {
    assert_is_timed_out("never starts the run");
}

#[test]
fn a_run_that_an_agent_never_ends_is_timed_out() {
    assert_is_timed_out("never ends the run");
}

/// `pyro run` with the stand-in in QEMU's place.
pub(crate) fn pyro_with(host: &Host, options: &[&str], case: &str) -> Pyro {
    let directory = host.directory().join(case.replace(' ', "-"));
    fs_err::create_dir_all(&directory).unwrap();
    // Who is confined is nobody.
    fs_err::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
    fs_err::write(directory.join("case"), case).unwrap();
    // A link would lead to where a confined program sees nothing.
    let program = directory.join("qemu-system-x86_64");
    fs_err::copy(env!("CARGO_BIN_EXE_hostile-guest"), program).unwrap();
    let path = format!("{}:{TOOL_PATH}", directory.display());
    host.run(options, &["true"]).variable("PYRO_START", "boot").variable("PATH", &path)
}

/// The error in which `case` ends, soon and in few and clean words.
fn error_of(host: &Host, case: &str) -> Value {
    let outcome = outcome_of(pyro_with(host, &["--json"], case), case);
    let error = outcome.json_error();
    let texts = [&error["causes"], &error["hints"]].map(|list| list.as_array().unwrap().clone());
    let texts: Vec<_> = texts.concat().into_iter().chain([error["message"].clone()]).collect();
    for text in &texts {
        let text = text.as_str().unwrap();
        assert!(!text.contains(|char: char| char.is_control() && char != '\n'), "{case}: {text:?}");
    }
    let bytes: usize = texts.iter().map(|text| text.as_str().unwrap().len()).sum();
    assert!(bytes < WORDS_MAX, "{case}: {bytes}");
    error
}

fn outcome_of(pyro: Pyro, case: &str) -> Outcome {
    let started = Instant::now();
    let outcome = pyro.outcome();
    let took = started.elapsed();
    assert!(took < PROMPT, "{case}: {took:?}");
    outcome
}

fn assert_is_lost_vm(case: &str, error: &Value) {
    assert_eq!(error["code"], "vm_lost", "{case}: {error:#}");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("vm '") && message.ends_with("' is lost"), "{case}: {message}");
}

fn assert_is_timed_out(case: &str) {
    let options = ["--json", "--timeout-seconds", "1"];
    let outcome = pyro_with(&Host::new(), &options, case).outcome();
    assert_eq!(outcome.exit_code(), 124, "{case}: {outcome:?}");
    let document = outcome.json();
    assert_eq!(document["timed_out"], true, "{case}");
    let duration_ms = document["duration_ms"].as_u64().unwrap();
    let expected = 1000 + KILL_GRACE_MS..1000 + KILL_GRACE_MS + 2000;
    assert!(expected.contains(&duration_ms), "{case}: {duration_ms}");
}
