//! `--help` and `--version`. After a change that is meant, write the golden files anew:
//! `pyro run --help > golden/run.txt`.

use crate::pyro;

#[track_caller]
fn assert_help(command: &[&str], golden: &str) {
    let arguments = [command, &["--help"]].concat();
    let help = pyro(&arguments);
    assert_eq!(help.success(), golden, "`pyro {}`", arguments.join(" "));
}

#[test]
fn help_of_every_command_is_the_golden_one() {
    assert_help(&[], include_str!("golden/pyro.txt"));
    assert_help(&["run"], include_str!("golden/run.txt"));
    assert_help(&["vm"], include_str!("golden/vm.txt"));
    assert_help(&["vm", "list"], include_str!("golden/vm-list.txt"));
    assert_help(&["vm", "create"], include_str!("golden/vm-create.txt"));
    assert_help(&["vm", "start"], include_str!("golden/vm-start.txt"));
    assert_help(&["vm", "exec"], include_str!("golden/vm-exec.txt"));
    assert_help(&["vm", "status"], include_str!("golden/vm-status.txt"));
    assert_help(&["vm", "logs"], include_str!("golden/vm-logs.txt"));
    assert_help(&["vm", "network-info"], include_str!("golden/vm-network-info.txt"));
    assert_help(&["vm", "reap"], include_str!("golden/vm-reap.txt"));
    assert_help(&["vm", "stop"], include_str!("golden/vm-stop.txt"));
    assert_help(&["vm", "delete"], include_str!("golden/vm-delete.txt"));
    assert_help(&["warm"], include_str!("golden/warm.txt"));
    assert_help(&["env"], include_str!("golden/env.txt"));
    assert_help(&["env", "list"], include_str!("golden/env-list.txt"));
    assert_help(&["env", "pull"], include_str!("golden/env-pull.txt"));
    assert_help(&["env", "inspect"], include_str!("golden/env-inspect.txt"));
    assert_help(&["env", "prune"], include_str!("golden/env-prune.txt"));
    assert_help(&["mcp"], include_str!("golden/mcp.txt"));
    assert_help(&["mcp", "serve"], include_str!("golden/mcp-serve.txt"));
    assert_help(&["mcp", "config"], include_str!("golden/mcp-config.txt"));
    assert_help(&["demo"], include_str!("golden/demo.txt"));
    assert_help(&["demo", "ollama"], include_str!("golden/demo-ollama.txt"));
    assert_help(&["doctor"], include_str!("golden/doctor.txt"));
    assert_help(&["completions"], include_str!("golden/completions.txt"));
}

#[test]
fn the_version_is_printed() {
    let expected = concat!("pyro ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(pyro(&["--version"]).success(), expected);
    assert_eq!(pyro(&["-V"]).success(), expected);
}

#[test]
fn a_call_without_a_command_shows_the_help_on_standard_error() {
    let outcome = pyro(&[]);
    assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (2, ""));
    assert_eq!(outcome.stderr, include_str!("golden/pyro.txt"));
}
