//! The one task that owns the VM: waits for whatever happens next, and lets the pure
//! [`conversation`](crate::conversation) decide what follows.

use std::time::Instant;

use pyro_protocol::failure::{Failure, FailureKind};
use pyro_qemu::process::QemuEnd;

use crate::boot::{PORT_CLOSED_GRACE, Vm};
use crate::conversation::{ClientFault, Conversation, GuestFault, Outgoing};
use crate::link::{Link, LinkError};

/// What may wait for a guest to read it. Input is bounded by credit, but a guest that guesses rightly
/// when its output is granted need not read the grants. Honest agents read always, so this is far more
/// than waits for any.
const GUEST_BACKLOG_BYTES_MAX: usize = 16 << 20;

/// Why the VM must go.
#[derive(Debug)]
enum End {
    ClientGone,
    TimeToLiveOver,
    ClientFaulty(ClientFault),
    GuestFaulty(GuestFault),
    GuestLinkLost(LinkError),
    QemuEnded(std::io::Result<QemuEnd>),
}

/// Serves the client until it leaves, the VM dies, or its time is over; then destroys the VM and
/// tells the client how its runs ended.
pub(crate) async fn drive(mut vm: Vm, mut client: Link, vm_id: &str, expires_at: Instant) {
    let mut conversation = Conversation::default();
    let end = converse(&mut vm, &mut client, &mut conversation, expires_at).await;
    vm.console.drain();
    let failure = failure_of(end, vm_id, &vm.console.last_lines());
    // Before anything is said: who hears that the VM is gone may rely on it.
    if let Err(error) = vm.qemu.kill().await {
        debug_assert!(false, "killing an own child cannot fail: {error}");
    }
    let Some(failure) = failure else {
        return;
    };
    for frame in conversation.vm_gone(&failure, Instant::now()) {
        deliver(frame, None, &mut client);
    }
    // No deadline: nothing is held any more, and a client that reads slowly wants its outcome. One
    // that is gone makes the write fail.
    if let Err(error) = client.flush().await {
        debug_assert!(matches!(error, LinkError::Closed), "{error}");
    }
}

async fn converse(
    vm: &mut Vm,
    client: &mut Link,
    conversation: &mut Conversation,
    expires_at: Instant,
) -> End {
    loop {
        let deadline = conversation.next_deadline().map_or(expires_at, |next| next.min(expires_at));
        let outgoing = tokio::select! {
            frame = client.next_frame() => match frame {
                Ok(frame) => match conversation.client_sent(&frame, Instant::now()) {
                    Ok(outgoing) => outgoing,
                    Err(fault) => return End::ClientFaulty(fault),
                },
                Err(_) => return End::ClientGone,
            },
            frame = vm.guest.next_frame() => match frame {
                Ok(frame) => match conversation.guest_sent(&frame, Instant::now()) {
                    Ok(outgoing) => outgoing,
                    Err(fault) => return End::GuestFaulty(fault),
                },
                // QEMU closes the port when it dies; then how it died tells more.
                Err(LinkError::Closed) => {
                    let end = tokio::time::timeout(PORT_CLOSED_GRACE, vm.qemu.wait()).await;
                    return end.map_or(End::GuestLinkLost(LinkError::Closed), End::QemuEnded);
                }
                Err(error) => return End::GuestLinkLost(error),
            },
            end = vm.qemu.wait() => {
                last_words(vm, client, conversation).await;
                return End::QemuEnded(end);
            }
            never = vm.console.pump() => match never {},
            never = vm.monitor.pump() => match never {},
            () = tokio::time::sleep_until(deadline.into()) => {
                let now = Instant::now();
                if now >= expires_at {
                    return End::TimeToLiveOver;
                }
                match conversation.deadline_reached(now) {
                    Ok(outgoing) => outgoing,
                    Err(fault) => return End::GuestFaulty(fault),
                }
            }
        };
        for frame in outgoing {
            deliver(frame, Some(&mut vm.guest), client);
        }
        if vm.guest.backlog_bytes() > GUEST_BACKLOG_BYTES_MAX {
            return End::GuestFaulty(GuestFault::Deaf);
        }
    }
}

/// Passes on what a machine that is gone has left in its port: output, and perhaps an exit.
async fn last_words(vm: &mut Vm, client: &mut Link, conversation: &mut Conversation) {
    let listen = async {
        while let Ok(frame) = vm.guest.next_frame().await {
            let Ok(outgoing) = conversation.guest_sent(&frame, Instant::now()) else {
                return;
            };
            for frame in outgoing {
                deliver(frame, None, client);
            }
        }
    };
    // The port is closed, so this ends as soon as everything is read.
    tokio::time::timeout(PORT_CLOSED_GRACE, listen).await.ok();
}

fn deliver(frame: Outgoing, guest: Option<&mut Link>, client: &mut Link) {
    match (frame, guest) {
        (Outgoing::ToClient(bytes), _) => client.send(&bytes),
        (Outgoing::ToGuest(bytes), Some(guest)) => guest.send(&bytes),
        (Outgoing::ToGuest(_), None) => {}
    }
}

/// What the client's runs are told; `None` where nobody listens.
fn failure_of(end: End, vm_id: &str, console: &[String]) -> Option<Failure> {
    let lost = |error: &dyn std::error::Error| {
        Failure::from_error(FailureKind::VmLost, error).context(format!("vm '{vm_id}' is lost"))
    };
    match end {
        End::ClientGone => None,
        End::TimeToLiveOver => Some(
            Failure::new(
                FailureKind::VmExpired,
                format!("vm '{vm_id}' expired and was automatically deleted"),
            )
            .hint("ask for a longer life with `ttl_seconds` (3600 at most)"),
        ),
        End::ClientFaulty(fault) => Some(Failure::from_error(FailureKind::Internal, &fault)),
        End::GuestFaulty(fault) => Some(lost(&fault)),
        End::GuestLinkLost(error) => Some(lost(&error)),
        End::QemuEnded(end) => {
            let mut failure = Failure::new(FailureKind::VmLost, format!("vm '{vm_id}' is lost"));
            failure = match end {
                Ok(end) if end.complaint.is_empty() => {
                    failure.cause(format!("the machine stopped ({})", end.status))
                }
                Ok(end) => failure.cause(end.complaint),
                Err(error) => failure.cause(error.to_string()),
            };
            if !console.is_empty() {
                failure = failure.cause(format!("its last lines: {}", console.join(" | ")));
            }
            Some(
                failure
                    .hint("the guest's kernel may have crashed: give it more memory, or try again"),
            )
        }
    }
}
