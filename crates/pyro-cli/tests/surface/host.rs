//! `pyro doctor`, on a host that can run VMs and on one that cannot.

use crate::{keys, pyro, pyro_with};

#[test]
fn the_report_has_the_keys_of_the_contract() {
    let report = pyro(&["doctor", "--json"]).json();
    assert_eq!(
        keys(&report),
        [
            "confinement",
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
fn the_verdict_is_the_last_line() {
    assert_eq!(pyro(&["doctor"]).success().lines().last(), Some("VMs can run here"));
    let outcome = pyro_with(&[("PATH", "/nonexistent")], &["doctor"]);
    assert_eq!(outcome.stdout.lines().last(), Some("VMs can NOT run here"));
}
