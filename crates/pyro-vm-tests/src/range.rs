//! Where tests kill: a host with environments of its own, so that it can be told what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::environments::{BASE, copy_cache};
use crate::host::{Host, files_below};
use crate::lifeline::{Process, Role};
use crate::pyro::Running;
use crate::vms::Vms;

/// For whoever depended on a process that was killed.
const NOTICED: Duration = Duration::from_mins(1);

/// VMs, and the cache with what they are made of.
#[derive(Debug)]
pub struct Range<'host> {
    host: &'host Host,
    vms: Vms<'host>,
    cache: PathBuf,
}

impl<'host> Range<'host> {
    pub fn new(host: &'host Host) -> Self {
        let cache = host.directory().join("cache");
        copy_cache(&cache);
        Self { host, vms: host.vms(), cache }
    }

    pub fn vms(&self) -> &Vms<'host> {
        &self.vms
    }

    pub fn start(&self, arguments: &[&str]) -> Running {
        let pyro = self.vms.pyro(arguments);
        let pyro = pyro.variable("PYRO_ENVIRONMENT_CACHE_DIR", self.cache.to_str().unwrap());
        pyro.variable("PYRO_MAX_ACTIVE_VMS", "1000").start()
    }

    /// The document of a `pyro` that must succeed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let outcome = self.start(arguments).outcome();
        assert_eq!(outcome.exit_code(), 0, "{arguments:?}: {outcome:#?}");
        outcome.json()
    }

    #[track_caller]
    pub fn create(&self, options: &[&str]) -> String {
        let made = self.json(&[&["vm", "create", "--json", BASE], options].concat());
        made["vm_id"].as_str().unwrap().to_owned()
    }

    /// The VMs there are, with what they were given as `worker`.
    pub fn list(&self) -> BTreeMap<String, Option<String>> {
        let list = self.json(&["vm", "list", "--json"]);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let entry = |vm: &Value| (text(&vm["vm_id"]).unwrap(), text(&vm["metadata"]["worker"]));
        list["vms"].as_array().unwrap().iter().map(entry).collect()
    }

    pub fn delete(&self, id: &str) {
        self.json(&["vm", "delete", "--json", id]);
    }

    /// Deletes a VM that may have gone by itself, or be about to.
    #[track_caller]
    pub fn delete_if_there(&self, id: &str) {
        let outcome = self.start(&["vm", "delete", "--json", id]).outcome();
        if outcome.exit_code() != 0 {
            assert_eq!(outcome.json()["error"]["code"], "unknown_vm", "{outcome:#?}");
        }
    }

    /// The supervisor of a VM, and its QEMU if it runs.
    pub fn processes_of(&self, id: &str) -> Vec<Process> {
        let supervisor = self.vms.supervisor(id).expect("it has a supervisor");
        let qemu = self.vms.qemu_of(&supervisor);
        [supervisor].into_iter().chain(qemu).collect()
    }

    /// Deletes every VM with a life of its own but these; fails if anything is left of any other VM.
    pub fn assert_that_only_these_are_left(&self, ids: &BTreeSet<String>) {
        let listed = self.list();
        // Their creators were killed when they were there already, so they live.
        for id in listed.keys().filter(|id| !ids.contains(*id)) {
            self.delete(id);
        }
        let directories = names(&self.vms.state().join("vms"));
        assert_eq!(directories, *ids);
        let kept = ids.iter().flat_map(|id| self.processes_of(id));
        let kept: Vec<_> = kept.map(|process| process.pid()).collect();
        for process in self.vms.family() {
            // The test holds the lifeline, too, and so does the client of a VM that is kept.
            let is_of_a_vm = process.has(Role::Supervisor) || process.has(Role::Qemu);
            if is_of_a_vm && !kept.contains(&process.pid()) {
                assert!(process.ends_within(NOTICED), "still there: {process:?}");
            }
        }
    }

    /// Fails if a process, a file or a lock is left, after everything that can be deleted was.
    pub fn assert_that_nothing_is_left(mut self) {
        assert!(self.vms.end_within(NOTICED), "still there: {:#?}", self.vms.family());
        self.host.assert_nothing_left();
        let files = files_below(&self.cache);
        let is_temporary =
            |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with('.');
        assert_eq!(files.iter().find(is_temporary), None);
        for path in &files {
            let file = fs_err::File::open(path).unwrap();
            let locked = flock(file.file(), FlockOperation::NonBlockingLockExclusive);
            assert!(locked.is_ok(), "somebody holds a lock on `{}`", path.display());
        }
        let prune = self.host.pyro(&["env", "prune", "--all"]);
        let cache = self.cache.to_str().unwrap();
        prune.variable("PYRO_ENVIRONMENT_CACHE_DIR", cache).outcome().success();
        let kept = ["confinement-probe.json", "kvm-probe.json"];
        let left = files_below(&self.cache).into_iter().filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            !kept.contains(&name) && path.parent().unwrap() != self.cache.join("locks")
        });
        assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs_err::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
