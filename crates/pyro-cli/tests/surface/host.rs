//! `pyro doctor`, on a host that can run VMs and on one that cannot.

use std::os::unix::fs::PermissionsExt;

use crate::{keys, pyro, pyro_with};

#[test]
fn the_report_has_the_keys_of_the_contract() {
    let report = pyro(&["doctor", "--json"]).json();
    assert_eq!(
        keys(&report),
        [
            "checks",
            "confinement",
            "fixed",
            "guest_kernel",
            "issues",
            "kvm",
            "leftovers",
            "networking",
            "platform",
            "runtime",
            "runtime_ok",
            "spares"
        ]
    );
    for key in ["exists", "readable", "writable", "usable", "reason"] {
        assert!(keys(&report["kvm"]).contains(&key), "{key}");
    }
    for key in ["capabilities", "catalog_version", "cache_dir", "environments"] {
        assert!(keys(&report["runtime"]).contains(&key), "{key}");
    }
    assert_eq!(
        keys(&report["runtime"]["capabilities"]),
        ["reason", "supports_guest_exec", "supports_guest_network", "supports_vm_boot"]
    );
}

#[test]
fn a_host_without_qemu_is_told_what_to_install() {
    let outcome = pyro_with(&[("PATH", "/nonexistent")], &["doctor", "--json"]);
    assert_eq!(outcome.exit_code, 1);
    let report = outcome.json();
    assert_eq!(report["runtime_ok"], false);
    assert_eq!(report["runtime"]["accelerator"], serde_json::Value::Null);
    assert_eq!(report["runtime"]["capabilities"]["supports_vm_boot"], false);
    assert_eq!(
        report["issues"][0],
        "`qemu-system-x86_64` is not installed; install it: `sudo apt-get install qemu-system-x86`"
    );
}

#[test]
fn the_network_is_told_with_its_pins_and_its_problems() {
    let report = |variables: &[(&str, &str)]| pyro_with(variables, &["doctor", "--json"]).json();
    let variables =
        [("PYRO_NETWORK", "--allow-host example.com"), ("PYRO_DNS_SERVERS", "127.0.0.1:5353")];
    let networking = &report(&variables)["networking"];
    assert_eq!(networking["available"], true, "{networking}");
    assert_eq!(networking["resolvers"], serde_json::json!(["127.0.0.1:5353"]));
    assert_eq!(networking["pins"][0]["source"], "PYRO_NETWORK");
    assert_eq!(networking["pins"][0]["allow"], serde_json::json!(["example.com"]));
    let broken = report(&[("PYRO_NETWORK", "nonsense")]);
    assert_eq!(broken["networking"]["available"], false);
    assert_eq!(broken["runtime"]["capabilities"]["supports_guest_network"], false);
    assert_eq!(broken["runtime_ok"], true);
    let text = pyro_with(&variables, &["doctor"]).stdout;
    assert!(text.contains("pinned by PYRO_NETWORK: at most example.com"), "{text}");
}

#[test]
fn every_check_that_does_not_pass_has_a_remedy_and_none_fails_where_vms_can_run() {
    for (path, is_ok) in [("/usr/bin:/bin", true), ("/nonexistent", false)] {
        let report = pyro_with(&[("PATH", path)], &["doctor", "--json"]).json();
        assert_eq!(report["runtime_ok"], is_ok, "{report}");
        let checks = report["checks"].as_array().unwrap();
        for check in checks {
            assert_eq!(keys(check), ["name", "reason", "remedy", "status"]);
            assert_eq!(check["remedy"].is_null(), check["status"] == "pass", "{check}");
            assert_ne!(check["reason"], "");
        }
        let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "pyro",
                "qemu",
                "programs",
                "kvm",
                "accelerator",
                "confinement",
                "guest kernel",
                "directories",
                "network",
                "disk space",
                "environments",
                "templates",
                "leftovers",
                "spares",
                "versions"
            ]
        );
        assert_eq!(checks.iter().any(|check| check["status"] == "fail"), !is_ok);
    }
}

#[test]
fn the_remedies_of_missing_programs_can_be_pasted() {
    let outcome = pyro_with(&[("PATH", "/nonexistent")], &["doctor"]);
    assert_eq!(outcome.exit_code, 1);
    let text = outcome.stdout;
    assert!(text.contains("remedy: sudo apt-get install qemu-system-x86\n"), "{text}");
    assert!(text.contains("remedy: sudo apt-get install mmdebstrap squashfs-tools-ng "), "{text}");
}

