//! Commands that harm their guest: they harm nothing else, and the run ends with a clear word.

use pyro_vm_tests::Host;

#[test]
fn a_fork_bomb_ends_by_its_time_out_with_the_agent_alive() {
    let host = Host::new();
    let script = "bomb() { bomb | bomb & }; echo lit; bomb 2> /dev/null; exec sleep 1000";
    let options = ["--json", "--timeout-seconds", "10"];
    let outcome = host.run(&options, &["bash", "-c", script]).outcome();
    assert_eq!(outcome.exit_code(), 124, "{outcome:?}");
    let document = outcome.json();
    assert_eq!(document["stdout"], "lit\n");
    // The supervisor destroys a VM whose agent has not ended the command ten seconds later.
    let duration_ms = document["duration_ms"].as_u64().unwrap();
    assert!((10_000..20_000).contains(&duration_ms), "{duration_ms}");
}

#[test]
fn a_command_that_takes_all_memory_is_killed_and_the_outcome_says_why() {
    let host = Host::new();
    let options = ["--json", "--mem-mib", "256"];
    let outcome = host.run(&options, &["tail", "/dev/zero"]).outcome();
    assert_eq!(outcome.exit_code(), 137, "{outcome:?}");
    assert_eq!(outcome.json()["out_of_memory"], true);
}

#[test]
fn a_guest_that_crashes_is_a_lost_vm() {
    let host = Host::new();
    for trigger in ["c", "b"] {
        let script = format!("echo {trigger} > /proc/sysrq-trigger; sleep 1000");
        let error = host.run(&["--json"], &["sh", "-c", &script]).outcome().json_error();
        assert_eq!(error["code"], "vm_lost", "{error:#}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("vm '") && message.ends_with("' is lost"), "{message}");
        assert!(error["causes"][0].as_str().unwrap().starts_with("the machine stopped"));
    }
}

#[test]
fn a_guest_that_powers_off_is_a_lost_vm() {
    let host = Host::new();
    let script = "echo o > /proc/sysrq-trigger; sleep 1000";
    let outcome = host.run(&[], &["sh", "-c", script]).outcome();
    assert_eq!(outcome.exit_code(), 125);
    assert!(outcome.stderr.contains("is lost"), "{}", outcome.stderr);
}

#[test]
fn no_signal_of_a_command_ends_the_agent() {
    let script = "for signal in KILL SEGV ABRT TERM INT STOP; do kill -$signal 1; done; echo alive";
    assert_eq!(Host::new().shell(script), "alive\n");
}
