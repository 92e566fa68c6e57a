//! The server: what it is made of, one connection over byte streams, and one call from its arrival to its answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use pyro_core::{ErrorKind, Pyro, PyroError};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ErrorData, Implementation, JsonObject,
    ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig,
};
use rmcp::service::{RequestContext, RoleServer, ServerInitializeError, serve_server_with_ct};
use rmcp::{ServerHandler, model};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{self, Answer};
use crate::call::Call;
use crate::http::ClientGone;
use crate::line::Line;
use crate::perform::perform;
use crate::pins::Pins;
use crate::progress::{Listener, Narrator};
use crate::tool::{Profile, Tool};
use crate::turns::Turns;

/// What a message from a client may have; a longer one is passed over.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// For calls to notice that they are no longer wanted.
const CALLS_END_DEADLINE: Duration = Duration::from_secs(5);

/// What the server is called towards clients.
const NAME: &str = "pyro_mcp";

const INSTRUCTIONS_RUN: &str = "Runs commands in disposable Linux VMs. Use vm_run for code you do not trust or must not let \
     touch this machine; nothing a run writes is kept.";

const INSTRUCTIONS_FULL: &str = "Runs commands in disposable Linux VMs. Start with vm_run: one command, one fresh VM, nothing \
     is kept. Only if several commands must share files: vm_create, vm_start, vm_exec …, vm_delete.";

/// A server, which any number of connections share.
#[derive(Debug, Clone)]
pub struct Server(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pyro: Pyro,
    pins: Pins,
    profile: Profile,
    tools: Vec<model::Tool>,
    turns: Turns,
    /// Cancelled when nothing shall be done any more.
    closing: CancellationToken,
    calls: TaskTracker,
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot talk to the client")]
    NoConversation {
        #[source]
        source: Box<ServerInitializeError>,
    },
}

impl Server {
    /// A server of what `pyro` does, within `pins`.
    pub fn new(pyro: Pyro, pins: Pins, profile: Profile) -> Self {
        let mut config = pyro.config().clone();
        let pyro = match pins.active_vms_max {
            Some(max) => {
                config.active_vms_max = max;
                pyro.with_config(config)
            }
            None => pyro,
        };
        let turns = Turns::new(pyro.config().active_vms_max);
        let tools = Tool::of(profile).map(|tool| tool.definition(&pins)).collect();
        let (closing, calls) = (CancellationToken::new(), TaskTracker::new());
        Self(Arc::new(Shared { pyro, pins, profile, tools, turns, closing, calls }))
    }

    /// A server that is closed by itself, and shares with this one what it is made of, and the turns of runs.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let Shared { pyro, pins, profile, tools, turns, .. } = &*self.0;
        Self(Arc::new(Shared {
            pyro: pyro.clone(),
            pins: pins.clone(),
            profile: *profile,
            tools: tools.clone(),
            turns: turns.clone(),
            closing: CancellationToken::new(),
            calls: TaskTracker::new(),
        }))
    }

    /// Serves one client until its side of the conversation ends, or [`close`](Self::close) is called. Calls that run
    /// at that moment are dropped, and with them whatever they do in VMs; VMs that were created stay.
    ///
    /// A line that is no message is passed over. Fails where the conversation does not come about.
    pub async fn serve<R, W>(&self, reader: R, writer: W) -> Result<(), ServeError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let closing = self.0.closing.child_token();
        let transport = Line::new(reader, writer, closing.clone());
        // The service has a token of its own: it still has to send what ended calls are answered with.
        let connection = self.connection(closing.clone());
        let mut service =
            match serve_server_with_ct(connection, transport, CancellationToken::new()).await {
                Ok(service) => service,
                Err(
                    ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled,
                ) => {
                    return Ok(());
                }
                Err(source) => {
                    return Err(ServeError::NoConversation { source: Box::new(source) });
                }
            };
        closing.cancelled().await;
        service.close_with_timeout(CALLS_END_DEADLINE).await.ok();
        Ok(())
    }

    /// Keeps the spares of its core, if that is to have any. Never ends by itself; when the future is dropped they go.
    pub async fn keep_spares(&self) -> Infallible {
        self.0.pyro.keep_spares().await
    }

    /// Ends every connection and every call, soon.
    pub fn close(&self) {
        self.0.closing.cancel();
    }

    /// Ends everything, and waits until nothing is left of what calls did. For the end of the process.
    pub async fn settle(&self) {
        self.close();
        self.0.calls.close();
        tokio::time::timeout(CALLS_END_DEADLINE, self.0.calls.wait()).await.ok();
        self.0.pyro.settle().await;
    }

    /// What serves one connection, until `closing` is cancelled.
    pub(crate) fn connection(&self, closing: CancellationToken) -> Connection {
        Connection { server: self.clone(), closing }
    }

    /// The tools as clients see them.
    pub(crate) fn definitions(&self) -> &[model::Tool] {
        &self.0.tools
    }

    /// Does what a call asks for, within the time that it may take.
    pub(crate) async fn carry_out(
        &self,
        name: &str,
        arguments: Option<JsonObject>,
        narrator: &Narrator,
    ) -> Result<Answer, PyroError> {
        let shared = &*self.0;
        let tool = Tool::find(shared.profile, name)?;
        let call = Call::parse(tool, arguments, &shared.pins)?;
        let deadline = call.deadline();
        let work = perform(&shared.pyro, &shared.pins, &shared.turns, narrator, call);
        in_time(tool, deadline, work).await
    }

    pub(crate) fn closing(&self) -> CancellationToken {
        self.0.closing.child_token()
    }

    pub(crate) fn pins(&self) -> &Pins {
        &self.0.pins
    }
}

