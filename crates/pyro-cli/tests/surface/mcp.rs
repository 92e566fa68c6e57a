//! `pyro mcp` without a VM: what is refused before anybody is served, and clients' configuration files.

use std::path::Path;
use std::process::{Command, Output};

fn config(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pyro"))
        .args(["mcp", "config"])
        .args(arguments)
        .env("HOME", home)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("CODEX_HOME")
        .env_remove("CLAUDE_CONFIG_DIR")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_configuration_is_printed_with_the_path_of_this_executable() {
    let home = tempfile::tempdir().unwrap();
    let output = config(home.path(), &["--client", "gemini", "--", "--profile", "run"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let server = &document["mcpServers"]["pyro"];
    assert_eq!(server["command"], env!("CARGO_BIN_EXE_pyro"));
    assert_eq!(server["args"], serde_json::json!(["mcp", "serve", "--profile", "run"]));
    assert!(stderr(&output).contains(".gemini/settings.json"), "{}", stderr(&output));
    assert_eq!(fs_err::read_dir(home.path()).unwrap().count(), 0, "nothing is written");
}

#[test]
fn it_is_installed_once_and_beside_what_is_there() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".claude.json");
    let before = "{\n  // mine\n  \"numStartups\": 7\n}\n";
    fs_err::write(&file, before).unwrap();
    let install = || config(home.path(), &["--client", "claude-code", "--install"]);
    let first = install();
    assert!(first.status.success() && stderr(&first).contains("added `mcpServers.pyro`"));
    let text = fs_err::read_to_string(&file).unwrap();
    assert!(text.starts_with("{\n  // mine\n  \"numStartups\": 7"), "{text}");
    let backup = home.path().join(".claude.json.before-pyro");
    assert_eq!(fs_err::read_to_string(backup).unwrap(), before);
    assert!(stderr(&install()).contains("nothing was changed"));
    assert_eq!(fs_err::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_second_change_leaves_the_first_ones_backup_alone() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".claude.json");
    fs_err::write(&file, "{}\n").unwrap();
    let install = ["--client", "claude-code", "--install"];
    config(home.path(), &install);
    let once = fs_err::read_to_string(&file).unwrap();
    let again = config(home.path(), &[&install, &["--", "--profile", "run"][..]].concat());
    assert!(stderr(&again).contains(".claude.json.before-pyro.2"), "{}", stderr(&again));
    let kept = |name| fs_err::read_to_string(home.path().join(name)).unwrap();
    assert_eq!(kept(".claude.json.before-pyro"), "{}\n");
    assert_eq!(kept(".claude.json.before-pyro.2"), once);
}

#[test]
fn a_file_that_cannot_be_parsed_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join(".cursor");
    fs_err::create_dir(&directory).unwrap();
    fs_err::write(directory.join("mcp.json"), "{ not json").unwrap();
    let output = config(home.path(), &["--client", "cursor", "--install"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("it is no valid JSON"), "{}", stderr(&output));
    assert_eq!(fs_err::read_to_string(directory.join("mcp.json")).unwrap(), "{ not json");
    assert_eq!(fs_err::read_dir(&directory).unwrap().count(), 1);
}

#[test]
fn what_a_client_would_hide_is_refused_now() {
    let home = tempfile::tempdir().unwrap();
    for (options, reason) in [
        (&["--no-such-option"][..], "unexpected argument '--no-such-option'"),
        (&["--transport", "http"], "for a server over HTTP give its `--url`"),
        (&["--max-mem-mib", "1"], "mem_mib must be between 256 and 32768, not 1"),
        (&["--allow-environment", "x"], "unknown environment 'x'"),
        (&["--port", "1"], "`--port` has no effect over standard input and output"),
    ] {
        for call in [&["--client", "codex", "--"][..], &["--client", "codex", "--install", "--"]] {
            let output = config(home.path(), &[call, options].concat());
            assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
            assert!(stderr(&output).contains(reason), "{}", stderr(&output));
            assert!(!stderr(&output).contains("--transport http"), "{}", stderr(&output));
        }
    }
    assert_eq!(fs_err::read_dir(home.path()).unwrap().count(), 0, "nothing is written");
}

#[test]
fn a_server_that_makes_no_sense_does_not_begin() {
    for (arguments, reason) in [
        (&["--port", "1"][..], "`--port` has no effect over standard input and output"),
        (&["--max-mem-mib", "1"], "mem_mib must be between 256 and 32768, not 1"),
        (&["--max-active-vms", "0"], "max_active_vms must be between 1 and 1000, not 0"),
        (&["--allow-environment", "x"], "unknown environment 'x'; expected one of: "),
        (&["--transport", "http", "--token-file", "/dev/null"], "others can read `/dev/null`"),
        (
            &["--transport", "http", "--token-file", "/nowhere"],
            "(umask 077; openssl rand -hex 32 > FILE)",
        ),
    ] {
        let outcome = crate::pyro(&[&["mcp", "serve"], arguments].concat());
        assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (1, ""));
        assert!(outcome.stderr.contains(reason), "{}", outcome.stderr);
    }
}

#[test]
fn a_client_that_says_nothing_is_served_to_its_end() {
    let outcome = crate::pyro(&["mcp", "serve"]);
    assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (0, ""));
    assert_eq!(outcome.stderr, "");
}

#[test]
fn rules_of_the_network_are_options_of_the_server() {
    let config = |options: &[&str]| {
        crate::pyro(&[&["mcp", "config", "--client", "cursor", "--"], options].concat())
    };
    let options =
        ["--allow-host", "*.example.org:443", "--deny-cidr", "8.8.8.0/24", "--no-publish"];
    let outcome = config(&options);
    assert_eq!(outcome.exit_code, 0, "{outcome:#?}");
    assert!(outcome.stdout.contains("*.example.org:443"), "{outcome:#?}");
    let outcome = config(&["--allow-cidr", "example.com"]);
    assert_eq!(outcome.exit_code, 1, "{outcome:#?}");
    assert!(outcome.stderr.contains("allow_cidrs: 'example.com' is no CIDR rule"), "{outcome:#?}");
    let outcome = config(&["--allow-http-host", "name.example"]);
    assert!(outcome.stderr.contains("`--allow-http-host` has no effect"), "{outcome:#?}");
}
