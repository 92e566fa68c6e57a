//! The host as one test sees it: a state directory of its own, and the right to run VMs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::environments::{BASE, cache_directory, cache_with};
use crate::executable::{executable, target_directory};
use crate::pyro::Pyro;
use crate::slots::Slots;
use crate::vms::Vms;

/// Where a test runs `pyro`.
#[derive(Debug)]
pub struct Host {
    directory: TempDir,
    started: AtomicU32,
    _slots: Slots,
}

impl Host {
    /// For a test with at most one VM at a time.
    pub fn new() -> Self {
        Self::for_vms(1)
    }

    /// For a test with `count` VMs at once. Fails where VMs cannot run, with the doctor's words.
    pub fn for_vms(count: usize) -> Self {
        doctor();
        let slots = Slots::acquire(count);
        let parent = target_directory().join("tmp");
        fs_err::create_dir_all(&parent).unwrap();
        let directory = tempfile::tempdir_in(parent).unwrap();
        Self { directory, started: AtomicU32::new(0), _slots: slots }
    }

    /// A directory for whatever the test needs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `pyro` with these arguments, in an environment that holds no other choice of its user, and with a
    /// state directory of its own, by which its QEMU is told from those of others.
    pub fn pyro(&self, arguments: &[&str]) -> Pyro {
        let mut command = Command::new(executable());
        command.args(arguments);
        self.command(command)
    }

    /// The same for a command whose program starts `pyro`, or is it.
    pub(crate) fn command(&self, mut command: Command) -> Pyro {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        command
            .env_remove("PYRO_ACCELERATOR")
            .env("PYRO_STATE_DIR", self.state().join(number.to_string()))
            .env("PYRO_ENVIRONMENT_CACHE_DIR", cache_with(BASE));
        Pyro::from_command(command)
    }

    /// A state directory for several `pyro` together, whose VMs outlive them.
    pub fn vms(&self) -> Vms<'_> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        Vms::new(self, self.state().join(number.to_string()))
    }

    /// `pyro run` in the minimal environment, with these options and words.
    pub fn run(&self, options: &[&str], words: &[&str]) -> Pyro {
        self.run_in(BASE, options, words)
    }

    /// `pyro run`. Unless an option says otherwise the command may take as long as it likes.
    pub fn run_in(&self, environment: &str, options: &[&str], words: &[&str]) -> Pyro {
        cache_with(environment);
        let mut arguments = vec!["run", environment];
        if !options.contains(&"--timeout-seconds") {
            arguments.extend(["--timeout-seconds", "600"]);
        }
        arguments.extend(options);
        arguments.push("--");
        arguments.extend(words);
        self.pyro(&arguments)
    }

    /// What a script prints in a VM of the minimal environment, where it must succeed.
    pub fn shell(&self, script: &str) -> String {
        self.run(&[], &["sh", "-ec", script]).outcome().success().to_owned()
    }

    /// Fails if `pyro` left a file or a mount.
    pub fn assert_nothing_left(&self) {
        assert_eq!(files_below(&self.state()), Vec::<PathBuf>::new());
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
        let path = self.directory().to_str().unwrap();
        assert!(!mounts.contains(path), "{mounts}");
    }

    /// Where `pyro` keeps what belongs to running VMs.
    pub fn state(&self) -> PathBuf {
        self.directory().join("state")
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_nothing_left();
        }
    }
}

/// Every accelerator that this host has.
pub fn accelerators() -> &'static [&'static str] {
    if doctor()["kvm"]["usable"] == true { &["kvm", "tcg"] } else { &["tcg"] }
}

fn doctor() -> &'static Value {
    static REPORT: OnceLock<Value> = OnceLock::new();
    REPORT.get_or_init(|| {
        let mut doctor = Command::new(executable());
        doctor.args(["doctor", "--json"]).env("PYRO_ENVIRONMENT_CACHE_DIR", cache_directory());
        let outcome = doctor.output().unwrap();
        let report: Value = serde_json::from_slice(&outcome.stdout).unwrap();
        assert_eq!(report["runtime_ok"], true, "no VM can run here: {:#}", report["issues"]);
        report
    })
}

/// Every file below `directory`, which need not exist.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
