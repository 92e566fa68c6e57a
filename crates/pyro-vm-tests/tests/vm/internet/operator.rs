//! What an operator pins, and no call can widen.

use pyro_vm_tests::internet::WWW_V4;
use pyro_vm_tests::{Host, Internet, Pyro};

/// Looks at an allowed name, another one, and a private address.
const LOOK: &str = "print(*(attempt(address)[0] for address in ('www.example.com', 'api.example.org', '10.1.2.3')), sep=', ')";

fn run(internet: &Internet<'_>, pin: &str, options: &[&str]) -> Pyro {
    let program = format!("{}\n{LOOK}", super::ATTEMPT);
    let words = ["python3", "-c", &program];
    let run = internet.run(&[&["--json"], options].concat(), &words);
    run.variable("PYRO_NETWORK", pin)
}

#[test]
fn a_pin_is_not_widened_by_a_call_and_no_option_is_said_to_do_so() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let wide = ["--allow-public", "--allow-cidr=10.0.0.0/8", "--allow-host=api.example.org"];
    for options in [&[][..], &wide] {
        let outcome = run(&internet, "--allow-host www.example.com", options).outcome().json();
        assert_eq!(outcome["stdout"], "reached, no such name, ECONNREFUSED\n", "{outcome:#}");
        let refusals = outcome["network_refusals"].as_array().unwrap();
        assert_eq!(refusals.len(), 2, "{outcome:#}");
        for refusal in refusals {
            assert!(refusal["allow_with"].is_null(), "{refusal:#}");
        }
    }
}

#[test]
fn a_call_may_narrow_what_is_pinned() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let narrow = ["--deny-host=www.example.com"];
    let outcome = run(&internet, "--allow-host *.example.com", &narrow).outcome().json();
    assert_eq!(outcome["stdout"], "no such name, no such name, ECONNREFUSED\n", "{outcome:#}");
}

#[test]
fn where_the_network_is_off_no_call_has_one() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let error = run(&internet, "off", &[]).outcome().json_error();
    assert!(error.to_string().contains("PYRO_NETWORK"), "{error:#}");
    let without = internet.around(host.run(&[], &["echo", "works"]));
    assert_eq!(without.variable("PYRO_NETWORK", "off").outcome().success(), "works\n");
}

#[test]
fn a_pin_that_makes_no_sense_shuts_the_network() {
    let host = Host::new();
    let internet = Internet::new(&host);
    for pin in ["--allow-hots www.example.com", "--allow-cidr 10.0.0.0/99", "on"] {
        let error = run(&internet, pin, &[]).outcome().json_error();
        assert!(error.to_string().contains("PYRO_NETWORK"), "{pin}: {error:#}");
    }
}

#[test]
fn a_vm_keeps_the_pin_it_was_made_with() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let vms = host.vms();
    let create = vms.vm(&["create", "debian:12-base", "--network", "--start"]);
    let create = internet.around(create).variable("PYRO_NETWORK", "--allow-host www.example.com");
    let id = create.outcome().success().trim_end().to_owned();
    let reach = |address: &str| {
        let script = format!("exec bash -c 'exec 3<>/dev/tcp/{address}/7 && echo reached'");
        internet.around(vms.exec(&id, &script)).outcome()
    };
    assert_ne!(reach(WWW_V4).exit_code(), 0);
    assert_eq!(reach("www.example.com").success(), "reached\n");
    vms.vm(&["delete", &id]).outcome().success();
}