/// One client's side of the server.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    server: Server,
    closing: CancellationToken,
}

impl Connection {
    async fn answer(
        &self,
        request: CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<Answer, PyroError> {
        let narrator = Narrator::new();
        let token = context.meta.get_progress_token();
        let listener = token.map(|token| Listener { peer: context.peer.clone(), token });
        let work = self.server.carry_out(&request.name, request.arguments, &narrator);
        tokio::select! {
            biased;
            () = self.unwanted(context) => Err(interrupted()),
            outcome = narrator.accompany(listener.as_ref(), work) => outcome,
        }
    }

    /// Waits until nobody wants the answer any more.
    async fn unwanted(&self, context: &RequestContext<RoleServer>) {
        let gone = ClientGone::of(context);
        tokio::select! {
            () = context.ct.cancelled() => {}
            () = self.closing.cancelled() => {}
            () = gone.happened() => {}
        }
    }
}

impl ServerHandler for Connection {
    fn get_info(&self) -> ServerConfig {
        let instructions = match self.server.0.profile {
            Profile::Run => INSTRUCTIONS_RUN,
            Profile::Full => INSTRUCTIONS_FULL,
        };
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new(NAME, env!("CARGO_PKG_VERSION")))
            .with_instructions(instructions)
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.server.0.tools.clone()))
    }

    fn get_tool(&self, name: &str) -> Option<model::Tool> {
        self.server.0.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let running = self.server.0.calls.token();
        let answer = Box::pin(self.answer(request, &context)).await;
        drop(running);
        let result = match answer {
            Ok(answer) => answer.into_result(),
            Err(failure) => answer::failure(&failure),
        };
        Ok(CallToolResult::into(result))
    }
}

pub(crate) fn interrupted() -> PyroError {
    PyroError::new(ErrorKind::Interrupted, "the call was given up before it was done")
}

/// Gives work up that takes too long.
async fn in_time<T>(
    tool: Tool,
    deadline: Duration,
    work: impl Future<Output = Result<T, PyroError>>,
) -> Result<T, PyroError> {
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
        let seconds = deadline.as_secs();
        let message = format!("{} took longer than {seconds} s and was given up", tool.name());
        Err(PyroError::new(ErrorKind::DeadlineReached, message).hint(
            "try again; if that does not help, `pyro doctor` on the host may say why it is slow",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_too_long_is_given_up() {
        let work = std::future::pending::<Result<(), _>>();
        let error = in_time(Tool::Stop, Duration::from_mins(1), work).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::DeadlineReached);
        assert_eq!(error.message, "vm_stop took longer than 60 s and was given up");
    }
}
