//! What a template depends on, as one name. Whatever changes makes another name, so a stale template
//! is never found.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pyro_protocol::client::LaunchSpec;
use pyro_protocol::handshake::VERSION;
use pyro_qemu::machine;
use sha2::{Digest, Sha256};

use crate::initramfs::AGENT_DIGEST;

/// The name of a template: 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TemplateKey(String);

/// Why the key cannot be told.
#[derive(Debug, thiserror::Error)]
#[error("cannot look at `{}`", path.display())]
pub struct KeyError {
    path: PathBuf,
    source: io::Error,
}

impl TemplateKey {
    /// Changes with this format: the files of a template, or what is said to its agent.
    const FORMAT: u32 = 3;

    pub(crate) fn of(spec: &LaunchSpec, warm_up: &[String]) -> Result<Self, KeyError> {
        let mut hasher = Sha256::new();
        let mut add = |name: &str, value: &str| {
            // Lengths keep neighbours apart.
            hasher.update(format!("{name}:{}:{value}\n", value.len()));
        };
        add("format", &format!("{} {VERSION}", Self::FORMAT));
        add("agent", AGENT_DIGEST);
        add("environment", &spec.environment_digest);
        add("machine", &machine::fingerprint(spec.accelerator));
        add("qemu", &qemu_identity(&spec.qemu)?);
        add("accelerator", spec.accelerator.name());
        add("cpu", &cpu_identity()?);
        add("vcpus", &spec.vcpu_count.to_string());
        add("memory", &spec.memory_mib.to_string());
        add("network", if spec.network.is_some() { "device" } else { "none" });
        for command in warm_up {
            add("warm-up", command);
        }
        Ok(Self(hex(&hasher.finalize())))
    }

    /// A key as it is shown; nothing else is one.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_key = name.len() == 64 && name.bytes().all(is_digit);
        is_key.then(|| Self(name.to_owned()))
    }

    #[cfg(test)]
    pub(crate) fn for_test(digit: char) -> Self {
        Self(digit.to_string().repeat(64))
    }
}

impl fmt::Display for TemplateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Tells one build of QEMU from another without reading it: a package manager replaces the file.
fn qemu_identity(path: &Path) -> Result<String, KeyError> {
    let failed = |source| KeyError { path: path.to_owned(), source };
    let file = fs_err::metadata(path).map_err(failed)?;
    let (size, inode, seconds, nanoseconds) =
        (file.size(), file.ino(), file.mtime(), file.mtime_nsec());
    Ok(format!("{} {size} {inode} {seconds}.{nanoseconds}", path.display()))
}

/// The host's CPU as the kernel sees it: under KVM the guest has seen its features.
fn cpu_identity() -> Result<String, KeyError> {
    let path = Path::new("/proc/cpuinfo");
    let text = fs_err::read_to_string(path)
        .map_err(|source| KeyError { path: path.to_owned(), source })?;
    let first = text.lines().take_while(|line| !line.is_empty());
    let wanted = ["vendor_id", "cpu family", "model", "stepping", "microcode", "flags"];
    let lines = first.filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
