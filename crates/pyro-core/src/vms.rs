//! The directory of a user's VMs, which every process of that user looks at.
//!
//! It holds the scratch disks of all VMs, as files without a name, and a directory for each VM with a life of
//! its own: `pyro-supervisor` says what is in there. The lock of the whole is the directory itself. Whoever
//! makes a VM or removes what is left of one holds it, so that VMs are counted right.

use std::fs::{File, TryLockError};
use std::io::ErrorKind as IoErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pyro_protocol::record::VmRecord;
use pyro_supervisor::remote::{self, Presence};

use crate::limits::{ActiveVmsMax, VmId};
use crate::{ErrorKind, PyroError};

/// For others to count VMs, make directories and remove some.
const LOCK_DEADLINE: Duration = Duration::from_secs(20);

/// How often the lock is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// Where the VMs of a user live.
#[derive(Debug)]
pub(crate) struct VmsDirectory {
    path: PathBuf,
}

/// The directory while it is locked.
#[derive(Debug)]
pub(crate) struct LockedVms<'a> {
    vms: &'a VmsDirectory,
    _lock: File,
}

/// Everybody who lives there, and whose remains were removed.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) living: Vec<VmRecord>,
    /// Their supervisors are there, but they themselves are not yet.
    pub(crate) beginning: usize,
    pub(crate) removed: Vec<VmRecord>,
}

/// A directory for a VM that is being made.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) directory: PathBuf,
    pub(crate) lock: OwnedFd,
}

impl VmsDirectory {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn directory(&self, id: &VmId) -> PathBuf {
        self.path.join(id.as_str())
    }

    /// Locks the directory; `None` where there is none.
    pub(crate) async fn lock(&self) -> Result<Option<LockedVms<'_>>, PyroError> {
        let lock = self.lock_by(File::try_lock).await?;
        Ok(lock.map(|lock| LockedVms { vms: self, _lock: lock }))
    }

    async fn lock_by(
        &self,
        try_lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Option<File>, PyroError> {
        let lock = match fs_err::File::open(&self.path) {
            Ok(lock) => lock.into_parts().0,
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.unusable(&error)),
        };
        let until = Instant::now() + LOCK_DEADLINE;
        loop {
            match try_lock(&lock) {
                Ok(()) => return Ok(Some(lock)),
                Err(TryLockError::Error(error)) => return Err(self.unusable(&error)),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    tokio::time::sleep(LOCK_INTERVAL).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let path = self.path.display();
                    let text = format!("another pyro has locked `{path}` for too long");
                    return Err(PyroError::new(ErrorKind::Internal, text));
                }
            }
        }
    }

    /// Counts who lives there, and removes what was left by supervisors that were killed.
    pub(crate) async fn census(&self) -> Result<Census, PyroError> {
        pyro_qemu::confinement::delete_abandoned_groups();
        match self.lock().await? {
            Some(locked) => locked.census(),
            None => Ok(Census::default()),
        }
    }

    /// The directories that were left by processes that were killed. A [`census`](Self::census) removes
    /// them.
    pub(crate) async fn abandoned(&self) -> Result<Vec<PathBuf>, PyroError> {
        // Shared: others may look, but nobody makes a VM or removes what is left of one.
        let Some(_lock) = self.lock_by(File::try_lock_shared).await? else { return Ok(Vec::new()) };
        let mut abandoned = Vec::new();
        for id in self.ids()? {
            let directory = self.directory(&id);
            match self.look(&id)? {
                // A supervisor that ends may have removed it by now.
                Presence::Nobody | Presence::Dead(_) if directory.exists() => {
                    abandoned.push(directory);
                }
                Presence::Nobody
                | Presence::Dead(_)
                | Presence::Beginning
                | Presence::Living(_) => {}
            }
        }
        Ok(abandoned)
    }

    /// The names of VMs there are directories for.
    fn ids(&self) -> Result<Vec<VmId>, PyroError> {
        let unusable = |error| self.unusable(&error);
        let mut ids = Vec::new();
        for entry in fs_err::read_dir(&self.path).map_err(unusable)? {
            let name = entry.map_err(unusable)?.file_name();
            // Whatever else there is was not put there by us.
            ids.extend(name.to_str().and_then(|name| VmId::new(name).ok()));
        }
        Ok(ids)
    }

    /// The record of a VM that lives.
    pub(crate) fn find(&self, id: &VmId) -> Result<VmRecord, PyroError> {
        match self.look(id)? {
            Presence::Living(record) => Ok(*record),
            Presence::Nobody | Presence::Beginning => Err(id.does_not_exist()),
            Presence::Dead(remains) => {
                let error = match &remains.record {
                    Some(record) if is_expired(record) => expired(id),
                    Some(_) | None => id.does_not_exist().cause("its supervisor was killed"),
                };
                // What cannot be removed now is removed by whoever looks next.
                remains.remove().ok();
                Err(error)
            }
        }
    }

    pub(crate) fn look(&self, id: &VmId) -> Result<Presence, PyroError> {
        remote::look(&self.directory(id)).map_err(|error| self.unusable(&error))
    }

    fn unusable(&self, error: &std::io::Error) -> PyroError {
        PyroError::from_error(ErrorKind::Internal, error)
            .context(format!("cannot use the directory of VMs `{}`", self.path.display()))
            .hint("make it readable and writable, or set `PYRO_STATE_DIR` to another")
    }
}

