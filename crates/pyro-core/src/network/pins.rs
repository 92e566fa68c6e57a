//! What an operator says about networks, which no caller can widen: an environment variable, a file of the system's
//! administrator, and whoever serves others.
//!
//! ```text
//!   PYRO_NETWORK='--allow-host *.example.org:443 --no-publish'       or  off
//!
//!   /etc/pyro-mcp/network.toml, and the file that PYRO_NETWORK_FILE names:
//!     allow_hosts = ["*.example.org:443"]
//!     publish = false
//! ```
//!
//! All of them apply together. One that makes no sense allows nothing: a restriction that is dropped because of a typing
//! error is noticed too late.

use std::ffi::OsStr;
use std::path::Path;

use pyro_protocol::network::{AuthoredPolicy, EgressPolicy, EgressRule, NetworkSpec, PolicyAuthor};
use toml_edit::{DocumentMut, Item};

use super::NetworkRequest;
use super::options::PolicyOptions;
use crate::config::Config;
use crate::lifecycle::VmInfo;
use crate::limits::invalid;
use crate::{ErrorKind, PyroError};

/// The administrator's. No variable puts another one in its place: callers choose their variables.
const SYSTEM_FILE: &str = "/etc/pyro-mcp/network.toml";

const VARIABLE: &str = "PYRO_NETWORK";

const FILE_VARIABLE: &str = "PYRO_NETWORK_FILE";

/// What a file may have.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What an operator says, as texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinOptions {
    /// Whether VMs may have a network at all.
    pub network: bool,
    pub policy: PolicyOptions,
    /// Whether ports may be published.
    pub publish: bool,
}

/// What an operator says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPin {
    source: String,
    is_network_allowed: bool,
    /// `None` where it restricts no destination.
    policy: Option<EgressPolicy>,
    is_publishing_allowed: bool,
}

/// What of a request goes beyond a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeyondPin {
    Network,
    Publish,
}

impl Default for PinOptions {
    fn default() -> Self {
        Self { network: true, policy: PolicyOptions::default(), publish: true }
    }
}

impl NetworkPin {
    /// `source` is how users know it. Fails with `invalid_input` as a caller's options do.
    pub fn new(source: impl Into<String>, options: &PinOptions) -> Result<Self, PyroError> {
        let policy = options.policy.parse()?;
        Ok(Self {
            source: source.into(),
            is_network_allowed: options.network,
            policy: (!options.policy.is_empty()).then_some(policy),
            is_publishing_allowed: options.publish,
        })
    }

