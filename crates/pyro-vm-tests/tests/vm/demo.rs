//! `pyro demo`: the life of a VM, which is over at the end, whatever happens before.

use std::net::{Ipv4Addr, TcpListener};

use pyro_vm_tests::{BASE, Host, Role, Vms};
use rustix::process::Signal;
use serde_json::{Value, json};

fn steps(report: &Value) -> Vec<&str> {
    let steps = report["steps"].as_array().unwrap();
    steps.iter().map(|step| step["name"].as_str().unwrap()).collect()
}

#[track_caller]
fn assert_no_vm(vms: &Vms<'_>) {
    assert_eq!(vms.vm(&["list", "--json"]).outcome().json(), json!({ "vms": [] }));
}

#[test]
fn a_demo_tells_the_life_of_a_vm_that_is_over_at_its_end() {
    let host = Host::new();
    let vms = host.vms();
    let outcome = vms.pyro(&["demo", "--environment", BASE]).outcome();
    let text = outcome.success();
    let heads: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(heads, ["create", "start", "exec", "stop", "delete", "done"], "{text}");
    assert!(text.contains("hello from pyro-"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn with_json_a_demo_is_one_document_of_what_each_command_prints() {
    let host = Host::new();
    let vms = host.vms();
    let report = vms.pyro(&["demo", "--environment", BASE, "--json"]).outcome().json();
    assert_eq!(steps(&report), ["create", "start", "exec", "stop", "delete"]);
    let of = |number: usize| &report["steps"][number]["outcome"];
    for (number, state) in [(0, "created"), (1, "started"), (3, "stopped")] {
        assert_eq!(of(number)["state"], state, "{report:#}");
        assert_eq!(of(number)["vm_id"], report["vm_id"]);
    }
    assert_eq!(of(2)["exit_code"], 0);
    assert_eq!(of(4)["reason"], "explicit_delete");
    assert_eq!(&report["cleanup"], of(4));
    assert_eq!(report["environment"], BASE);
    assert_eq!(report["network_enabled"], false);
    assert_eq!(report["network_probe"], json!(null));
    assert_no_vm(&vms);
}

#[test]
fn a_probe_finds_what_is_allowed_and_says_why_not_of_everything_else() {
    let host = Host::new();
    let vms = host.vms();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let open = listener.local_addr().unwrap().port();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let probe = |port: u16, options: &[&str]| {
        let target = format!("host.pyro.internal:{port}");
        let arguments = ["demo", "--environment", BASE, "--network", "--probe", &target, "--json"];
        let outcome = vms.pyro(&[&arguments[..], options].concat()).outcome();
        assert_eq!(outcome.exit_code(), 0, "{outcome:?}");
        let report = outcome.json();
        assert_eq!(steps(&report), ["create", "start", "exec", "network", "stop", "delete"]);
        assert_eq!(report["network_probe"]["target"], target);
        report["network_probe"].clone()
    };
    let reached = probe(open, &["--allow-cidr", "127.0.0.1"]);
    assert_eq!((&reached["reachable"], &reached["reason"]), (&json!(true), &json!(null)));
    let refused = probe(open, &[]);
    let reason = format!(
        "TCP to 127.0.0.1:{open} (host.pyro.internal) was refused: it is the host's own address"
    );
    assert_eq!((&refused["reachable"], &refused["reason"]), (&json!(false), &json!(reason)));
    let rule = format!("127.0.0.1:{open}");
    let allow_with = json!({ "allow_cidrs": [rule], "allow_public": true });
    assert_eq!(refused["allow_with"], allow_with);
    let nobody = probe(closed, &["--allow-cidr", "127.0.0.1"]);
    assert_eq!(
        (&nobody["reachable"], &nobody["reason"]),
        (&json!(false), &json!("Connection refused"))
    );
    assert_no_vm(&vms);
}

#[test]
fn a_probe_is_told_to_people_as_well() {
    let host = Host::new();
    let vms = host.vms();
    let arguments = ["demo", "--environment", BASE, "--network", "--probe", "10.1.2.3:80"];
    let outcome = vms.pyro(&arguments).outcome();
    let text = outcome.success();
    assert!(text.contains("10.1.2.3:80 is not reachable from inside:\n"), "{text}");
    assert!(text.contains("TCP to 10.1.2.3:80 was refused: it is a private address\n"), "{text}");
    assert!(text.contains("allow it: --allow-cidr 10.1.2.3:80 --allow-public\n"), "{text}");
}

#[test]
fn a_signal_at_any_step_leaves_no_vm() {
    let host = Host::new();
    let vms = host.vms();
    for (signal, code, moment) in [
        (Signal::INT, 130, "pyro: "),
        (Signal::TERM, 143, "create "),
        (Signal::HUP, 129, "start "),
        (Signal::INT, 130, "exec "),
        (Signal::TERM, 143, "stop "),
    ] {
        let running = vms.pyro(&["demo", "--environment", BASE, "--verbose"]).start();
        if moment == "pyro: " {
            running.wait_for_stderr(moment);
        } else {
            running.wait_for_stdout(moment);
        }
        running.signal(signal);
        let outcome = running.outcome();
        // It may have been done by then, but not where much was still to do.
        let is_late = moment == "stop " && outcome.exit_code() == 0;
        assert!(outcome.exit_code() == code || is_late, "{moment}: {outcome:?}");
        assert_no_vm(&vms);
    }
}

#[test]
fn an_error_in_the_middle_leaves_no_vm() {
    let host = Host::new();
    let vms = host.vms();
    let running = vms.pyro(&["demo", "--environment", BASE]).start();
    running.wait_for_stdout("create ");
    // Gone before it can be used.
    vms.process(Role::Supervisor).kill();
    let outcome = running.outcome();
    assert_eq!(outcome.exit_code(), 1, "{outcome:?}");
    assert!(outcome.stderr.starts_with("error: `"), "{outcome:?}");
    assert!(outcome.stderr.contains("` failed\n"), "{outcome:?}");
    assert_no_vm(&vms);
}

#[test]
fn an_error_while_the_vm_lives_leaves_no_vm() {
    let host = Host::new();
    let vms = host.vms();
    let running = vms.pyro(&["demo", "--environment", BASE]).start();
    running.wait_for_stdout("create ");
    // Meanwhile somebody else changes the state that the next step relies on, whether it has begun or not.
    running.signal(Signal::STOP);
    let list = vms.vm(&["list", "--json"]).outcome().json();
    let id = list["vms"][0]["vm_id"].as_str().unwrap();
    if vms.vm(&["start", id]).outcome().exit_code() != 0 {
        vms.vm(&["stop", id]).outcome().success();
    }
    running.signal(Signal::CONT);
    let outcome = running.outcome();
    assert_eq!(outcome.exit_code(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains("` failed\n"), "{outcome:?}");
    assert_no_vm(&vms);
}

#[test]
fn a_reader_that_goes_leaves_no_vm() {
    let host = Host::new();
    let vms = host.vms();
    let (running, stdout) = vms.pyro(&["demo", "--environment", BASE]).start_unread();
    drop(stdout);
    let outcome = running.outcome();
    assert_eq!((outcome.exit_code(), outcome.stderr.as_str()), (141, ""));
    assert_no_vm(&vms);
}
