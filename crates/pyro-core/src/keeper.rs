//! A process that does nothing but keep spares for a while, and how others find and end it.
//!
//! ```text
//!   pyro warm ── starts, asks ──► pyro internal keep-spares        in a session of its own
//!        ◄── steps, then Standing ─┘       │ ends    those who keep the same kind
//!        says Keep  ──────────────►        │ serves  keepers/<kind>-<id>
//!        ◄── Kept, and ends ───────┘       ▼
//!   pyro warm --status, --stop ── connect, ask
//! ```
//!
//! Until its starter has said `Keep` the keeper ends with it, so that an interrupted `pyro warm` leaves all as it was.
//! What is said is one JSON object per line.
//!
//! The last keeper of a kind is the only one: it ends the others when its own spares stand. Of two that are started at
//! the same time one is the last, because they do this one after the other, with the lock of the directory. Names tell
//! the kind, and who does not end when asked is killed, so that one that was stopped by a signal is no exception.

use std::fs::{File, TryLockError};
use std::io::ErrorKind as IoErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use pyro_supervisor::sockets;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::config::{Config, INTERNAL_KEEP_SPARES};
use crate::limits::{MemoryMib, SpareCount, SpareTime, VcpuCount};
use crate::pyro::{Progress, Pyro};
use crate::spares::{PoolEvent, SpareInfo, SpareKind, SpareNetwork, SparePool};
use crate::step::Step;
use crate::{ErrorKind, PyroError, environments, vm, vms};

/// The longest line that is said here.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// For whoever connects to a keeper to say what is wanted. Others wait meanwhile.
const ASKING_DEADLINE: Duration = Duration::from_secs(1);

/// For a keeper to say what it keeps.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
const _: () = assert!(ANSWER_DEADLINE.as_secs() > 2 * ASKING_DEADLINE.as_secs());

/// For a keeper to end its spares, a matter of milliseconds. Then it is killed, which leaves nothing either.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// For the kernel to end one that was killed.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// How often the lock of the keepers' directory is tried. Whoever holds it ends other keepers.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// How long it is tried: for some keepers to be ended.
const LOCK_DEADLINE: Duration = Duration::from_mins(1);
const _: () =
    assert!(LOCK_DEADLINE.as_secs() > 2 * (STOP_DEADLINE.as_secs() + KILL_DEADLINE.as_secs()));

/// Spares to be kept by a process of their own.
#[derive(Debug, Clone)]
pub struct KeepRequest {
    pub kind: SpareKind,
    pub count: SpareCount,
    pub time: SpareTime,
}

/// A process that keeps spares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeeperInfo {
    pub keeper_id: String,
    pub pid: u32,
    pub environment: String,
    pub vcpu_count: u8,
    pub mem_mib: u32,
    pub network_enabled: bool,
    pub count: u8,
    /// Seconds since the epoch.
    pub expires_at: f64,
}

/// A process that keeps spares from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartedKeeper {
    #[serde(flatten)]
    pub keeper: KeeperInfo,
    /// Those who kept spares of the same kind before, and were ended.
    pub replaced_keeper_ids: Vec<String>,
}

impl KeeperInfo {
    /// What it is found by. All that keep spares which can stand in for each other have the same name but for the id.
    fn name(&self) -> String {
        let network = if self.network_enabled { "network" } else { "alone" };
        let Self { keeper_id, environment, vcpu_count, mem_mib, .. } = self;
        format!("{environment}-{vcpu_count}-{mem_mib}-{network}-{keeper_id}")
    }

    /// Until it ends.
    pub fn time_left(&self) -> Duration {
        let expires_at = Duration::try_from_secs_f64(self.expires_at).unwrap_or_default();
        expires_at.saturating_sub(vms::since_epoch())
    }
}

/// The kind of spares that a keeper of that name keeps, and its id.
fn kind_and_id(name: &str) -> (&str, &str) {
    name.rsplit_once('-').unwrap_or(("", name))
}

/// Who keeps spares, and which there are; those of servers and of Python programs are among them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WarmStatus {
    pub keepers: Vec<KeeperInfo>,
    pub spares: Vec<SpareInfo>,
    /// What all spares together have in the host's memory for themselves.
    pub private_bytes: u64,
}

