//! VMs with a life of their own: made by one process, used by others, gone when somebody deletes them, when
//! their time is over, or when what they are made of is killed.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use pyro_vm_tests::{BASE, Host, Outcome, Role, Running, Vms, copy_cache};
use rustix::process::Signal;
use serde_json::Value;

/// As few as there may be.
const TTL_SECONDS_MIN: &str = "60";

/// For a VM that lives that long to be gone.
const TTL_OVER: Duration = Duration::from_secs(90);

fn state(vms: &Vms<'_>, id: &str) -> String {
    let status = vms.vm(&["status", "--json", id]).outcome();
    assert_eq!(status.exit_code(), 0, "{status:#?}");
    status.json()["state"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_refused(outcome: &Outcome, code: &str, message: &str) {
    assert_ne!(outcome.exit_code(), 0, "{outcome:#?}");
    let error = &outcome.json()["error"];
    assert_eq!((error["code"].as_str(), error["message"].as_str()), (Some(code), Some(message)));
}

fn ids(vms: &Vms<'_>) -> Vec<String> {
    let list = vms.vm(&["list", "--json"]).outcome().json();
    let ids = list["vms"].as_array().unwrap().iter().map(|vm| vm["vm_id"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

/// A command that runs, until something ends it.
fn endless(vms: &Vms<'_>, id: &str) -> Running {
    let running = vms.exec(id, "echo $$ > /root/pid; echo started; sleep 1000; true").start();
    running.wait_for_stdout("started\n");
    running
}

#[test]
fn where_a_vm_is_found_is_for_its_owner_only() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&[]);
    let directory = fs_err::metadata(vms.directory(&id)).unwrap();
    assert_eq!(directory.mode() & 0o777, 0o700);
    vms.vm(&["delete", &id]).outcome().success();
}

#[test]
fn what_a_command_writes_is_there_for_the_next_one_and_after_a_stop() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&[]);
    assert_eq!(state(&vms, &id), "created");
    vms.vm(&["start", &id]).outcome().success();
    assert_eq!(state(&vms, &id), "started");
    let write = vms.exec(&id, "cat > /root/file; sleep 1000 >/dev/null 2>&1 & exit 3");
    assert_eq!(write.outcome_with_input(b"kept\n".to_vec()).exit_code(), 3);
    assert_eq!(vms.exec(&id, "cat /root/file").outcome().success(), "kept\n");
    vms.vm(&["stop", &id]).outcome().success();
    assert_eq!(state(&vms, &id), "stopped");
    assert_eq!(vms.processes(Role::Qemu).len(), 0);
    vms.vm(&["start", &id]).outcome().success();
    assert_eq!(vms.exec(&id, "cat /root/file").outcome().success(), "kept\n");
    vms.vm(&["delete", &id]).outcome().success();
    assert_eq!(vms.processes(Role::Qemu).len(), 0);
    assert!(!vms.directory(&id).exists());
}

#[test]
fn the_payloads_are_those_of_the_contract() {
    let host = Host::new();
    let vms = host.vms();
    let made = vms.vm(&["create", BASE, "--json", "--start", "--metadata", "for=a=test"]).outcome();
    let made = made.json();
    let mut keys: Vec<_> = made.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = "accelerator allow_host_compat created_at environment environment_version \
         execution_mode expires_at guest_ip mem_mib metadata network_enabled state tap_name \
         ttl_seconds vcpu_count vm_id";
    assert_eq!(keys.join(" "), expected);
    assert_eq!(made["metadata"]["for"], "a=test");
    assert_eq!((&made["state"], &made["execution_mode"]), (&"started".into(), &"guest".into()));
    assert_eq!((&made["guest_ip"], &made["tap_name"]), (&Value::Null, &Value::Null));
    let lifetime = made["expires_at"].as_f64().unwrap() - made["created_at"].as_f64().unwrap();
    assert!((lifetime - 600.0).abs() < 0.001, "{lifetime}");
    let id = made["vm_id"].as_str().unwrap();
    assert_eq!(
        vms.vm(&["list", "--json"]).outcome().json()["vms"],
        Value::Array(vec![made.clone()])
    );
    let exec = vms.vm(&["exec", "--json", id, "--", "echo", "hi"]).outcome().json();
    assert_eq!((&exec["stdout"], &exec["exit_code"]), (&"hi\n".into(), &0.into()));
    assert_eq!(exec["cleanup"]["deleted"], false);
    let deleted = vms.vm(&["delete", "--json", id]).outcome().json();
    let expected = serde_json::json!({ "vm_id": id, "deleted": true, "reason": "explicit_delete" });
    assert_eq!(deleted, expected);
}

#[test]
fn what_the_state_does_not_allow_is_refused() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&[]);
    let exec = || vms.vm(&["exec", "--json", &id, "--", "true"]).outcome();
    let text = |is: &str| format!("vm '{id}' is {is}: only a started one runs commands");
    assert_refused(&exec(), "wrong_vm_state", &text("created"));
    // A stop is accepted in any state.
    vms.vm(&["stop", &id]).outcome().success();
    vms.vm(&["stop", &id]).outcome().success();
    assert_refused(&exec(), "wrong_vm_state", &text("stopped"));
    vms.vm(&["start", &id]).outcome().success();
    let text = format!("vm '{id}' is started: only a created or a stopped one can be started");
    let again = vms.vm(&["start", "--json", &id]).outcome();
    assert_refused(&again, "wrong_vm_state", &text);
    vms.vm(&["delete", &id]).outcome().success();
    for id in [&id, "000000000000", "../../.."] {
        for request in ["start", "status", "stop", "delete", "exec"] {
            let words = if request == "exec" { &["--", "true"][..] } else { &[] };
            let outcome = vms.vm(&[&[request, "--json", id], words].concat()).outcome();
            assert_refused(&outcome, "unknown_vm", &format!("vm '{id}' does not exist"));
        }
    }
}

