//! Published ports, VMs with a life of their own, several at once; and what is left of any of them: nothing.

use std::process::Output;

use pyro_vm_tests::internet::{OWN_V4, WWW_V4};
use pyro_vm_tests::{Host, Internet, Role, Running, Vms};
use rustix::process::Signal;

/// A server in the guest that answers with a text.
fn serve(internet: &Internet<'_>, options: &[&str], text: &str) -> Running {
    let script = format!(
        "mkdir /root/www; cd /root/www; echo {text} > page; exec python3 -u -m http.server 80"
    );
    let running = internet.run(options, &["sh", "-c", &script]).start();
    running.wait_for_stdout("Serving");
    running
}

fn curl(internet: &Internet<'_>, url: &str) -> Output {
    let curl = ["curl", "--silent", "--show-error", "--max-time", "60", url];
    internet.command_inside(&curl).output().unwrap()
}

#[track_caller]
fn assert_page(internet: &Internet<'_>, url: &str, text: &str) {
    let output = curl(internet, url);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(shown, format!("{text}\n"), "{url}: {output:?}");
}

/// Nobody listens at the port, or has a connection there.
#[track_caller]
fn assert_nobody_at(internet: &Internet<'_>, port: u16) {
    let tables = ["cat", "/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let output = internet.command_inside(&tables).output().unwrap();
    let sockets = String::from_utf8(output.stdout).unwrap();
    let at_port = |line: &&str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        // One that has ended stays for a while, for packets that are late; nobody has it.
        let is_over = columns[3] == "06";
        columns[1].ends_with(&format!(":{port:04X}")) && !is_over
    };
    let found: Vec<_> = sockets.lines().filter(at_port).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_published_port_leads_from_the_hosts_loopback_to_the_guest() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let running = serve(&internet, &["--publish=8080:80"], "published");
    for _ in 0..3 {
        assert_page(&internet, "http://127.0.0.1:8080/page", "published");
    }
    // CURLE_COULDNT_CONNECT
    let from_outside = curl(&internet, &format!("http://{OWN_V4}:8080/page"));
    assert_eq!(from_outside.status.code(), Some(7), "{from_outside:?}");
    running.signal(Signal::INT);
    running.outcome();
    assert_nobody_at(&internet, 8080);
}

#[test]
fn a_port_where_nobody_listens_in_the_guest_is_refused() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let mut running =
        internet.run(&["--publish=8080:81"], &["sh", "-c", "echo ready; read go"]).start();
    running.wait_for_stdout("ready\n");
    let output = curl(&internet, "http://127.0.0.1:8080/");
    // CURLE_COULDNT_CONNECT, CURLE_GOT_NOTHING, CURLE_RECV_ERROR: accepted, and reset.
    assert!([Some(7), Some(52), Some(56)].contains(&output.status.code()), "{output:?}");
    running.send("go\n");
    running.outcome().success();
}

#[test]
fn a_port_that_is_taken_is_refused_before_anything_is_made() {
    let host = Host::new();
    let internet = Internet::new(&host);
    // There is a server at port 80 of the inside.
    let run = internet.run(&["--json", "--publish=80:80"], &["true"]);
    let error = run.outcome().json_error();
    assert_eq!(error["code"], "invalid_input", "{error:#}");
    let text = error.to_string();
    assert!(text.contains("80") && !error["hints"].as_array().unwrap().is_empty(), "{error:#}");
}

#[test]
fn two_vms_have_the_same_address_and_do_not_meet() {
    let host = Host::for_vms(2);
    let internet = Internet::new(&host);
    let one = serve(&internet, &["--publish=8001:80"], "one");
    let other = serve(&internet, &["--publish=8002:80"], "other");
    assert_page(&internet, "http://127.0.0.1:8001/page", "one");
    assert_page(&internet, "http://127.0.0.1:8002/page", "other");
    for running in [one, other] {
        running.signal(Signal::INT);
        running.outcome();
    }
    for port in [8001, 8002] {
        assert_nobody_at(&internet, port);
    }
}

#[test]
fn a_supervisor_that_is_killed_leaves_no_socket() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let running = serve(&internet, &["--publish=8080:80"], "published");
    assert_page(&internet, "http://127.0.0.1:8080/page", "published");
    running.process(Role::Supervisor).kill();
    let outcome = running.outcome_after_a_kill();
    assert_eq!(outcome.exit_code(), 125, "{outcome:#?}");
    assert_nobody_at(&internet, 8080);
}

/// Sends a line, and gets it back, with nothing but what the minimal environment has.
const ECHO: &str = r#"exec bash -ec '
exec 3<>"/dev/tcp/www.example.com/7"
echo here >&3
read -r line <&3
echo "$line"'"#;

#[track_caller]
fn assert_echo(internet: &Internet<'_>, vms: &Vms<'_>, id: &str) {
    let outcome = internet.around(vms.exec(id, ECHO)).outcome();
    assert_eq!(outcome.success(), "here\n");
}

/// As [`Vms::create`], where this is the Internet.
fn create(internet: &Internet<'_>, vms: &Vms<'_>, options: &[&str]) -> String {
    let words = [&["create", "debian:12-base", "--network"], options].concat();
    internet.around(vms.vm(&words)).outcome().success().trim_end().to_owned()
}

#[test]
fn a_vm_has_its_network_again_after_a_stop_and_a_start() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let vms = host.vms();
    let id = create(&internet, &vms, &["--publish=8081:80"]);
    for _ in 0..2 {
        internet.around(vms.vm(&["start", &id])).outcome().success();
        assert_echo(&internet, &vms, &id);
        let info = vms.vm(&["network-info", "--json", &id]).outcome().json();
        assert_eq!(info["guest_ip"], "10.255.255.254", "{info:#}");
        assert_eq!(info["published"][0]["host_port"], 8081, "{info:#}");
        vms.vm(&["stop", &id]).outcome().success();
        assert_nobody_at(&internet, 8081);
    }
    vms.vm(&["delete", &id]).outcome().success();
}

#[test]
fn what_one_run_was_refused_is_not_told_of_another() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let vms = host.vms();
    let id = create(&internet, &vms, &["--start"]);
    let refused = |script: &str| {
        let words = ["exec", "--json", &id, "--", "bash", "-c", script];
        let outcome = internet.around(vms.vm(&words)).outcome().json();
        outcome["network_refusals"].as_array().unwrap_or_else(|| panic!("{outcome:#}")).len()
    };
    let reach = |address: &str| format!("(exec 3<>/dev/tcp/{address}/7); ");
    assert_eq!(refused(&reach("10.1.2.3")), 1);
    assert_eq!(refused(&reach(WWW_V4)), 0);
    assert_eq!(refused(&["10.1.2.3", "169.254.169.254", "10.1.2.3"].map(reach).concat()), 2);
    vms.vm(&["delete", &id]).outcome().success();
}
