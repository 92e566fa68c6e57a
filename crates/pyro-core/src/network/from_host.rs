//! What a guest is given of the host's own way to the network: its proxies, and the authorities that it trusts.
//!
//! Commands find both in variables. They are run by a login shell, which reads `/etc/profile.d`; a variable that a
//! command was given wins.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use pyro_protocol::client::{GuestFile, GuestFileContent};
use pyro_protocol::layout::network::HOST_NAME;
use pyro_protocol::network::{EgressPolicy, EgressRule};

use super::options;
use super::proxy::Proxy;
use super::{NetworkRequest, ProxySettings};
use crate::config::Config;
use crate::limits::invalid;
use crate::{ErrorKind, PyroError};

const PROFILE: &str = "/etc/profile.d/pyro-network.sh";

const GUEST_BUNDLE: &str = "/etc/ssl/certs/pyro-host-ca.pem";

/// It takes no variable.
const APT_SETTINGS: &str = "/etc/apt/apt.conf.d/90pyro-host-ca";

/// Where distributions keep the authorities that a host trusts: Debian, Fedora, openSUSE, older Red Hat, Alpine.
const HOST_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// OpenSSL and Python's `ssl`, curl, git, Python's requests, pip, and Node.
const BUNDLE_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
];

/// What is reached without a proxy, whatever the host says: the guest itself, and the host's loopback.
const NEVER_PROXIED: [&str; 4] = ["localhost", "127.0.0.1", "::1", HOST_NAME];

/// What one VM is given.
#[derive(Default)]
pub(crate) struct FromHost {
    /// By their variables, in lower case.
    proxies: Vec<(&'static str, Proxy)>,
    no_proxy: String,
    bundle: Option<PathBuf>,
}

/// Fails with `invalid_input` where the host has none of what is asked for.
pub(crate) fn prepare(config: &Config, request: &NetworkRequest) -> Result<FromHost, PyroError> {
    let settings = &config.network;
    let mut from_host = FromHost::default();
    if request.wants_proxy {
        from_host.proxies = proxies(&settings.proxies)?;
        from_host.check_handing_over(request)?;
        let of_host = settings.proxies.no_proxy.as_deref().map(OsStr::to_string_lossy);
        let of_host = of_host.as_deref().unwrap_or_default();
        let all = of_host.split(',').map(str::trim).filter(|name| !name.is_empty());
        let mut all: Vec<_> = all.collect();
        for name in NEVER_PROXIED {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        from_host.no_proxy = all.join(",");
    }
    if request.wants_ca {
        from_host.bundle = Some(bundle(settings.ca_bundle.as_deref())?);
    }
    Ok(from_host)
}

fn proxies(settings: &ProxySettings) -> Result<Vec<(&'static str, Proxy)>, PyroError> {
    let all = [
        ("http_proxy", &settings.http),
        ("https_proxy", &settings.https),
        ("all_proxy", &settings.all),
    ];
    let set = all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let proxies =
        set.map(|(name, value)| Ok((name, Proxy::parse(&name.to_ascii_uppercase(), value)?)));
    let proxies = proxies.collect::<Result<Vec<_>, PyroError>>()?;
    if proxies.is_empty() {
        return Err(invalid("host_proxy asks for the host's proxy, but there is none")
            .hint("set `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY`, or leave out `host_proxy`"));
    }
    Ok(proxies)
}

/// Where the authorities are that this host trusts: the user's word, or what its distribution has.
pub(crate) fn host_bundle(of_user: Option<&Path>) -> Option<PathBuf> {
    let of_distribution = || HOST_BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file());
    of_user.map(Path::to_owned).or_else(of_distribution)
}

fn bundle(of_user: Option<&Path>) -> Result<PathBuf, PyroError> {
    let path = host_bundle(of_user).ok_or_else(|| {
        invalid("host_ca asks for the host's certificates, but there are none")
            .hint("install `ca-certificates`, set `SSL_CERT_FILE`, or leave out `host_ca`")
    })?;
    let unusable = |error: PyroError| {
        error.context("the host's certificates cannot be given to the guest").hint(
            "set `SSL_CERT_FILE` to a file of certificates in PEM form, or leave out `host_ca`",
        )
    };
    // Opened, so that what cannot be read is told before a VM is made.
    let file = fs_err::File::open(&path).and_then(|file| file.metadata());
    let file =
        file.map_err(|error| unusable(PyroError::from_error(ErrorKind::InvalidInput, &error)))?;
    let max = GuestFile::HOST_FILE_BYTES_MAX;
    if !file.is_file() || file.len() > max {
        let path = path.display();
        let message = format!("`{path}` must be a file of at most {max} bytes");
        return Err(unusable(invalid(message)));
    }
    Ok(path)
}

impl FromHost {
    /// A proxy may come with a password, and reaches what no rule of ours restricts. Whoever passes requests on for others
    /// hands it over to them only where a rule of theirs names it; that public addresses are allowed is no such word.
    fn check_handing_over(&self, request: &NetworkRequest) -> Result<(), PyroError> {
        let names = |policy: &EgressPolicy, proxy: &Proxy| {
            policy.allow.iter().any(|rule| options::covers(rule, &proxy.rule()))
        };
        for pin in &request.pins {
            let is_named = pin
                .policy()
                .is_none_or(|policy| self.proxies.iter().all(|(_, proxy)| names(policy, proxy)));
            if !is_named {
                return Err(invalid("host_proxy must be false")
                    .cause(format!(
                        "no rule of the operator (`{}`) names the host's proxy",
                        pin.source()
                    ))
                    .hint("leave it out: no call can change it"));
            }
        }
        Ok(())
    }

