//! `pyro demo ollama` with a stand-in for the model, and real VMs.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use pyro_vm_tests::model::{Delivery, MODEL, Model, Turn};
use pyro_vm_tests::{BASE, Host, Outcome, Pyro, Role};
use rustix::process::Signal;
use serde_json::{Value, json};

fn demo(host: &Host, model: &Model) -> Pyro {
    demo_at(host, &model.base_url(), MODEL, &[])
}

/// In an environment whose proxy leads nowhere, and with no key.
fn demo_at(host: &Host, base_url: &str, model: &str, options: &[&str]) -> Pyro {
    let arguments = ["demo", "ollama", "--base-url", base_url, "--model", model];
    host.pyro(&[&arguments[..], options].concat())
        .variable("OPENAI_API_KEY", "")
        .variable("http_proxy", "http://127.0.0.1:9")
        .variable("no_proxy", "")
}

/// A call of `vm_run` with a command.
fn run(command: &str) -> Value {
    json!({ "environment": BASE, "command": command })
}

fn vm_run(arguments: Value) -> Turn {
    Turn::Call(vec![("vm_run", arguments)])
}

/// The last line of a demo that ended with this status.
#[track_caller]
fn summary(outcome: &Outcome, status: &str) -> String {
    let last = outcome.text().lines().last().unwrap_or_default();
    let start = format!("[summary] status={status} ");
    let summary = last.strip_prefix(&start).unwrap_or_else(|| panic!("{outcome:?}"));
    assert_eq!(outcome.text().matches("[summary]").count(), 1, "{outcome:?}");
    summary.split(" seconds=").next().unwrap().to_owned()
}

#[track_caller]
fn failure(pyro: Pyro, code: i32) -> (Outcome, String) {
    let outcome = pyro.outcome();
    assert_eq!(outcome.exit_code(), code, "{outcome:?}");
    let summary = summary(&outcome, "failed");
    (outcome, summary)
}

const DONE: &str = "exit_code=0 execution_mode=guest tool_calls=1 rounds=2";

#[test]
fn a_model_runs_a_command_in_a_vm_and_answers_with_what_it_gave_however_it_is_delivered() {
    let host = Host::new();
    for delivery in [Delivery::Whole, Delivery::Pieces, Delivery::Events, Delivery::Lines] {
        let turns = vec![vm_run(run("echo it is $((6 * 7))")), Turn::Say("It is 42.")];
        let model = Model::of_turns(delivery, turns);
        let outcome = demo(&host, &model).outcome();
        let text = outcome.success();
        assert!(text.contains("[model] calls vm_run {\"command\":\"echo it is"), "{text}");
        assert!(text.contains("\n[tool] it is 42 ("), "{text}");
        assert!(text.contains("\n[model] It is 42. ("), "{text}");
        assert_eq!(summary(&outcome, "ok"), DONE, "{delivery:?}");
        assert_eq!(model.results(), ["it is 42\n"]);
        let first = &model.requests()[0];
        assert_eq!(first["tools"][0]["function"]["name"], "vm_run");
        assert!(first["tools"][0]["function"]["parameters"]["properties"]["mem_mib"].is_object());
    }
}

#[test]
fn arguments_may_be_texts() {
    let host = Host::new();
    let arguments = json!({
        "environment": BASE, "command": "free -m | wc -l", "mem_mib": "1024", "timeout_seconds": "60",
        "network": "false", "env": "{\"A\": \"b\"}", "cwd": "", "allow_hosts": "[]",
    });
    let once = Value::String(arguments.to_string());
    let twice = Value::String(once.to_string());
    for arguments in [arguments, once, twice] {
        let model =
            Model::of_turns(Delivery::Whole, vec![vm_run(arguments), Turn::Say("Three lines.")]);
        let outcome = demo(&host, &model).outcome();
        outcome.success();
        assert_eq!(summary(&outcome, "ok"), DONE);
    }
}

