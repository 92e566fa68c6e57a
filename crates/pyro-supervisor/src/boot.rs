//! A machine coming to life, by a boot or a restore: QEMU started, and the agent greeted and
//! configured.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pyro_network::{PreparedNetwork, RunningNetwork};
use pyro_protocol::client::{Confinement, LaunchSpec};
use pyro_protocol::frame::{FrameKind, decode_message};
use pyro_protocol::guest::{BootReport, ENTROPY_BYTES, FromGuest, Identity, ToGuest};
use pyro_protocol::handshake::Nonce;
use pyro_protocol::network::PublishedPort;
use pyro_qemu::machine::Machine;
use pyro_qemu::monitor::{Monitor, MonitorError};
use pyro_qemu::process::{QemuEnd, QemuProcess, SpawnError};
use tokio::net::UnixStream;

use crate::console::Console;
use crate::link::{Link, LinkError};
use crate::packed::UnpackError;
use crate::untrusted;

/// From QEMU's start to the agent's greeting. An emulated boot takes 2 to 6 seconds on an idle host;
/// the rest is for hosts on which many VMs boot at once.
pub(crate) const BOOT_DEADLINE: Duration = Duration::from_secs(90);

/// From QEMU's start to the agent's greeting, where a machine is restored: some hundred milliseconds
/// on an idle host.
const WAKE_DEADLINE: Duration = Duration::from_secs(20);

/// From the greeting to the agent's readiness: a handful of small writes, of which a
/// crowded host was seen to make twenty seconds.
const CONFIGURE_DEADLINE: Duration = Duration::from_mins(1);

/// From the closing of the guest's port to QEMU's end. A QEMU that lives on was taken over.
pub(crate) const PORT_CLOSED_GRACE: Duration = Duration::from_secs(2);

/// A machine that runs, with its lines to the outside.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) qemu: QemuProcess,
    pub(crate) guest: Link,
    pub(crate) console: Console,
    pub(crate) monitor: Monitor,
    pub(crate) network: VmNetwork,
    /// The memory of the template it was restored from, which other VMs may borrow.
    frozen_memory: Option<OwnedFd>,
}

impl Vm {
    /// Keeps the memory of the template that it was restored from, for other VMs to borrow.
    pub(crate) fn lend(&mut self, frozen_memory: OwnedFd) {
        self.frozen_memory = Some(frozen_memory);
    }

    /// Has `network` carry its packets from now on. What the guest has sent before was waiting.
    pub(crate) fn connect(&mut self, network: PreparedNetwork) -> io::Result<()> {
        if let VmNetwork::Unserved(line) = mem::replace(&mut self.network, VmNetwork::None) {
            self.network = VmNetwork::Served(network.start(line)?);
        }
        Ok(())
    }

    /// Its network, where one carries its packets.
    pub(crate) fn running_network(&self) -> Option<&RunningNetwork> {
        match &self.network {
            VmNetwork::Served(network) => Some(network),
            VmNetwork::None | VmNetwork::Unserved(_) => None,
        }
    }

    /// The ports that it publishes, each with the host's port that it did get.
    pub(crate) fn published(&self) -> &[PublishedPort] {
        self.running_network().map_or(&[], RunningNetwork::published)
    }

    /// What the agent says next, before there are runs.
    pub(crate) async fn next_answer(&mut self) -> Result<FromGuest, BootError> {
        let no_conversation = |source| BootError::NoConversation { source };
        let answer = tokio::select! {
            answer = tokio::time::timeout(CONFIGURE_DEADLINE, self.guest.next_frame()) => answer,
            never = self.console.pump() => match never {},
        };
        let too_late = |_| no_conversation(LinkError::TooLate { deadline: CONFIGURE_DEADLINE });
        let frame = answer.map_err(too_late)?.map_err(no_conversation)?;
        if frame.kind != FrameKind::Message {
            return Err(BootError::UnexpectedAnswer);
        }
        decode_message(&frame.payload)
            .map_err(|source| no_conversation(LinkError::NoFrame { source }))
    }
}

/// What is at the other end of a machine's network device. It ends with the machine.
#[derive(Debug)]
pub(crate) enum VmNetwork {
    /// It has no such device.
    None,
    /// Nobody yet: packets wait in the line, and then in the guest. A template never gets further.
    Unserved(std::os::unix::net::UnixStream),
    Served(RunningNetwork),
}

