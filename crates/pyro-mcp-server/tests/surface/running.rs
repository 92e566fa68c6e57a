//! Calls while they run: turns, progress, and their end before the answer.

use std::time::Duration;

use pyro_core::ActiveVmsMax;
use pyro_mcp_server::{Pins, Profile};
use rmcp::model::{ClientRequest, Request};
use rmcp::service::PeerRequestOptions;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, DEADLINE, host_pins, request};

fn on_host(command: &str) -> Value {
    json!({ "environment": "debian:12", "command": command, "allow_host_compat": true })
}

/// Waits until a file is there, or is no more.
async fn until_exists(path: &std::path::Path, exists: bool) {
    let until = Instant::now() + DEADLINE;
    while path.exists() != exists {
        assert!(Instant::now() < until, "{} in time", path.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A command that is known to run by a file, until it is ended: then the file goes.
fn lasting(directory: &std::path::Path) -> (Value, std::path::PathBuf) {
    let file = directory.join("runs");
    // Killed with its whole group, so nothing can tidy up: another process watches the pipe.
    let fifo = directory.join("fifo");
    let command = format!(
        "mkfifo {fifo}; (trap '' HUP; setsid sh -c 'cat {fifo}; rm {file}' >/dev/null 2>&1 &); exec 9>{fifo}; \
         touch {file}; sleep 600",
        fifo = fifo.display(),
        file = file.display()
    );
    (on_host(&command), file)
}

#[tokio::test]
async fn a_cancelled_call_ends_its_command() {
    let client = Client::of(host_pins(), Profile::Full).await;
    let directory = tempfile::tempdir().unwrap();
    let (arguments, file) = lasting(directory.path());
    let call = ClientRequest::CallToolRequest(Request::new(request("vm_run", arguments)));
    let handle = client
        .service
        .send_cancellable_request(call, PeerRequestOptions::no_options())
        .await
        .unwrap();
    until_exists(&file, true).await;
    handle.cancel(None).await.unwrap();
    until_exists(&file, false).await;
}

#[tokio::test]
async fn a_client_that_goes_ends_its_commands() {
    let client = Client::of(host_pins(), Profile::Full).await;
    let directory = tempfile::tempdir().unwrap();
    let (arguments, file) = lasting(directory.path());
    let call = ClientRequest::CallToolRequest(Request::new(request("vm_run", arguments)));
    let options = PeerRequestOptions::no_options();
    let handle = client.service.send_cancellable_request(call, options).await.unwrap();
    until_exists(&file, true).await;
    let begin = Instant::now();
    client.service.cancel().await.unwrap();
    until_exists(&file, false).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "and does not wait for them");
    drop(handle);
}

#[tokio::test]
async fn a_server_that_is_closed_answers_what_runs() {
    let client = Client::of(host_pins(), Profile::Full).await;
    let directory = tempfile::tempdir().unwrap();
    let (arguments, file) = lasting(directory.path());
    let closed = async {
        until_exists(&file, true).await;
        client.server.settle().await;
    };
    let (result, ()) = tokio::join!(client.call("vm_run", arguments), closed);
    assert_eq!(result.structured_content.unwrap()["error"]["code"], "interrupted");
    until_exists(&file, false).await;
}

#[tokio::test]
async fn runs_take_turns_and_other_tools_do_not_wait() {
    let pins = Pins { active_vms_max: Some(ActiveVmsMax::new(1).unwrap()), ..host_pins() };
    let client = Client::of(pins, Profile::Full).await;
    let directory = tempfile::tempdir().unwrap();
    let (first, log) = (directory.path().join("first"), directory.path().join("log"));
    let go = directory.path().join("go");
    let command = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.02; done; echo 1 >> {}",
        first.display(),
        go.display(),
        log.display()
    );
    let waiting =
        |number: u8| client.call("vm_run", on_host(&format!("echo {number} >> {}", log.display())));
    let others = async {
        until_exists(&first, true).await;
        let (second, third) = (waiting(2), waiting(3));
        let mut runs = std::pin::pin!(async { tokio::join!(second, third) });
        // Both are sent, and neither runs.
        tokio::select! {
            _ = &mut runs => panic!("it is not their turn"),
            result = client.call("vm_list_environments", json!({})) => {
                assert_eq!(result.is_error, Some(false));
            }
        }
        fs_err::write(&go, "").unwrap();
        runs.await;
    };
    tokio::join!(client.call("vm_run", on_host(&command)), others);
    assert_eq!(fs_err::read_to_string(&log).unwrap(), "1\n2\n3\n");
}
