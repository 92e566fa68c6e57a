//! What commands of a VM wrote is kept until the VM is deleted.

use pyro_vm_tests::{Host, Role, Vms};
use serde_json::Value;

fn runs(vms: &Vms<'_>, id: &str) -> Vec<Value> {
    let list = vms.vm(&["logs", "--json", id]).outcome();
    assert_eq!(list.exit_code(), 0, "{list:#?}");
    list.json()["runs"].as_array().unwrap().clone()
}

#[test]
fn what_a_command_wrote_is_found_byte_by_byte_whoever_asks_and_after_a_stop() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    let exec = vms.vm(&[
        "exec",
        "--json",
        &id,
        "--",
        "sh",
        "-c",
        r"printf 'a\377\0b'; echo e >&2; exit 3",
    ]);
    assert_eq!(exec.outcome().json()["run_id"], 1);
    vms.exec(&id, "true").outcome().success();
    vms.vm(&["stop", &id]).outcome().success();
    let log = vms.vm(&["logs", &id, "1"]).outcome();
    assert_eq!((log.exit_code(), &log.stdout[..], &log.stderr[..]), (0, &b"a\xff\0b"[..], "e\n"));
    let log = vms.vm(&["logs", "--json", &id, "1"]).outcome().json();
    assert_eq!((&log["stdout"], &log["exit_code"]), (&"a\u{fffd}\0b".into(), &3.into()));
    let runs = runs(&vms, &id);
    assert_eq!(runs.len(), 2);
    assert_eq!((&runs[1]["run_id"], &runs[1]["state"]), (&2.into(), &"ended".into()));
    assert_eq!((&runs[0]["stdout_bytes"], &runs[0]["stdout_kept_bytes"]), (&4.into(), &4.into()));
    let missing = vms.vm(&["logs", "--json", &id, "3"]).outcome();
    assert_eq!(missing.json()["error"]["code"], "invalid_input");
    vms.vm(&["delete", &id]).outcome().success();
    let gone = vms.vm(&["logs", "--json", &id]).outcome();
    assert_eq!(gone.json()["error"]["code"], "unknown_vm");
}

#[test]
fn a_command_is_found_while_it_runs_and_says_how_it_ended() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    let endless = || {
        let running = vms.exec(&id, "echo started; sleep 1000; true").start();
        running.wait_for_stdout("started\n");
        running
    };
    let running = endless();
    let found = runs(&vms, &id);
    assert_eq!((&found[0]["state"], &found[0]["exit_code"]), (&"running".into(), &Value::Null));
    assert_eq!(vms.vm(&["logs", &id, "1"]).outcome().success(), "started\n");
    running.kill();
    // By then the supervisor has seen that its client is gone.
    vms.exec(&id, "while pgrep -x sleep; do sleep 0.1; done").outcome();
    let running = endless();
    vms.process(Role::Qemu).kill();
    assert_eq!(running.outcome().exit_code(), 125);
    let found = runs(&vms, &id);
    assert_eq!((&found[0]["state"], &found[0]["exit_code"]), (&"ended".into(), &137.into()));
    assert_eq!((&found[2]["state"], &found[2]["exit_code"]), (&"failed".into(), &Value::Null));
    assert!(found[2]["failure"].as_str().unwrap().contains("is lost"), "{found:#?}");
    assert_eq!(vms.vm(&["logs", &id, "3"]).outcome().success(), "started\n");
    vms.vm(&["delete", &id]).outcome().success();
}

#[test]
fn of_a_flood_the_beginning_is_kept_and_the_rest_is_counted() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    let flood = vms.exec(&id, "echo first; head -c 100000000 /dev/zero").outcome();
    assert_eq!(flood.stdout.len(), 100_000_006);
    let run = &runs(&vms, &id)[0];
    assert_eq!(run["stdout_bytes"], 100_000_006);
    let kept_bytes = run["stdout_kept_bytes"].as_u64().unwrap();
    // Whole pieces are kept, of 32 KiB at most.
    let limit = 64 << 20;
    assert!((limit - (32 << 10)..=limit).contains(&kept_bytes), "{kept_bytes}");
    let log = vms.vm(&["logs", &id, "1"]).outcome();
    assert!(log.stdout.starts_with(b"first\n\0\0"));
    assert_eq!(log.stdout.len() as u64, kept_bytes);
    let said = format!("pyro: of 100000006 bytes of output the first {kept_bytes} are kept\n");
    assert_eq!(log.stderr, said);
    vms.vm(&["delete", &id]).outcome().success();
}
