//! Calls that are refused: as results that a model can act on, never as errors of the protocol.

use pyro_core::{MemoryMib, PinOptions, Timeout};
use pyro_mcp_server::{Pins, Profile};
use serde_json::json;

use crate::client::{Client, text};

#[tokio::test]
async fn a_wrong_argument_is_named_with_its_value_and_its_limit() {
    let client = Client::full().await;
    let run = |name: &str, value: serde_json::Value| {
        let mut arguments = json!({ "environment": "debian:12", "command": "true" });
        arguments[name] = value;
        client.refusal("vm_run", arguments)
    };
    for (name, value, message) in [
        ("vcpu_count", json!(9), "vcpu_count must be between 1 and 8, not 9"),
        ("vcpu_count", json!("2"), "vcpu_count must be a whole number, not \"2\""),
        ("mem_mib", json!(255), "mem_mib must be between 256 and 32768, not 255"),
        ("ttl_seconds", json!(59), "ttl_seconds must be between 60 and 3600, not 59"),
        ("timeout_seconds", json!(0), "timeout_seconds must be positive, not 0"),
        ("timeout_seconds", json!(3601), "timeout_seconds must be at most 3600, not 3601"),
        ("output_bytes_max", json!(-1), "output_bytes_max must be between 0 and 131072, not -1"),
        (
            "output_bytes_max",
            json!(131_073),
            "output_bytes_max must be between 0 and 131072, not 131073",
        ),
        ("network", json!("yes"), "network must be true or false, not \"yes\""),
        (
            "allow_hosts",
            json!("a.example"),
            "allow_hosts must be a list of strings, not \"a.example\"",
        ),
        ("allow_hosts", json!([1]), "an item of allow_hosts must be a string, not 1"),
        ("allow_hosts", json!(["a.example"]), "allow_hosts needs a network"),
        ("command", json!(""), "command must not be empty"),
        ("command", json!(null), "command is required by vm_run"),
        ("env", json!(["A=b"]), "env must be an object of strings, not [\"A=b\"]"),
        (
            "env",
            json!({ "A=B": "x" }),
            "the name of an environment variable must not be empty, nor contain `=` or \
             NUL, like \"A=B\"",
        ),
        ("cwd", json!("tmp"), "cwd must be an absolute path without a NUL byte, not \"tmp\""),
        ("stdin", json!(1), "stdin must be a string, not 1"),
        (
            "environment",
            json!("ubuntu"),
            "unknown environment 'ubuntu'; expected one of: debian:12, debian:12-base, debian:12-build",
        ),
        (
            "cpus",
            json!(1),
            "unknown argument 'cpus'; vm_run takes: allow_cidrs, allow_host_compat, allow_hosts, allow_public, command, \
             cwd, deny_cidrs, deny_hosts, env, environment, host_ca, host_proxy, mem_mib, network, publish, output_bytes_max, stdin, timeout_seconds, ttl_seconds, vcpu_count",
        ),
        (
            "allow_host_compat",
            json!(true),
            "allow_host_compat must be false: the operator of this server did not set `--allow-host-compat`",
        ),
    ] {
        let refusal = run(name, value).await;
        // Objects of JSON have no order of their own.
        let sorted = |text: &str| {
            let mut words: Vec<_> = text.split([' ', ',']).map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&refusal), sorted(message), "{refusal}");
    }
}

#[tokio::test]
async fn a_vm_that_does_not_exist_is_named() {
    let client = Client::full().await;
    for tool in ["vm_start", "vm_stop", "vm_status", "vm_delete", "vm_network_info"] {
        for id in ["0123456789ab", "../../etc", ""] {
            let message = client.refusal(tool, json!({ "vm_id": id })).await;
            assert_eq!(message, format!("vm '{id}' does not exist"), "{tool}");
        }
    }
    let arguments = json!({ "vm_id": "0123456789ab", "command": "true" });
    let logs = |name: &str, value: serde_json::Value| {
        let mut arguments = json!({ "vm_id": "0123456789ab", "run_id": 1 });
        arguments[name] = value;
        client.refusal("vm_logs", arguments)
    };
    for (name, value, message) in [
        ("run_id", json!(1), "vm '0123456789ab' does not exist"),
        ("run_id", json!(null), "vm '0123456789ab' does not exist"),
        ("run_id", json!(0), "run_id must be between 1 and 4294967295, not 0"),
        ("offset", json!(-1), "offset must be between 0 and 9223372036854775807, not -1"),
        ("bytes_max", json!(0), "bytes_max must be between 1 and 131072, not 0"),
        ("stream", json!("both"), "stream must be stdout or stderr, not 'both'"),
    ] {
        assert_eq!(logs(name, value).await, message);
    }
    assert_eq!(client.refusal("vm_exec", arguments).await, "vm '0123456789ab' does not exist");
}

#[tokio::test]
async fn what_the_operator_pinned_no_call_can_widen() {
    let pins = Pins {
        environments: Some(vec![pyro_core::parse_environment("debian:12").unwrap()]),
        memory_max: MemoryMib::new(512).unwrap(),
        timeout_max: Timeout::from_seconds(10.0).unwrap(),
        network: Pins::network(&PinOptions { network: false, ..PinOptions::default() }).unwrap(),
        ..Pins::default()
    };
    let client = Client::of(pins, Profile::Full).await;
    for (name, value, message, option) in [
        (
            "environment",
            json!("debian:12-build"),
            "environment 'debian:12-build' is not allowed; expected one of: debian:12",
            "--allow-environment",
        ),
        ("mem_mib", json!(1024), "mem_mib must be at most 512, not 1024", "--max-mem-mib 512"),
        (
            "timeout_seconds",
            json!(11),
            "timeout_seconds must be at most 10, not 11",
            "--max-timeout-seconds 10",
        ),
        ("network", json!(true), "network must be false", "--no-network"),
    ] {
        let mut arguments = json!({ "environment": "debian:12", "command": "true" });
        arguments[name] = value;
        let result = client.call("vm_run", arguments).await;
        let error = &result.structured_content.as_ref().unwrap()["error"];
        assert_eq!(error["code"], "invalid_input");
        assert_eq!(error["message"], message);
        let cause = format!("the operator of this server set `{option}`");
        assert_eq!(error["causes"], json!([cause]));
        assert!(text(&result).contains(&cause), "{}", text(&result));
    }
    // Without a number of its own a call stays within the pin, and fails for another reason.
    let result = client.call("vm_create", json!({ "environment": "debian:12" })).await;
    let object = result.structured_content.unwrap();
    assert_eq!(object["error"]["code"], "host_unsupported", "{object}");
}

#[tokio::test]
async fn a_tool_beyond_the_profile_is_none() {
    let client = Client::of(Pins::default(), Profile::Run).await;
    let message = client.refusal("vm_create", json!({ "environment": "debian:12" })).await;
    let expected = "unknown tool 'vm_create'; expected one of: vm_run, vm_list_environments";
    assert_eq!(message, expected);
}

#[tokio::test]
async fn a_refusal_is_readable_as_well() {
    let client = Client::full().await;
    let result =
        client.call("vm_run", json!({ "environment": "debian:12", "command": "x\0" })).await;
    assert_eq!(text(&result), "error (invalid_input): command must not contain a NUL byte");
}