/// Which keepers were ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoppedKeepers {
    pub stopped_keeper_ids: Vec<String>,
    pub count: usize,
}

/// As it crosses to the keeper.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    environment: String,
    vcpu_count: u8,
    mem_mib: u32,
    network: bool,
    count: u8,
    time: Duration,
}

/// What a keeper says to its starter.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FromKeeper {
    Step(String),
    /// All spares stand.
    Standing,
    /// Others find it.
    Kept(StartedKeeper),
    Failed(PyroError),
}

/// What is said to a keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ToKeeper {
    Keep,
    Describe,
    Stop,
}

/// One end of what is said.
#[derive(Debug)]
struct Talk(BufReader<UnixStream>);

impl Talk {
    async fn say<T: Serialize>(&mut self, message: &T) -> std::io::Result<()> {
        let line = serde_json::to_string(message).map_err(std::io::Error::other)?;
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).await
    }

    /// `None` at the end, and for what is none of these messages.
    async fn hear<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut line = Vec::new();
        (&mut self.0).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await.ok()?;
        serde_json::from_slice(&line).ok()
    }
}

/// Starts a keeper, and returns when its spares stand. When the future is dropped before, the keeper ends.
pub(crate) async fn start(
    config: &Config,
    request: &KeepRequest,
    step: &(dyn Fn(&str) + Send + Sync),
) -> Result<StartedKeeper, PyroError> {
    let cannot_start = |error: std::io::Error| {
        PyroError::from_error(ErrorKind::Internal, &error)
            .context("cannot start the process that keeps spares")
    };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(cannot_start)?;
    ours.set_nonblocking(true).map_err(cannot_start)?;
    let [first, second] = INTERNAL_KEEP_SPARES;
    let child = tokio::process::Command::new(&config.pyro)
        .args([first, second])
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(cannot_start)?;
    let mut talk = Talk(BufReader::new(UnixStream::from_std(ours).map_err(cannot_start)?));
    let order = Order {
        environment: request.kind.environment.as_str().to_owned(),
        vcpu_count: request.kind.vcpu_count.get(),
        mem_mib: request.kind.memory.get(),
        network: request.kind.network == SpareNetwork::Present,
        count: request.count.get(),
        time: request.time.get(),
    };
    talk.say(&order).await.map_err(cannot_start)?;
    loop {
        match talk.hear().await {
            Some(FromKeeper::Step(text)) => step(&text),
            Some(FromKeeper::Standing) => {
                // Of one that has ended meanwhile nothing more is heard.
                talk.say(&ToKeeper::Keep).await.ok();
            }
            Some(FromKeeper::Kept(started)) => {
                // The runtime collects it if it ends before this process does.
                drop(child);
                return Ok(started);
            }
            Some(FromKeeper::Failed(failure)) => return Err(failure),
            None => {
                let text = "the process that keeps spares ended before they stood";
                return Err(PyroError::new(ErrorKind::VmStartFailed, text));
            }
        }
    }
}

/// Is a keeper, for the starter at the other end of standard input, until its time is over or `interrupted` comes.
/// Nothing of its spares is left when this returns.
pub(crate) async fn serve(pyro: &Pyro, interrupted: impl Future<Output = i32>) {
    let Some(mut starter) = starter() else { return };
    let Some(order) = starter.hear::<Order>().await else { return };
    let kept = async {
        let (kind, count) = order.parse()?;
        keep(pyro, &mut starter, &order, kind, count).await
    };
    let kept = tokio::select! {
        kept = kept => kept,
        // Whatever it is waiting for, be it a starter that does not read.
        () = tokio::time::sleep(order.time) => Ok(None),
        _ = interrupted => Ok(None),
    };
    pyro.settle().await;
    match kept {
        // Whoever asked for the end sees it now.
        Ok(asker) => drop(asker),
        // One that has left need not be told, nor one that does not listen.
        Err(failure) => {
            let failed = FromKeeper::Failed(failure);
            tokio::time::timeout(ANSWER_DEADLINE, starter.say(&failed)).await.ok();
        }
    }
}

