//! VMs that were restored ahead, and those who claim them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pyro_core::{
    MemoryMib, PoolEvent, SpareCount, SpareKind, SpareNetwork, SparePool, VcpuCount,
    parse_environment,
};
use pyro_vm_tests::{BASE, Host, Process, Role, Running, Vms};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::live;

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

/// The process that keeps spares, where there is one.
fn keeper(vms: &Vms<'_>) -> Process {
    let pid = status(vms)["keepers"][0]["pid"].clone();
    vms.family().into_iter().find(|process| pid == process.pid()).unwrap()
}

/// The sockets that killed spares and keepers have left.
fn leftovers(vms: &Vms<'_>) -> Vec<Value> {
    let doctor = vms.pyro(&["doctor", "--json"]).outcome().json();
    let leftovers = doctor["leftovers"].as_array().unwrap().iter();
    leftovers.filter(|leftover| leftover["kind"] == "spare").cloned().collect()
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
    // Threads of the kernel, the children of 2, come and go by themselves.
    let script = "find / -xdev -printf '%p %s %y\\n' | grep -v '^/proc' | sort
        find /sys/fs/cgroup/pyro -type d; cat /proc/self/cgroup
        for process in /proc/[0-9]*; do
            grep -q '^PPid:.2$' $process/status || cat $process/comm
        done 2>/dev/null";
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
    let keeper = keeper(&vms);
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
    let keeper = keeper(&vms);
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

#[test]
fn the_last_keeper_of_a_kind_is_the_only_one() {
    let host = Host::for_vms(5);
    let vms = host.vms();
    let started = |options: &[&str]| {
        let words = ["warm", BASE, "--for", "10m", "--json"];
        let started = vms.pyro(&[&words, options].concat()).outcome().json();
        (started["keeper_id"].clone(), started["replaced_keeper_ids"].clone())
    };
    let ids = || {
        let status = status(&vms);
        let keepers = status["keepers"].as_array().unwrap().iter();
        let ids = keepers.map(|keeper| keeper["keeper_id"].as_str().unwrap().to_owned());
        (ids.collect::<BTreeSet<_>>(), status["spares"].as_array().unwrap().len())
    };
    let set = |ids: &[&Value]| ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    let (first, replaced) = started(&[]);
    assert_eq!(replaced, json!([]));
    let (other_shape, replaced) = started(&["--mem-mib", "512"]);
    assert_eq!(replaced, json!([]));
    let (second, replaced) = started(&["--count", "2"]);
    assert_eq!(replaced, json!([first]));
    assert_eq!(ids(), (set(&[&other_shape, &second]), 3));
    // One that is interrupted before its spares stand leaves all as it was.
    let warm = vms.pyro(&["warm", BASE, "--verbose"]).start();
    warm.wait_for_stderr("restoring");
    warm.signal(Signal::INT);
    assert_eq!(warm.outcome().exit_code(), 130);
    assert_eq!(ids(), (set(&[&other_shape, &second]), 3));
    // Of two at the same time one is the last.
    let words = ["warm", BASE, "--for", "10m", "--quiet"];
    for both in [(); 2].map(|()| vms.pyro(&words).start()) {
        both.outcome().success();
    }
    let (left, spares) = ids();
    assert_eq!((left.len(), spares), (2, 2), "{left:?}");
    assert!(left.is_superset(&set(&[&other_shape])) && left.is_disjoint(&set(&[&second])));
    stop(&vms);
}

#[test]
fn a_keeper_that_was_stopped_by_a_signal_is_replaced_like_any_other() {
    let host = Host::for_vms(2);
    let mut vms = host.vms();
    warm(&vms, &[]);
    let stopped = keeper(&vms);
    stopped.stop();
    warm(&vms, &[]);
    assert!(stopped.ends_within(SOON));
    assert_ne!(keeper(&vms).pid(), stopped.pid());
    // Whoever ends all does not leave this one.
    keeper(&vms).stop();
    vms.pyro(&["warm", "--stop"]).outcome().success();
    assert!(vms.end_within(SOON));
}

#[test]
fn a_spare_that_fails_its_claimer_is_told_of_and_a_clone_made() {
    let host = Host::for_vms(2);
    let vms = host.vms();
    let words = |option| ["run", BASE, "--json", option, "--timeout-seconds", "600", "--", "true"];
    warm(&vms, &[]);
    // It takes the claim, and never answers.
    let spare = supervisors(&vms).remove(0);
    vms.qemu_of(&spare).unwrap().stop();
    let outcome = vms.pyro(&words("--verbose")).outcome();
    assert_eq!(outcome.json()["vm_start"], "restored");
    assert!(outcome.stderr.contains("warning: a spare failed"), "{outcome:#?}");
    assert!(spare.ends_within(SOON));
    stop(&vms);
    warm(&vms, &[]);
    // It does not even greet.
    let spare = supervisors(&vms).remove(0);
    spare.stop();
    let outcome = vms.pyro(&words("--quiet")).outcome();
    assert_eq!((outcome.json()["vm_start"].as_str(), &*outcome.stderr), (Some("restored"), ""));
    spare.kill();
    assert!(spare.ends_within(SOON));
    stop(&vms);
}

#[test]
fn whoever_looks_after_vms_or_environments_removes_what_spares_and_keepers_left() {
    let host = Host::for_vms(1);
    let vms = host.vms();
    for look in [["vm", "list"], ["env", "prune"]] {
        warm(&vms, &[]);
        let (keeper, spare) = (keeper(&vms), supervisors(&vms).remove(0));
        // First of all, so that it makes no other.
        keeper.stop();
        for process in [spare, keeper] {
            process.kill();
            assert!(process.ends_within(SOON));
        }
        assert_eq!(leftovers(&vms).len(), 2);
        // Others need what is in the cache of all tests.
        let cache = host.directory().join("cache");
        let looks = vms.pyro(&look).variable("PYRO_ENVIRONMENT_CACHE_DIR", cache.to_str().unwrap());
        looks.outcome().success();
        assert_eq!(leftovers(&vms), Vec::<Value>::new(), "{look:?}");
    }
}

#[test]
fn spares_are_given_up_while_memory_is_short() {
    let host = Host::for_vms(1);
    let vms = host.vms();
    // What the kernel says of its memory, as the keeper reads it.
    let meminfo = host.directory().join("meminfo");
    let say = |mib: u64| fs_err::write(&meminfo, format!("MemAvailable: {} kB\n", mib * 1024));
    let script = "mount --bind \"$0\" /proc/meminfo; exec \"$@\"";
    let mut wrapper = vec!["unshare", "--mount", "sh", "-ec", script, meminfo.to_str().unwrap()];
    if !rustix::process::geteuid().is_root() {
        wrapper.splice(1..1, ["--user", "--map-root-user"]);
    }
    let words = ["warm", BASE, "--for", "10m", "--json"];
    say(600).unwrap();
    let refused = vms.pyro(&words).within(&wrapper).outcome();
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("too little memory"));
    say(2000).unwrap();
    vms.pyro(&words).within(&wrapper).outcome().success();
    let spare = supervisors(&vms).remove(0);
    say(300).unwrap();
    assert!(spare.ends_within(SOON));
    assert_eq!(status(&vms)["spares"], json!([]));
    say(2000).unwrap();
    assert!(vms.has_spares_within(SOON));
    stop(&vms);
}

