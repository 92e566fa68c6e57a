//! Everybody who is connected to a supervisor. Each connection has a task of its own that does nothing
//! but carry frames, so that a client which reads slowly holds up nobody else.

use std::collections::BTreeMap;
use std::time::Duration;

use pyro_protocol::client::FromSupervisor;
use pyro_protocol::frame::{Frame, encode_message};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::conversation::ClientId;
use crate::link::Link;

/// From a connection to its greeting.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// Frames of all clients that wait to be looked at; a client that sends more waits.
const WAITING_FRAMES_MAX: usize = 16;

/// Clients at the same time. Each costs some hundred kilobytes for what it has not read yet.
const CLIENTS_MAX: usize = 64;

/// Everybody who is connected.
#[derive(Debug)]
pub(crate) struct Clients {
    said: mpsc::Receiver<(ClientId, Said)>,
    sayer: mpsc::Sender<(ClientId, Said)>,
    /// What is to be sent. Streams are bounded by credit, and messages answer messages, so the queues
    /// need no bound of their own.
    outgoing: BTreeMap<ClientId, mpsc::UnboundedSender<Vec<u8>>>,
    tasks: JoinSet<()>,
    last: u32,
}

/// What a client does.
#[derive(Debug)]
pub(crate) enum Said {
    Frame(Frame),
    /// It has left, or its connection broke.
    Left,
}

impl Clients {
    pub(crate) fn new() -> Self {
        let (sayer, said) = mpsc::channel(WAITING_FRAMES_MAX);
        Self { said, sayer, outgoing: BTreeMap::new(), tasks: JoinSet::new(), last: 0 }
    }

    /// Takes a client that was greeted.
    pub(crate) fn admit(&mut self, link: Link) -> ClientId {
        let (id, outgoing) = self.newcomer();
        let sayer = self.sayer.clone();
        self.tasks.spawn(async move { attend(id, link, outgoing, &sayer).await });
        id
    }

    /// Takes a connection. One too many is closed at once, and so is one that does not greet.
    pub(crate) fn admit_stranger(&mut self, stream: UnixStream) {
        if self.outgoing.len() >= CLIENTS_MAX {
            return;
        }
        let (id, outgoing) = self.newcomer();
        let sayer = self.sayer.clone();
        self.tasks.spawn(async move {
            match tokio::time::timeout(GREETING_DEADLINE, Link::answer(stream)).await {
                Ok(Ok(link)) => attend(id, link, outgoing, &sayer).await,
                Ok(Err(_)) | Err(_) => leave(id, &sayer).await,
            }
        });
    }

    /// Waits for what a client does next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> (ClientId, Said) {
        let said = self.said.recv().await.expect("a sender is kept beside the receiver");
        if matches!(said.1, Said::Left) {
            self.outgoing.remove(&said.0);
            // Those that have ended; nobody needs to hear of it.
            while self.tasks.try_join_next().is_some() {}
        }
        said
    }

    /// Sends a frame to a client, unless it has left.
    pub(crate) fn send(&mut self, client: ClientId, frame: Vec<u8>) {
        if let Some(outgoing) = self.outgoing.get(&client) {
            // Its task may have ended a moment ago; then it is about to be seen leaving.
            outgoing.send(frame).ok();
        }
    }

    pub(crate) fn tell(&mut self, client: ClientId, message: &FromSupervisor) {
        self.send(client, encode_message(message).expect("messages to clients are short"));
    }

    /// Waits until everybody has read what was sent, or left. No deadline: a client that reads slowly
    /// wants its outcome, and nothing else is held for it any more.
    pub(crate) async fn farewell(mut self) {
        self.outgoing.clear();
        // Nobody listens any more, so nobody must wait to be heard.
        self.said.close();
        while self.tasks.join_next().await.is_some() {}
    }

    fn newcomer(&mut self) -> (ClientId, mpsc::UnboundedReceiver<Vec<u8>>) {
        self.last += 1;
        let id = ClientId(self.last);
        let (sender, receiver) = mpsc::unbounded_channel();
        self.outgoing.insert(id, sender);
        (id, receiver)
    }
}

/// Carries frames until either side has enough.
async fn attend(
    id: ClientId,
    mut link: Link,
    mut outgoing: mpsc::UnboundedReceiver<Vec<u8>>,
    sayer: &mpsc::Sender<(ClientId, Said)>,
) {
    loop {
        tokio::select! {
            frame = outgoing.recv() => {
                let Some(frame) = frame else {
                    // One that is gone makes it fail.
                    link.flush().await.ok();
                    return;
                };
                link.send(&frame);
            }
            frame = link.next_frame() => match frame {
                Ok(frame) => {
                    if sayer.send((id, Said::Frame(frame))).await.is_err() {
                        // The supervisor ends. It says why before.
                        while let Some(frame) = outgoing.recv().await {
                            link.send(&frame);
                        }
                        link.flush().await.ok();
                        return;
                    }
                }
                Err(_) => return leave(id, sayer).await,
            },
        }
    }
}

async fn leave(id: ClientId, sayer: &mpsc::Sender<(ClientId, Said)>) {
    // Where nobody listens any more, nobody needs to know.
    sayer.send((id, Said::Left)).await.ok();
}
