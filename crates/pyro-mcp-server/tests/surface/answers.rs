//! Answers: the object is what the schema says, and the text what there is to read.

use pyro_mcp_server::Profile;
use rmcp::model::CallToolResult;
use serde_json::{Value, json};

use crate::client::{Client, host_pins, text};

/// Fails unless the answer is what `tool` says it gives, and all of it is described.
async fn check(client: &Client, tool: &str, result: &CallToolResult) {
    let tools = client.service.list_all_tools().await.unwrap();
    let tool = tools.into_iter().find(|known| known.name == tool).unwrap();
    let schema = Value::Object((*tool.output_schema.unwrap()).clone());
    let object = result.structured_content.as_ref().expect("an object");
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let problems: Vec<_> = validator.iter_errors(object).map(|error| error.to_string()).collect();
    assert!(problems.is_empty(), "{object}: {problems:?}");
    if result.is_error != Some(true) {
        let undescribed = object
            .as_object()
            .unwrap()
            .keys()
            .find(|name| schema["properties"].get(name.as_str()).is_none());
        assert_eq!(undescribed, None, "every property is described");
    }
}

async fn run(client: &Client, command: &str, more: Value) -> CallToolResult {
    let mut arguments =
        json!({ "environment": "debian:12", "command": command, "allow_host_compat": true });
    arguments.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let result = client.call("vm_run", arguments).await;
    assert_eq!(result.is_error, Some(false), "a command that fails is no error: {result:?}");
    check(client, "vm_run", &result).await;
    result
}

#[tokio::test]
async fn a_run_gives_the_outcome_and_a_text() {
    let client = Client::of(host_pins(), Profile::Full).await;
    let result = run(&client, "cat; echo bad >&2; exit 3", json!({ "stdin": "in\n" })).await;
    let object = result.structured_content.as_ref().unwrap();
    assert_eq!(object["stdout"], "in\n");
    assert_eq!(object["exit_code"], 3);
    assert_eq!(object["execution_mode"], "host_compat");
    assert_eq!(object["cleanup"]["deleted"], true);
    let text = text(&result);
    assert!(text.starts_with("in\n[stderr]\nbad\n[exit code 3, "), "{text}");
    assert!(text.contains("on the host itself"), "{text}");
}

#[tokio::test]
async fn a_time_out_keeps_the_output_so_far() {
    let client = Client::of(host_pins(), Profile::Full).await;
    let result = run(&client, "echo so far; sleep 60", json!({ "timeout_seconds": 0.3 })).await;
    let object = result.structured_content.as_ref().unwrap();
    assert_eq!((&object["exit_code"], &object["timed_out"]), (&json!(124), &json!(true)));
    assert!(text(&result).starts_with("so far\n[timed out, exit code 124, "), "{}", text(&result));
}

#[tokio::test]
async fn long_output_is_cut_where_the_call_or_the_default_says() {
    let client = Client::of(host_pins(), Profile::Full).await;
    let result =
        run(&client, "head -c 1000 /dev/zero | tr '\\0' x", json!({ "output_bytes_max": 10 }))
            .await;
    let object = result.structured_content.as_ref().unwrap();
    assert_eq!(object["stdout"], "xxxxx\n[... 990 bytes left out ...]\nxxxxx");
    assert_eq!(
        (&object["stdout_truncated"], &object["stdout_bytes"]),
        (&json!(true), &json!(1000))
    );
    let hint = "[output cut: stdout has 1000 bytes; for the rest raise output_bytes_max";
    assert!(text(&result).contains(hint), "{}", text(&result));
    let result = run(&client, "head -c 20000 /dev/zero | tr '\\0' x", json!({})).await;
    let kept = result.structured_content.unwrap()["stdout"].as_str().unwrap().len();
    assert!((16384..16384 + 100).contains(&kept), "{kept}");
}

#[tokio::test]
async fn a_command_gets_its_variables_and_its_directory() {
    let client = Client::of(host_pins(), Profile::Full).await;
    let more = json!({ "env": { "GREETING": "hello" }, "cwd": "/tmp" });
    let result = run(&client, "echo $GREETING from $PWD", more).await;
    assert!(text(&result).starts_with("hello from /tmp\n"), "{}", text(&result));
}

#[tokio::test]
async fn environments_are_listed_in_an_object() {
    let client = Client::full().await;
    let result = client.call("vm_list_environments", json!({})).await;
    let object = result.structured_content.as_ref().unwrap();
    assert_eq!(object["environments"].as_array().unwrap().len(), 3);
    assert!(object["catalog_version"].is_string());
    check(&client, "vm_list_environments", &result).await;
    assert!(
        text(&result).contains("debian:12-build (fetched on first use): "),
        "{}",
        text(&result)
    );
}

#[tokio::test]
async fn nothing_to_reap_is_an_answer() {
    let client = Client::full().await;
    let result = client.call("vm_reap_expired", json!({})).await;
    check(&client, "vm_reap_expired", &result).await;
    assert_eq!(result.structured_content, Some(json!({ "deleted_vm_ids": [], "count": 0 })));
}

#[tokio::test]
async fn a_failure_is_within_the_schema_too() {
    // Some clients check that, and would show the model their own error instead of ours.
    let client = Client::full().await;
    for tool in client.service.list_all_tools().await.unwrap() {
        let result = client.call(&tool.name, json!({ "no_such_argument": 1 })).await;
        assert_eq!(result.is_error, Some(true));
        check(&client, &tool.name, &result).await;
    }
}
