//! A command with a terminal, at which somebody types.

use std::process::Command;

use pyro_vm_tests::{BASE, Host, Pyro};

/// Starts `pyro` at a terminal of its own, whose name comes first, and whose keys come from the input. At the
/// end the terminal must be as it was.
const AT_TERMINAL: [&str; 4] = [
    "bash",
    "-c",
    r#"exec script --quiet --return --command "
        tty; before=\$(stty -g); ${*@Q}; code=\$?
        test \"\$before\" = \"\$(stty -g)\" || code=99
        exit \$code" /dev/null"#,
    "bash",
];

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

fn at_terminal(pyro: Pyro) -> Pyro {
    pyro.within(&AT_TERMINAL).variable("TERM", "vt100").variable("SHELL", "/bin/bash")
}

#[test]
fn keys_and_sizes_reach_the_command_and_ctrl_c_is_its_own() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    let script = "trap 'echo interrupted; exit 5' INT; trap 'echo now $(stty size)' WINCH
        echo $TERM at $(tty); read word; echo got $word; while :; do sleep 0.1; done";
    let mut running = at_terminal(vms.vm(&["exec", "-it", &id, "--", "sh", "-c", script])).start();
    running.wait_for_stdout("vt100 at /dev/pts/0\r\n");
    running.send("hello\r");
    running.wait_for_stdout("hello\r\ngot hello\r\n");
    let name = String::from_utf8(running.stdout_so_far()).unwrap();
    let name = name.lines().next().unwrap().trim();
    let mut stty = Command::new("stty");
    assert!(stty.args(["-F", name, "columns", "123", "rows", "45"]).status().unwrap().success());
    running.wait_for_stdout("now 45 123\r\n");
    running.send(CTRL_C);
    running.wait_for_stdout("interrupted\r\n");
    assert_eq!(running.outcome().exit_code(), 5);
    vms.vm(&["delete", &id]).outcome().success();
}

#[test]
fn a_shell_ends_with_its_input_and_nobody_waits_for_what_it_left() {
    let host = Host::new();
    let run = host.pyro(&["run", "-it", BASE, "--", "sh", "-i"]);
    let mut running = at_terminal(run).start();
    running.wait_for_stdout("# ");
    running.send("setsid sleep 1000 & cd /tmp; echo in $PWD; false\r");
    running.wait_for_stdout("\nin /tmp\r\n");
    running.send(CTRL_D);
    assert_eq!(running.outcome().exit_code(), 1);
}

#[test]
fn there_is_a_way_out_of_a_terminal_whose_command_ignores_every_key() {
    let host = Host::new();
    let script = "trap '' INT QUIT TSTP HUP; stty -echo; echo ready; while :; do sleep 1; done";
    let run = host.pyro(&["run", "-it", BASE, "--", "sh", "-c", script]);
    let mut running = at_terminal(run).start();
    running.wait_for_stdout("ready\r\n");
    running.send(CTRL_C);
    running.send("\r~.");
    assert_eq!(running.outcome().exit_code(), 129);
}

#[test]
fn much_output_passes_through_a_terminal_whole() {
    let host = Host::new();
    let run = host.pyro(&["run", "-t", BASE, "--", "seq", "200000"]);
    let outcome = at_terminal(run).outcome();
    let text = outcome.success();
    assert!(text.ends_with("\r\n199999\r\n200000\r\n"), "{:?}", &text[text.len() - 40..]);
    assert_eq!(text.lines().count(), 200_001);
}

#[test]
fn without_a_terminal_of_its_own_pyro_has_none_to_give() {
    let host = Host::new();
    let outcome = host.pyro(&["run", "--tty", BASE, "--", "true"]).outcome();
    assert_eq!(outcome.exit_code(), 125);
    assert!(outcome.stderr.starts_with("error: `--tty` needs a terminal on standard input\n"));
}
