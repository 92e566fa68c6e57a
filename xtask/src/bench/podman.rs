//! Containers by podman, with everything it keeps below a directory of ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::process::{self, Input, Running};

const IMAGE: &str = "pyro-bench";

/// The container in which `podman exec` is measured.
const CONTAINER: &str = "pyro-bench-live";

/// What podman may need to run a container at all, least first. The first that works is measured.
const OPTIONS: [&[&str]; 4] = [
    &[],
    // Without the right to raise limits (CAP_SYS_RESOURCE), podman must not ask for higher ones.
    &LIMITS,
    // crun refuses hosts where both versions of cgroups have controllers, runc does not.
    &["--runtime=runc", LIMITS[0], LIMITS[1]],
    &["--cgroups=disabled", LIMITS[0], LIMITS[1]],
];

const LIMITS: [&str; 2] = ["--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:4096"];

/// What leaves nothing behind, in this order: subcommands with their options.
const REMOVALS: [(&str, &[&str]); 3] = [
    ("rm", &["--all", "--force", "--time=0"]),
    // Without root, its files belong to users that only podman can become.
    ("rmi", &["--all", "--force"]),
    // Without root, this ends the process that keeps podman's namespaces.
    ("system", &["migrate"]),
];

/// Locks in a file: by default they are in memory that all podmans of a user share.
const CONFIGURATION: &str = "[engine]\nlock_type = \"file\"\n";

/// Left by podman where it manages cgroups itself.
const CGROUP: &str = "libpod_parent";

/// Leads to what podman keeps while containers run: it takes a path of no more than 50 characters for that, and
/// a checkout may lie anywhere.
const RUN: &str = "run";

/// What was there before podman was called, for whoever cleans up after an interruption.
const FOREIGN_LIST: &str = "foreign";

/// A cache that podman keeps at this place whatever it is told, if root runs it.
const IMAGE_CACHE: &str = "/var/lib/containers/cache/blob-info-cache-v1.boltdb";

/// An image, and how to run it. Everything of it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Podman {
    invocation: Invocation,
    /// What was there before, and shall stay.
    foreign: Vec<PathBuf>,
}

/// How podman is called.
#[derive(Debug)]
struct Invocation {
    place: PathBuf,
    run: PathBuf,
    options: &'static [&'static str],
}

impl Podman {
    /// Makes an image of `archive`, and finds out how containers can be run here.
    pub(super) fn prepare(archive: &Path, place: &Path) -> Result<Self, String> {
        process::adopt_orphans()?;
        let place = place.join("podman");
        fs_err::create_dir_all(&place).map_err(|error| error.to_string())?;
        fs_err::write(place.join("containers.conf"), CONFIGURATION)
            .map_err(|error| error.to_string())?;
        let foreign: Vec<_> = own_traces().into_iter().filter(|path| path.exists()).collect();
        let list: Vec<_> = foreign.iter().map(|path| path.to_string_lossy()).collect();
        fs_err::write(place.join(FOREIGN_LIST), list.join("\n"))
            .map_err(|error| error.to_string())?;
        let run = run_directory(&place).map_err(|error| error.to_string())?;
        let invocation = Invocation { place, run, options: OPTIONS[0] };
        // From here on it cleans up.
        let mut podman = Self { invocation, foreign };
        let mut import = podman.invocation.command("import");
        process::time(import.arg("--quiet").arg(archive).arg(IMAGE))?;
        podman.find_working_options()?;
        Ok(podman)
    }

    /// `podman run`: a fresh container for one command.
    pub(super) fn run(&self, words: &[&str]) -> Command {
        self.invocation.run(&[], words)
    }

    /// `podman exec`: one more command in a container that is there, see [`live`](Self::live).
    pub(super) fn exec(&self, words: &[&str]) -> Command {
        let mut command = self.invocation.command("exec");
        command.arg(CONTAINER).args(words);
        command
    }

    /// A container that is there until it is finished, or this process dies.
    pub(super) fn live(&self) -> Result<Running, String> {
        let name = format!("--name={CONTAINER}");
        let mut command = self.invocation.run(&["--interactive", &name], &super::runs::IDLE);
        let mut live = Running::start(&mut command, Input::OpenUntilReleased)?;
        live.wait_for("ready\n")?;
        Ok(live)
    }

    /// Removes the image and whatever there is of containers. Fails if anything stays.
    pub(super) fn remove(self) -> Result<(), String> {
        self.clean_up()
    }

    /// Goes as far as it can, and gives the first failure.
    fn clean_up(&self) -> Result<(), String> {
        let Invocation { place, run, .. } = &self.invocation;
        let mut removed = Ok(());
        for (subcommand, options) in REMOVALS {
            let mut remove = self.invocation.command(subcommand);
            removed = removed.and(process::time(remove.args(options)).map(drop));
        }
        let ended = process::wait_for_orphans();
        let unmounted = no_mounts_below(place).and(no_mounts_below(run));
        let deleted = fs_err::remove_dir_all(run).and_then(|()| fs_err::remove_dir_all(place));
        let deleted = deleted.map_err(|error| error.to_string());
        for trace in own_traces().iter().filter(|path| !self.foreign.contains(path)) {
            // Another podman may have begun to use it: what is not empty stays.
            if trace.is_dir() {
                remove_empty_tree(trace);
            } else {
                fs_err::remove_file(trace).ok();
            }
        }
        removed.and(ended).and(unmounted).and(deleted)
    }

