//! The list of tools: what every conversation of every client has to read.

use std::path::Path;

use pyro_core::{MemoryMib, VcpuCount};
use pyro_mcp_server::{Pins, Profile};
use rmcp::model::Tool;
use serde_json::Value;

use crate::client::Client;

/// What a list may cost, in bytes of compact JSON. A token is about four of them, so
/// that is 3900 tokens, and 1080; at present it is 3880, and 1032.
const FULL_BYTES_MAX: usize = 4 * 3900;
const RUN_BYTES_MAX: usize = 4 * 1080;

async fn tools(profile: Profile) -> Vec<Tool> {
    Client::of(Pins::default(), profile).await.service.list_all_tools().await.unwrap()
}

fn check(name: &str, tools: &[Tool], bytes_max: usize) {
    let compact = serde_json::to_string(tools).unwrap();
    assert!(
        compact.len() <= bytes_max,
        "{} bytes, about {} tokens",
        compact.len(),
        compact.len() / 4
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/surface/golden").join(name);
    let text = serde_json::to_string_pretty(tools).unwrap() + "\n";
    let known = fs_err::read_to_string(&path).unwrap_or_default();
    if known != text {
        let actual = path.with_extension("actual.json");
        fs_err::write(&actual, &text).unwrap();
        panic!(
            "the list of tools is another one; if it shall be:\n  mv {} {}",
            actual.display(),
            path.display()
        );
    }
}

#[tokio::test]
async fn the_full_list_is_as_it_was_and_small() {
    check("tools-full.json", &tools(Profile::Full).await, FULL_BYTES_MAX);
}

#[tokio::test]
async fn the_short_list_is_as_it_was_and_small() {
    check("tools-run.json", &tools(Profile::Run).await, RUN_BYTES_MAX);
}

#[tokio::test]
async fn every_schema_is_valid_and_without_number_formats() {
    for tool in tools(Profile::Full).await {
        for schema in [Some(tool.input_schema), tool.output_schema] {
            let schema = Value::Object((*schema.expect("every tool has both")).clone());
            jsonschema::draft202012::new(&schema).unwrap();
            assert_eq!(schema["type"], "object");
            assert!(!schema.to_string().contains("\"format\""), "{schema}");
        }
    }
}

#[tokio::test]
async fn every_tool_says_what_it_may_do() {
    for tool in tools(Profile::Full).await {
        let annotations = tool.annotations.expect("annotations");
        assert!(annotations.title.is_some() && annotations.read_only_hint.is_some());
        let has_network = ["vm_run", "vm_exec"].contains(&&*tool.name);
        assert_eq!(annotations.open_world_hint, Some(has_network), "{}", tool.name);
        let is_read_only = annotations.read_only_hint == Some(true);
        let ends_something = ["vm_stop", "vm_delete", "vm_exec"].contains(&&*tool.name);
        assert_eq!(annotations.destructive_hint, Some(ends_something), "{}", tool.name);
        assert!(!(is_read_only && ends_something));
    }
}

#[tokio::test]
async fn pins_show_in_the_schema() {
    let pins = Pins {
        environments: Some(vec![pyro_core::parse_environment("debian:12").unwrap()]),
        vcpu_count_max: VcpuCount::new(2).unwrap(),
        memory_max: MemoryMib::new(512).unwrap(),
        ..Pins::default()
    };
    let client = Client::of(pins, Profile::Run).await;
    let tools = client.service.list_all_tools().await.unwrap();
    let properties = &tools[0].input_schema["properties"];
    assert_eq!(properties["environment"]["enum"], serde_json::json!(["debian:12"]));
    assert_eq!(properties["vcpu_count"]["maximum"], 2);
    assert_eq!(properties["mem_mib"]["maximum"], 512);
    assert_eq!(properties["mem_mib"]["default"], 512, "a call without it must not be refused");
}

#[tokio::test]
async fn the_server_introduces_itself() {
    for (profile, word) in [(Profile::Full, "vm_create"), (Profile::Run, "vm_run")] {
        let client = Client::of(Pins::default(), profile).await;
        let info = client.service.peer_info().unwrap();
        let server = info.server_info.as_ref().unwrap();
        assert_eq!(server.name, "pyro_mcp");
        assert_eq!(server.version, env!("CARGO_PKG_VERSION"));
        let instructions = info.instructions.as_ref().unwrap();
        assert!(instructions.contains(word) && instructions.len() < 400);
        assert_eq!(instructions.contains("vm_create"), profile == Profile::Full);
    }
}