#[test]
fn a_vm_ends_with_its_time_to_live_without_any_client() {
    let host = Host::new();
    let mut vms = host.vms();
    let idle = vms.create(&["--ttl-seconds", TTL_SECONDS_MIN]);
    let busy = vms.create(&["--ttl-seconds", TTL_SECONDS_MIN, "--start"]);
    let running =
        vms.vm(&["exec", "--json", "--timeout-seconds", "600", &busy, "--", "sleep", "600"]);
    let text = format!("vm '{busy}' expired and was automatically deleted");
    assert_refused(&running.start().outcome(), "vm_expired", &text);
    assert!(!vms.directory(&busy).exists());
    assert!(vms.end_within(TTL_OVER));
    assert!(!vms.directory(&idle).exists());
}

#[test]
fn commands_of_one_vm_run_at_the_same_time() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    let meet = |mine: &str, other: &str| {
        let wait = format!("touch /root/{mine}; until test -e /root/{other}; do sleep 0.1; done");
        vms.exec(&id, &format!("{wait}; echo {mine}")).start()
    };
    let (one, two) = (meet("one", "two"), meet("two", "one"));
    assert_eq!(one.outcome().success(), "one\n");
    assert_eq!(two.outcome().success(), "two\n");
    vms.vm(&["delete", &id]).outcome().success();
}

#[test]
fn a_command_ends_with_its_client_and_the_vm_goes_on() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    let running = endless(&vms, &id);
    running.kill();
    let gone = "while kill -0 $(cat /root/pid) 2>/dev/null; do sleep 0.1; done; echo gone";
    assert_eq!(vms.exec(&id, gone).outcome().success(), "gone\n");
    vms.vm(&["delete", &id]).outcome().success();
}

#[test]
fn a_vm_whose_supervisor_is_killed_while_it_deletes_it_is_deleted() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    let supervisor = vms.process(Role::Supervisor);
    supervisor.stop();
    let delete = vms.vm(&["delete", "--json", &id]).start();
    assert!(!delete.ends_within(Duration::from_millis(500)), "nobody answers");
    supervisor.kill();
    let deleted = delete.outcome_after_a_kill();
    assert_eq!(deleted.exit_code(), 0, "{deleted:#?}");
    assert_eq!(deleted.json()["deleted"], true);
    assert!(!vms.directory(&id).exists());
}

#[test]
fn a_killed_supervisor_leaves_no_machine_and_its_directory_goes_with_the_next_look() {
    let host = Host::new();
    let vms = host.vms();
    for look in ["list", "create", "status", "delete"] {
        let id = vms.create(&["--start"]);
        let running = endless(&vms, &id);
        let qemu = vms.process(Role::Qemu);
        vms.process(Role::Supervisor).kill();
        let outcome = running.outcome();
        assert_eq!(outcome.exit_code(), 125);
        let text = "error: cannot talk to the VM's supervisor\n";
        assert!(outcome.stderr.starts_with(text), "{outcome:#?}");
        assert!(qemu.ends_within(Duration::from_mins(1)));
        assert!(vms.directory(&id).exists());
        match look {
            "list" => assert_eq!(ids(&vms), Vec::<String>::new()),
            "create" => {
                let other = vms.create(&[]);
                vms.vm(&["delete", &other]).outcome().success();
            }
            "delete" => {
                vms.vm(&["delete", &id]).outcome().success();
            }
            _ => {
                let status = vms.vm(&["status", "--json", &id]).outcome();
                assert_refused(&status, "unknown_vm", &format!("vm '{id}' does not exist"));
            }
        }
        assert!(!vms.directory(&id).exists(), "{look}");
    }
}

#[test]
fn a_killed_machine_leaves_a_stopped_vm_that_can_be_started_again() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    vms.exec(&id, "echo kept > /root/file; sync").outcome().success();
    let running = endless(&vms, &id);
    vms.process(Role::Qemu).kill();
    let outcome = running.outcome();
    assert_eq!(outcome.exit_code(), 125);
    assert!(outcome.stderr.starts_with(&format!("error: vm '{id}' is lost\n")), "{outcome:#?}");
    assert_eq!(state(&vms, &id), "stopped");
    vms.vm(&["start", &id]).outcome().success();
    assert_eq!(vms.exec(&id, "cat /root/file").outcome().success(), "kept\n");
    vms.vm(&["delete", &id]).outcome().success();
}