fn starter() -> Option<Talk> {
    // Away from its starter's terminal, whose end is none of the keeper's.
    rustix::process::setsid().ok()?;
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok()?;
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true).ok()?;
    Some(Talk(BufReader::new(UnixStream::from_std(socket).ok()?)))
}

impl Order {
    fn parse(&self) -> Result<(SpareKind, SpareCount), PyroError> {
        let kind = SpareKind {
            environment: environments::parse_environment(&self.environment)?,
            vcpu_count: VcpuCount::new(self.vcpu_count.into())?,
            memory: MemoryMib::new(self.mem_mib.into())?,
            network: if self.network { SpareNetwork::Present } else { SpareNetwork::Absent },
        };
        Ok((kind, SpareCount::new(self.count.into())?))
    }
}

/// Keeps spares until somebody ends it, and gives the connection of who asked for that. Its spares are on their way out
/// when this returns, or is dropped.
async fn keep(
    pyro: &Pyro,
    starter: &mut Talk,
    order: &Order,
    kind: SpareKind,
    count: SpareCount,
) -> Result<Option<Talk>, PyroError> {
    let id = vm::new_id()?;
    let info = KeeperInfo {
        keeper_id: id.clone(),
        pid: std::process::id(),
        environment: order.environment.clone(),
        vcpu_count: order.vcpu_count,
        mem_mib: order.mem_mib,
        network_enabled: order.network,
        count: order.count,
        expires_at: (vms::since_epoch() + order.time).as_secs_f64(),
    };
    let (said, mut heard) = mpsc::unbounded_channel();
    let event = |event: PoolEvent| {
        // The receiver lives as long as this.
        said.send(Heard::Event(event)).ok();
    };
    let progress = |progress: Progress| {
        said.send(Heard::Step(progress)).ok();
    };
    let pool = SparePool::new(count);
    pool.want(kind);
    let mut pool = pin!(pool.keep(pyro, order.time, &event, &progress));
    let mut standing = 0;
    while standing < count.get() {
        let next = tokio::select! {
            biased;
            Some(next) = heard.recv() => next,
            // It has nothing to say before.
            _ = starter.hear::<ToKeeper>() => return Ok(None),
            never = &mut pool => match never {},
        };
        match next {
            Heard::Event(PoolEvent::Made) => standing += 1,
            Heard::Event(PoolEvent::Failed(failure)) => return Err(failure),
            Heard::Event(PoolEvent::ShortOfMemory) => return Err(short_of_memory()),
            Heard::Step(progress) => {
                if let Some(text) = Step::text_of(&progress)
                    && starter.say(&FromKeeper::Step(text)).await.is_err()
                {
                    return Ok(None);
                }
            }
        }
    }
    if starter.say(&FromKeeper::Standing).await.is_err()
        || starter.hear().await != Some(ToKeeper::Keep)
    {
        return Ok(None);
    }
    // Nobody is told any more.
    drop(heard);
    let (post, replaced_keeper_ids) = tokio::select! {
        post = take_over(pyro.config(), &info) => post?,
        never = &mut pool => match never {},
    };
    let kept = FromKeeper::Kept(StartedKeeper { keeper: info.clone(), replaced_keeper_ids });
    // Whoever has said `Keep` may leave.
    starter.say(&kept).await.ok();
    Ok(tokio::select! {
        never = &mut pool => match never {},
        asker = post.serve(&info) => Some(asker),
    })
}

/// Ends whoever keeps spares of the same kind, and has others find this keeper instead.
async fn take_over(config: &Config, info: &KeeperInfo) -> Result<(Post, Vec<String>), PyroError> {
    let directory = config.keepers_directory();
    // For this user only.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.map_err(|error| unusable(&error))?;
    let _lock = lock(&directory).await?;
    let own_name = info.name();
    // First, so that nobody is ended for one that cannot be found.
    let post = Post::open(&directory, &own_name)?;
    let (own_kind, _) = kind_and_id(&own_name);
    let mut replaced = Vec::new();
    for name in sockets::names(&directory) {
        let (kind, id) = kind_and_id(&name);
        if kind == own_kind && name != own_name && stop_one(config, &name).await? {
            replaced.push(id.to_owned());
        }
    }
    Ok((post, replaced))
}