    /// The same, and where it has no rules, restricted to public addresses.
    #[must_use]
    pub fn or_public(self) -> Self {
        Self { policy: Some(self.policy.unwrap_or_default()), ..self }
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn policy(&self) -> Option<&EgressPolicy> {
        self.policy.as_ref()
    }

    pub(crate) fn is_network_allowed(&self) -> bool {
        self.is_network_allowed
    }

    pub(crate) fn is_publishing_allowed(&self) -> bool {
        self.is_publishing_allowed
    }

    /// What of the request it refuses as a whole. Its rules refuse single destinations, later.
    pub fn check(&self, request: &NetworkRequest) -> Result<(), BeyondPin> {
        if !self.is_network_allowed {
            return Err(BeyondPin::Network);
        }
        if request.publishes() && !self.is_publishing_allowed {
            return Err(BeyondPin::Publish);
        }
        Ok(())
    }

    /// Whether a VM, whoever made it, reaches nothing that one with this pin could not.
    pub fn admits(&self, vm: &VmInfo) -> bool {
        vm.network.as_ref().is_none_or(|network| self.admits_network(network))
    }

    fn admits_network(&self, network: &NetworkSpec) -> bool {
        if !self.is_network_allowed {
            return false;
        }
        if !self.is_publishing_allowed && !network.published.is_empty() {
            return false;
        }
        self.policy.as_ref().is_none_or(|policy| {
            let is_public = policy.deny.is_empty() && allows_public(policy);
            network.policies.iter().any(|AuthoredPolicy { policy: of_vm, .. }| {
                of_vm == policy || (is_public && !opens_networks(of_vm))
            })
        })
    }

    pub(crate) fn into_policy(self) -> Option<AuthoredPolicy> {
        let author = PolicyAuthor::Operator { source: self.source };
        self.policy.map(|policy| AuthoredPolicy { author, policy })
    }
}

fn allows_public(policy: &EgressPolicy) -> bool {
    policy.allow.is_empty() || policy.allow.contains(&EgressRule::Public)
}

/// Whether it reaches more than public addresses.
fn opens_networks(policy: &EgressPolicy) -> bool {
    policy.allow.iter().any(|rule| matches!(rule, EgressRule::Network(_)))
}

/// The pins for a request. Fails with `invalid_input` where one refuses it, or makes no sense.
pub(crate) fn in_force(
    config: &Config,
    request: &NetworkRequest,
) -> Result<Vec<NetworkPin>, PyroError> {
    let mut pins = of_host(config)?;
    pins.extend(request.pins.iter().cloned());
    for pin in &pins {
        pin.check(request).map_err(|beyond| {
            let message = match beyond {
                BeyondPin::Network => "network must be false",
                BeyondPin::Publish => "publish must be empty",
            };
            invalid(message)
                .cause(format!("the operator of this host refuses it in `{}`", pin.source))
                .hint("stay within it: no call can change it")
        })?;
    }
    Ok(pins)
}

/// The pins for every VM of this process.
pub(crate) fn of_host(config: &Config) -> Result<Vec<NetworkPin>, PyroError> {
    let settings = &config.network;
    let mut pins = Vec::new();
    pins.extend(from_file(Path::new(SYSTEM_FILE), Missing::MeansNothing)?);
    if let Some(file) = &settings.pin_file {
        pins.extend(from_file(file, Missing::IsWrong)?);
    }
    if let Some(value) = &settings.pin {
        pins.push(from_variable(value)?);
    }
    Ok(pins)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    MeansNothing,
    IsWrong,
}

fn from_variable(value: &OsStr) -> Result<NetworkPin, PyroError> {
    let pin = || {
        let text = value.to_str().ok_or_else(|| invalid("it is no text"))?;
        NetworkPin::new(VARIABLE, &options_of_words(text)?)
    };
    pin().map_err(|error| no_sense(VARIABLE, error))
}

/// As on the command line; the rules hold no blanks, so nothing is quoted.
fn options_of_words(text: &str) -> Result<PinOptions, PyroError> {
    let mut options = PinOptions::default();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let policy = &mut options.policy;
        let list = match name {
            "--allow-host" => &mut policy.allow_hosts,
            "--allow-cidr" => &mut policy.allow_cidrs,
            "--deny-host" => &mut policy.deny_hosts,
            "--deny-cidr" => &mut policy.deny_cidrs,
            _ if value.is_some() => return Err(unknown(word)),
            "--allow-public" => {
                policy.allow_public = true;
                continue;
            }
            "--no-publish" => {
                options.publish = false;
                continue;
            }
            "off" | "--no-network" => {
                options.network = false;
                continue;
            }
            _ => return Err(unknown(word)),
        };
        let value = value.or_else(|| words.next().filter(|next| !next.starts_with("--")));
        let value = value.ok_or_else(|| invalid(format!("`{name}` needs a value")))?;
        list.push(value.to_owned());
    }
    Ok(options)
}

fn unknown(word: &str) -> PyroError {
    invalid(format!(
        "unknown word '{word}'; expected off, --no-publish, --allow-public, or --allow-host, --allow-cidr, \
         --deny-host, --deny-cidr with a value"
    ))
}

