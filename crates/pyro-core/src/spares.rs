//! Spares: VMs that were restored ahead and stand still until somebody claims one.
//!
//! A pool keeps as many as it was asked for, all of one kind. A spare that was claimed is replaced when the VM that it
//! became is gone, not beside its work; one that was idle for too long is not replaced until somebody asks for a VM again.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::task::Poll;
use std::time::{Duration, Instant};

use pyro_environments::EnvironmentName;
use pyro_protocol::client::{LaunchReport, LaunchSpec, Lifetime};
use pyro_protocol::network::NetworkSpec;
use pyro_protocol::record::SpareRecord;
use pyro_supervisor::client::{Departures, Supervisor};
use pyro_supervisor::sockets;
use pyro_supervisor::spare::client::{self as spare, ClaimError, OwnedSpare, SpareEvent};
use serde::Serialize;
use tokio::sync::{Mutex, watch};

use crate::config::{Config, INTERNAL_SUPERVISE};
use crate::limits::{MemoryMib, SpareCount, TimeToLive, VcpuCount};
use crate::network::{CheckedNetwork, Network};
use crate::pyro::{Progress, Pyro};
use crate::vm::{self, VmRequest, client_failure};
use crate::vms;
use crate::{Accelerator, PyroError};

/// Host memory that must be available beside what spares take: below this they are given up, one after the other. A
/// spare has about 75 MB for itself, and the VM that it becomes much more; what the host's programs need for a moment,
/// a compiler or a browser, is some hundred.
const MEMORY_AVAILABLE_MIN_MIB: u64 = 512;

/// The same before one is made, so that none is made only to be given up.
const MEMORY_TO_MAKE_MIB: u64 = MEMORY_AVAILABLE_MIN_MIB + 256;

/// How often a pool looks how much memory there is.
const MEMORY_INTERVAL: Duration = Duration::from_secs(5);

/// By how much less an idle spare seems to have lived to its owner, who hears of its beginning later than it begins.
const IDLE_SLACK: Duration = Duration::from_secs(1);

/// From one failed attempt to make a spare to the next one; it doubles each time.
const RETRY_AFTER: Duration = Duration::from_secs(2);
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// Which VMs a spare can become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpareKind {
    pub environment: EnvironmentName,
    pub vcpu_count: VcpuCount,
    pub memory: MemoryMib,
    pub network: SpareNetwork,
}

/// Whether a spare has a network device. What it may reach is settled by the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpareNetwork {
    Absent,
    Present,
}

impl SpareKind {
    /// What `request` could be given.
    pub fn of(request: &VmRequest) -> Self {
        Self {
            environment: request.environment,
            vcpu_count: request.vcpu_count,
            memory: request.memory,
            network: match request.network {
                Network::Off => SpareNetwork::Absent,
                Network::On(_) => SpareNetwork::Present,
            },
        }
    }
}

/// A spare, as surfaces show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpareInfo {
    pub id: String,
    pub environment: String,
    pub vcpu_count: u8,
    pub mem_mib: u32,
    pub network_enabled: bool,
    pub accelerator: Accelerator,
    /// Seconds since the epoch.
    pub created_at: f64,
    /// When it is given up, if nobody claims it.
    pub expires_at: f64,
    /// What it has in the host's memory for itself.
    pub private_bytes: u64,
}

impl From<SpareRecord> for SpareInfo {
    fn from(record: SpareRecord) -> Self {
        Self {
            id: record.id,
            environment: record.environment,
            vcpu_count: record.vcpu_count,
            mem_mib: record.memory_mib,
            network_enabled: record.has_network,
            accelerator: record.accelerator,
            created_at: record.created_at.as_secs_f64(),
            expires_at: (vms::since_epoch() + record.time_left).as_secs_f64(),
            private_bytes: record.private_bytes,
        }
    }
}

/// What happens in a pool.
#[derive(Debug)]
pub enum PoolEvent {
    /// One more spare can be claimed.
    Made,
    /// One was given up, because the host is short of memory.
    ShortOfMemory,
    /// One could not be made. It is tried again later.
    Failed(PyroError),
}

/// Keeps spares, for as long as [`keep`](Self::keep) is waited for. A clone is the same pool.
#[derive(Debug, Clone)]
pub struct SparePool {
    count: SpareCount,
    wanted: watch::Sender<Wanted>,
}

/// What a pool should have.
#[derive(Debug, Clone, Default)]
struct Wanted {
    kind: Option<SpareKind>,
    /// How often somebody asked for a VM: spares that went for idleness come back.
    asked: u64,
}

impl SparePool {
    /// A pool that has nothing yet.
    pub fn new(count: SpareCount) -> Self {
        Self { count, wanted: watch::Sender::new(Wanted::default()) }
    }

    /// Has the pool keep spares of this kind from now on, and those of another kind given up.
    pub fn want(&self, kind: SpareKind) {
        self.wanted.send_modify(|wanted| {
            wanted.kind = Some(kind);
            wanted.asked += 1;
        });
    }

