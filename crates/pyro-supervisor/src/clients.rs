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

/// For clients to read what they were told last, when the VM is gone. One that reads slowly may be a pager
/// with somebody in front of it, and what waits for it is small; but one that was stopped and forgotten must
/// not keep a process for ever.
const FAREWELL_DEADLINE: Duration = Duration::from_mins(10);

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

    /// Waits until everybody has read what was sent, or left, or had [`FAREWELL_DEADLINE`] for it.
    pub(crate) async fn farewell(mut self) {
        self.outgoing.clear();
        // Nobody listens any more, so nobody must wait to be heard.
        self.said.close();
        let parted = async { while self.tasks.join_next().await.is_some() {} };
        // Whoever has not read by then finds its connection closed.
        tokio::time::timeout(FAREWELL_DEADLINE, parted).await.ok();
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

#[cfg(test)]
mod tests {
    use pyro_protocol::frame::{FrameKind, encode_chunk};
    use pyro_protocol::run::{RunId, Stream};
    use tokio::time::Instant;

    use super::*;

    /// More than the kernel holds for a reader.
    const CHUNKS: u32 = 2000;

    /// Somebody who is connected, and has more to read than the kernel holds.
    async fn with_much_to_read() -> (Clients, Link) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (client, link) = tokio::join!(Link::call(theirs, [3; 16]), async {
            let mut link = Link::answer(ours).await.unwrap();
            link.flush().await.unwrap();
            link
        });
        let mut clients = Clients::new();
        let id = clients.admit(link);
        let chunk = encode_chunk(FrameKind::Output(Stream::Stdout), RunId(1), &[7; 1024]).unwrap();
        for _ in 0..CHUNKS {
            clients.send(id, chunk.clone());
        }
        (clients, client.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_not_waited_for_for_ever() {
        let (clients, _deaf) = with_much_to_read().await;
        let began = Instant::now();
        clients.farewell().await;
        let waited = began.elapsed();
        // The clock of tokio's timers goes in milliseconds.
        assert!(waited.abs_diff(FAREWELL_DEADLINE) < Duration::from_millis(5), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_reads_gets_everything_before_the_end() {
        let (clients, mut client) = with_much_to_read().await;
        let read = async {
            for _ in 0..CHUNKS {
                client.next_frame().await.unwrap();
            }
            client.next_frame().await.unwrap_err()
        };
        tokio::join!(clients.farewell(), read);
    }
}