/// Locks the keepers' directory, as long as the file lives. Others have it for as long as it takes to end some.
async fn lock(directory: &Path) -> Result<File, PyroError> {
    let lock = fs_err::File::open(directory).map_err(|error| unusable(&error))?.into_parts().0;
    let locked = async {
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(error)) => return Err(unusable(&error)),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_INTERVAL).await,
            }
        }
    };
    tokio::time::timeout(LOCK_DEADLINE, locked).await.unwrap_or_else(|_| {
        let seconds = LOCK_DEADLINE.as_secs();
        let text = format!("others have locked `{}` for {seconds} seconds", directory.display());
        Err(PyroError::new(ErrorKind::Internal, text)
            .context("cannot let others find the process that keeps spares")
            .hint("another `pyro warm` hangs: `fuser -v` with that directory shows its process"))
    })?;
    Ok(lock)
}

fn unusable(error: &std::io::Error) -> PyroError {
    PyroError::from_error(ErrorKind::Internal, error)
        .context("cannot let others find the process that keeps spares")
}

/// What comes from the pool.
enum Heard {
    Event(PoolEvent),
    Step(Progress),
}

fn short_of_memory() -> PyroError {
    PyroError::new(ErrorKind::HostUnsupported, "there is too little memory for spares")
        .hint("end other programs, or keep fewer spares; `pyro warm --stop` ends those there are")
}

/// Where a keeper is found: a socket, which refuses connections from when the keeper is gone.
#[derive(Debug)]
struct Post {
    socket: PathBuf,
    listener: UnixListener,
}

impl Post {
    fn open(keepers: &Path, name: &str) -> Result<Self, PyroError> {
        let socket = keepers.join(name);
        let unfinished = keepers.join(format!(".{name}"));
        let listener = short(keepers, &format!(".{name}"), |path| UnixListener::bind(path))
            .map_err(|error| unusable(&error))?;
        // Under its name only when it listens: one that refuses is taken for a dead one's.
        if let Err(error) = fs_err::rename(&unfinished, &socket) {
            fs_err::remove_file(&unfinished).ok();
            return Err(unusable(&error));
        }
        Ok(Self { socket, listener })
    }

    /// Answers whoever asks, until somebody asks for the end. Gives that one's connection, whose end tells it that
    /// nothing is left.
    async fn serve(&self, info: &KeeperInfo) -> Talk {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                // Too many open files, for instance.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if !is_of_this_user(&stream) {
                continue;
            }
            let mut talk = Talk(BufReader::new(stream));
            let asked = tokio::time::timeout(ASKING_DEADLINE, async {
                let asked = talk.hear::<ToKeeper>().await?;
                if asked == ToKeeper::Describe {
                    talk.say(info).await.ok()?;
                }
                Some(asked)
            });
            if let Ok(Some(ToKeeper::Stop)) = asked.await {
                return talk;
            }
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        // What cannot be removed now is removed by whoever looks next.
        fs_err::remove_file(&self.socket).ok();
    }
}

/// Every keeper of this user that says what it keeps. Sockets of those that were killed are removed.
pub(crate) async fn list(config: &Config) -> Vec<KeeperInfo> {
    let mut keepers = Vec::new();
    sockets::remove_abandoned(&config.keepers_directory());
    for name in sockets::names(&config.keepers_directory()) {
        let asked = async {
            let (mut talk, _) = reach(config, &name)?;
            talk.say(&ToKeeper::Describe).await.ok()?;
            talk.hear::<KeeperInfo>().await
        };
        keepers.extend(tokio::time::timeout(ANSWER_DEADLINE, asked).await.ok().flatten());
    }
    keepers
}

/// Ends every keeper of this user, and waits until nothing of their spares is left.
pub(crate) async fn stop(config: &Config) -> Result<StoppedKeepers, PyroError> {
    let mut stopped_keeper_ids = Vec::new();
    for name in sockets::names(&config.keepers_directory()) {
        if stop_one(config, &name).await? {
            stopped_keeper_ids.push(kind_and_id(&name).1.to_owned());
        }
    }
    Ok(StoppedKeepers { count: stopped_keeper_ids.len(), stopped_keeper_ids })
}

