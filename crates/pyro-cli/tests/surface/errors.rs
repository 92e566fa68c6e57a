//! What pyro says when it cannot do what it is asked to, and the exit code that tells.

use std::fs::File;
use std::process::Command;

use serde_json::json;

use crate::{Outcome, keys, pyro, pyro_with};

const UNKNOWN: &str =
    "unknown environment 'x'; expected one of: debian:12, debian:12-base, debian:12-build";

/// Texts of CONTRACT.md, each with a run that earns it.
const REFUSED: [(&[&str], &str); 17] = [
    (&["x", "--", "true"], UNKNOWN),
    (&["debian:12"], "command is required after --"),
    (&["debian:12", "--"], "command is required after --"),
    (
        &["debian:12", "--vcpu-count", "0", "--", "true"],
        "vcpu_count must be between 1 and 8, not 0",
    ),
    (
        &["debian:12", "--vcpu-count", "9", "--", "true"],
        "vcpu_count must be between 1 and 8, not 9",
    ),
    (
        &["debian:12", "--mem-mib", "255", "--", "true"],
        "mem_mib must be between 256 and 32768, not 255",
    ),
    (
        &["debian:12", "--mem-mib", "32769", "--", "true"],
        "mem_mib must be between 256 and 32768, not 32769",
    ),
    (
        &["debian:12", "--ttl-seconds", "59", "--", "true"],
        "ttl_seconds must be between 60 and 3600, not 59",
    ),
    (
        &["debian:12", "--ttl-seconds", "3601", "--", "true"],
        "ttl_seconds must be between 60 and 3600, not 3601",
    ),
    (
        &["debian:12", "--timeout-seconds", "0", "--", "true"],
        "timeout_seconds must be positive, not 0",
    ),
    (
        &["debian:12", "--timeout-seconds", "-1", "--", "true"],
        "timeout_seconds must be positive, not -1",
    ),
    (
        &["debian:12", "--timeout-seconds", "nan", "--", "true"],
        "timeout_seconds must be positive, not NaN",
    ),
    (&["debian:12", "--host-ca", "--", "true"], "host_ca needs a network"),
    (
        &["debian:12", "--network", "--allow-host", "10.0.0.1", "--", "true"],
        "allow_hosts: '10.0.0.1' is no host: it is an address",
    ),
    (
        &["debian:12", "--network", "--allow-cidr", "10.0.0.1/8", "--", "true"],
        "allow_cidrs: '10.0.0.1/8' is no CIDR rule: its address has bits beyond its length",
    ),
    (
        &["debian:12", "--network", "--publish", "80:80", "--publish", "80:81", "--", "true"],
        "publish: the host's port 80 is there twice",
    ),
    (
        &["debian:12", "--network", "--host-proxy", "--", "true"],
        "host_proxy asks for the host's proxy, but there is none",
    ),
];

#[test]
fn a_run_that_is_refused_exits_with_125_and_says_why_on_standard_error() {
    for (arguments, message) in REFUSED {
        let outcome = pyro(&[&["run"], arguments].concat());
        assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (125, ""), "{arguments:?}");
        assert_eq!(outcome.stderr.lines().next(), Some(&*format!("error: {message}")));
    }
}

#[test]
fn with_json_the_error_is_the_one_document_on_standard_output() {
    for (arguments, message) in REFUSED {
        let outcome = pyro(&[&["run", "--json"], arguments].concat());
        assert_eq!(outcome.exit_code, 125, "{arguments:?}");
        let document = outcome.json();
        assert_eq!(keys(&document), ["error", "ok"]);
        assert_eq!(document["ok"], false);
        assert_eq!(keys(&document["error"]), ["causes", "code", "hints", "message"]);
        assert_eq!(document["error"]["message"], message);
    }
}

#[test]
fn every_command_reports_an_error_in_the_same_shape() {
    let error = json!({
        "ok": false,
        "error": { "code": "unknown_environment", "message": UNKNOWN, "causes": [], "hints": [] },
    });
    for command in ["pull", "inspect"] {
        let outcome = pyro(&["env", command, "--json", "x"]);
        assert_eq!(outcome.exit_code, 1);
        assert_eq!(outcome.json(), error);
        let outcome = pyro(&["env", command, "x"]);
        assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (1, ""));
        assert_eq!(outcome.stderr, format!("error: {UNKNOWN}\n"));
    }
}