#[test]
fn what_a_vm_is_started_from_stays_as_long_as_it_lives() {
    let host = Host::new();
    let cache = host.directory().join("cache");
    copy_cache(&cache);
    let mut vms = host.vms();
    let cache = cache.to_str().unwrap();
    let vm = |arguments: &[&str]| {
        let pyro = vms.vm(arguments).variable("PYRO_ENVIRONMENT_CACHE_DIR", cache);
        pyro.outcome().success().trim_end().to_owned()
    };
    let id = vm(&["create", BASE]);
    let prune = || {
        let pyro = host.pyro(&["env", "prune", "--all"]);
        pyro.variable("PYRO_ENVIRONMENT_CACHE_DIR", cache).outcome().success().to_owned()
    };
    prune();
    vm(&["start", &id]);
    assert_eq!(vm(&["exec", &id, "--", "echo", "on"]), "on");
    vm(&["delete", &id]);
    assert!(vms.end_within(Duration::from_mins(1)));
    assert!(prune().contains("/images/"));
}

#[test]
fn no_more_vms_are_made_than_there_may_be() {
    let host = Host::new();
    let vms = host.vms();
    // With the template there, all of them are at the same point at the same time.
    let first = vms.create(&[]);
    let creates = [(); 8].map(|()| {
        let create = vms.vm(&["create", "--json", BASE]);
        create.variable("PYRO_MAX_ACTIVE_VMS", "3").start()
    });
    let outcomes = creates.map(Running::outcome);
    let (made, refused): (Vec<_>, Vec<_>) =
        outcomes.iter().partition(|outcome| outcome.exit_code() == 0);
    assert_eq!(made.len(), 2);
    for outcome in refused {
        let text = "max active VMs reached (3); delete old VMs first";
        assert_refused(outcome, "too_many_vms", text);
    }
    let listed = ids(&vms);
    assert_eq!((listed.len(), &listed[0]), (3, &first), "oldest first");
    for id in &listed {
        vms.vm(&["delete", id]).outcome().success();
    }
    assert_eq!(ids(&vms), Vec::<String>::new());
}

#[test]
fn a_create_that_is_interrupted_leaves_nothing() {
    let host = Host::new();
    let cache = host.directory().join("cache");
    copy_cache(&cache);
    // A restore may be over before its watcher is told, so the start of the VM itself is a boot.
    let moments = [
        (Signal::INT, "restore", "booting a template"),
        (Signal::TERM, "restore", "booting a template"),
        (Signal::INT, "boot", "booting a VM"),
        (Signal::HUP, "boot", "booting a VM"),
    ];
    for (signal, start, moment) in moments {
        let mut vms = host.vms();
        let create = vms.vm(&["create", "--verbose", "--start", BASE]);
        let create = create.variable("PYRO_START", start);
        let running =
            create.variable("PYRO_ENVIRONMENT_CACHE_DIR", cache.to_str().unwrap()).start();
        running.wait_for_stderr(moment);
        running.signal(signal);
        assert_eq!(running.outcome().exit_code(), 128 + signal.as_raw());
        assert_eq!(fs_err::read_dir(vms.state().join("vms")).unwrap().count(), 0);
        assert!(vms.end_within(Duration::from_mins(1)));
        host.assert_nothing_left();
    }
}

#[test]
fn nothing_is_left_of_a_create_that_is_killed() {
    let host = Host::new();
    let cache = host.directory().join("cache");
    copy_cache(&cache);
    let mut vms = host.vms();
    let create = vms.vm(&["create", "--verbose", BASE]);
    let running = create.variable("PYRO_ENVIRONMENT_CACHE_DIR", cache.to_str().unwrap()).start();
    running.wait_for_stderr("booting a template");
    running.kill();
    assert!(vms.end_within(Duration::from_mins(1)));
    host.assert_nothing_left();
}

#[test]
fn a_vm_can_be_deleted_or_stopped_while_it_starts() {
    let host = Host::new();
    let vms = host.vms();
    let boot = |arguments: &[&str]| vms.vm(arguments).variable("PYRO_START", "boot");
    let id = boot(&["create", BASE]).outcome().success().trim_end().to_owned();
    let start = || {
        let running = vms.vm(&["start", "--json", "--verbose", &id]).start();
        running.wait_for_stderr("booting a VM");
        running
    };
    let starting = start();
    vms.vm(&["stop", &id]).outcome().success();
    let text = format!("vm '{id}' was stopped while it started");
    assert_refused(&starting.outcome(), "vm_start_failed", &text);
    assert_eq!(state(&vms, &id), "stopped");
    let starting = start();
    vms.vm(&["delete", &id]).outcome().success();
    assert_eq!(vms.processes(Role::Qemu).len(), 0);
    assert!(!vms.directory(&id).exists());
    assert_refused(&starting.outcome(), "unknown_vm", &format!("vm '{id}' was deleted"));
}
