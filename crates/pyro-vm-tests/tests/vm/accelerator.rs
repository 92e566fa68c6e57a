//! What the doctor says of KVM, and what VMs then run on.

use pyro_vm_tests::{Host, accelerators};

#[test]
fn a_vm_runs_on_what_the_doctor_found() {
    let host = Host::new();
    let report = host.pyro(&["doctor", "--json"]).outcome().json();
    let expected = if report["kvm"]["usable"] == true { "kvm" } else { "tcg" };
    assert_eq!(report["runtime"]["accelerator"], expected);
    let document = host.run(&["--json"], &["true"]).outcome().json();
    assert_eq!(document["accelerator"], expected);
}

#[test]
fn emulation_works_on_every_host() {
    let host = Host::new();
    let pyro = host.run(&["--json"], &["true"]).variable("PYRO_ACCELERATOR", "tcg");
    assert_eq!(pyro.outcome().json()["accelerator"], "tcg");
}

#[test]
fn kvm_is_given_or_refused_but_never_replaced() {
    let host = Host::new();
    let outcome = host.run(&["--json"], &["true"]).variable("PYRO_ACCELERATOR", "kvm").outcome();
    if accelerators().contains(&"kvm") {
        assert_eq!(outcome.json()["accelerator"], "kvm");
    } else {
        let error = outcome.json_error();
        assert_eq!(error["code"], "host_unsupported");
        assert_eq!(error["message"], "KVM is not usable on this host");
        let report = host.pyro(&["doctor", "--json"]).outcome().json();
        assert_eq!(error["causes"][0], report["kvm"]["reason"]);
    }
}

#[test]
fn an_unknown_accelerator_is_refused() {
    let host = Host::new();
    let outcome = host.run(&["--json"], &["true"]).variable("PYRO_ACCELERATOR", "hvf").outcome();
    let error = outcome.json_error();
    assert_eq!(error["code"], "invalid_input");
    assert_eq!(error["message"], "PYRO_ACCELERATOR must be auto, kvm or tcg, not 'hvf'");
}