impl LockedVms<'_> {
    pub(crate) fn census(&self) -> Result<Census, PyroError> {
        let mut census = Census::default();
        for id in self.vms.ids()? {
            match remote::look(&self.vms.directory(&id)) {
                Ok(Presence::Living(record)) => census.living.push(*record),
                // Its maker was killed before it had made the lock, or somebody removes it, or was killed
                // then. Nobody makes one at this moment.
                Ok(Presence::Nobody) => {
                    fs_err::remove_dir_all(self.vms.directory(&id)).ok();
                }
                Ok(Presence::Dead(remains)) => {
                    if remains.remove().is_ok() {
                        census.removed.extend(remains.record.map(|record| *record));
                    }
                }
                // One that cannot be looked at may well live, so it counts.
                Ok(Presence::Beginning) | Err(_) => census.beginning += 1,
            }
        }
        census.living.sort_by(|one, other| {
            (one.created_at, &one.vm_id).cmp(&(other.created_at, &other.vm_id))
        });
        Ok(census)
    }

    /// Refuses one more VM where there are `max` already.
    pub(crate) fn check_number(&self, max: ActiveVmsMax) -> Result<(), PyroError> {
        let census = self.census()?;
        if census.living.len() + census.beginning < usize::from(max.get()) {
            return Ok(());
        }
        let text = format!("max active VMs reached ({}); delete old VMs first", max.get());
        Err(PyroError::new(ErrorKind::TooManyVms, text)
            .hint("`pyro vm list` or the tool `vm_list` shows them, `pyro vm delete` or `vm_delete` deletes one")
            .hint("set `PYRO_MAX_ACTIVE_VMS` to allow more (1000 at most)"))
    }

    /// Makes a directory for one more VM, unless there are `max` already.
    pub(crate) fn make_room(&self, id: &VmId, max: ActiveVmsMax) -> Result<Room, PyroError> {
        self.check_number(max)?;
        let directory = self.vms.directory(id);
        let unusable = |error| self.vms.unusable(&error);
        // Its socket is for this user only.
        std::fs::DirBuilder::new().mode(0o700).create(&directory).map_err(unusable)?;
        let lock = remote::take_lock(&directory).map_err(unusable)?;
        Ok(Room { directory, lock })
    }
}

pub(crate) fn is_expired(record: &VmRecord) -> bool {
    since_epoch() >= record.created_at + record.time_to_live
}

fn expired(id: &VmId) -> PyroError {
    let text = format!("vm '{}' expired and was automatically deleted", id.as_str());
    PyroError::new(ErrorKind::VmExpired, text)
}

