//! A machine that runs: what it says, and how it ends.

use std::io;

use pyro_protocol::failure::{Failure, FailureKind};
use pyro_protocol::frame::Frame;
use pyro_qemu::process::QemuEnd;

use crate::boot::{PORT_CLOSED_GRACE, Vm, VmNetwork};
use crate::fault::GuestFault;
use crate::link::LinkError;

/// What comes from a machine.
#[derive(Debug)]
pub(crate) enum MachineEvent {
    Said(Frame),
    Gone(Gone),
}

/// Why a machine is of no more use.
#[derive(Debug)]
pub(crate) enum Gone {
    GuestFaulty(GuestFault),
    GuestLinkLost(LinkError),
    QemuEnded(io::Result<QemuEnd>),
}

impl Vm {
    /// Waits for what the machine does next. Cancel-safe.
    pub(crate) async fn next_event(&mut self) -> MachineEvent {
        tokio::select! {
            frame = self.guest.next_frame() => match frame {
                Ok(frame) => MachineEvent::Said(frame),
                // QEMU closes the port when it dies; then how it died tells more.
                Err(LinkError::Closed) => {
                    let end = tokio::time::timeout(PORT_CLOSED_GRACE, self.qemu.wait()).await;
                    let lost = Gone::GuestLinkLost(LinkError::Closed);
                    MachineEvent::Gone(end.map_or(lost, Gone::QemuEnded))
                }
                Err(error) => MachineEvent::Gone(Gone::GuestLinkLost(error)),
            },
            end = self.qemu.wait() => MachineEvent::Gone(Gone::QemuEnded(end)),
            () = self.network.failed() => MachineEvent::Gone(Gone::GuestFaulty(GuestFault::NetworkFailed)),
            never = self.console.pump() => match never {},
            never = self.monitor.pump() => match never {},
        }
    }

    /// What a machine that is gone has left in its port: output, and perhaps an exit.
    pub(crate) async fn last_words(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let listen = async {
            while let Ok(frame) = self.guest.next_frame().await {
                frames.push(frame);
            }
        };
        // The port is closed, so this ends as soon as everything is read.
        tokio::time::timeout(PORT_CLOSED_GRACE, listen).await.ok();
        frames
    }

    /// Sees that nothing in the machine runs any more, nor any connection of it. What it has of the host is still to be
    /// given back, which takes the kernel some ten milliseconds. Gives whether that is certain.
    pub(crate) fn cut_off(&mut self) -> bool {
        let is_killed = self.qemu.order_end().is_ok();
        self.network = VmNetwork::None;
        is_killed
    }

    /// Ends it, and waits until the host has everything back.
    pub(crate) async fn destroy(self) {
        if let Err(error) = self.qemu.kill().await {
            debug_assert!(false, "killing an own child cannot fail: {error}");
        }
    }
}

/// What the runs of a machine that is gone are told.
pub(crate) fn lost(gone: Gone, vm_id: &str, console: &[String]) -> Failure {
    let lost = |error: &(dyn std::error::Error + 'static)| {
        Failure::from_error(FailureKind::VmLost, error).context(format!("vm '{vm_id}' is lost"))
    };
    match gone {
        Gone::GuestFaulty(fault) => lost(&fault),
        Gone::GuestLinkLost(error) => lost(&error),
        Gone::QemuEnded(end) => {
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
            failure.hint("the guest's kernel may have crashed: give it more memory, or try again")
        }
    }
}
