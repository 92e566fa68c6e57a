//! Programs, confinement, directories, disk space and versions.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pyro_environments::{CATALOG_VERSION, EnvironmentName};
use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

use super::{Check, mib, quoted};
use crate::PyroError;
use crate::config::Config;
use crate::confinement::ConfinementReport;
use crate::guest_kernel::GuestKernelReport;
use crate::network::report::NetworkingReport;
use crate::packages::PackageInstaller;

/// The oldest QEMU that pyro is tried with, Debian 12's: major and minor number.
const QEMU_OLDEST: (u32, u32) = (7, 2);

/// What is needed of the host, with Debian's package.
pub(crate) const QEMU: (&str, &str) = (pyro_qemu::executable::PROGRAM, crate::vm::QEMU_PACKAGE);

/// Every VM's disk is made by this.
pub(crate) const DISK_MAKER: (&str, &str) = ("mke2fs", "e2fsprogs");

/// Those that pulls need.
pub(crate) const PULL_PROGRAMS: [(&str, &str); 3] =
    [("mmdebstrap", "mmdebstrap"), ("tar2sqfs", "squashfs-tools-ng"), ("unshare", "util-linux")];

/// The name of the check of directories.
pub(crate) const DIRECTORIES: &str = "directories";

/// That of disk space.
pub(crate) const SPACE: &str = "disk space";