pub(crate) fn since_epoch() -> Duration {
    // A clock before 1970 is as good as none.
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pyro_protocol::client::Accelerator;
    use pyro_protocol::record::VmState;

    use super::*;

    const ID: &str = "0123456789ab";

    fn max(number: &str) -> ActiveVmsMax {
        ActiveVmsMax::parse("max", number).unwrap()
    }

    fn id(text: &str) -> VmId {
        VmId::new(text).unwrap()
    }

    fn write_record(directory: &Path, created_at: Duration) {
        let record = VmRecord {
            vm_id: ID.to_owned(),
            environment: "debian:12".to_owned(),
            environment_version: "1".to_owned(),
            vcpu_count: 1,
            memory_mib: 1024,
            created_at,
            time_to_live: Duration::from_mins(1),
            state: VmState::Started,
            allow_host_compat: false,
            metadata: std::collections::BTreeMap::new(),
            accelerator: Accelerator::Tcg,
            network: None,
        };
        fs_err::write(directory.join("record"), serde_json::to_vec(&record).unwrap()).unwrap();
    }

    #[tokio::test]
    async fn vms_that_are_being_made_count_and_remains_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let vms = VmsDirectory::at(parent.path().to_owned());
        let locked = vms.lock().await.unwrap().unwrap();
        let room = locked.make_room(&id(ID), max("1")).unwrap();
        let refused = locked.make_room(&id("00000000000f"), max("1")).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TooManyVms);
        assert_eq!(refused.message, "max active VMs reached (1); delete old VMs first");
        assert_eq!(vms.find(&id(ID)).unwrap_err().kind, ErrorKind::UnknownVm, "not yet");
        write_record(&room.directory, since_epoch());
        assert_eq!(vms.find(&id(ID)).unwrap().vm_id, ID);
        assert_eq!(locked.census().unwrap().living.len(), 1);
        drop(room.lock);
        // A maker that was killed before it had made the lock.
        fs_err::create_dir(vms.directory(&id("00000000000a"))).unwrap();
        // A supervisor that was killed when it had removed its lock, and not yet the rest.
        fs_err::create_dir(vms.directory(&id("00000000000b"))).unwrap();
        write_record(&vms.directory(&id("00000000000b")), since_epoch());
        // What is none of ours is left alone.
        fs_err::write(parent.path().join("notes"), "").unwrap();
        drop(locked);
        let mut abandoned = vms.abandoned().await.unwrap();
        abandoned.sort();
        let expected = ["00000000000a", "00000000000b", ID].map(|name| vms.directory(&id(name)));
        assert_eq!(abandoned, expected);
        let census = vms.census().await.unwrap();
        assert_eq!((census.living.len(), census.beginning, census.removed.len()), (0, 0, 1));
        assert_eq!(vms.abandoned().await.unwrap(), Vec::<PathBuf>::new());
        let left = fs_err::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["notes"]);
    }

    #[tokio::test]
    async fn remains_of_an_expired_vm_are_told_from_those_of_a_lost_one() {
        let parent = tempfile::tempdir().unwrap();
        let vms = VmsDirectory::at(parent.path().to_owned());
        for (age, kind) in [(30, ErrorKind::UnknownVm), (90, ErrorKind::VmExpired)] {
            let locked = vms.lock().await.unwrap().unwrap();
            let room = locked.make_room(&id(ID), max("1")).unwrap();
            write_record(&room.directory, since_epoch().saturating_sub(Duration::from_secs(age)));
            drop(room.lock);
            assert_eq!(vms.find(&id(ID)).unwrap_err().kind, kind);
            assert!(!room.directory.exists());
        }
    }

    #[tokio::test]
    async fn without_a_directory_there_are_no_vms() {
        let parent = tempfile::tempdir().unwrap();
        let vms = VmsDirectory::at(parent.path().join("none"));
        assert!(vms.census().await.unwrap().living.is_empty());
        assert_eq!(vms.find(&id(ID)).unwrap_err().kind, ErrorKind::UnknownVm);
    }
}