    /// Has `policy` allow the way to the proxies, and whatever else it allowed.
    pub(crate) async fn open(&self, policy: &mut EgressPolicy) {
        let mut rules = Vec::new();
        for (_, proxy) in &self.proxies {
            rules.extend(proxy.rules().await);
        }
        if !rules.is_empty() && policy.allow.is_empty() {
            // What an empty list stands for.
            policy.allow.push(EgressRule::Public);
        }
        for rule in rules {
            if !policy.allow.contains(&rule) {
                policy.allow.push(rule);
            }
        }
    }

    pub(crate) fn into_files(self) -> Vec<GuestFile> {
        let script = self.script();
        let mut files = Vec::new();
        let mut text = |path: &str, text: String| {
            files.push(GuestFile { path: path.to_owned(), content: GuestFileContent::Text(text) });
        };
        if !script.is_empty() {
            text(PROFILE, script);
        }
        if let Some(bundle) = self.bundle {
            text(APT_SETTINGS, format!("Acquire::https::CaInfo \"{GUEST_BUNDLE}\";\n"));
            let content = GuestFileContent::HostFile(bundle);
            files.push(GuestFile { path: GUEST_BUNDLE.to_owned(), content });
        }
        files
    }

    fn script(&self) -> String {
        let mut script = String::new();
        let mut set = |names: &[&str], value: &str| {
            let given: Vec<_> = names.iter().map(|name| format!("${{{name}+x}}")).collect();
            let given = given.concat();
            let value = quoted(value);
            let values: Vec<_> = names.iter().map(|name| format!("{name}={value}")).collect();
            writeln!(script, "[ -n \"{given}\" ] || export {}", values.join(" "))
                .expect("a String takes everything");
        };
        for (name, proxy) in &self.proxies {
            // Programs differ in which of the two they read, and one that is given stands for both.
            set(&[name, &name.to_ascii_uppercase()], &proxy.for_guest());
        }
        if !self.proxies.is_empty() {
            set(&["no_proxy", "NO_PROXY"], &self.no_proxy);
        }
        if self.bundle.is_some() {
            for name in BUNDLE_VARIABLES {
                set(&[name], GUEST_BUNDLE);
            }
        }
        script
    }
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::Network;
    use super::super::options::{NetworkOptions, PolicyOptions};
    use super::super::pins::{NetworkPin, PinOptions};
    use super::*;

    fn settings() -> ProxySettings {
        ProxySettings {
            https: Some("http://us'er:$p@127.0.0.1:3128".into()),
            no_proxy: Some("localhost, .corp.example".into()),
            ..ProxySettings::default()
        }
    }

    fn from_host() -> FromHost {
        FromHost {
            proxies: proxies(&settings()).unwrap(),
            no_proxy: "localhost".to_owned(),
            bundle: Some("/host/bundle.pem".into()),
        }
    }

