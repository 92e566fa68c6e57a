//! Calls without the protocol: the same tools, the same answers.

use pyro_mcp_server::{Pins, Profile};
use serde_json::{Map, Value, json};

use crate::client::{Client, host_pins, text};

#[tokio::test]
async fn the_tools_are_those_that_clients_see() {
    for profile in [Profile::Run, Profile::Full] {
        let client = Client::of(Pins::default(), profile).await;
        let listed = client.service.list_all_tools().await.unwrap();
        let direct = client.server.tools();
        assert_eq!(direct.len(), listed.len());
        for (direct, listed) in direct.iter().zip(&listed) {
            assert_eq!(direct.name, listed.name);
            assert_eq!(Some(direct.description.as_str()), listed.description.as_deref());
            assert_eq!(direct.input_schema, Value::Object((*listed.input_schema).clone()));
        }
    }
}

#[tokio::test]
async fn a_call_is_answered_as_a_clients_is() {
    let client = Client::of(host_pins(), Profile::Run).await;
    let run = json!({ "environment": "debian:12", "command": "echo hi; exit 3", "allow_host_compat": true });
    for (tool, arguments) in [
        ("vm_run", run),
        ("vm_run", json!({ "environment": "debian:12" })),
        ("vm_list_environments", json!({})),
        ("vm_create", json!({ "environment": "debian:12" })),
        ("no_such_tool", json!({})),
    ] {
        let listed = client.call(tool, arguments.clone()).await;
        let Value::Object(arguments) = arguments else { panic!("no object") };
        let direct = client.server.call(tool, arguments, &|_| {}).await;
        assert_eq!(Some(direct.is_failure), listed.is_error, "{direct:?}");
        let mut objects = [direct.object, listed.structured_content.clone().unwrap()];
        for object in &mut objects {
            // Of each run its own.
            for key in ["vm_id", "cleanup", "duration_ms"] {
                object.as_object_mut().unwrap().remove(key);
            }
        }
        assert_eq!(objects[0], objects[1]);
        // The text of a command that fails has its duration.
        if tool != "vm_run" || direct.is_failure {
            assert_eq!(direct.text, text(&listed));
        }
    }
}

#[tokio::test]
async fn a_closed_server_carries_out_no_call() {
    let client = Client::of(Pins::default(), Profile::Run).await;
    client.server.close();
    let outcome = client.server.call("vm_list_environments", Map::new(), &|_| {}).await;
    assert!(outcome.is_failure);
    assert_eq!(outcome.object["error"]["code"], "interrupted");
}