#[test]
fn a_spare_that_nobody_claims_goes_until_somebody_asks_again() {
    let host = Host::for_vms(1);
    live::block_on(async {
        let pyro = live::pyro(&host);
        let kind = SpareKind {
            environment: parse_environment(BASE).unwrap(),
            vcpu_count: VcpuCount::DEFAULT,
            memory: MemoryMib::DEFAULT,
            network: SpareNetwork::Absent,
        };
        let (said, mut made) = mpsc::unbounded_channel();
        let event = |event| match event {
            PoolEvent::Made => said.send(()).unwrap(),
            PoolEvent::ShortOfMemory | PoolEvent::Failed(_) => panic!("{event:?}"),
        };
        let pool = SparePool::new(SpareCount::new(1).unwrap());
        let test = async {
            for _ in 0..2 {
                pool.want(kind.clone());
                made.recv().await.unwrap();
                let mut look = tokio::time::interval(Duration::from_millis(50));
                while !pyro.warm_status().await.spares.is_empty() {
                    look.tick().await;
                }
                assert!(made.is_empty(), "nobody has asked for another");
            }
        };
        tokio::select! {
            never = pool.keep(&pyro, Duration::from_secs(2), &event, &|_| {}) => match never {},
            () = test => {}
        }
        pyro.settle().await;
    });
}

fn epoch_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
