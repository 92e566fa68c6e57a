//! The other sides of a spare: who has it made and owns it, and who claims it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pyro_protocol::client::{
    Claim, FromSupervisor, LaunchPhase, LaunchReport, LaunchSpec, ToSupervisor,
};
use pyro_protocol::record::SpareRecord;
use rustix::net::sockopt::socket_peercred;
use tokio::net::UnixStream;

use super::key::SpareKey;
use super::wait::RESUME_DEADLINE;
use crate::client::{Answer, ClientError, Departures, Executable, Life, Line, Supervisor};
use crate::departures::Pidfd;
use crate::link::LinkError;
use crate::remote::{connect, done};
use crate::sockets;
pub use crate::template::key::KeyError;

/// From a connection to a greeting. A spare has nothing else to do; one that takes longer is worse than none.
const GREETING_DEADLINE: Duration = Duration::from_secs(2);

/// From the claim to its answer.
const CLAIM_DEADLINE: Duration = Duration::from_secs(15);
const _: () = assert!(CLAIM_DEADLINE.as_secs() > RESUME_DEADLINE.as_secs());

/// For a spare to say what it is.
const DESCRIPTION_DEADLINE: Duration = Duration::from_secs(2);

/// A spare, from its owner's side. When it is dropped the spare goes, unless it was claimed.
#[derive(Debug)]
pub struct OwnedSpare {
    /// Taken where its end is the claimer's affair.
    supervisor: Option<Supervisor>,
    is_claimed: bool,
}

/// What becomes of a spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpareEvent {
    /// It is somebody's VM now; its end follows.
    Claimed,
    /// It, or the VM that it became, is gone.
    Gone,
}

impl OwnedSpare {
    /// Makes a spare, as specified, and returns when it can be claimed. When the future is dropped before, nothing is
    /// left, a few milliseconds later.
    pub async fn make(
        executable: &Executable,
        spec: LaunchSpec,
        departures: &Departures,
        progress: impl FnMut(LaunchPhase),
    ) -> Result<Self, ClientError> {
        let mut supervisor = Supervisor::start_with(executable, Life::Spare, departures).await?;
        let launch = ToSupervisor::Launch(Box::new(spec));
        done(&supervisor.line().ask(&launch, progress).await?)?;
        Ok(Self { supervisor: Some(supervisor), is_claimed: false })
    }

    /// Waits for what happens to it. Cancel-safe.
    pub async fn next_event(&mut self) -> SpareEvent {
        let Some(supervisor) = &mut self.supervisor else { return SpareEvent::Gone };
        match supervisor.line().next_message().await {
            Ok(FromSupervisor::Claimed) => {
                self.is_claimed = true;
                SpareEvent::Claimed
            }
            Ok(_) | Err(_) => SpareEvent::Gone,
        }
    }

    /// Waits for its supervisor, which is gone, or has been told to go by this.
    pub async fn end(mut self) -> io::Result<()> {
        match self.supervisor.take() {
            Some(supervisor) => supervisor.end().await,
            None => Ok(()),
        }
    }
}

impl Drop for OwnedSpare {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take().filter(|_| self.is_claimed) {
            supervisor.release();
        }
    }
}

/// Why a claim failed, beyond that there is no spare.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("cannot tell which spares would do")]
    Key { source: KeyError },
    /// There may be others, but what it takes to ask them is better spent on a clone.
    #[error("a spare failed its claimer")]
    Failed { source: ClientError },
}

/// Claims a spare for a VM as specified, from below the directory `spares`. `None` where there is none, or others were
/// faster.
pub async fn claim(
    spares: &Path,
    spec: &LaunchSpec,
    departures: &Departures,
) -> Result<Option<(Supervisor, LaunchReport)>, ClaimError> {
    // Most hosts have none, and need not find out which they would want.
    if !spares.exists() {
        return Ok(None);
    }
    let key = SpareKey::of(spec).map_err(|source| ClaimError::Key { source })?;
    let Some(key) = key else { return Ok(None) };
    let directory = spares.join(key.as_str());
    let mut names = sockets::names(&directory);
    // Claimers that come at the same time should not all ask the same ones first.
    let start = usize::from_str_radix(&spec.vm_id, 16).unwrap_or(0) % names.len().max(1);
    names.rotate_left(start);
    let claim = Claim {
        vm_id: spec.vm_id.clone(),
        time_to_live: spec.time_to_live,
        network: spec.network.clone(),
        guest_files: spec.guest_files.clone(),
    };
    for name in names {
        match claim_one(&directory, &name, &claim, departures).await {
            Ok(claimed) => return Ok(Some(claimed)),
            Err(NotClaimed::Gone) => {}
            Err(NotClaimed::Refused) => break,
            Err(NotClaimed::Failed(source)) => return Err(ClaimError::Failed { source }),
        }
    }
    Ok(None)
}

