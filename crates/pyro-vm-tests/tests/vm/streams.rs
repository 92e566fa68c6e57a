//! What goes into a command and comes out of it.

use pyro_vm_tests::Host;

#[test]
fn standard_output_and_standard_error_stay_apart() {
    let host = Host::new();
    let outcome = host.run(&[], &["sh", "-c", "echo out; echo err >&2"]).outcome();
    assert_eq!(outcome.text(), "out\n");
    assert_eq!(outcome.stderr, "err\n");
}

#[test]
fn output_and_input_pass_while_the_command_runs() {
    let host = Host::new();
    let script = "echo ready; read word; echo got $word >&2; read word; echo got $word";
    let mut running = host.run(&[], &["sh", "-c", script]).start();
    running.wait_for_stdout("ready\n");
    running.send("first\n");
    running.wait_for_stderr("got first\n");
    running.send("second\n");
    assert_eq!(running.outcome().success(), "ready\ngot second\n");
}

#[test]
fn a_prompt_is_seen_before_its_line_is_whole() {
    let host = Host::new();
    let mut running =
        host.run(&[], &["sh", "-c", "printf 'name? '; read name; echo hi $name"]).start();
    running.wait_for_stdout("name? ");
    running.send("ada\n");
    assert_eq!(running.outcome().success(), "name? hi ada\n");
}

#[test]
fn the_end_of_the_input_reaches_the_command() {
    let host = Host::new();
    let outcome = host.run(&[], &["wc", "-c"]).outcome_with_input(b"hello".to_vec());
    assert_eq!(outcome.success(), "5\n");
    assert_eq!(host.run(&[], &["cat"]).outcome().success(), "");
}

#[test]
fn megabytes_pass_through_unchanged() {
    // Not a multiple of any buffer, and every byte value at every offset.
    let input: Vec<u8> = (0..8_000_003_u64).map(|i| (i * i / 251).to_le_bytes()[0]).collect();
    let host = Host::new();
    let outcome = host.run(&[], &["cat"]).outcome_with_input(input.clone());
    assert_eq!(outcome.stdout.len(), input.len());
    assert!(outcome.stdout == input);
}

#[test]
fn a_command_need_not_read_its_input() {
    let host = Host::new();
    let outcome = host.run(&[], &["echo", "done"]).outcome_with_input(vec![b'x'; 4_000_000]);
    assert_eq!(outcome.success(), "done\n");
}

#[test]
fn a_command_may_close_its_input_and_go_on() {
    let host = Host::new();
    let words = ["sh", "-c", "exec < /dev/null; echo closed; seq 100000 | tail -1"];
    let outcome = host.run(&[], &words).outcome_with_input(vec![b'x'; 4_000_000]);
    assert_eq!(outcome.success(), "closed\n100000\n");
}

#[test]
fn bytes_that_are_no_text_pass_and_are_replaced_in_json() {
    let host = Host::new();
    let words = ["printf", r"a\377\0b"];
    assert_eq!(host.run(&[], &words).outcome().stdout, b"a\xff\0b");
    let document = host.run(&["--json"], &words).outcome().json();
    assert_eq!(document["stdout"], "a\u{fffd}\0b");
    assert_eq!(document["stdout_bytes"], 4);
}

#[test]
fn a_command_without_output_gives_none() {
    let host = Host::new();
    let outcome = host.run(&[], &["true"]).outcome();
    assert_eq!(outcome.success(), "");
    assert_eq!(outcome.stderr, "");
}

#[test]
fn nobody_waits_for_a_background_process_that_holds_the_output() {
    let host = Host::new();
    let outcome = host.run(&[], &["sh", "-c", "sleep 1000 & echo done"]).outcome();
    assert_eq!(outcome.success(), "done\n");
}