    fn find_working_options(&mut self) -> Result<(), String> {
        let mut failures = String::new();
        for options in OPTIONS {
            self.invocation.options = options;
            match process::time(&mut self.run(&["true"])) {
                Ok(_) => return Ok(()),
                Err(failure) => failures += &format!("\n{failure}"),
            }
        }
        Err(format!("podman cannot run containers on this host:{failures}"))
    }
}

impl Invocation {
    fn run(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = self.command("run");
        command.args(["--rm", "--network=none"]).args(options);
        command.args(self.options.iter().filter(|option| !is_global(option)));
        command.arg(IMAGE).args(words);
        command
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new("podman");
        command.arg("--root").arg(self.place.join("root")).arg("--runroot").arg(&self.run);
        command.arg("--tmpdir").arg(self.place.join("tmp"));
        command.args(self.options.iter().filter(|option| is_global(option)));
        command.arg(subcommand).env("CONTAINERS_CONF", self.place.join("containers.conf"));
        command
    }
}

/// Removes the containers of a benchmark that was killed, which was to make its files below `place`.
pub(super) fn clean_up_after_interruption(place: &Path) {
    let place = place.join("podman");
    if let Ok(foreign) = fs_err::read_to_string(place.join(FOREIGN_LIST)) {
        let foreign = foreign.lines().map(PathBuf::from).collect();
        // Without it, no container was run.
        let run = fs_err::read_link(place.join(RUN)).unwrap_or_else(|_| place.join(RUN));
        let invocation = Invocation { place, run, options: OPTIONS[0] };
        drop(Podman { invocation, foreign });
    }
}

/// Makes a directory with a short path, which `place` leads to.
fn run_directory(place: &Path) -> std::io::Result<PathBuf> {
    let run = tempfile::Builder::new().prefix("pyro-bench-").tempdir()?.keep();
    fs_err::os::unix::fs::symlink(&run, place.join(RUN))?;
    Ok(run)
}

/// The runtime is chosen for all of podman, before its subcommand.
fn is_global(option: &str) -> bool {
    option.starts_with("--runtime=")
}

impl Drop for Podman {
    fn drop(&mut self) {
        // After a failure, or there would be nothing left to clean up.
        if self.invocation.place.exists()
            && let Err(failure) = self.clean_up()
        {
            eprintln!("cannot clean up after podman: {failure}");
        }
    }
}

/// Where podman leaves something outside of the directories it is given, from the inside out.
fn own_traces() -> Vec<PathBuf> {
    let cgroups = Path::new("/sys/fs/cgroup");
    let hierarchies = fs_err::read_dir(cgroups).into_iter().flatten().filter_map(Result::ok);
    let mut traces: Vec<_> = hierarchies.map(|entry| entry.path().join(CGROUP)).collect();
    traces.push(cgroups.join(CGROUP));
    traces.extend(Path::new(IMAGE_CACHE).ancestors().take(3).map(Path::to_owned));
    traces
}

fn no_mounts_below(place: &Path) -> Result<(), String> {
    let mounts =
        fs_err::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
    let place = place.to_string_lossy();
    match mounts.lines().find(|line| line.contains(&*place)) {
        Some(mount) => Err(format!("a mount is left over: {mount}")),
        None => Ok(()),
    }
}

/// Deletes directories that hold nothing but directories.
fn remove_empty_tree(directory: &Path) -> Option<()> {
    for entry in fs_err::read_dir(directory).ok()? {
        let path = entry.ok()?.path();
        if path.is_dir() {
            remove_empty_tree(&path)?;
        }
    }
    fs_err::remove_dir(directory).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_podman_lies_where_it_is_told() {
        let (place, run) = ("/place".into(), "/run/of".into());
        let invocation = Invocation { place, run, options: OPTIONS[2] };
        let command = invocation.run(&[], &["true"]);
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(
            words.join(" "),
            "--root /place/root --runroot /run/of --tmpdir /place/tmp --runtime=runc run --rm \
             --network=none --ulimit=nofile=1024:4096 --ulimit=nproc=4096:4096 pyro-bench true"
        );
    }

    #[test]
    fn a_tree_with_a_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        for (name, stays) in [("empty", false), ("used", true)] {
            let tree = directory.path().join(name);
            fs_err::create_dir_all(tree.join("below")).unwrap();
            if stays {
                fs_err::write(tree.join("file"), b"").unwrap();
            }
            remove_empty_tree(&tree);
            assert_eq!(tree.exists(), stays, "{name}");
        }
    }
}