#[test]
fn the_doctor_makes_missing_directories_and_removes_what_killed_processes_left_when_asked() {
    let home = tempfile::tempdir().unwrap();
    let (cache, state) = (home.path().join("cache"), home.path().join("state"));
    let variables = [
        ("PYRO_ENVIRONMENT_CACHE_DIR", cache.to_str().unwrap()),
        ("PYRO_STATE_DIR", state.to_str().unwrap()),
    ];
    // The directory of a VM, a pull, and the socket of a spare, whose makers are gone.
    let vm = state.join("vms/0123456789ab");
    let build = cache.join("partial/killed");
    let spare = state.join("spares/key/spare");
    for directory in [&vm, &build, &spare.parent().unwrap().to_owned()] {
        fs_err::create_dir_all(directory).unwrap();
    }
    drop(std::os::unix::net::UnixListener::bind(&spare).unwrap());
    let stranger = state.join("vms/stranger");
    fs_err::create_dir(&stranger).unwrap();

    let looked = pyro_with(&variables, &["doctor", "--json"]).json();
    assert_eq!(looked["fixed"], serde_json::json!([]));
    assert!(vm.exists() && build.exists() && spare.exists(), "looking deletes nothing");
    let report = pyro_with(&variables, &["doctor", "--fix", "--json"]).json();

    let fixed = report["fixed"].as_array().unwrap();
    for (kind, path) in [("vm", &vm), ("build", &build), ("spare", &spare)] {
        let expected = serde_json::json!({ "action": "removed", "kind": kind, "path": path });
        assert!(fixed.contains(&expected), "{kind}: {fixed:#?}");
        assert!(!path.exists(), "{kind}");
    }
    let keepers = state.join("keepers");
    let made = serde_json::json!({ "action": "made", "path": keepers });
    assert!(fixed.contains(&made), "{fixed:#?}");
    assert_eq!(fs_err::metadata(&keepers).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(stranger.exists(), "it was not put there by pyro");
    let left = pyro_with(&variables, &["doctor", "--json"]).json();
    let own = |leftover: &serde_json::Value| leftover["kind"] != "control_group";
    assert!(!left["leftovers"].as_array().unwrap().iter().any(own), "{left:#}");
    let text = pyro_with(&variables, &["doctor", "--fix"]).stdout;
    assert!(!text.contains("made the directory"), "{text}");
}

#[test]
fn names_of_files_have_no_power_over_the_terminal() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("a\u{1b}[2J\n  PASS b");
    let variables = [("PYRO_STATE_DIR", state.to_str().unwrap())];
    for options in [["doctor", "--fix"].as_slice(), &["doctor"]] {
        let text = pyro_with(&variables, options).stdout;
        assert!(text.contains("a\\u{1b}[2J\\n  PASS b"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}

#[test]
fn what_cannot_be_put_right_is_not_said_to_be_in_order() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("below");
    let variables = ["PYRO_ENVIRONMENT_CACHE_DIR", "PYRO_STATE_DIR"]
        .map(|name| (name, below.to_str().unwrap()));
    let outcome = pyro_with(&variables, &["doctor", "--fix"]);
    assert_eq!(outcome.exit_code, 1);
    let text = outcome.stdout;
    assert!(text.contains("WARN fix "), "{text}");
    assert!(text.contains("FAIL directories "), "{text}");
    assert!(!text.contains("nothing to put right"), "{text}");
}

#[test]
fn what_is_in_use_is_not_put_right() {
    let home = tempfile::tempdir().unwrap();
    let variables = [("PYRO_STATE_DIR", home.path().to_str().unwrap())];
    let spare = home.path().join("spares/key/spare");
    fs_err::create_dir_all(spare.parent().unwrap()).unwrap();
    let living = std::os::unix::net::UnixListener::bind(&spare).unwrap();
    let report = pyro_with(&variables, &["doctor", "--fix", "--json"]).json();
    assert!(spare.exists(), "{report:#}");
    drop(living);
}

#[test]
fn the_verdict_is_the_last_line() {
    assert_eq!(pyro(&["doctor"]).success().lines().last(), Some("VMs can run here"));
    let outcome = pyro_with(&[("PATH", "/nonexistent")], &["doctor"]);
    assert_eq!(outcome.stdout.lines().last(), Some("VMs can NOT run here"));
}
