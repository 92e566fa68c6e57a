//! Landlock: rules that a process lays upon itself and can never lift, see landlock(7). They hold where
//! namespaces are refused, and a second time where they are not.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::tree;
use crate::sys;

/// Rules that are yet to be enforced. Whatever they do not allow is forbidden: to read, write, make,
/// delete or execute files, to use TCP, and to signal or talk to processes outside.
#[derive(Debug)]
pub(crate) struct Landlock {
    rules: OwnedFd,
    abi: ABI,
    /// What is in the process's own file tree may be read and executed, and its devices used.
    own_tree: bool,
}

impl Landlock {
    /// For a program in a [`Tree`](super::Tree) of its own. `None` where the kernel has no Landlock.
    pub(crate) fn in_own_tree() -> Result<Option<Self>, RulesetError> {
        Ok(rules()?.and_then(|(rules, abi)| Self::of(rules, abi, true)))
    }

    /// For a program that sees the host's file system.
    pub(crate) fn on_host(program: &Path, needs_kvm: bool) -> Result<Option<Self>, RulesetError> {
        let Some((rules, abi)) = rules()? else { return Ok(None) };
        let rules = rules
            .add_rules(path_beneath_rules(tree::readable_directories(program), readable(abi)))?
            .add_rules(path_beneath_rules(tree::readable_files(), AccessFs::ReadFile))?
            .add_rules(path_beneath_rules(tree::devices(needs_kvm), usable(abi)))?;
        Ok(Self::of(rules, abi, false))
    }

    fn of(rules: RulesetCreated, abi: ABI, own_tree: bool) -> Option<Self> {
        Option::<OwnedFd>::from(rules).map(|rules| Self { rules, abi, own_tree })
    }

    /// The same rules under another descriptor.
    pub(crate) fn map_descriptor<E>(
        self,
        map: impl FnOnce(OwnedFd) -> Result<OwnedFd, E>,
    ) -> Result<Self, E> {
        Ok(Self { rules: map(self.rules)?, ..self })
    }

    /// Lays the rules upon this process, which can never gain a privilege any more. Makes system calls
    /// only.
    pub(crate) fn enforce(&self) -> Result<(), Errno> {
        if self.own_tree {
            for (directory, access) in [(c"/", readable(self.abi)), (c"/dev", usable(self.abi))] {
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let directory = rustix::fs::open(directory, flags, Mode::empty())?;
                sys::landlock_allow(self.rules.as_fd(), directory.as_fd(), access.bits())?;
            }
        }
        sys::landlock_enforce(self.rules.as_fd())
    }
}

/// Rules that forbid whatever the kernel can forbid.
fn rules() -> Result<Option<(RulesetCreated, ABI)>, RulesetError> {
    let abi = ABI::from(sys::landlock_abi());
    if abi == ABI::Unsupported {
        return Ok(None);
    }
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(abi))?;
    if !AccessNet::from_all(abi).is_empty() {
        rules = rules.handle_access(AccessNet::from_all(abi))?;
    }
    if !Scope::from_all(abi).is_empty() {
        rules = rules.scope(Scope::from_all(abi))?;
    }
    Ok(Some((rules.create()?, abi)))
}

fn readable(abi: ABI) -> BitFlags<AccessFs> {
    AccessFs::from_read(abi)
}

fn usable(abi: ABI) -> BitFlags<AccessFs> {
    let use_of_devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    use_of_devices & AccessFs::from_all(abi)
}
