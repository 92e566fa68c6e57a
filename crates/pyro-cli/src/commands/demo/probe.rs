//! Whether a guest reaches something, and why not.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use pyro_core::{
    AllowWith, CommandText, ExecOutcome, ExecRequest, NetworkRefusal, PyroError, Timeout, Variables,
};
use serde::Serialize;

/// Within this a connection comes about, or it does not.
const DEADLINE: Duration = Duration::from_secs(10);

/// From there to the end of the command, for what emulation costs.
const GRACE: Duration = Duration::from_secs(20);

/// The port where none is given, that of https.
const PORT_DEFAULT: u16 = 443;

/// What every environment has that can connect. The target is no part of the text, which a shell reads.
const COMMAND: &str =
    r#"timeout "$PROBE_SECONDS" bash -c 'exec 3<>"/dev/tcp/$PROBE_HOST/$PROBE_PORT"'"#;

/// What `timeout` exits with when the time is over.
const EXIT_CODE_TIME_OVER: i32 = 124;

/// A name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeTarget {
    host: String,
    port: u16,
}

/// What a probe has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) target: String,
    pub(super) reachable: bool,
    /// Why not; of the guest's or of the network's words.
    pub(super) reason: Option<String>,
    /// Arguments that would have allowed it, where the network refused it.
    pub(super) allow_with: Option<AllowWith>,
}

impl FromStr for ProbeTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            Err(format!("{why}; write a host and a port, for instance example.com:443"))
        };
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => {
                (address, if port.is_empty() { None } else { Some(port) })
            }
            Some(_) => return wrong("there is no IPv6 address in the brackets"),
            // Bare, such an address has no port.
            None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            None => match text.find(':') {
                Some(colon) => (&text[..colon], Some(&text[colon..])),
                None => (text, None),
            },
        };
        let port = match port {
            None => Some(PORT_DEFAULT),
            Some(port) => {
                port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|&it| it != 0)
            }
        };
        let Some(port) = port else {
            return wrong("the port must be between 1 and 65535");
        };
        if !is_host(host) {
            return wrong("this is no name of a host");
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for ProbeTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => write!(formatter, "[{address}]:{}", self.port),
            Err(_) => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

impl ProbeTarget {
    /// The command that tries it.
    pub(super) fn request(&self) -> Result<ExecRequest, PyroError> {
        let variables = [
            ("PROBE_SECONDS", DEADLINE.as_secs().to_string()),
            ("PROBE_HOST", self.host.clone()),
            ("PROBE_PORT", self.port.to_string()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(ExecRequest {
            variables: Variables::new(variables)?,
            timeout: Timeout::from_seconds((DEADLINE + GRACE).as_secs_f64())?,
            ..ExecRequest::new(CommandText::new(COMMAND)?)
        })
    }

    /// What its outcome says.
    pub(super) fn finding(&self, outcome: &ExecOutcome) -> Finding {
        let reachable = outcome.exit_code == 0;
        // Of two addresses one may have been refused, and the other reached.
        let refusal = outcome.network_refusals.first().filter(|_| !reachable);
        let reason = (!reachable).then(|| match refusal {
            Some(NetworkRefusal { summary, .. }) => summary.clone(),
            None if outcome.exit_code == EXIT_CODE_TIME_OVER => {
                format!("no answer within {} s", DEADLINE.as_secs())
            }
            None => complaint(&outcome.stderr),
        });
        Finding {
            target: self.to_string(),
            reachable,
            reason,
            allow_with: refusal.and_then(|refusal| refusal.allow_with.clone()),
        }
    }
}

fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.chars().all(|it| it.is_ascii_alphanumeric() || "-_".contains(it))
    };
    host.parse::<IpAddr>().is_ok()
        || (host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(is_label))
}

/// The end of what bash complains of first, which is the reason.
fn complaint(stderr: &str) -> String {
    let first = stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let reason = first.rsplit(": ").next().unwrap_or_default().trim();
    if reason.is_empty() { "the guest does not say why".to_owned() } else { reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_with_or_without_a_port() {
        for (text, shown) in [
            ("example.com", "example.com:443"),
            ("example.com:80", "example.com:80"),
            ("host.pyro.internal:8080", "host.pyro.internal:8080"),
            ("10.0.0.1", "10.0.0.1:443"),
            ("fd00::1", "[fd00::1]:443"),
            ("[fd00::1]:80", "[fd00::1]:80"),
        ] {
            assert_eq!(text.parse::<ProbeTarget>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        let wrong = [
            "", ":80", "a:0", "a:65536", "a:", "a:x", "a:80:80", "[::1", "[a]:80", "[::1]80",
            "a b", "$(id)", "a/b", "-a", "a..b", "http://a",
        ];
        for text in wrong {
            assert!(text.parse::<ProbeTarget>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_reason_is_the_end_of_the_first_complaint() {
        let stderr = "bash: connect: Connection refused\nbash: /dev/tcp/a/80: Connection refused\n";
        assert_eq!(complaint(stderr), "Connection refused");
        assert_eq!(
            complaint("\nbash: x.invalid: Name or service not known\n"),
            "Name or service not known"
        );
        assert_eq!(complaint(""), "the guest does not say why");
    }
}
