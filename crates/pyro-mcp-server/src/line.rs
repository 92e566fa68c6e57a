//! The line to a client over a pair of byte streams: a message in each line of text.

use rmcp::model::JsonRpcMessage;
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::server::MESSAGE_BYTES_MAX;

/// The SDK's transport, with two things changed.
///
/// It tells when the client has ended its side: the SDK's own loop would wait for the calls that run, though
/// nobody is left to read their answers. And it passes over what comes before the first request and is none: the SDK
/// would end the conversation.
pub(crate) struct Line<R: AsyncRead, W: AsyncWrite> {
    transport: AsyncRwTransport<RoleServer, R, W>,
    has_begun: bool,
    /// Cancels a token when the line is dropped, for whatever reason.
    ended: Option<DropGuard>,
}

impl<R, W> Line<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// A line that cancels `ended` when there is nothing more to be read.
    pub(crate) fn new(reader: R, writer: W, ended: CancellationToken) -> Self {
        let transport =
            AsyncRwTransport::new(reader, writer).with_max_line_length(MESSAGE_BYTES_MAX);
        Self { transport, has_begun: false, ended: Some(ended.drop_guard()) }
    }
}

impl<R, W> Transport<RoleServer> for Line<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = std::io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.transport.send(message)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let message = self.transport.receive().await;
            match &message {
                None => {
                    self.ended.take();
                }
                Some(JsonRpcMessage::Request(_)) => self.has_begun = true,
                Some(_) if !self.has_begun => continue,
                Some(_) => {}
            }
            return message;
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.transport.close().await
    }
}
