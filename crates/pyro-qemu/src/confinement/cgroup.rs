//! Control groups: a bound on the memory and the threads of one QEMU, whatever it does, see cgroups(7).
//!
//! Only where this user may make groups below the own one, so that whatever limits that holds as well. In
//! the first version of the interface that is root; in the second a group with processes in it has no
//! limited groups below, so it is whoever runs in the root of a tree that was delegated.
//!
//! A group is a directory and outlives whoever made it. One whose maker was killed is deleted by the next
//! that makes one, or by [`delete_abandoned_groups`].

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

/// Beside the guest's memory: translated code, QEMU's own, and pages of files that were not written
/// back yet.
const MEMORY_BESIDE_GUEST_BYTES: u64 = 2 << 30;

/// A thread for each vCPU, up to 64 for input and output, and a handful more.
const THREADS_MAX: u32 = 128;

/// What begins the name of every group that is made here.
const PREFIX: &str = "pyro-";

/// Groups with one process in them, deleted when dropped; the process must have ended.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    limited: Vec<Controller>,
    directories: Vec<PathBuf>,
}

/// What a group can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    Memory,
    Pids,
}

/// A directory of the kernel in which groups may be made.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    directory: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Every controller has a tree of its own.
    One(Controller),
    Two,
}

/// The groups of this user, where this process would make its own, whose makers were killed.
pub fn abandoned_groups() -> Vec<PathBuf> {
    let own_user = rustix::process::geteuid().as_raw();
    let is_own = |path: &PathBuf| fs_err::metadata(path).is_ok_and(|it| it.uid() == own_user);
    // Their QEMU is about to die.
    let is_empty = |path: &PathBuf| {
        fs_err::read_to_string(path.join("cgroup.procs")).is_ok_and(|found| found.is_empty())
    };
    let abandoned = own_places().into_iter().flat_map(|place| place.abandoned());
    abandoned.filter(|path| is_own(path) && is_empty(path)).collect()
}

/// Deletes them. What cannot be deleted is left to whoever comes next.
pub fn delete_abandoned_groups() {
    for place in own_places() {
        place.delete_abandoned();
    }
}

impl ControlGroup {
    /// Puts a process, and all that it starts, into a group with limits; into none where that is not
    /// permitted. For a machine with this much memory.
    pub(crate) fn enclose(process: Pid, memory_mib: u32) -> Self {
        let mut group = Self { limited: Vec::new(), directories: Vec::new() };
        for place in own_places() {
            place.delete_abandoned();
            // Limits on the process itself hold as well; these go beyond where they can.
            if let Ok(limited) = group.enclose_at(&place, process, memory_mib) {
                group.limited.extend(limited);
            }
        }
        group
    }

    /// What is limited.
    pub(crate) fn limited(&self) -> &[Controller] {
        &self.limited
    }

    fn enclose_at(
        &mut self,
        place: &Place,
        process: Pid,
        memory_mib: u32,
    ) -> io::Result<Vec<Controller>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let controllers = place.controllers();
        if controllers.iter().all(|controller| self.limited.contains(controller)) {
            return Ok(Vec::new());
        }
        let directory = place.directory.join(format!("{PREFIX}{}-{number}", std::process::id()));
        // One of a dead process that had this number is in the way.
        fs_err::remove_dir(&directory).ok();
        fs_err::create_dir(&directory)?;
        self.directories.push(directory.clone());
        let memory = (u64::from(memory_mib) << 20) + MEMORY_BESIDE_GUEST_BYTES;
        for controller in &controllers {
            match (controller, place.version) {
                (Controller::Memory, Version::One(_)) => {
                    fs_err::write(directory.join("memory.limit_in_bytes"), memory.to_string())?;
                }
                (Controller::Memory, Version::Two) => {
                    fs_err::write(directory.join("memory.max"), memory.to_string())?;
                }
                (Controller::Pids, _) => {
                    fs_err::write(directory.join("pids.max"), THREADS_MAX.to_string())?;
                }
            }
        }
        fs_err::write(directory.join("cgroup.procs"), process.to_string())?;
        Ok(controllers)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            // If it fails, the next that makes a group tries again.
            fs_err::remove_dir(directory).ok();
        }
    }
}

impl Place {
    /// What groups made here can limit.
    fn controllers(&self) -> Vec<Controller> {
        match self.version {
            Version::One(controller) => vec![controller],
            Version::Two => {
                let path = self.directory.join("cgroup.subtree_control");
                let enabled = fs_err::read_to_string(path).unwrap_or_default();
                let known = [("memory", Controller::Memory), ("pids", Controller::Pids)];
                let is_enabled = |name: &str| enabled.split_whitespace().any(|word| word == name);
                known.into_iter().filter(|(name, _)| is_enabled(name)).map(|(_, it)| it).collect()
            }
        }
    }

    /// Deletes groups whose makers are gone. The kernel keeps those that still have a process.
    fn delete_abandoned(&self) {
        for path in self.abandoned() {
            fs_err::remove_dir(path).ok();
        }
    }