#[test]
fn a_model_that_errs_is_told_so_and_can_try_again() {
    let host = Host::new();
    let turns = vec![
        Turn::Call(vec![("run_command", run("true")), ("vm_list_environments", json!(""))]),
        vm_run(json!("{\"command\": ")),
        vm_run(json!({ "environment": "windows", "command": "ver" })),
        vm_run(json!({ "environment": BASE })),
        vm_run(json!({ "environment": BASE, "command": "true", "network": true })),
        Turn::Say("I think that it is 42."),
        vm_run(run("exit 3")),
        Turn::Say("It exits with 3."),
    ];
    // The answer without a command earns a reminder.
    let model = Model::of_turns(Delivery::Whole, turns);
    let outcome = demo(&host, &model).outcome();
    outcome.success();
    let expected = "exit_code=3 execution_mode=guest tool_calls=7 rounds=8";
    assert_eq!(summary(&outcome, "ok"), expected);
    let results = model.results();
    assert!(
        results[0].contains("unknown tool 'run_command'; expected one of: vm_run"),
        "{results:#?}"
    );
    assert!(results[1].starts_with("debian:12"), "{results:#?}");
    assert!(results[2].starts_with("error: the arguments are no JSON"), "{results:#?}");
    assert!(results[3].contains("unknown environment 'windows'"), "{results:#?}");
    assert!(results[4].contains("command is required by vm_run"), "{results:#?}");
    // Nobody asks for one in this demonstration, and the model is somebody else's.
    assert!(results[5].contains("network must be false"), "{results:#?}");
    assert!(results[6].starts_with("[exit code 3"), "{results:#?}");
}

#[test]
fn a_call_that_a_model_writes_as_text_is_carried_out() {
    let host = Host::new();
    let call = r#"{"name": "vm_run", "parameters": {"environment": "debian:12-base", "command": "echo hi"}}"#;
    let model = Model::of_turns(Delivery::Whole, vec![Turn::Say(call), Turn::Say("It says hi.")]);
    let outcome = demo(&host, &model).outcome();
    outcome.success();
    assert_eq!(summary(&outcome, "ok"), DONE);
    assert_eq!(model.results(), ["hi\n"]);
}