impl VmNetwork {
    /// Waits until it carries nothing any more, which it should. Cancel-safe.
    pub(crate) async fn failed(&self) {
        match self {
            Self::Served(network) => network.failed().await,
            Self::None | Self::Unserved(_) => std::future::pending().await,
        }
    }
}

/// The host's ends of a machine's sockets, made before the machine.
#[derive(Debug)]
pub(crate) struct HostEnds {
    pub(crate) port: UnixStream,
    pub(crate) console: UnixStream,
    pub(crate) monitor: UnixStream,
    pub(crate) network: VmNetwork,
}

/// The program that machines run in, and what keeps them in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Qemu<'a> {
    pub(crate) program: &'a Path,
    pub(crate) confinement: Confinement,
}

impl<'a> Qemu<'a> {
    pub(crate) fn of(spec: &'a LaunchSpec) -> Self {
        Self { program: &spec.qemu, confinement: spec.confinement }
    }
}

/// Why a boot did not end in a VM that takes commands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("QEMU does not start")]
    NoQemu { source: SpawnError },
    #[error("cannot wait for QEMU")]
    CannotWait { source: io::Error },
    #[error("QEMU ended during the boot ({status})")]
    QemuEnded { status: String, source: QemuLastWords },
    #[error("the guest did not answer within {} seconds", deadline.as_secs())]
    NoAnswer { deadline: Duration, source: ConsoleLines },
    #[error("cannot read the template's {part}")]
    Unreadable { part: &'static str, source: UnpackError },
    #[error("QEMU cannot restore the machine")]
    NotRestored { source: MonitorError },
    #[error("the guest's agent cannot be talked to")]
    NoConversation { source: LinkError },
    #[error("the guest's agent gave up: {reason}")]
    AgentGaveUp { reason: String },
    #[error("the guest's agent answered with an unexpected message")]
    UnexpectedAnswer,
    #[error("the kernel gives no random numbers")]
    NoRandomness { source: getrandom::Error },
}

/// What a dead QEMU, or the guest in it, said last.
#[derive(Debug, thiserror::Error)]
#[error("{complaint}{}{console}", if complaint.is_empty() { "" } else { "; " })]
pub(crate) struct QemuLastWords {
    complaint: String,
    console: ConsoleLines,
}

/// The end of the guest's console.
#[derive(Debug, thiserror::Error)]
#[error("{}", if lines.is_empty() {
    "the guest printed nothing".to_owned()
} else {
    format!("the guest's last lines: {}", lines.join(" | "))
})]
pub(crate) struct ConsoleLines {
    lines: Vec<String>,
}

/// A connected pair of stream sockets: the host's end, and the end that QEMU inherits.
pub(crate) fn socket_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (host, qemu) = std::os::unix::net::UnixStream::pair()?;
    host.set_nonblocking(true)?;
    Ok((UnixStream::from_std(host)?, qemu.into()))
}

/// Boots `machine` and waits for its agent. On failure nothing is left.
pub(crate) async fn boot(
    qemu: &Qemu<'_>,
    machine: Machine,
    host: HostEnds,
) -> Result<Vm, BootError> {
    let mut monitor = Monitor::new(host.monitor);
    let watch = async {
        let never = monitor.pump().await;
        match never {}
    };
    let (process, guest, console) =
        come_up(qemu, machine, host.port, host.console, watch, BOOT_DEADLINE).await?;
    let network = host.network;
    Ok(Vm { qemu: process, guest, console, monitor, network, frozen_memory: None })
}

/// Restores `machine` and waits for its agent. Its files need not be filled before: QEMU takes as long
/// to start, and looks at none of them until it is told to restore. What fills them gives the state of the devices,
/// which goes to QEMU over `state_line`. On failure nothing is left.
pub(crate) async fn wake(
    qemu: &Qemu<'_>,
    machine: Machine,
    host: HostEnds,
    state_line: UnixStream,
    filled: impl Future<Output = Result<Vec<u8>, BootError>>,
) -> Result<Vm, BootError> {
    let mut monitor = Monitor::new(host.monitor);
    let not_restored = |source| BootError::NotRestored { source };
    let watch = async {
        let state = match filled.await {
            Ok(state) => state,
            Err(error) => return error,
        };
        // Into the socket, for QEMU to find: so nothing waits for an answer.
        if let Err(source) = monitor.begin_restore().await {
            return not_restored(source);
        }
        match monitor.restored(state_line, &state).await {
            Ok(()) => match monitor.pump().await {},
            // QEMU is dying: how it ends tells more.
            Err(MonitorError::Closed) => std::future::pending().await,
            Err(source) => not_restored(source),
        }
    };
    let (process, guest, console) =
        come_up(qemu, machine, host.port, host.console, watch, WAKE_DEADLINE).await?;
    let network = host.network;
    Ok(Vm { qemu: process, guest, console, monitor, network, frozen_memory: None })
}

