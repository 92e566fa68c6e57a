//! A client and a server on the two ends of a duplex.

use std::time::Duration;

use pyro_core::{Config, HostCompat, Pyro};
use pyro_mcp_server::{Pins, Profile, Server};
use rmcp::model::{CallToolRequestParams, CallToolResult};
use rmcp::service::{RoleClient, RunningService, ServiceExt};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// For whatever is waited for; far longer than it takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A server with directories of its own, on a host without the programs that VMs need.
pub(crate) fn server(pins: Pins, profile: Profile) -> (Server, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::from_environment("/nowhere/pyro".into()).unwrap();
    config.cache_dir = directory.path().join("cache");
    config.state_dir = directory.path().join("state");
    config.tool_path = directory.path().join("no-tools").into();
    (Server::new(Pyro::new(config), pins, profile), directory)
}

/// A server on whose host commands may run.
pub(crate) fn host_pins() -> Pins {
    Pins { host_compat: HostCompat::Allowed, ..Pins::default() }
}

pub(crate) struct Client {
    pub(crate) service: RunningService<RoleClient, ()>,
    pub(crate) server: Server,
    _serving: JoinSet<()>,
    _directory: TempDir,
}

impl Client {
    pub(crate) async fn of(pins: Pins, profile: Profile) -> Self {
        let (server, directory) = server(pins, profile);
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(theirs);
        let mut serving = JoinSet::new();
        let serves = server.clone();
        serving.spawn(async move { serves.serve(reader, writer).await.unwrap() });
        let service = ().serve(ours).await.unwrap();
        Self { service, server, _serving: serving, _directory: directory }
    }

    pub(crate) async fn full() -> Self {
        Self::of(Pins::default(), Profile::Full).await
    }

    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> CallToolResult {
        let call = self.service.call_tool(request(tool, arguments));
        tokio::time::timeout(DEADLINE, call).await.expect("in time").expect("a result")
    }

    /// The message of a refusal.
    pub(crate) async fn refusal(&self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await;
        assert_eq!(result.is_error, Some(true), "{result:?}");
        let object = result.structured_content.expect("an object");
        assert_eq!(object["ok"], false);
        object["error"]["message"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn request(tool: &str, arguments: Value) -> CallToolRequestParams {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments)
}

pub(crate) fn text(result: &CallToolResult) -> &str {
    &result.content[0].as_text().expect("a text").text
}