/// Why a claim came to nothing.
#[derive(Debug)]
enum NotClaimed {
    /// Somebody was faster, or its supervisor is gone: the next one may be there.
    Gone,
    /// What is asked for cannot be had, as whoever makes a clone finds out as well.
    Refused,
    /// It does not do what it should.
    Failed(ClientError),
}

async fn claim_one(
    directory: &Path,
    name: &str,
    claim: &Claim,
    departures: &Departures,
) -> Result<(Supervisor, LaunchReport), NotClaimed> {
    let (mut line, process) = reach(directory, name).await?;
    let claim = ToSupervisor::Claim(Box::new(claim.clone()));
    // The first thing that is said to the one who gets it.
    let mut is_ours = false;
    let answer = tokio::time::timeout(CLAIM_DEADLINE, line.ask(&claim, |_| is_ours = true)).await;
    match answer.unwrap_or(Err(ClientError::NoAnswer { deadline: CLAIM_DEADLINE })) {
        Ok(Answer::Ready(report)) => {
            Ok((Supervisor::taken_over(line, process, departures), report))
        }
        Ok(Answer::Done) => Err(NotClaimed::Failed(ClientError::UnexpectedMessage)),
        Err(ClientError::NoConversation { source: LinkError::Closed }) if !is_ours => {
            Err(NotClaimed::Gone)
        }
        Err(ClientError::Reported(_)) if !is_ours => Err(NotClaimed::Refused),
        Err(error) => Err(NotClaimed::Failed(error)),
    }
}

/// The supervisor of the spare of that name. A name that no supervisor has any more is removed.
async fn reach(directory: &Path, name: &str) -> Result<(Line, Pidfd), NotClaimed> {
    let stream = match connect(directory, name).await {
        Ok(stream) => stream,
        Err(error) => {
            if error.kind() == ErrorKind::ConnectionRefused {
                fs_err::remove_file(directory.join(name)).ok();
            }
            return Err(NotClaimed::Gone);
        }
    };
    greet(stream).await
}

/// Who is at the other end of a connection to a spare.
async fn greet(stream: UnixStream) -> Result<(Line, Pidfd), NotClaimed> {
    // Those who listened, or none in another pid namespace, whose end could not be waited for. It is this very
    // process as long as it goes on talking.
    let peer = socket_peercred(&stream).map_err(|_| NotClaimed::Gone)?;
    if peer.uid != rustix::process::geteuid() {
        return Err(NotClaimed::Gone);
    }
    let process = Pidfd::open(peer.pid).map_err(|_| NotClaimed::Gone)?;
    let deadline = GREETING_DEADLINE;
    match tokio::time::timeout(deadline, Line::call(stream)).await {
        Ok(Ok(line)) => Ok((line, process)),
        // It was claimed at this moment.
        Ok(Err(ClientError::NoConversation { source: LinkError::Closed })) => Err(NotClaimed::Gone),
        Ok(Err(error)) => Err(NotClaimed::Failed(error)),
        Err(_) => Err(NotClaimed::Failed(ClientError::NoAnswer { deadline })),
    }
}

/// All spares below `spares` that say what they are, oldest first. Nothing is removed.
pub async fn list(spares: &Path) -> Vec<SpareRecord> {
    let mut records = Vec::new();
    for key in sockets::names(spares) {
        let directory = spares.join(key);
        for name in sockets::names(&directory) {
            let Ok(stream) = connect(&directory, &name).await else { continue };
            let Ok((mut line, _)) = greet(stream).await else { continue };
            let described = async {
                line.say(&ToSupervisor::DescribeSpare).await.ok()?;
                match line.next_message().await {
                    Ok(FromSupervisor::Spare(record)) => Some(*record),
                    Ok(_) | Err(_) => None,
                }
            };
            let described = tokio::time::timeout(DESCRIPTION_DEADLINE, described).await;
            records.extend(described.ok().flatten());
        }
    }
    records.sort_by(|one, other| (one.created_at, &one.id).cmp(&(other.created_at, &other.id)));
    records
}

/// The sockets below `spares` that nobody listens at: those of supervisors that were killed. Nothing is removed.
pub fn abandoned(spares: &Path) -> Vec<PathBuf> {
    let directories = sockets::names(spares).into_iter().map(|key| spares.join(key));
    directories.flat_map(|directory| sockets::abandoned(&directory)).collect()
}

/// Removes what supervisors have left that were killed. Nobody is asked anything.
pub fn remove_abandoned(spares: &Path) {
    for key in sockets::names(spares) {
        let directory = spares.join(key);
        sockets::remove_abandoned(&directory);
        // It fails while there are spares of this key.
        rustix::fs::rmdir(&directory).ok();
    }
}