pub(crate) fn pyro() -> Check {
    let (os, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
    Check::pass("pyro", format!("{} on {os}-{architecture}", env!("CARGO_PKG_VERSION")))
}

/// By where QEMU is, and the version that it tells.
pub(crate) fn qemu(path: Option<&Path>, version: Option<&str>) -> Check {
    const NAME: &str = "qemu";
    let installer = PackageInstaller::of_this_host();
    let Some(path) = path else {
        let reason = format!("`{}` is not installed", QEMU.0);
        return Check::fail(NAME, reason, installer.command(&[QEMU.1]));
    };
    let Some(version) = version else {
        let reason = format!("`{}` does not tell its version", path.display());
        return Check::fail(NAME, reason, format!("{} --version", quoted(path)));
    };
    let reason = format!("{version} at {}", path.display());
    match numbers(version) {
        Some(numbers) if numbers < QEMU_OLDEST => {
            let (major, minor) = QEMU_OLDEST;
            let reason = format!("{reason} is older than {major}.{minor}, which pyro needs");
            Check::warn(NAME, reason, installer.command(&[QEMU.1]))
        }
        _ => Check::pass(NAME, reason),
    }
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(crate) fn programs(config: &Config) -> Check {
    const NAME: &str = "programs";
    let is_missing = |(program, package): &(&str, &str)| config.tool(program, package).is_err();
    let mut missing: Vec<_> = PULL_PROGRAMS.into_iter().filter(is_missing).collect();
    let is_disk_maker_missing = is_missing(&DISK_MAKER);
    if is_disk_maker_missing {
        missing.insert(0, DISK_MAKER);
    }
    if missing.is_empty() {
        return Check::pass(NAME, "all that making disks and pulling environments needs");
    }
    let names: Vec<_> = missing.iter().map(|(program, _)| format!("`{program}`")).collect();
    let packages: Vec<_> = missing.iter().map(|&(_, package)| package).collect();
    let names = names.join(", ");
    let remedy = PackageInstaller::of_this_host().command(&packages);
    if is_disk_maker_missing {
        Check::fail(NAME, format!("not installed: {names}"), remedy)
    } else {
        Check::warn(
            NAME,
            format!("not installed, and needed to pull environments: {names}"),
            remedy,
        )
    }
}

/// `None` where it was not tried out, as no QEMU can run.
pub(crate) fn confinement(report: Option<&Result<ConfinementReport, PyroError>>) -> Check {
    const NAME: &str = "confinement";
    match report {
        None => Check::fail(NAME, "none: QEMU does not start", "see the other checks"),
        Some(Err(failure)) => Check::failed(NAME, failure),
        Some(Ok(report)) if report.refused.is_empty() => Check::pass(NAME, report.summary()),
        Some(Ok(report)) => {
            let reason =
                format!("{}; more is refused: {}", report.summary(), report.refused.join("; "));
            Check::warn(NAME, reason, report.remedies.join(" && "))
        }
    }
}

/// `None` where no accelerator can be had.
pub(crate) fn guest_kernel(report: Option<&Result<GuestKernelReport, PyroError>>) -> Check {
    const NAME: &str = "guest kernel";
    match report {
        None => Check::fail(NAME, "none: there is nothing to boot it with", "see the other checks"),
        Some(Err(failure)) => Check::failed(NAME, failure),
        Some(Ok(report)) => match report.remedy {
            None => Check::pass(NAME, report.summary()),
            Some(remedy) => Check::warn(NAME, report.summary(), remedy),
        },
    }
}

/// VMs without one can run in any case.
pub(crate) fn network(report: &NetworkingReport) -> Check {
    const NAME: &str = "network";
    if report.available {
        return Check::pass(NAME, &report.reason);
    }
    let remedy = if report.problems.is_empty() {
        match report.pins.iter().find(|pin| !pin.network) {
            Some(pin) => format!("have the operator allow it in `{}`", pin.source),
            None => "see the other checks".to_owned(),
        }
    } else {
        "correct what it says, see docs/network.md".to_owned()
    };
    let problems = report.problems.iter().skip(1).map(String::as_str);
    let reasons: Vec<_> = std::iter::once(report.reason.as_str()).chain(problems).collect();
    Check::warn(NAME, reasons.join("; "), remedy)
}

/// Those of the cache and of what runs: can they be used, and by whom?
pub(crate) fn directories(config: &Config) -> Check {
    const NAME: &str = DIRECTORIES;
    let state = &config.state_dir;
    if let Some((reason, remedy)) = not_writable(state) {
        return Check::fail(NAME, reason, remedy);
    }
    // What was pulled there by somebody else can be used all the same.
    if let Some((reason, remedy)) = not_writable(&config.cache_dir) {
        return Check::warn(NAME, format!("{reason}, so nothing can be pulled"), remedy);
    }
    if fs_err::metadata(state).is_ok_and(|found| found.mode() & 0o002 != 0) {
        let reason = format!("everybody may write to `{}`", state.display());
        return Check::warn(NAME, reason, format!("chmod 700 {}", quoted(state)));
    }
    Check::pass(NAME, format!("`{}`, `{}`", config.cache_dir.display(), state.display()))
}

/// What helps where no change of owner does.
const ELSEWHERE: &str =
    "set `PYRO_ENVIRONMENT_CACHE_DIR` and `PYRO_STATE_DIR` to directories of yours";

/// Why nothing can be made in a directory, which need not be there, and what helps.
fn not_writable(directory: &Path) -> Option<(String, String)> {
    let existing = directory.ancestors().find(|path| path.exists())?;
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if existing.is_dir() && access(existing, all).is_ok() {
        return None;
    }
    let shown = existing.display();
    if !existing.is_dir() {
        return Some((format!("`{shown}` is no directory"), ELSEWHERE.to_owned()));
    }
    if statvfs(existing).is_ok_and(|disk| disk.f_flag.contains(StatVfsMountFlags::RDONLY)) {
        return Some((format!("`{shown}` cannot be written by anybody"), ELSEWHERE.to_owned()));
    }
    let reason = format!("you may not write to `{shown}`");
    let path = quoted(directory);
    let remedy = if existing == directory {
        format!("sudo chown -R \"$(id -u)\" {path}")
    } else {
        format!("sudo mkdir -p {path} && sudo chown \"$(id -u)\" {path}")
    };
    Some((reason, remedy))
}

/// On the disks of what runs and of the cache: enough for a VM, and to build the largest environment?
pub(crate) fn space(config: &Config) -> Check {
    let largest = EnvironmentName::all().map(|name| name.definition().build_bytes).max();
    let (state, cache) = (&config.state_dir, &config.cache_dir);
    let check = available(state).and_then(|bytes| judge_space_for_vms(state, bytes));
    check.unwrap_or_else(|| match available(cache) {
        None => Check::pass(SPACE, "this host does not tell"),
        Some(bytes) => judge_space_for_pulls(cache, bytes, largest.unwrap_or_default()),
    })
}

/// On the disk of a directory, which need not be there; `None` where the host does not tell.
fn available(directory: &Path) -> Option<u64> {
    let existing = directory.ancestors().find(|path| path.exists())?;
    let disk = statvfs(existing).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// `None` where there is enough.
fn judge_space_for_vms(state: &Path, available: u64) -> Option<Check> {
    let needed = pyro_supervisor::FREE_BYTES_MIN;
    (available < needed).then(|| {
        let (free, needed) = (mib(available), mib(needed));
        let reason = format!("{free} free for `{}`, of which a VM needs {needed}", state.display());
        let remedy =
            "free some space there, or set `PYRO_STATE_DIR` to a directory on another disk";
        Check::fail(SPACE, reason, remedy)
    })
}

fn judge_space_for_pulls(cache: &Path, available: u64, needed: u64) -> Check {
    let free = format!("{} free for `{}`", mib(available), cache.display());
    if available < needed {
        let needed = mib(needed);
        let reason = format!("{free}, of which pulling the largest environment takes {needed}");
        return Check::warn(SPACE, reason, "pyro env prune");
    }
    Check::pass(SPACE, free)
}

/// What a report of a defect should name.
pub(crate) fn versions(qemu: Option<&str>) -> Check {
    let host = rustix::system::uname();
    let reason = format!(
        "pyro {}, catalog {CATALOG_VERSION}, QEMU {}, host's kernel {}",
        env!("CARGO_PKG_VERSION"),
        qemu.unwrap_or("none"),
        host.release().to_string_lossy()
    );
    Check::pass("versions", reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::CheckStatus;

    #[test]
    fn a_qemu_that_is_missing_or_too_old_is_to_be_installed() {
        let missing = qemu(None, None);
        assert_eq!(missing.status, CheckStatus::Fail);
        assert!(missing.remedy.unwrap().contains("qemu-system-x86"));
        let path = Path::new("/usr/bin/qemu");
        for (version, status) in [
            ("6.2.0 (Debian 1:6.2+dfsg-2)", CheckStatus::Warn),
            ("7.1.99", CheckStatus::Warn),
            ("7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", CheckStatus::Pass),
            ("10.0", CheckStatus::Pass),
        ] {
            assert_eq!(qemu(Some(path), Some(version)).status, status, "{version}");
        }
    }

    #[test]
    fn a_full_disk_is_told_with_both_numbers() {
        let check = judge_space_for_pulls(Path::new("/cache"), 100 << 20, 500 << 20);
        assert_eq!(check.status, CheckStatus::Warn);
        assert!(check.reason.contains("100 MiB free"), "{}", check.reason);
        assert!(check.reason.contains("500 MiB"), "{}", check.reason);
        let check = judge_space_for_pulls(Path::new("/cache"), 500 << 20, 500 << 20);
        assert_eq!(check.status, CheckStatus::Pass);
    }

    #[test]
    fn where_a_vm_would_not_start_for_want_of_space_the_check_fails() {
        let needed = pyro_supervisor::FREE_BYTES_MIN;
        let check = judge_space_for_vms(Path::new("/state"), needed - 1).unwrap();
        assert_eq!(check.status, CheckStatus::Fail);
        assert_eq!(check.reason, "255 MiB free for `/state`, of which a VM needs 256 MiB");
        assert_eq!(judge_space_for_vms(Path::new("/state"), needed), None);
    }

    #[test]
    fn where_a_file_is_in_the_way_no_change_of_owner_is_proposed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for directory in [file.path().to_owned(), file.path().join("below")] {
            let (reason, remedy) = not_writable(&directory).unwrap();
            assert_eq!(reason, format!("`{}` is no directory", file.path().display()));
            assert_eq!(remedy, ELSEWHERE);
        }
    }

    #[test]
    fn a_path_is_one_word_of_a_command() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
