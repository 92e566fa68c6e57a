//! What a VM's network is asked to be: proxy and certificates of the host, published ports.

use pyro_vm_tests::Host;
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
