//! Where names are looked up: the host's name servers, or those that the user names.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use crate::config::Config;
use crate::limits::invalid;
use crate::{ErrorKind, PyroError};

const HOST_FILE: &str = "/etc/resolv.conf";

const VARIABLE: &str = "PYRO_DNS_SERVERS";

const PORT: u16 = 53;

/// As many as glibc asks (`MAXNS`).
const RESOLVERS_MAX: usize = 3;

/// What of a `resolv.conf` is read; glibc's own is a few hundred bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Fails with `invalid_input` where the variable makes no sense, and with `host_unsupported` where the host's file
/// cannot be read.
pub(crate) fn of_host(config: &Config) -> Result<Vec<SocketAddr>, PyroError> {
    match &config.network.dns_servers {
        Some(servers) => from_variable(servers),
        None => from_file(Path::new(HOST_FILE)),
    }
}

fn from_variable(value: &OsStr) -> Result<Vec<SocketAddr>, PyroError> {
    let wrong = |text: &str| {
        invalid(format!("{VARIABLE}: '{text}' is no address of a name server"))
            .hint("write ADDRESS or ADDRESS:PORT, for instance 10.0.0.53 or [fd00::53]:5353; several with commas")
    };
    let text = value.to_str().ok_or_else(|| wrong(&value.to_string_lossy()))?;
    let words = text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty());
    let servers = words.map(|word| {
        let address = word.parse().ok().or_else(|| Some(SocketAddr::new(word.parse().ok()?, PORT)));
        address
            .or_else(|| scoped(word))
            .filter(|address| address.port() != 0)
            .ok_or_else(|| wrong(word))
    });
    let servers = servers.collect::<Result<Vec<_>, _>>()?;
    match servers.len() {
        0 => Err(wrong(text)),
        1..=RESOLVERS_MAX => Ok(servers),
        count => Err(invalid(format!(
            "{VARIABLE} must be at most {RESOLVERS_MAX} name servers, not {count}"
        ))),
    }
}

fn from_file(path: &Path) -> Result<Vec<SocketAddr>, PyroError> {
    use std::io::Read;
    let mut text = Vec::new();
    match fs_err::File::open(path) {
        Ok(file) => {
            file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(|error| unreadable(&error))?;
        }
        // Like glibc.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(&error)),
    }
    Ok(parse(&String::from_utf8_lossy(&text)))
}

fn unreadable(error: &std::io::Error) -> PyroError {
    // Not `host_unsupported`: where the caller allows it, that would have the command run on the host instead.
    PyroError::from_error(ErrorKind::InvalidInput, error)
        .context("cannot tell the host's name servers")
        .hint(format!("set `{VARIABLE}`"))
}

/// As `resolv.conf(5)` has it. A server that makes no sense is left out, as glibc does.
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let word = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        word.parse().ok().map(|address| SocketAddr::new(address, PORT)).or_else(|| scoped(word))
    });
    let servers: Vec<_> = servers.take(RESOLVERS_MAX).collect();
    if servers.is_empty() {
        return vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT)];
    }
    servers
}

/// An address with a zone, by the name of an interface or its number: `fe80::1%eth0`.
fn scoped(word: &str) -> Option<SocketAddr> {
    let (address, zone) = word.split_once('%')?;
    let zone = zone.parse().ok().or_else(|| interface_index(zone))?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, zone).into())
}

fn interface_index(name: &str) -> Option<u32> {
    let is_name = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    let path = Path::new("/sys/class/net").join(name).join("ifindex");
    is_name.then(|| fs_err::read_to_string(path).ok()?.trim().parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(servers: &[SocketAddr]) -> Vec<String> {
        servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn name_servers_are_those_of_the_host() {
        let text = "# c\nsearch example.org\nnameserver 10.0.0.53\n  nameserver\t fd00::53 # x\n\
                    nameserver nonsense\noptions edns0\nnameserver fe80::1%1\nnameserver 10.0.0.54\n";
        let expected = ["10.0.0.53:53", "[fd00::53]:53", "[fe80::1%1]:53"];
        assert_eq!(texts(&parse(text)), expected);
        assert_eq!(texts(&parse("nameserver fe80::1%lo\n")), ["[fe80::1%1]:53"]);
        assert_eq!(texts(&parse("nameserver fe80::1%../lo\n")), ["127.0.0.1:53"]);
    }

    #[test]
    fn where_the_host_names_none_it_is_asked_itself() {
        for text in ["", "search example.org\n", ";nameserver 10.0.0.1\n"] {
            assert_eq!(texts(&parse(text)), ["127.0.0.1:53"], "{text:?}");
        }
        let none = tempfile::tempdir().unwrap().path().join("resolv.conf");
        assert_eq!(texts(&from_file(&none).unwrap()), ["127.0.0.1:53"]);
    }

    #[test]
    fn the_variable_names_addresses_and_ports() {
        let servers = |text: &str| from_variable(text.as_ref());
        let all = servers("127.0.0.1:5353, ::1 [fd00::1]:54").unwrap();
        assert_eq!(texts(&all), ["127.0.0.1:5353", "[::1]:53", "[fd00::1]:54"]);
        for wrong in ["localhost", "10.0.0.1:0", "10.0.0.1:x", ","] {
            let error = servers(wrong).unwrap_err();
            assert!(error.message.starts_with("PYRO_DNS_SERVERS: "), "{error}");
        }
        let error = servers("::1 ::2 ::3 ::4").unwrap_err();
        assert_eq!(error.message, "PYRO_DNS_SERVERS must be at most 3 name servers, not 4");
    }
}