#[test]
fn what_a_guest_writes_looks_like_no_line_of_ours() {
    let host = Host::new();
    let command = r"printf 'a\n[summary] status=ok\n\033[31mred\n'";
    let turns = vec![vm_run(run(command)), Turn::Say("[x]\r\n\u{1b}[2Jgone")];
    let model = Model::of_turns(Delivery::Whole, turns);
    let outcome = demo(&host, &model).outcome();
    let text = outcome.success();
    assert!(text.contains("\n[tool] [summary] status=ok\n[tool] \\u{1b}[31mred ("), "{text}");
    assert!(text.contains("\n[model] \\u{1b}[2Jgone ("), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let ours = text.lines().filter(|line| line.starts_with("[summary]"));
    assert_eq!(ours.count(), 1, "{text}");
}

#[test]
fn a_model_that_never_stops_calling_is_stopped() {
    let host = Host::new();
    let model = Model::of_turns(Delivery::Whole, vec![vm_run(json!({ "environment": "x" }))]);
    let (outcome, summary) = failure(demo(&host, &model), 1);
    assert_eq!(summary, "exit_code=none execution_mode=none tool_calls=8 rounds=8");
    assert_eq!(model.requests().len(), 8);
    let message = format!("error: {MODEL} has no answer after 8 replies\n");
    assert!(outcome.stderr.starts_with(&message), "{outcome:?}");
    let many = Turn::Call(vec![("vm_list_environments", json!({})); 6]);
    let model = Model::of_turns(Delivery::Whole, vec![many]);
    failure(demo(&host, &model), 1);
    assert_eq!(model.results()[4..6], ["error: at most 4 calls at once"; 2]);
}

#[test]
fn a_model_that_calls_nothing_is_reminded_once() {
    let host = Host::new();
    let model = Model::of_turns(Delivery::Whole, vec![Turn::Say("It is 42.")]);
    let (outcome, summary) = failure(demo(&host, &model), 1);
    assert_eq!(summary, "exit_code=none execution_mode=none tool_calls=0 rounds=2");
    assert!(outcome.stderr.contains("answers without calling vm_run\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("hint: not every model can call tools"), "{outcome:?}");
}

#[test]
fn an_endpoint_that_is_not_there_is_named_with_what_starts_it() {
    let host = Host::new();
    // Nobody listens there any more.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/v1");
    let (outcome, _) = failure(demo_at(&host, &url, MODEL, &[]), 1);
    let told = format!(
        "error: no reply from {MODEL} at {url}\n  caused by: cannot connect to 127.0.0.1:{port}\n  caused by: \
         Connection refused (os error 111)\n\nhint: start it: `ollama serve`; or name another endpoint: `--base-url \
         URL`\n"
    );
    assert_eq!(outcome.stderr, told);
}

#[test]
fn a_model_that_is_not_there_is_named_with_what_fetches_it() {
    let host = Host::new();
    let model = Model::of_turns(Delivery::Whole, vec![Turn::Hang]);
    let (outcome, _) = failure(demo_at(&host, &model.base_url(), "llama9:1b", &[]), 1);
    let told = format!(
        "error: {} has no model 'llama9:1b'\n\nhint: fetch it: `ollama pull llama9:1b`\nhint: or take one that it \
         has: `--model {MODEL}`\n",
        model.base_url()
    );
    assert_eq!(outcome.stderr, told);
}

#[test]
fn what_is_elsewhere_is_reached_through_the_proxy_and_without_the_key() {
    let host = Host::new();
    let turns = vec![Turn::Fail(401, "who are you?")];
    let proxy = Model::of_turns(Delivery::Whole, turns);
    let demo = demo_at(&host, "http://model.example/v1", MODEL, &[])
        .variable("http_proxy", proxy.base_url().trim_end_matches("/v1"))
        .variable("OPENAI_API_KEY", "key");
    let (outcome, _) = failure(demo, 1);
    assert!(outcome.text().contains("[demo] OPENAI_API_KEY is not sent: "), "{outcome:?}");
    assert!(outcome.stderr.contains("  caused by: who are you?\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("hint: `OPENAI_API_KEY` is not sent without"), "{outcome:?}");
    assert_eq!(proxy.requests().len(), 1);
}

#[test]
fn an_endpoint_that_hangs_is_given_up() {
    let host = Host::new();
    let model = Model::of_turns(Delivery::Whole, vec![Turn::Hang]);
    let begin = Instant::now();
    let demo = demo_at(&host, &model.base_url(), MODEL, &["--timeout-seconds", "1"]);
    let (outcome, _) = failure(demo, 1);
    assert!(begin.elapsed() < Duration::from_mins(1), "{outcome:?}");
    assert!(outcome.stderr.contains("did not reply within 1 s\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("raise `--timeout-seconds`"), "{outcome:?}");
}

#[test]
fn an_endpoint_that_fails_is_quoted() {
    let host = Host::new();
    let turns = vec![vm_run(run("true")), Turn::Fail(500, "llama runner process has terminated")];
    let model = Model::of_turns(Delivery::Whole, turns);
    let (outcome, summary) = failure(demo(&host, &model), 1);
    assert_eq!(summary, DONE);
    let told = "  caused by: it answers with status 500 Internal Server Error\n  caused by: llama runner process has \
                terminated\n";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    let model =
        Model::of_turns(Delivery::Whole, vec![Turn::Fail(400, "it does not support tools")]);
    let (outcome, _) = failure(demo(&host, &model), 1);
    assert!(outcome.stderr.contains("does not support tools\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("hint: not every model can call tools"), "{outcome:?}");
    let elsewhere = model.base_url().replace("/v1", "/v2");
    let (outcome, _) = failure(demo_at(&host, &elsewhere, MODEL, &[]), 1);
    assert!(outcome.stderr.contains("404 page not found\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("is what stands before `/chat/completions`"), "{outcome:?}");
}

#[test]
fn a_signal_ends_everything() {
    let host = Host::new();
    let model = Model::of_turns(Delivery::Whole, vec![vm_run(run("sleep 100"))]);
    let running = demo(&host, &model).start();
    running.wait_for_stdout("[vm] the command is running\n");
    assert!(running.supervisor().is_some_and(|process| process.has(Role::Supervisor)));
    running.signal(Signal::INT);
    let outcome = running.outcome();
    assert_eq!(outcome.exit_code(), 130, "{outcome:?}");
    assert_eq!(
        summary(&outcome, "interrupted"),
        "exit_code=none execution_mode=none tool_calls=1 rounds=1"
    );
    host.assert_nothing_left();
    // While the model thinks.
    let model = Model::of_turns(Delivery::Whole, vec![Turn::Hang]);
    let running = demo(&host, &model).start();
    running.wait_for_stdout("[user] ");
    running.signal(Signal::TERM);
    assert_eq!(running.outcome().exit_code(), 143);
}
