//! VMs that were restored ahead, and those who claim them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pyro_vm_tests::{BASE, Host, Process, Role, Running, Vms};
use serde_json::Value;

/// A QEMU dies with its supervisor, and that with whom it belongs to.
const SOON: Duration = Duration::from_mins(1);

fn warm(vms: &Vms<'_>, options: &[&str]) {
    let arguments = ["warm", BASE, "--for", "10m", "--quiet"];
    vms.pyro(&[&arguments, options].concat()).outcome().success();
}

fn status(vms: &Vms<'_>) -> Value {
    vms.pyro(&["warm", "--status", "--json"]).outcome().json()
}

fn stop(vms: &Vms<'_>) {
    vms.pyro(&["warm", "--stop"]).outcome().success();
    assert_eq!(status(vms)["spares"], serde_json::json!([]));
}

fn run(vms: &Vms<'_>, options: &[&str], script: &str) -> Value {
    let arguments = ["run", BASE, "--json", "--timeout-seconds", "600"];
    let words = ["--", "sh", "-c", script];
    vms.pyro(&[&arguments, options, &words].concat()).outcome().json()
}

fn supervisors(vms: &Vms<'_>) -> Vec<Process> {
    vms.processes(Role::Supervisor)
}

#[test]
fn a_run_claims_a_spare_that_fits_and_no_other() {
    let host = Host::for_vms(3);
    let vms = host.vms();
    warm(&vms, &[]);
    assert_eq!(status(&vms)["spares"][0]["environment"], BASE);
    let other_shape = run(&vms, &["--mem-mib", "512"], "true");
    assert_eq!(other_shape["vm_start"], "restored");
    let with_network = run(&vms, &["--network"], "true");
    assert_eq!(with_network["vm_start"], "restored");
    let booted = vms.pyro(&["run", BASE, "--json", "--", "true"]).variable("PYRO_START", "boot");
    assert_eq!(booted.outcome().json()["vm_start"], "booted");
    let claimed = run(&vms, &[], "echo $((6 * 7)); exit 3");
    assert_eq!((&claimed["vm_start"], &claimed["exit_code"]), (&"spare".into(), &3.into()));
    assert_eq!(claimed["stdout"], "42\n");
    stop(&vms);
}

