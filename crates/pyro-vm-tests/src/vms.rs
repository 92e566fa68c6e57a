//! VMs that outlive the `pyro` that made them, and those who use them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::DEADLINE;
use crate::environments::BASE;
use crate::host::Host;
use crate::lifeline::{Lifeline, Process, Role};
use crate::pyro::Pyro;

/// What several `pyro` see of each other. Nothing may be left of their VMs when this is dropped.
#[derive(Debug)]
pub struct Vms<'a> {
    host: &'a Host,
    state: PathBuf,
    lifeline: Arc<Lifeline>,
    /// Held until nobody may be left.
    writer: Option<OwnedFd>,
}

impl<'a> Vms<'a> {
    pub(crate) fn new(host: &'a Host, state: PathBuf) -> Self {
        let (lifeline, writer) = Lifeline::new(state.clone());
        Self { host, state, lifeline: Arc::new(lifeline), writer: Some(writer) }
    }

    /// `pyro vm` with these arguments.
    pub fn vm(&self, arguments: &[&str]) -> Pyro {
        self.pyro(&[&["vm"], arguments].concat())
    }

    /// `pyro` with these arguments.
    pub fn pyro(&self, arguments: &[&str]) -> Pyro {
        self.family_member(self.host.pyro(arguments))
    }

    /// A command that starts `pyro`, once or several times.
    pub fn command(&self, command: Command) -> Pyro {
        self.family_member(self.host.command(command))
    }

    fn family_member(&self, pyro: Pyro) -> Pyro {
        let writer = self.writer.as_ref().unwrap().try_clone().unwrap();
        let pyro = pyro.variable("PYRO_STATE_DIR", self.state.to_str().unwrap());
        pyro.of_family(Arc::clone(&self.lifeline), writer)
    }

    /// Makes a VM of the minimal environment, with these options, and gives its name.
    pub fn create(&self, options: &[&str]) -> String {
        let made = self.vm(&[&["create", BASE], options].concat()).outcome();
        made.success().trim_end().to_owned()
    }

    /// `pyro vm exec` of a script, which may take as long as it likes.
    pub fn exec(&self, id: &str, script: &str) -> Pyro {
        self.vm(&["exec", "--timeout-seconds", "600", id, "--", "sh", "-c", script])
    }

    /// The one process for `role` there is.
    pub fn process(&self, role: Role) -> Process {
        let mut processes = self.processes(role);
        assert_eq!(processes.len(), 1, "{role:?}: {processes:#?}");
        processes.remove(0)
    }

    /// All processes for `role`.
    pub fn processes(&self, role: Role) -> Vec<Process> {
        let family = self.lifeline.family();
        let is_it = |process: &&Process| {
            // As in `Lifeline::supervisor`.
            let mut supervisors = family.iter().filter(|other| other.has(Role::Supervisor));
            process.has(role)
                && !supervisors
                    .any(|other| process.is_started_by(other) && role == Role::Supervisor)
        };
        family.iter().filter(is_it).cloned().collect()
    }

    /// Everybody there is.
    pub fn family(&self) -> Vec<Process> {
        self.lifeline.family()
    }

    /// The supervisor of the VM of this name, if it lives.
    pub fn supervisor(&self, id: &str) -> Option<Process> {
        let directory = self.directory(id);
        self.lifeline.supervisor(|process| process.directory().as_ref() == Some(&directory))
    }

    /// The QEMU that this supervisor has started, if it lives.
    pub fn qemu_of(&self, supervisor: &Process) -> Option<Process> {
        self.lifeline.qemu_of(supervisor)
    }

    /// Where the VM of this name keeps what others find it by.
    pub fn directory(&self, id: &str) -> PathBuf {
        self.state.join("vms").join(id)
    }

    /// Whether a spare can be claimed at this moment.
    pub fn has_spares(&self) -> bool {
        let Ok(keys) = fs_err::read_dir(self.state.join("spares")) else { return false };
        // Whatever is there may go while it is looked at.
        let spares = keys.filter_map(|key| fs_err::read_dir(key.ok()?.path()).ok()).flatten();
        let mut names = spares.filter_map(|spare| Some(spare.ok()?.file_name()));
        // One with a dot is being made.
        names.any(|name| !name.as_encoded_bytes().starts_with(b"."))
    }

    /// Waits until a spare can be claimed; false if the time is over before.
    #[allow(clippy::disallowed_methods, reason = "nothing tells that another's spare is there")]
    pub fn has_spares_within(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        while !self.has_spares() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Where all of them are.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Whether nobody is left within `deadline`. There can be no further `pyro` after this.
    pub fn end_within(&mut self, deadline: Duration) -> bool {
        drop(self.writer.take());
        self.lifeline.is_over_within(deadline)
    }
}

impl Drop for Vms<'_> {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if !panicking && self.end_within(DEADLINE) {
            return;
        }
        let family = self.lifeline.family();
        for process in &family {
            process.kill();
        }
        assert!(panicking, "still there: {family:#?}");
    }
}