#[test]
fn a_request_for_a_vm_that_is_refused_says_why() {
    let unknown = "vm 'x' does not exist";
    let refused: [(&[&str], i32, &str); 9] = [
        (&["start", "x"], 1, unknown),
        (&["status", "x"], 1, unknown),
        (&["stop", "000000000000"], 1, "vm '000000000000' does not exist"),
        (&["delete", "../x"], 1, "vm '../x' does not exist"),
        (&["exec", "x", "--", "true"], 125, unknown),
        (&["exec", "000000000000"], 125, "command is required after --"),
        (&["create", "x"], 1, UNKNOWN),
        (
            &["create", "debian:12", "--ttl-seconds", "59"],
            1,
            "ttl_seconds must be between 60 and 3600, not 59",
        ),
        (
            &["create", "debian:12", "--metadata", "=x"],
            1,
            "metadata must have names that are not empty",
        ),
    ];
    for (arguments, code, message) in refused {
        let outcome = pyro(&[&["vm"], arguments].concat());
        assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (code, ""), "{arguments:?}");
        assert_eq!(outcome.stderr.lines().next(), Some(&*format!("error: {message}")));
    }
    let list = pyro(&["vm", "list", "--json"]);
    assert_eq!((list.exit_code, list.json()), (0, json!({ "vms": [] })));
}

#[test]
fn a_command_line_that_makes_no_sense_is_125_for_run_and_2_elsewhere() {
    let exit_code = |arguments: &[&str]| {
        let outcome = pyro(arguments);
        assert_eq!(outcome.stdout, "");
        assert!(outcome.stderr.starts_with("error: "), "{outcome:#?}");
        outcome.exit_code
    };
    assert_eq!(exit_code(&["run", "--unknown", "debian:12", "--", "true"]), 125);
    assert_eq!(exit_code(&["run", "debian:12", "true"]), 125);
    assert_eq!(exit_code(&["run", "debian:12", "--mem-mib", "much", "--", "true"]), 125);
    assert_eq!(exit_code(&["run"]), 125);
    assert_eq!(exit_code(&["vm", "exec"]), 125);
    assert_eq!(exit_code(&["vm", "start"]), 2);
    assert_eq!(exit_code(&["env", "pull"]), 2);
    assert_eq!(exit_code(&["no-such-command"]), 2);
}

#[test]
fn a_command_without_its_separator_is_shown_as_it_was_meant() {
    for (arguments, example) in [
        (&["run", "debian:12", "true"][..], "pyro run debian:12 -- git --version"),
        (&["vm", "exec", "ID", "true"], "pyro vm exec ID -- git --version"),
    ] {
        let hint = format!("put `--` in front of the command: `{example}`");
        let outcome = pyro(arguments);
        assert!(outcome.stderr.ends_with(&format!("\nhint: {hint}\n")), "{outcome:#?}");
        let outcome = pyro(&[arguments, &["--json"]].concat());
        assert_eq!(outcome.json()["error"]["hints"], json!([hint]));
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_told_in_json_as_well() {
    let outcome = pyro(&["run", "--json", "--unknown", "debian:12", "--", "true"]);
    assert_eq!(outcome.exit_code, 125);
    let document = outcome.json();
    assert_eq!(document["error"]["code"], "invalid_input");
    assert_eq!(document["error"]["message"], "unexpected argument '--unknown' found");
}

#[test]
fn what_the_operator_refuses_no_option_allows() {
    let run =
        ["run", "debian:12", "--allow-host-compat", "--network", "--publish", "80", "--", "true"];
    for (pin, message, cause) in [
        ("off", "network must be false", "the operator of this host refuses it in `PYRO_NETWORK`"),
        (
            "--no-publish",
            "publish must be empty",
            "the operator of this host refuses it in `PYRO_NETWORK`",
        ),
        // What cannot be understood refuses everything.
        (
            "--alow-host example.com",
            "no VM can have a network, because `PYRO_NETWORK` makes no sense",
            "unknown word '--alow-host'",
        ),
    ] {
        let outcome = pyro_with(&[("PYRO_NETWORK", pin)], &run);
        assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (125, ""), "{outcome:#?}");
        let start = format!("error: {message}\n  caused by: {cause}");
        assert!(outcome.stderr.starts_with(&start), "{outcome:#?}");
    }
    let without = pyro_with(&[("PYRO_NETWORK_FILE", "/nonexistent")], &run);
    assert!(without.stderr.contains("`/nonexistent` makes no sense"), "{without:#?}");
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pyro"));
    command.args(["env", "list"]).env_clear().env("HOME", home.path()).stdout(full);
    let outcome = Outcome::of(&mut command);
    assert_eq!(outcome.exit_code, 1, "{outcome:#?}");
    assert!(outcome.stderr.contains("No space left on device"), "{outcome:#?}");
}

#[test]
fn a_setting_that_makes_no_sense_names_its_variable() {
    let outcome = pyro_with(&[("PYRO_ACCELERATOR", "hvf")], &["env", "list"]);
    assert_eq!(outcome.exit_code, 1);
    assert_eq!(outcome.stderr, "error: PYRO_ACCELERATOR must be auto, kvm or tcg, not 'hvf'\n");
    let outcome = pyro_with(&[("HOME", "")], &["env", "list"]);
    assert_eq!(outcome.exit_code, 1);
    assert_eq!(
        outcome.stderr,
        "error: neither XDG_CACHE_HOME nor HOME is set\n\n\
         hint: set `PYRO_ENVIRONMENT_CACHE_DIR` and `PYRO_STATE_DIR`\n"
    );
}