fn from_file(path: &Path, missing: Missing) -> Result<Option<NetworkPin>, PyroError> {
    use std::io::Read;
    let source = path.display().to_string();
    let unreadable = |error: &std::io::Error| {
        no_sense(&source, PyroError::from_error(ErrorKind::InvalidInput, error))
    };
    let file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(error)
            if missing == Missing::MeansNothing && error.kind() == std::io::ErrorKind::NotFound =>
        {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(&error)),
    };
    let mut text = String::new();
    let length = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let length = length.map_err(|error| unreadable(&error))?;
    let pin = || {
        if length as u64 > FILE_BYTES_MAX {
            return Err(invalid(format!("it has more than {FILE_BYTES_MAX} bytes")));
        }
        NetworkPin::new(source.clone(), &options_of_document(&text)?)
    };
    pin().map(Some).map_err(|error| no_sense(&source, error))
}

fn options_of_document(text: &str) -> Result<PinOptions, PyroError> {
    let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        // Its text draws the line with the mistake; the first says where it is.
        invalid(error.to_string().lines().next().unwrap_or_default().to_owned())
            .cause(error.message().to_owned())
    })?;
    let mut options = PinOptions::default();
    for (key, value) in document.iter() {
        let policy = &mut options.policy;
        match key {
            "network" => options.network = yes_or_no(key, value)?,
            "allow_hosts" => policy.allow_hosts = texts(key, value)?,
            "allow_cidrs" => policy.allow_cidrs = texts(key, value)?,
            "deny_hosts" => policy.deny_hosts = texts(key, value)?,
            "deny_cidrs" => policy.deny_cidrs = texts(key, value)?,
            "allow_public" => policy.allow_public = yes_or_no(key, value)?,
            "publish" => options.publish = yes_or_no(key, value)?,
            other => {
                return Err(invalid(format!(
                    "unknown key '{other}'; expected network, allow_hosts, allow_cidrs, deny_hosts, deny_cidrs, \
                     allow_public or publish"
                )));
            }
        }
    }
    Ok(options)
}

fn yes_or_no(key: &str, value: &Item) -> Result<bool, PyroError> {
    value.as_bool().ok_or_else(|| invalid(format!("{key} must be true or false")))
}