    /// Groups whose makers are gone.
    fn abandoned(&self) -> Vec<PathBuf> {
        let entries = fs_err::read_dir(&self.directory).into_iter().flatten().flatten();
        let is_abandoned = |entry: &fs_err::DirEntry| {
            let name = entry.file_name();
            let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
            maker.is_some_and(|maker| !lives(maker))
        };
        entries.filter(is_abandoned).map(|entry| entry.path()).collect()
    }
}

/// Whether a process of this number lives. In a container nobody may ever collect a dead one.
fn lives(process: &str) -> bool {
    let stat = fs_err::read_to_string(Path::new("/proc").join(process).join("stat"));
    // Its name may hold anything, and its state follows (`proc_pid_stat(5)`).
    let state = |stat: &str| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    stat.is_ok_and(|stat| !matches!(state(&stat), Some('Z' | 'X')))
}

/// Where this process may make groups.
fn own_places() -> Vec<Place> {
    let [own, mounts] = ["cgroup", "mountinfo"]
        .map(|name| fs_err::read_to_string(Path::new("/proc/self").join(name)));
    places(&own.unwrap_or_default(), &mounts.unwrap_or_default())
}

/// Where groups may be made, by what `/proc/self/cgroup` and `/proc/self/mountinfo` say.
fn places(own: &str, mounts: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if controllers.is_empty() {
            let Some(own) = directory_of(path, mounts, "cgroup2", "") else { continue };
            places.push(Place { directory: own, version: Version::Two });
            continue;
        }
        for (name, controller) in [("memory", Controller::Memory), ("pids", Controller::Pids)] {
            if controllers.split(',').any(|found| found == name)
                && let Some(directory) = directory_of(path, mounts, "cgroup", name)
            {
                places.push(Place { directory, version: Version::One(controller) });
            }
        }
    }
    places
}

/// The directory of group `path` in the file system of this type, with this option.
fn directory_of(path: &str, mounts: &str, file_system: &str, option: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, mount_point) = (mount.next()?, mount.next()?);
        let mut source = source.split(' ');
        let is_type = source.next()? == file_system;
        let has_option =
            option.is_empty() || source.nth(1)?.split(',').any(|found| found == option);
        let below = Path::new(path).strip_prefix(root).ok()?;
        (is_type && has_option).then(|| Path::new(mount_point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn both_versions_are_found() {
        let own = "9:name=systemd:/\n8:pids:/\n4:memory:/service/a\n0::/\n";
        let place = |path: &str, version| Place { directory: path.into(), version };
        assert_eq!(
            places(own, HYBRID_MOUNTS),
            [
                place("/sys/fs/cgroup/pids/", Version::One(Controller::Pids)),
                place("/sys/fs/cgroup/memory/service/a", Version::One(Controller::Memory)),
                place("/sys/fs/cgroup/unified/", Version::Two),
            ]
        );
    }

    #[test]
    fn in_the_second_version_a_group_is_made_below_the_own_one() {
        let mounts = "25 20 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let places = places("0::/user.slice/a.scope\n", mounts);
        let directory = PathBuf::from("/sys/fs/cgroup/user.slice/a.scope");
        assert_eq!(places, [Place { directory, version: Version::Two }]);
    }

    #[test]
    fn a_process_that_nobody_collects_does_not_live() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let number = child.id().to_string();
        assert!(lives(&number));
        child.kill().unwrap();
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let id = rustix::process::WaitId::Pid(Pid::from_child(&child));
        rustix::process::waitid(id, ended).unwrap();
        assert!(Path::new("/proc").join(&number).exists());
        assert!(!lives(&number));
        child.wait().unwrap();
        assert!(!lives(&number));
    }

    #[test]
    fn a_group_is_gone_with_its_process_and_an_abandoned_one_with_the_next() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let group = ControlGroup::enclose(Pid::from_child(&child), 1024);
        let of_child = fs_err::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        // Not every host lets its users make groups; whoever says so must have done it.
        assert_eq!(of_child.contains("/pyro-"), !group.limited().is_empty(), "{of_child}");
        let directories = group.directories.clone();
        for directory in &directories {
            let abandoned = directory.with_file_name("pyro-4194305-1");
            fs_err::create_dir(&abandoned).unwrap();
            delete_abandoned_groups();
            assert!(!abandoned.exists());
            let abandoned = directory.with_file_name("pyro-4194305-0");
            fs_err::create_dir(&abandoned).unwrap();
            let found = abandoned_groups();
            // Another test may have deleted it in between.
            assert!(found.contains(&abandoned) || !abandoned.exists(), "{found:?}");
            assert!(!found.contains(directory), "its maker lives");
            drop(ControlGroup::enclose(Pid::from_child(&child), 1024));
            assert!(!abandoned.exists());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(group);
        assert!(!directories.iter().any(|directory| directory.exists()));
    }
}