    /// What the script makes of a variable, in a shell that was given another.
    fn shown(given: (&str, &str), name: &str) -> String {
        let script = format!("{}\nprintf %s \"${name}\"", from_host().script());
        let mut shell = Command::new("/bin/sh");
        let output = shell.args(["-c", &script]).env_clear().env(given.0, given.1).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    #[test]
    fn a_shell_has_the_variables_and_those_that_it_was_given_win() {
        let url = "http://us'er:$p@host.pyro.internal:3128";
        assert_eq!(shown(("A", ""), "HTTPS_PROXY"), url);
        assert_eq!(shown(("A", ""), "https_proxy"), url);
        assert_eq!(shown(("https_proxy", "mine"), "https_proxy"), "mine");
        assert_eq!(shown(("HTTPS_PROXY", ""), "https_proxy"), "", "an empty one means none");
        assert_eq!(shown(("A", ""), "http_proxy"), "");
        assert_eq!(shown(("A", ""), "CURL_CA_BUNDLE"), GUEST_BUNDLE);
        assert_eq!(shown(("PIP_CERT", "mine"), "PIP_CERT"), "mine");
    }

    #[test]
    fn the_files_are_the_script_and_the_certificates() {
        let files = from_host().into_files();
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [PROFILE, APT_SETTINGS, GUEST_BUNDLE]);
        let bundle = GuestFileContent::HostFile("/host/bundle.pem".into());
        assert_eq!(files[2].content, bundle);
        assert!(FromHost::default().into_files().is_empty());
    }

    #[tokio::test]
    async fn the_way_to_a_proxy_narrows_nothing() {
        let from_host = from_host();
        let mut policy = EgressPolicy::default();
        from_host.open(&mut policy).await;
        let texts: Vec<_> = policy.allow.iter().map(super::super::options::text).collect();
        assert_eq!(texts, ["public", "127.0.0.1:3128"]);
        let own = EgressRule::Network("10.0.0.0/8".parse().unwrap());
        let mut policy = EgressPolicy { allow: vec![own], deny: Vec::new() };
        from_host.open(&mut policy).await;
        let texts: Vec<_> = policy.allow.iter().map(super::super::options::text).collect();
        assert_eq!(texts, ["10.0.0.0/8", "127.0.0.1:3128"]);
        let mut policy = EgressPolicy::default();
        FromHost::default().open(&mut policy).await;
        assert_eq!(policy, EgressPolicy::default());
    }

    #[test]
    fn a_proxy_is_handed_over_to_others_only_where_a_rule_names_it() {
        let handed_over = |policy: Option<PolicyOptions>| {
            let options = NetworkOptions { network: true, host_proxy: true, ..Default::default() };
            let Ok(Network::On(mut request)) = Network::new(&options) else { panic!("no network") };
            if let Some(policy) = policy {
                let pin = PinOptions { policy, ..PinOptions::default() };
                request.pin(NetworkPin::new("here", &pin).unwrap().or_public());
            }
            from_host().check_handing_over(&request)
        };
        handed_over(None).unwrap();
        let error = handed_over(Some(PolicyOptions::default())).unwrap_err();
        assert_eq!(error.causes, ["no rule of the operator (`here`) names the host's proxy"]);
        let cidr = |cidr: &str| PolicyOptions {
            allow_cidrs: vec![cidr.to_owned()],
            allow_public: true,
            ..PolicyOptions::default()
        };
        handed_over(Some(cidr("127.0.0.1:3128"))).unwrap();
        handed_over(Some(cidr("127.0.0.0/8"))).unwrap();
        handed_over(Some(cidr("127.0.0.1:3129"))).unwrap_err();
    }

    #[test]
    fn what_the_host_has_not_cannot_be_given() {
        let error = proxies(&ProxySettings::default()).err().unwrap();
        assert!(error.message.contains("there is none"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.pem");
        let error = bundle(Some(&path)).unwrap_err();
        assert_eq!(error.message, "the host's certificates cannot be given to the guest");
        assert!(bundle(Some(directory.path())).is_err());
        fs_err::write(&path, "certificates").unwrap();
        assert_eq!(bundle(Some(&path)).unwrap(), path);
        let file = fs_err::File::options().write(true).open(&path).unwrap();
        file.set_len(GuestFile::HOST_FILE_BYTES_MAX + 1).unwrap();
        assert!(bundle(Some(&path)).is_err());
    }
}
