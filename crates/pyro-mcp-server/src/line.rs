//! The line to a client over a pair of byte streams: a message in each line of text.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::model::{ClientNotification, JsonRpcMessage, RequestId};
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::server::MESSAGE_BYTES_MAX;

/// Requests of one client whose answers it has not taken yet. With more than that no further message is read: a client that
/// asks and does not listen would fill our memory with answers. More than may wait for their turns to run.
const UNANSWERED_MAX: usize = 256;

/// The SDK's transport, with four things changed.
///
/// It tells when the client has ended its side: the SDK's own loop would wait for the calls that run, though
/// nobody is left to read their answers. It passes over what comes before the first request and is none: the SDK
/// would end the conversation. It reads no faster than the client does. And it passes over a request with the name of
/// another one that has no answer yet.
pub(crate) struct Line<R: AsyncRead, W: AsyncWrite> {
    transport: AsyncRwTransport<RoleServer, R, W>,
    has_begun: bool,
    unanswered: Arc<Unanswered>,
    /// Cancels a token when the line is dropped, for whatever reason.
    ended: Option<DropGuard>,
}

/// The requests that have no answer yet, or none that was written.
#[derive(Debug, Default)]
struct Unanswered {
    requests: Mutex<HashSet<RequestId>>,
    fewer: Notify,
}

impl Unanswered {
    fn requests(&self) -> MutexGuard<'_, HashSet<RequestId>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is a new one.
    fn add(&self, request: RequestId) -> bool {
        self.requests().insert(request)
    }

    fn remove(&self, request: &RequestId) {
        self.requests().remove(request);
        // Kept for the reader if it does not wait at this moment.
        self.fewer.notify_one();
    }

    /// Waits until there is room for one more.
    async fn room(&self) {
        while self.requests().len() >= UNANSWERED_MAX {
            self.fewer.notified().await;
        }
    }
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
        let unanswered = Arc::default();
        Self { transport, has_begun: false, unanswered, ended: Some(ended.drop_guard()) }
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
        let answered = match &message {
            JsonRpcMessage::Response(response) => Some(response.id.clone()),
            JsonRpcMessage::Error(error) => error.id.clone(),
            JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
        };
        let unanswered = self.unanswered.clone();
        let sent = self.transport.send(message);
        async move {
            let sent = sent.await;
            if let Some(answered) = answered {
                unanswered.remove(&answered);
            }
            sent
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            self.unanswered.room().await;
            let message = self.transport.receive().await;
            match &message {
                None => {
                    self.ended.take();
                }
                Some(JsonRpcMessage::Request(request)) => {
                    self.has_begun = true;
                    if !self.unanswered.add(request.id.clone()) {
                        // The SDK would do it, but answer once only.
                        continue;
                    }
                }
                Some(_) if !self.has_begun => continue,
                Some(JsonRpcMessage::Notification(notification)) => {
                    // Whoever cancels a request gets no answer.
                    if let ClientNotification::CancelledNotification(cancelled) =
                        &notification.notification
                        && let Some(request) = &cancelled.params.request_id
                    {
                        self.unanswered.remove(request);
                    }
                }
                Some(JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_)) => {}
            }
            return message;
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.transport.close().await
    }
}
