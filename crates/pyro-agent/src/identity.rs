//! Takes over what makes this VM different from every other one made from the same template.

use std::io;
use std::os::unix::fs::FileExt;

use pyro_protocol::guest::{ENTROPY_BYTES, Identity};
use pyro_protocol::layout::network::{GATEWAY_V4, HOST_NAME};
use rustix::io::Errno;
use rustix::system::sethostname;
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::network::Network;
use crate::sys;

/// Why the identity could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("the time {seconds} s after the epoch is out of range")]
    TimeOutOfRange { seconds: u64 },
    #[error("cannot set the clock")]
    Clock { source: Errno },
    #[error("got {bytes} bytes of entropy instead of {ENTROPY_BYTES}")]
    EntropyLength { bytes: usize },
    #[error("cannot seed the random number generator")]
    Entropy { source: io::Error },
    #[error("cannot set the host name")]
    Hostname { source: Errno },
    #[error("cannot write an identity file")]
    File { source: io::Error },
}

/// Sets clock, random seed, machine id and host name.
pub(crate) fn take(identity: Identity, network: Network) -> Result<(), IdentityError> {
    let Identity { time, entropy, machine_id, hostname } = identity;

    let seconds = i64::try_from(time.as_secs())
        .map_err(|_| IdentityError::TimeOutOfRange { seconds: time.as_secs() })?;
    let now = Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() };
    clock_settime(ClockId::Realtime, now).map_err(|source| IdentityError::Clock { source })?;

    let entropy: [u8; ENTROPY_BYTES] = entropy
        .try_into()
        .map_err(|entropy: Vec<u8>| IdentityError::EntropyLength { bytes: entropy.len() })?;
    let urandom = fs_err::File::open("/dev/urandom").map_err(file)?;
    sys::reseed_random(urandom.file(), entropy)
        .map_err(|source| IdentityError::Entropy { source })?;

    sethostname(hostname.as_bytes()).map_err(|source| IdentityError::Hostname { source })?;
    replace("/etc/machine-id", &format!("{machine_id}\n")).map_err(file)?;
    replace("/etc/hostname", &format!("{hostname}\n")).map_err(file)?;
    replace("/etc/hosts", &hosts_file(&hostname, network)).map_err(file)
}

/// Writes a file. One of the same length, as a VM finds that was restored from a template, is written
/// over in place: to truncate it first would have the file system free its blocks, allocate new ones
/// and write them to the disk, an emulated quarter of all that happens before the first command.
fn replace(path: &str, text: &str) -> io::Result<()> {
    let length = u64::try_from(text.len()).map_err(io::Error::other)?;
    match fs_err::OpenOptions::new().write(true).open(path) {
        Ok(file) if file.metadata()?.len() == length => {
            file.file().write_all_at(text.as_bytes(), 0)
        }
        _ => fs_err::write(path, text),
    }
}

fn file(source: io::Error) -> IdentityError {
    IdentityError::File { source }
}

/// As Debian's installer writes it.
fn hosts_file(hostname: &str, network: Network) -> String {
    // Its IPv6 address would be the first to be tried, and few servers of a host listen on `::1`.
    let host = match network {
        Network::Absent => String::new(),
        Network::Present => format!("{GATEWAY_V4}\t{HOST_NAME}\n"),
    };
    format!(
        "127.0.0.1\tlocalhost\n\
         127.0.1.1\t{hostname}\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n\
         {host}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whatever_its_length() {
        let path = std::env::temp_dir().join(format!("pyro-identity-{}", std::process::id()));
        let path = path.to_str().unwrap();
        for text in ["one", "two", "longer", "a", ""] {
            replace(path, text).unwrap();
            assert_eq!(fs_err::read_to_string(path).unwrap(), text);
        }
        fs_err::remove_file(path).unwrap();
    }
}
