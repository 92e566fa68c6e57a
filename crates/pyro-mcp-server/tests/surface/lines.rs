//! The conversation line by line: what is no message, and how it begins and ends.

use std::time::Duration;

use pyro_mcp_server::{Pins, Profile};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::Instant;

use crate::client::{DEADLINE, server};

/// What a server says to lines of text; the client ends its side after `answers` of them.
async fn converse(lines: &[&str], answers: usize) -> Vec<Value> {
    let (server, _directory) = server(Pins::default(), Profile::Full);
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(theirs);
    let (from_server, mut to_server) = tokio::io::split(ours);
    let mut from_server = BufReader::new(from_server);
    let talk = async {
        for line in lines {
            to_server.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }
        let mut heard = Vec::new();
        while heard.len() < answers {
            let mut line = String::new();
            assert!(from_server.read_line(&mut line).await.unwrap() > 0, "heard only {heard:?}");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message.get("id").is_some_and(|id| !id.is_null()) {
                heard.push(message);
            }
        }
        to_server.shutdown().await.unwrap();
        let begin = Instant::now();
        let mut rest = String::new();
        from_server.read_to_string(&mut rest).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(2), "the end is noticed at once");
        heard
    };
    let both = async { tokio::join!(server.serve(reader, writer), talk) };
    let (served, heard) = tokio::time::timeout(DEADLINE, both).await.expect("in time");
    served.unwrap();
    heard
}

fn initialize(version: &str) -> String {
    json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" },
        },
    })
    .to_string()
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;

#[tokio::test]
async fn lines_that_are_no_messages_are_passed_over() {
    let garbage = ["garbage", "{", "", "42", "[]", "{\"a\":1}", "\u{0}", "\"text\"", "null", "{}"];
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let response = r#"{"jsonrpc":"2.0","id":9,"result":{}}"#;
    let begin = initialize("2025-11-25");
    let mut lines = garbage.to_vec();
    lines.extend([notification, response, &begin]);
    lines.extend(garbage);
    lines.extend([notification, response, LIST]);
    let heard = converse(&lines, 2).await;
    assert_eq!(heard[0]["id"], 1);
    assert_eq!(heard[1]["id"], 2);
    assert_eq!(heard[1]["result"]["tools"].as_array().unwrap().len(), 12);
}

#[tokio::test]
async fn every_revision_with_a_handshake_is_served() {
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let heard = converse(&[&initialize(version), LIST], 2).await;
        assert_eq!(heard[0]["result"]["protocolVersion"], version);
    }
}

#[tokio::test]
async fn the_revision_without_a_handshake_is_served() {
    let list = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/list",
        "params": { "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        }},
    });
    let heard = converse(&[&list.to_string()], 1).await;
    assert_eq!(heard[0]["result"]["tools"].as_array().unwrap().len(), 12);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_no_failure() {
    assert!(converse(&[], 0).await.is_empty());
}

#[tokio::test]
async fn a_tool_that_is_asked_for_badly_is_answered_with_a_result() {
    let call = json!({
        "jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": { "name": "vm_rnu", "arguments": {} },
    });
    let heard = converse(&[&initialize("2025-11-25"), &call.to_string()], 2).await;
    assert_eq!(heard[1]["result"]["isError"], true, "{}", heard[1]);
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_listen_is_read_no_further() {
    let (server, _directory) = server(Pins::default(), Profile::Full);
    // The server's words fill this line long before the client's do.
    let (ours, theirs) = tokio::io::duplex(1 << 12);
    let (reader, writer) = tokio::io::split(theirs);
    let (from_server, mut to_server) = tokio::io::split(ours);
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move { server.serve(reader, writer).await });
    let mut taken = 0;
    to_server.write_all(format!("{}\n", initialize("2025-11-25")).as_bytes()).await.unwrap();
    let ask = async {
        for number in 2.. {
            let list = json!({ "jsonrpc": "2.0", "id": number, "method": "tools/list" });
            to_server.write_all(format!("{list}\n").as_bytes()).await.unwrap();
            taken = number;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), ask)
        .await
        .expect_err("it is never read to the end");
    assert!((200..500).contains(&taken), "{taken} requests are read, and some lie in the line");
    // Whoever listens again is served again.
    let mut from_server = BufReader::new(from_server).lines();
    let listen = async {
        for _ in 0..256 {
            from_server.next_line().await.unwrap().expect("an answer");
        }
    };
    tokio::time::timeout(DEADLINE, listen).await.expect("in time");
}

#[tokio::test]
async fn of_requests_that_share_a_name_one_is_answered() {
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" }).to_string();
    let last = json!({ "jsonrpc": "2.0", "id": 3, "method": "ping" }).to_string();
    let mut lines = vec![initialize("2025-11-25")];
    lines.extend(std::iter::repeat_n(list, 20));
    lines.push(last);
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let heard = converse(&lines, 3).await;
    let mut ids: Vec<_> = heard.iter().map(|answer| answer["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
}