fn texts(key: &str, value: &Item) -> Result<Vec<String>, PyroError> {
    let wrong = || invalid(format!("{key} must be a list of strings"));
    let values = value.as_array().ok_or_else(wrong)?;
    values.iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

fn no_sense(source: &str, error: PyroError) -> PyroError {
    let hint = if source == VARIABLE {
        format!("correct `{VARIABLE}`")
    } else if source == SYSTEM_FILE {
        format!("have the administrator correct `{SYSTEM_FILE}`")
    } else {
        format!("correct that file, or `{FILE_VARIABLE}`")
    };
    error.context(format!("no VM can have a network, because `{source}` makes no sense")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::super::Network;
    use super::super::options::NetworkOptions;
    use super::*;

    fn variable(text: &str) -> Result<NetworkPin, PyroError> {
        from_variable(text.as_ref())
    }

    fn request(options: NetworkOptions) -> NetworkRequest {
        let network = Network::new(&NetworkOptions { network: true, ..options }).unwrap();
        let Network::On(request) = network else { panic!("no network") };
        *request
    }

    #[test]
    fn the_variable_reads_like_a_command_line() {
        let pin = variable(" --allow-host *.example.org:443 --deny-cidr=10.0.0.0/8 --no-publish ");
        let pin = pin.unwrap();
        let policy = pin.policy().unwrap();
        assert_eq!((policy.allow.len(), policy.deny.len()), (1, 1));
        assert_eq!(pin.check(&request(NetworkOptions::default())), Ok(()));
        let publishing = NetworkOptions { publish: vec!["80".to_owned()], ..Default::default() };
        assert_eq!(pin.check(&request(publishing)), Err(BeyondPin::Publish));
        let off = variable("off").unwrap();
        assert_eq!(off.check(&request(NetworkOptions::default())), Err(BeyondPin::Network));
    }

    #[test]
    fn a_pin_that_makes_no_sense_refuses_everything_and_says_where_it_is() {
        for (text, cause) in [
            ("of", "unknown word 'of'"),
            ("--allow-hosts example.com", "unknown word '--allow-hosts'"),
            ("--no-publish=yes", "unknown word '--no-publish=yes'"),
            ("--allow-host", "`--allow-host` needs a value"),
            ("--allow-host --allow-public", "`--allow-host` needs a value"),
            ("--allow-cidr example.com", "allow_cidrs: 'example.com' is no CIDR rule"),
        ] {
            let error = variable(text).unwrap_err();
            let message = "no VM can have a network, because `PYRO_NETWORK` makes no sense";
            assert_eq!((error.kind, &*error.message), (ErrorKind::InvalidInput, message));
            assert!(error.causes[0].starts_with(cause), "{error:?}");
        }
    }

    #[test]
    fn a_file_has_the_keys_of_the_sdk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("network.toml");
        assert_eq!(from_file(&path, Missing::MeansNothing), Ok(None));
        from_file(&path, Missing::IsWrong).unwrap_err();
        let of = |text: &str| {
            fs_err::write(&path, text).unwrap();
            from_file(&path, Missing::IsWrong)
        };
        let pin = of("network = true\nallow_hosts = ['a.example']\nallow_cidrs = []\n\
                      deny_hosts = []\ndeny_cidrs = ['10.0.0.0/8']\nallow_public = true\n\
                      publish = false\n");
        let pin = pin.unwrap().unwrap();
        let policy = pin.policy().unwrap();
        assert_eq!((policy.allow.len(), policy.deny.len()), (2, 1));
        assert!(!pin.is_publishing_allowed());
        assert_eq!(pin.source(), path.display().to_string());
        assert!(!of("network = false").unwrap().unwrap().is_network_allowed());
        assert_eq!(of("").unwrap().unwrap().policy(), None);
        for (text, cause) in [
            ("allow_host = ['a.example']", "unknown key 'allow_host'"),
            ("allow_hosts = 'a.example'", "allow_hosts must be a list of strings"),
            ("allow_hosts = [1]", "allow_hosts must be a list of strings"),
            ("network = 'no'", "network must be true or false"),
            ("[network]", "network must be true or false"),
            ("network = ", "TOML parse error at line 1"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.message.ends_with("makes no sense"), "{error}");
            assert!(error.causes[0].starts_with(cause), "{text}: {error:?}");
        }
        fs_err::write(&path, [0xff]).unwrap();
        from_file(&path, Missing::IsWrong).unwrap_err();
    }

    #[test]
    fn a_vm_is_admitted_that_reaches_nothing_more() {
        let policy = |allow_hosts: &[&str], allow_cidrs: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
            PolicyOptions {
                allow_hosts: texts(allow_hosts),
                allow_cidrs: texts(allow_cidrs),
                ..PolicyOptions::default()
            }
        };
        let vm = |policies: &[&PolicyOptions]| {
            let policies = policies.iter().map(|policy| AuthoredPolicy {
                author: PolicyAuthor::Caller,
                policy: policy.parse().unwrap(),
            });
            NetworkSpec {
                policies: policies.collect(),
                published: Vec::new(),
                resolvers: Vec::new(),
            }
        };
        let pin = |policy: &PolicyOptions| {
            let options = PinOptions { policy: policy.clone(), ..PinOptions::default() };
            NetworkPin::new("here", &options).unwrap().or_public()
        };
        let (everything, name, private) =
            (policy(&[], &[]), policy(&["a.example"], &[]), policy(&[], &["10.0.0.0/8"]));
        assert!(pin(&everything).admits_network(&vm(&[&everything])));
        assert!(pin(&everything).admits_network(&vm(&[&name])));
        assert!(!pin(&everything).admits_network(&vm(&[&private])));
        assert!(pin(&everything).admits_network(&vm(&[&everything, &private])));
        assert!(!pin(&name).admits_network(&vm(&[&everything])));
        assert!(pin(&name).admits_network(&vm(&[&name, &private])));
        let published = vec!["80".parse().unwrap()];
        let publishing = NetworkSpec { published, ..vm(&[&everything]) };
        assert!(pin(&everything).admits_network(&publishing));
        let options = PinOptions { publish: false, ..PinOptions::default() };
        assert!(!NetworkPin::new("here", &options).unwrap().admits_network(&publishing));
    }
}
