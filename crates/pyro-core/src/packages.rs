//! How programs are installed on this host: the command that its users paste.

use std::path::Path;

/// Debian's packages that are called otherwise by dnf; all others have the same name.
const NAMES_OF_DNF: [(&str, &str); 1] = [("qemu-system-x86", "qemu-system-x86-core")];

/// What installs packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackageInstaller {
    Apt,
    Dnf,
}

impl PackageInstaller {
    /// This host's. Where neither is found it is Debian's, whose names people know.
    pub(crate) fn of_this_host() -> Self {
        // Not looked for in `PATH`, where the user need not have it: the command begins with `sudo`.
        let is_there = |program: &str| Path::new("/usr/bin").join(program).exists();
        if !is_there("apt-get") && is_there("dnf") { Self::Dnf } else { Self::Apt }
    }

    /// The command that installs these packages of Debian, or what is the same here.
    pub(crate) fn command(self, packages: &[&str]) -> String {
        let (program, names) = match self {
            Self::Apt => ("apt-get", packages.to_vec()),
            Self::Dnf => ("dnf", packages.iter().map(|package| name_of_dnf(package)).collect()),
        };
        format!("sudo {program} install {}", names.join(" "))
    }
}

fn name_of_dnf(package: &str) -> &str {
    NAMES_OF_DNF.iter().find(|(debian, _)| *debian == package).map_or(package, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_installer_has_its_own_command_and_names() {
        let packages = ["qemu-system-x86", "e2fsprogs"];
        assert_eq!(
            PackageInstaller::Apt.command(&packages),
            "sudo apt-get install qemu-system-x86 e2fsprogs"
        );
        assert_eq!(
            PackageInstaller::Dnf.command(&packages),
            "sudo dnf install qemu-system-x86-core e2fsprogs"
        );
    }
}