#[test]
fn each_spare_is_used_once_however_many_come_for_it() {
    let host = Host::for_vms(8);
    let vms = host.vms();
    warm(&vms, &["--count", "2"]);
    // Until all have a VM none ends, so no replacement can be claimed.
    let script = "cat /etc/machine-id /proc/sys/kernel/random/uuid; hostname; date +%s; read go";
    let words = ["run", BASE, "--verbose", "--timeout-seconds", "600", "--", "sh", "-c", script];
    let mut runs: Vec<_> = (0..8).map(|_| vms.pyro(&words).start()).collect();
    for run in &runs {
        run.wait_for_stdout("pyro-");
    }
    for run in &mut runs {
        run.send("go\n");
    }
    let outcomes: Vec<_> = runs.into_iter().map(Running::outcome).collect();
    let spares = outcomes.iter().filter(|outcome| outcome.stderr.contains("a spare)"));
    assert_eq!(spares.count(), 2);
    let identities: BTreeSet<_> = outcomes
        .iter()
        .flat_map(|outcome| {
            outcome.success().lines().take(3).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(identities.len(), 24, "{identities:#?}");
    stop(&vms);
}

#[test]
fn the_clock_of_a_spare_is_right_however_long_it_stood_still() {
    let host = Host::for_vms(1);
    let vms = host.vms();
    warm(&vms, &[]);
    // Of a VM restored from an old template the clock would be as wrong.
    let before = epoch_seconds();
    let seen: u64 = run(&vms, &[], "date +%s")["stdout"].as_str().unwrap().trim().parse().unwrap();
    assert!((before..=epoch_seconds()).contains(&seen), "{seen} is not after {before}");
    stop(&vms);
}

#[test]
fn its_time_begins_with_the_claim() {
    let host = Host::for_vms(1);
    let vms = host.vms();
    warm(&vms, &[]);
    let claimed_at = Instant::now();
    let options = ["run", BASE, "--ttl-seconds", "60", "--timeout-seconds", "600", "--json"];
    let expired =
        vms.pyro(&[&options[..], &["--", "sleep", "600"]].concat()).outcome().json_error();
    assert_eq!(expired["code"], "vm_expired", "{expired:#}");
    assert!(claimed_at.elapsed() >= Duration::from_mins(1));
    stop(&vms);
}

#[test]
fn nothing_of_its_rehearsal_is_seen_in_a_spare() {
    let host = Host::for_vms(2);
    let vms = host.vms();
    let script = "find / -xdev -printf '%p %s %y\\n' | grep -v '^/proc' | sort
        find /sys/fs/cgroup/pyro -mindepth 1 -type d | wc -l
        for process in /proc/[0-9]*; do cat $process/comm 2>/dev/null; done | grep -v kworker | sort -u";
    let clone = run(&vms, &[], script);
    warm(&vms, &[]);
    let spare = run(&vms, &[], script);
    assert_eq!((&clone["vm_start"], &spare["vm_start"]), (&"restored".into(), &"spare".into()));
    let lines = |outcome: &Value| {
        let lines = outcome["stdout"].as_str().unwrap().lines().map(str::to_owned);
        lines.collect::<BTreeSet<_>>()
    };
    let difference: Vec<_> = lines(&clone).symmetric_difference(&lines(&spare)).cloned().collect();
    assert_eq!(difference, Vec::<String>::new());
    stop(&vms);
}

#[test]
fn spares_go_with_their_owner() {
    let host = Host::for_vms(2);
    let vms = host.vms();
    warm(&vms, &["--count", "2"]);
    let spares = supervisors(&vms);
    assert_eq!(spares.len(), 2);
    let keeper = status(&vms)["keepers"][0]["pid"].as_i64().unwrap();
    let keeper =
        vms.family().into_iter().find(|process| i64::from(process.pid()) == keeper).unwrap();
    keeper.kill();
    for spare in spares {
        assert!(spare.ends_within(SOON));
    }
    assert_eq!(run(&vms, &[], "true")["vm_start"], "restored");
    let doctor = vms.pyro(&["doctor", "--json"]).outcome().json();
    assert_eq!(doctor["leftovers"][0]["kind"], "spare");
    // Whoever looks next removes what the keeper left.
    assert_eq!(status(&vms)["keepers"], serde_json::json!([]));
    let doctor = vms.pyro(&["doctor", "--json"]).outcome().json();
    assert_eq!(doctor["leftovers"], serde_json::json!([]));
}

#[test]
fn a_claimed_vm_outlives_its_owner_and_ends_with_its_claimer() {
    let host = Host::for_vms(2);
    let vms = host.vms();
    warm(&vms, &[]);
    let spare = supervisors(&vms).remove(0);
    let words =
        ["run", BASE, "--timeout-seconds", "600", "--", "sh", "-c", "echo up; read go; echo on"];
    let mut run = vms.pyro(&words).start();
    run.wait_for_stdout("up\n");
    stop(&vms);
    run.send("go\n");
    run.wait_for_stdout("on\n");
    assert_eq!(run.outcome().success(), "up\non\n");
    assert!(spare.ends_within(SOON));
    warm(&vms, &[]);
    let spare = supervisors(&vms).remove(0);
    let qemu = vms.qemu_of(&spare).unwrap();
    let run = vms.pyro(&words).start();
    run.wait_for_stdout("up\n");
    run.kill_itself();
    for process in [spare, qemu] {
        assert!(process.ends_within(SOON));
    }
    assert!(run.outcome().was_killed());
    stop(&vms);
}

#[test]
fn a_spare_whose_supervisor_was_killed_is_passed_over_and_its_socket_removed() {
    let host = Host::for_vms(2);
    let vms = host.vms();
    warm(&vms, &[]);
    let keeper = status(&vms)["keepers"][0]["pid"].as_i64().unwrap();
    let keeper =
        vms.family().into_iter().find(|process| i64::from(process.pid()) == keeper).unwrap();
    let spare = supervisors(&vms).remove(0);
    // First of all, so that it makes no other.
    keeper.stop();
    spare.kill();
    assert!(spare.ends_within(SOON));
    assert_eq!(run(&vms, &[], "true")["vm_start"], "restored");
    let doctor = vms.pyro(&["doctor", "--json"]).outcome().json();
    assert_eq!(doctor["leftovers"], serde_json::json!([]));
    keeper.kill();
    assert!(keeper.ends_within(SOON));
    assert_eq!(status(&vms)["keepers"], serde_json::json!([]));
}

#[test]
fn a_spare_with_a_network_device_becomes_a_vm_with_the_network_that_was_asked_for() {
    let host = Host::for_vms(1);
    let vms = host.vms();
    warm(&vms, &["--network"]);
    let options = ["--network", "--publish", "80"];
    let claimed = run(&vms, &options, "cat /sys/class/net/eth0/address; cat /etc/resolv.conf");
    assert_eq!(claimed["vm_start"], "spare", "{claimed:#}");
    assert!(claimed["stdout"].as_str().unwrap().contains("nameserver"), "{claimed:#}");
    stop(&vms);
}

#[test]
fn an_interrupted_warm_leaves_nothing() {
    let host = Host::for_vms(1);
    let mut vms = host.vms();
    let warm = vms.pyro(&["warm", BASE, "--verbose"]).start();
    warm.wait_for_stderr("restoring");
    warm.kill_itself();
    assert!(warm.outcome().was_killed());
    assert!(vms.end_within(SOON));
}

fn epoch_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
