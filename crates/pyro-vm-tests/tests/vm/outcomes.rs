//! How a run ends: exit codes, JSON documents, time-outs, and pyro's own failures.

use pyro_vm_tests::{BASE, Host};
use serde_json::{Value, json};

/// The keys of CONTRACT.md, and those that are documented beside them.
const RUN_KEYS: [&str; 21] = [
    "accelerator",
    "cleanup",
    "command",
    "duration_ms",
    "environment",
    "environment_version",
    "execution_mode",
    "exit_code",
    "network_refusals",
    "network_refusals_left_out",
    "out_of_memory",
    "restore_failure",
    "stderr",
    "stderr_bytes",
    "stderr_truncated",
    "stdout",
    "stdout_bytes",
    "stdout_truncated",
    "timed_out",
    "vm_id",
    "vm_start",
];

/// What is kept of each output stream.
const CAPTURE_BYTES: usize = 1 << 20;

fn keys(document: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = document.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_exit_code_is_the_commands() {
    let host = Host::new();
    for code in [0, 1, 7, 255] {
        let outcome = host.run(&[], &["sh", "-c", &format!("exit {code}")]).outcome();
        assert_eq!(outcome.exit_code(), code, "{outcome:?}");
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn a_command_that_a_signal_killed_gives_128_and_the_signal() {
    let host = Host::new();
    for (signal, code) in [("TERM", 143), ("KILL", 137)] {
        let outcome = host.run(&[], &["sh", "-c", &format!("kill -{signal} $$")]).outcome();
        assert_eq!(outcome.exit_code(), code, "{outcome:?}");
    }
}

#[test]
fn a_command_that_does_not_exist_gives_127() {
    let outcome = Host::new().run(&[], &["no-such-program"]).outcome();
    assert_eq!(outcome.exit_code(), 127);
    assert!(outcome.stderr.contains("no-such-program: not found"), "{outcome:?}");
}

#[test]
fn words_reach_the_command_as_they_are() {
    let host = Host::new();
    assert_eq!(host.run(&[], &["sh", "-c", "echo $0", "hi"]).outcome().success(), "hi\n");
    let words = ["printf", r"<%s>\n", "a b", "", "'\"$HOME`id`\\", "*", "-n", "ä\n!"];
    let expected = "<a b>\n<>\n<'\"$HOME`id`\\>\n<*>\n<-n>\n<ä\n!>\n";
    assert_eq!(host.run(&[], &words).outcome().success(), expected);
}

#[test]
fn a_json_outcome_has_the_keys_of_the_contract() {
    let host = Host::new();
    let outcome = host.run(&["--json"], &["sh", "-c", "echo out; echo err >&2; exit 7"]).outcome();
    assert_eq!(outcome.exit_code(), 7);
    assert_eq!(outcome.stderr, "");
    let document = outcome.json();
    assert_eq!(keys(&document), RUN_KEYS);

    let vm_id = document["vm_id"].as_str().unwrap();
    assert!(vm_id.len() == 12 && vm_id.bytes().all(|byte| b"0123456789abcdef".contains(&byte)));
    assert!(document["duration_ms"].is_u64());
    let expected = json!({
        "environment": BASE,
        "stdout": "out\n",
        "stdout_bytes": 4,
        "stdout_truncated": false,
        "stderr": "err\n",
        "stderr_bytes": 4,
        "stderr_truncated": false,
        "exit_code": 7,
        "timed_out": false,
        "out_of_memory": false,
        "network_refusals": [],
        "network_refusals_left_out": 0,
        "execution_mode": "guest",
        "vm_start": "restored",
        "restore_failure": null,
        "cleanup": { "vm_id": vm_id, "deleted": true, "reason": "run_complete" },
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(document[key], *value, "{key}");
    }
}

#[test]
fn long_output_in_json_keeps_its_head_and_tail_around_a_marker() {
    let host = Host::new();
    let script = "echo first; head -c 50000000 /dev/zero | tr '\\0' x; echo; echo last";
    let document = host.run(&["--json"], &["sh", "-c", script]).outcome().json();
    let stdout = document["stdout"].as_str().unwrap();
    assert!(stdout.starts_with("first\nxxx"));
    assert!(stdout.ends_with("xxx\nlast\n"));
    let marker = format!("\n[... {} bytes left out ...]\n", 50_000_012 - CAPTURE_BYTES);
    assert_eq!(stdout.matches(&marker).count(), 1);
    assert_eq!(stdout.len(), CAPTURE_BYTES + marker.len());
    assert_eq!(document["stdout_bytes"], 50_000_012);
    assert_eq!(document["stdout_truncated"], true);
    assert_eq!(document["stderr_truncated"], false);
}

#[test]
fn a_time_out_keeps_the_output_and_ends_commands_that_ignore_signals() {
    let host = Host::new();
    let script = "trap '' TERM INT HUP
        setsid sh -c 'trap \"\" TERM; echo hidden; sleep 1000; sleep 1000' &
        wait_for_it() { read word < /tmp/fifo; }
        echo partial; echo complaint >&2; mkfifo /tmp/fifo; wait_for_it";
    let options = ["--json", "--timeout-seconds", "5"];
    let outcome = host.run(&options, &["sh", "-c", script]).outcome();
    assert_eq!(outcome.exit_code(), 124);
    let document = outcome.json();
    assert_eq!(document["exit_code"], 124);
    assert_eq!(document["timed_out"], true);
    assert!(document["stdout"].as_str().unwrap().contains("partial\n"), "{document:#}");
    assert_eq!(document["stderr"], "complaint\n");
    // Were the agent not to kill the command, its VM would be destroyed after ten seconds more.
    let duration_ms = document["duration_ms"].as_u64().unwrap();
    assert!((5_000..14_000).contains(&duration_ms), "{duration_ms}");
}

#[test]
fn a_time_out_ends_grandchildren_and_the_vm_goes_on() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    // Each starts the next, in a session of its own or not, and waits for it or not.
    let script = "
        sh -c 'setsid sh -c \"sleep 1001; true\" & sleep 1002 & sleep 1003; true' &
        (setsid nohup sleep 1004 > /dev/null 2>&1 &)
        echo partial; sleep 1005; true";
    let exec = ["exec", "--json", "--timeout-seconds", "3", &id, "--", "sh", "-c", script];
    let outcome = vms.vm(&exec).outcome();
    assert_eq!(outcome.exit_code(), 124, "{outcome:#?}");
    let document = outcome.json();
    assert_eq!((&document["timed_out"], &document["stdout"]), (&true.into(), &"partial\n".into()));
    // Whoever looks finds itself.
    let look = "grep -lasz ^100 /proc/[0-9]*/cmdline > /root/found; wc -l < /root/found";
    let found = vms.exec(&id, &format!("sh -c '{look}' 1009")).outcome();
    assert_eq!(found.success(), "1\n");
    vms.vm(&["delete", &id]).outcome().success();
}

#[test]
fn a_time_out_is_told_on_standard_error() {
    let host = Host::new();
    let outcome = host.run(&["--timeout-seconds", "1.5"], &["sleep", "1000"]).outcome();
    assert_eq!(outcome.exit_code(), 124);
    assert_eq!(outcome.stderr, "pyro: command ended after 1.5 seconds (--timeout-seconds)\n");
}

#[test]
fn a_vm_ends_with_its_time_to_live() {
    let host = Host::new();
    let options = ["--json", "--ttl-seconds", "60"];
    let error = host.run(&options, &["sleep", "1000"]).outcome().json_error();
    assert_eq!(error["code"], "vm_expired");
    let message = error["message"].as_str().unwrap();
    let vm_id = message.strip_prefix("vm '").unwrap();
    assert_eq!(&vm_id[12..], "' expired and was automatically deleted");
}

/// A command is one argument of the guest's shell, and Linux limits those to 128 KiB with a NUL byte.
/// It limits pyro's own arguments in the same way, so the command comes in two words.
#[test]
fn the_longest_command_runs_and_a_longer_one_is_refused() {
    let host = Host::new();
    let [first, second] = ["x".repeat(100_000), "y".repeat(31_065)];
    assert_eq!("echo ".len() + first.len() + " ".len() + second.len(), 128 * 1024 - 1);
    let outcome = host.run(&[], &["echo", &first, &second]).outcome();
    assert_eq!(outcome.success(), format!("{first} {second}\n"));

    let longer = second + "y";
    let error = host.run(&["--json"], &["echo", &first, &longer]).outcome().json_error();
    assert_eq!(error["code"], "invalid_input");
    assert_eq!(error["message"], "command must be at most 131071 bytes long, not 131072");
}