/// Starts QEMU and waits until the agent answers, QEMU ends, `fault` tells of one, or `deadline` is
/// over.
async fn come_up(
    qemu: &Qemu<'_>,
    machine: Machine,
    port: UnixStream,
    console: UnixStream,
    fault: impl Future<Output = BootError>,
    deadline: Duration,
) -> Result<(QemuProcess, Link, Console), BootError> {
    let mut process =
        QemuProcess::spawn(qemu.program, machine.into_command_line(), qemu.confinement)
            .map_err(|source| BootError::NoQemu { source })?;
    let mut console = Console::new(console);
    let call = Link::call(port, nonce()?);
    let answer = tokio::select! {
        end = process.wait() => return Err(qemu_ended(end, &mut console)),
        never = console.pump() => match never {},
        answer = tokio::time::timeout(deadline, call) => answer,
        fault = fault => return Err(fault),
    };
    match answer {
        Ok(Ok(guest)) => Ok((process, guest, console)),
        // QEMU closes the port when it dies, a moment before it is gone: how it died tells more.
        Ok(Err(LinkError::Closed)) => {
            let end = tokio::time::timeout(PORT_CLOSED_GRACE, process.wait()).await;
            Err(match end {
                Ok(end) => qemu_ended(end, &mut console),
                Err(_) => BootError::NoConversation { source: LinkError::Closed },
            })
        }
        Ok(Err(source)) => Err(BootError::NoConversation { source }),
        Err(_) => {
            let source = ConsoleLines { lines: console.last_lines() };
            Err(BootError::NoAnswer { deadline, source })
        }
    }
}

fn qemu_ended(end: io::Result<QemuEnd>, console: &mut Console) -> BootError {
    console.drain();
    let console = ConsoleLines { lines: console.last_lines() };
    match end {
        Ok(end) => {
            let source = QemuLastWords { complaint: end.complaint, console };
            BootError::QemuEnded { status: end.status.to_string(), source }
        }
        Err(source) => BootError::CannotWait { source },
    }
}

/// Gives the VM its identity; afterwards it takes commands.
pub(crate) async fn configure(vm: &mut Vm, vm_id: &str) -> Result<BootReport, BootError> {
    let no_conversation = |source| BootError::NoConversation { source };
    let identity = identity(vm_id)?;
    vm.guest.send_message(&ToGuest::Configure(identity)).map_err(no_conversation)?;
    match vm.next_answer().await? {
        FromGuest::Ready(report) => Ok(untrusted::boot_report(report)),
        FromGuest::Fatal { reason } => {
            Err(BootError::AgentGaveUp { reason: untrusted::text(reason) })
        }
        FromGuest::Started { .. }
        | FromGuest::StartFailed { .. }
        | FromGuest::GrantStdin { .. }
        | FromGuest::Exited { .. }
        | FromGuest::FileWritten
        | FromGuest::FileNotWritten { .. }
        | FromGuest::Pong
        | FromGuest::Goodbye => Err(BootError::UnexpectedAnswer),
    }
}

pub(crate) fn nonce() -> Result<Nonce, BootError> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|source| BootError::NoRandomness { source })?;
    Ok(nonce)
}

fn identity(vm_id: &str) -> Result<Identity, BootError> {
    let no_randomness = |source| BootError::NoRandomness { source };
    let mut entropy = vec![0; ENTROPY_BYTES];
    getrandom::fill(&mut entropy).map_err(no_randomness)?;
    let mut machine_id = [0; 16];
    getrandom::fill(&mut machine_id).map_err(no_randomness)?;
    let time = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a host's clock is past 1970");
    Ok(Identity {
        time,
        entropy,
        machine_id: format!("{:032x}", u128::from_be_bytes(machine_id)),
        hostname: format!("pyro-{vm_id}"),
    })
}