    /// Makes spares and replaces them; each is given up when nobody has claimed it for `idle_max`. Never ends by
    /// itself. When the future is dropped, those that nobody has claimed go, a few milliseconds later: see
    /// [`Pyro::settle`](crate::Pyro::settle).
    pub async fn keep(
        &self,
        pyro: &Pyro,
        idle_max: Duration,
        event: &(dyn Fn(PoolEvent) + Send + Sync),
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Infallible {
        let (maker, relieved_at) = (Mutex::default(), std::sync::Mutex::default());
        let keeper = Keeper { pool: self, pyro, idle_max, event, progress, maker, relieved_at };
        let slots = (0..self.count.get()).map(|_| Box::pin(keeper.keep_one()));
        let mut slots: Vec<_> = slots.collect();
        // None ends, and there are so few that each may be polled whenever one is woken.
        std::future::poll_fn(|context| {
            for slot in &mut slots {
                if let Poll::Ready(never) = slot.as_mut().poll(context) {
                    return Poll::Ready(never);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// A pool at work.
struct Keeper<'a> {
    pool: &'a SparePool,
    pyro: &'a Pyro,
    idle_max: Duration,
    event: &'a (dyn Fn(PoolEvent) + Send + Sync),
    progress: &'a (dyn Fn(Progress) + Send + Sync),
    /// Held by whoever makes one: several at a time would only slow each other down.
    maker: Mutex<()>,
    /// When one was given up last for want of memory.
    relieved_at: std::sync::Mutex<Option<Instant>>,
}

/// What follows the end of a spare.
#[derive(Debug, PartialEq, Eq)]
enum After {
    Replace,
    /// Nobody needed it.
    WaitUntilAsked,
    /// It ended too early, for whatever reason.
    RetryLater,
}

impl After {
    /// Of one that nobody has claimed, that lived so long, and after so much of that was asked for the last time.
    fn unclaimed(lived: Duration, asked: Duration, idle_max: Duration) -> Self {
        let is_over = |passed| passed + IDLE_SLACK >= idle_max;
        match (is_over(lived), is_over(asked)) {
            (false, _) => Self::RetryLater,
            // Whoever asked may have found none any more, before its end was heard of here.
            (true, true) => Self::Replace,
            (true, false) => Self::WaitUntilAsked,
        }
    }
}

impl Keeper<'_> {
    /// Keeps one spare, replaced as often as need be.
    async fn keep_one(&self) -> Infallible {
        let mut wanted = self.pool.wanted.subscribe();
        let mut retry_after = RETRY_AFTER;
        loop {
            let kind = wanted.borrow_and_update().kind.clone();
            let Some(kind) = kind else {
                changed(&mut wanted).await;
                continue;
            };
            if memory_available_mib() < MEMORY_TO_MAKE_MIB {
                (self.event)(PoolEvent::ShortOfMemory);
                tokio::time::sleep(MEMORY_INTERVAL).await;
                continue;
            }
            let after = match self.make(&kind).await {
                Ok(spare) => {
                    (self.event)(PoolEvent::Made);
                    self.guard(spare, &kind, &mut wanted).await
                }
                Err(error) => {
                    (self.event)(PoolEvent::Failed(error));
                    After::RetryLater
                }
            };
            match after {
                After::Replace => retry_after = RETRY_AFTER,
                After::WaitUntilAsked => changed(&mut wanted).await,
                After::RetryLater => {
                    tokio::time::sleep(retry_after).await;
                    retry_after = (retry_after * 2).min(RETRY_AFTER_MAX);
                }
            }
        }
    }

    async fn make(&self, kind: &SpareKind) -> Result<OwnedSpare, PyroError> {
        let _maker = self.maker.lock().await;
        let config = self.pyro.config();
        let environment = self.pyro.ready_environment(kind.environment, self.progress).await?;
        let request = VmRequest {
            environment: kind.environment,
            vcpu_count: kind.vcpu_count,
            memory: kind.memory,
            time_to_live: TimeToLive::DEFAULT,
            network: Network::Off,
        };
        let mut spec = vm::specify(config, &environment, &request, CheckedNetwork::OFF).await?;
        spec.network = match kind.network {
            SpareNetwork::Absent => None,
            // What it may reach is settled by the claim; until then nobody carries its packets.
            SpareNetwork::Present => Some(NetworkSpec {
                policies: Vec::new(),
                published: Vec::new(),
                resolvers: Vec::new(),
            }),
        };
        let rehearsal = kind.environment.definition().rehearsal;
        spec.lifetime = Lifetime::Spare {
            directory: config.spares_directory(),
            environment: kind.environment.as_str().to_owned(),
            warm_up: rehearsal.iter().map(|&command| command.to_owned()).collect(),
            idle_max: self.idle_max,
        };
        // Until its QEMU has opened the files.
        let lease = self.pyro.lease(&environment)?;
        let executable = config.executable(INTERNAL_SUPERVISE);
        let progress = |phase| (self.progress)(Progress::Launch(phase));
        let made = OwnedSpare::make(&executable, spec, self.pyro.departures(), progress).await;
        drop(lease);
        made.map_err(client_failure)
    }

    /// Waits until the spare, or the VM that it becomes, is gone.
    async fn guard(
        &self,
        mut spare: OwnedSpare,
        kind: &SpareKind,
        wanted: &mut watch::Receiver<Wanted>,
    ) -> After {
        let made_at = Instant::now();
        let mut is_claimed = false;
        let mut asked = Duration::ZERO;
        // Not from each event to the next: where VMs are asked for all the time it would never come.
        let first_look = tokio::time::Instant::now() + MEMORY_INTERVAL;
        let mut looks = tokio::time::interval_at(first_look, MEMORY_INTERVAL);
        loop {
            tokio::select! {
                event = spare.next_event() => match event {
                    SpareEvent::Claimed => is_claimed = true,
                    SpareEvent::Gone if is_claimed => return After::Replace,
                    SpareEvent::Gone => {
                        return After::unclaimed(made_at.elapsed(), asked, self.idle_max);
                    }
                },
                () = changed(wanted), if !is_claimed => {
                    asked = made_at.elapsed();
                    if wanted.borrow_and_update().kind.as_ref() != Some(kind) {
                        // One that cannot be waited for is none of ours any more.
                        spare.end().await.ok();
                        return After::Replace;
                    }
                }
                _ = looks.tick(), if !is_claimed => {
                    if self.must_give_one_up() {
                        (self.event)(PoolEvent::ShortOfMemory);
                        spare.end().await.ok();
                        return After::Replace;
                    }
                }
            }
        }
    }

    /// Whether the host is short of memory, and no other spare has just been given up for it.
    fn must_give_one_up(&self) -> bool {
        if memory_available_mib() >= MEMORY_AVAILABLE_MIN_MIB {
            return false;
        }
        let mut relieved_at = self.relieved_at.lock().unwrap_or_else(PoisonError::into_inner);
        if relieved_at.is_some_and(|at| at.elapsed() < MEMORY_INTERVAL) {
            return false;
        }
        *relieved_at = Some(Instant::now());
        true
    }
}

/// Waits until something else is wanted of the pool.
async fn changed(wanted: &mut watch::Receiver<Wanted>) {
    if wanted.changed().await.is_err() {
        // The pool lives as long as those who keep its spares.
        std::future::pending::<()>().await;
    }
}

/// What the kernel could give without swapping. Where it does not say, there is enough.
fn memory_available_mib() -> u64 {
    fs_err::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|meminfo| available_mib(&meminfo))
        .unwrap_or(u64::MAX)
}

fn available_mib(meminfo: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    rest.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib / 1024)
}

/// Claims a spare for a VM as specified; `None` where there is none. Fails where there was one, which failed its
/// claimer. Whatever goes wrong, there is another way to the VM.
pub(crate) async fn claim(
    config: &Config,
    spec: &LaunchSpec,
    departures: &Departures,
) -> Result<Option<(Supervisor, LaunchReport)>, PyroError> {
    let claimed = spare::claim(&config.spares_directory(), spec, departures).await;
    claimed.or_else(|error| match error {
        // Whoever restores a VM needs the same key, and says why there is none.
        ClaimError::Key { .. } => Ok(None),
        ClaimError::Failed { source } => Err(client_failure(source)),
    })
}

/// Removes the sockets of spares, and of those who kept them, that were killed.
pub(crate) fn remove_abandoned(config: &Config) {
    spare::remove_abandoned(&config.spares_directory());
    sockets::remove_abandoned(&config.keepers_directory());
}

/// The spares of this user. Nothing is removed.
pub(crate) async fn list(config: &Config) -> Vec<SpareInfo> {
    let records = spare::list(&config.spares_directory()).await;
    records.into_iter().map(SpareInfo::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_that_was_idle_to_its_end_is_not_replaced_until_somebody_asks() {
        let idle_max = Duration::from_mins(10);
        let after = |lived| After::unclaimed(lived, idle_max / 2, idle_max);
        // Its supervisor ends it by its own clock, a moment before its owner would.
        assert_eq!(after(Duration::from_millis(599_999)), After::WaitUntilAsked);
        assert_eq!(after(idle_max), After::WaitUntilAsked);
        assert_eq!(after(idle_max / 2), After::RetryLater);
    }

    #[test]
    fn whoever_asks_when_an_idle_spare_has_gone_gets_another() {
        let idle_max = Duration::from_mins(10);
        let after = |asked| After::unclaimed(idle_max, asked, idle_max);
        assert_eq!(after(Duration::from_millis(599_999)), After::Replace);
        assert_eq!(after(idle_max), After::Replace);
        assert_eq!(after(Duration::ZERO), After::WaitUntilAsked);
    }

    #[test]
    fn available_memory_is_what_the_kernel_says() {
        let meminfo = "MemTotal:        8000000 kB\nMemAvailable:    2097152 kB\nBuffers: 1 kB\n";
        assert_eq!(available_mib(meminfo), Some(2048));
        assert_eq!(available_mib("MemTotal: 1 kB\n"), None);
        assert_ne!(memory_available_mib(), u64::MAX);
    }
}