/// Ends the keeper of that name, and waits until nothing of its spares is left; false where there is none. One that does
/// not end by itself is killed, and its spares go after it.
async fn stop_one(config: &Config, name: &str) -> Result<bool, PyroError> {
    let Some((mut talk, keeper)) = reach(config, name) else { return Ok(false) };
    talk.say(&ToKeeper::Stop).await.ok();
    // It says nothing more, but closes the connection when it is done.
    if tokio::time::timeout(STOP_DEADLINE, talk.hear::<ToKeeper>()).await.is_ok() {
        return Ok(true);
    }
    let killed = pidfd_open(keeper, PidfdFlags::empty())
        .and_then(|keeper| pidfd_send_signal(keeper, Signal::KILL));
    if killed.is_ok() && tokio::time::timeout(KILL_DEADLINE, talk.hear::<ToKeeper>()).await.is_ok()
    {
        sockets::remove_abandoned(&config.keepers_directory());
        return Ok(true);
    }
    let seconds = STOP_DEADLINE.as_secs();
    let text = format!("the process that keeps spares did not end within {seconds} seconds");
    let pid = keeper.as_raw_nonzero();
    Err(PyroError::new(ErrorKind::Internal, text)
        .hint(format!("kill it, and its spares go with it: `kill -9 {pid}`")))
}

/// Connects to a keeper, and tells its process. The socket of one that was killed is removed.
fn reach(config: &Config, name: &str) -> Option<(Talk, Pid)> {
    let directory = config.keepers_directory();
    let connected =
        match short(&directory, name, |path| std::os::unix::net::UnixStream::connect(path)) {
            Ok(stream) => stream,
            Err(error) => {
                if error.kind() == IoErrorKind::ConnectionRefused {
                    fs_err::remove_file(directory.join(name)).ok();
                }
                return None;
            }
        };
    connected.set_nonblocking(true).ok()?;
    let stream = UnixStream::from_std(connected).ok()?;
    let peer = socket_peercred(&stream).ok()?;
    let is_of_this_user = peer.uid == rustix::process::geteuid();
    is_of_this_user.then(|| (Talk(BufReader::new(stream)), peer.pid))
}

fn is_of_this_user(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// Does something with a path in `directory` that is short enough for a socket: the kernel allows 107 bytes.
fn short<T>(
    directory: &Path,
    name: &str,
    with: impl FnOnce(&str) -> std::io::Result<T>,
) -> std::io::Result<T> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())?;
    with(&format!("/proc/self/fd/{}/{name}", opened.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(id: &str, environment: &str, mem_mib: u32) -> KeeperInfo {
        KeeperInfo {
            keeper_id: id.to_owned(),
            pid: 1,
            environment: environment.to_owned(),
            vcpu_count: 1,
            mem_mib,
            network_enabled: false,
            count: 1,
            expires_at: 0.0,
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_found_ends_nobody_and_leaves_no_socket() {
        let state = tempfile::tempdir().unwrap();
        let variables = [("HOME", "/"), ("PYRO_STATE_DIR", state.path().to_str().unwrap())];
        let config = crate::config::tests::config(&variables).unwrap();
        let directory = config.keepers_directory();
        let (own, other) = (keeper("b", "debian:12", 1024), keeper("a", "debian:12", 1024));
        fs_err::create_dir_all(directory.join(own.name())).unwrap();
        let listener = UnixListener::bind(directory.join(other.name())).unwrap();
        tokio::select! {
            taken_over = take_over(&config, &own) => drop(taken_over.unwrap_err()),
            _ = listener.accept() => panic!("it asks the other one to end"),
        }
        assert_eq!(sockets::names(&directory), [other.name(), own.name()]);
        assert!(!directory.join(format!(".{}", own.name())).exists());
    }

    #[test]
    fn a_name_tells_the_kind_and_the_id() {
        let name = keeper("0123456789ab", "debian:12-base", 1024).name();
        let (kind, id) = kind_and_id(&name);
        assert_eq!(id, "0123456789ab");
        for (environment, mem_mib) in [("debian:12-base", 512), ("debian:12", 1024)] {
            assert_ne!(kind, kind_and_id(&keeper("a", environment, mem_mib).name()).0);
        }
    }
}
