//! What a VM's network is asked to be: proxy and certificates of the host, published ports.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use pyro_vm_tests::{DEFAULT, Host};
use serde_json::json;

#[test]
fn a_command_has_the_hosts_proxy_and_trusts_what_the_host_trusts() {
    let host = Host::new();
    let bundle = host.directory().join("bundle.pem");
    fs_err::write(&bundle, "certificates of this host\n").unwrap();
    let script = r#"
        echo "$HTTPS_PROXY $https_proxy $http_proxy"
        echo "$NO_PROXY"
        cat "$SSL_CERT_FILE" "$CURL_CA_BUNDLE"
        cat /etc/apt/apt.conf.d/90pyro-host-ca"#;
    let options = ["--network", "--host-proxy", "--host-ca", "--env", "http_proxy=mine"];
    let run = host
        .run(&options, &["sh", "-ec", script])
        .variable("HTTPS_PROXY", "http://me:pass@127.0.0.1:3128")
        .variable("https_proxy", "")
        .variable("HTTP_PROXY", "http://10.0.0.1:3128")
        .variable("http_proxy", "")
        .variable("NO_PROXY", ".corp.example")
        .variable("no_proxy", "")
        .variable("SSL_CERT_FILE", bundle.to_str().unwrap());
    let proxy = "http://me:pass@host.pyro.internal:3128";
    let expected = format!(
        "{proxy} {proxy} mine\n\
         .corp.example,localhost,127.0.0.1,::1,host.pyro.internal\n\
         certificates of this host\ncertificates of this host\n\
         Acquire::https::CaInfo \"/etc/ssl/certs/pyro-host-ca.pem\";\n"
    );
    assert_eq!(run.outcome().success(), expected);
}

#[test]
fn a_vm_tells_its_ports_and_its_rules_but_no_password() {
    let host = Host::new();
    let vms = host.vms();
    let create = ["create", "--start", "--network", "--publish", "80", "--host-proxy"];
    let made = vms
        .vm(&[&create[..], &["--allow-cidr", "10.1.0.0/16:5432", "debian:12-base"]].concat())
        .variable("https_proxy", "http://me:pass@127.0.0.1:3128")
        .variable("PYRO_NETWORK", "--deny-cidr 10.0.0.0/16 --allow-cidr 10.0.0.0/8")
        .outcome();
    let id = made.success().trim_end().to_owned();
    let network = vms.vm(&["network-info", "--json", &id]).outcome().json();
    let port = network["published"][0]["host_port"].as_u64().unwrap();
    assert_ne!(port, 0);
    let told = format!("pyro: 127.0.0.1:{port} leads to the guest's port 80\n");
    assert!(made.stderr.contains(&told), "{made:?}");
    assert_eq!(
        network["policy"],
        json!([
            {
                "author": "operator",
                "source": "PYRO_NETWORK",
                "allow": ["10.0.0.0/8"],
                "deny": ["10.0.0.0/16"],
            },
            {
                "author": "caller",
                "source": null,
                "allow": ["10.1.0.0/16:5432", "127.0.0.1:3128"],
                "deny": [],
            },
        ])
    );
    let status = vms.vm(&["status", "--json", &id]).outcome().json();
    assert_eq!(status["network_enabled"], true);
    assert_eq!(status["guest_ip"], network["guest_ip"]);
    let record = fs_err::read_to_string(vms.directory(&id).join("record")).unwrap();
    assert!(!record.contains("pass"), "{record}");
    vms.vm(&["delete", &id]).outcome().success();
}

/// A service on the host's loopback, which greets everybody.
fn greeter() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            // A guest that hangs up at once is none of its business.
            connection.unwrap().write_all(b"hello\n").ok();
        }
    });
    port
}

#[test]
fn a_refusal_says_which_arguments_allow_it_and_they_do() {
    let host = Host::new();
    let port = greeter();
    let script = format!("exec 3<>/dev/tcp/host.pyro.internal/{port} && cat <&3");
    let words = ["bash", "-c", script.as_str()];
    let refused = host.run(&["--network", "--json"], &words).outcome().json();
    assert_ne!(refused["exit_code"], 0, "{refused}");
    let destination = format!("127.0.0.1:{port}");
    let refusal = &refused["network_refusals"][0];
    assert_eq!(
        (&refusal["protocol"], &refusal["destination"]),
        (&json!("tcp"), &json!(destination))
    );
    assert_eq!(refusal["reason"], "host_address");
    let allow_with = json!({ "allow_cidrs": [destination], "allow_public": true });
    assert_eq!(refusal["allow_with"], allow_with);

    let told = host.run(&["--network"], &words).outcome().stderr;
    let options = format!("; allow it: --allow-cidr {destination} --allow-public\n");
    assert!(told.ends_with(&options), "{told}");
    let options = ["--network", "--allow-cidr", &destination, "--allow-public"];
    assert_eq!(host.run(&options, &words).outcome().success(), "hello\n");

    let pinned = host.run(&[&options[..], &["--json"]].concat(), &words);
    let pinned = pinned.variable("PYRO_NETWORK", "--allow-public").outcome().json();
    let refusal = &pinned["network_refusals"][0];
    assert_eq!(refusal["allow_with"], json!(null));
    let message = format!(
        "TCP to {destination} (host.pyro.internal) was refused by the operator (`PYRO_NETWORK`): it is the host's own \
         address; no call can change that"
    );
    assert_eq!(refusal["message"], message);
}

#[test]
fn a_published_port_leads_to_the_guest() {
    let host = Host::new();
    let script = "
import socket
server = socket.create_server(('', 8000))
print('listening', flush=True)
connection, _ = server.accept()
connection.sendall(b'hello from the guest\\n')
connection.close()
";
    let options = ["--network", "--publish", "8000"];
    let running = host.run_in(DEFAULT, &options, &["python3", "-c", script]).start();
    running.wait_for_stdout("listening\n");
    running.wait_for_stderr("leads to the guest's port 8000\n");
    let told = String::from_utf8(running.stderr_so_far()).unwrap();
    let port = told.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap();
    let mut connection =
        TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse::<u16>().unwrap())).unwrap();
    let mut heard = String::new();
    connection.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello from the guest\n");
    assert_eq!(running.outcome().exit_code(), 0);
}
