//! Configuration: the only place that reads environment variables.

use std::env::VarError;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use pyro_environments::{ArchiveSettings, InstalledEnvironment};
use pyro_protocol::client::StartPolicy;
use pyro_supervisor::client::Executable;

use crate::limits::ActiveVmsMax;
use crate::network::{NetworkSettings, ProxySettings, from_host};
use crate::packages::PackageInstaller;
use crate::{ErrorKind, PyroError};

/// First and second word of the command line with which `pyro` becomes a supervisor.
pub const INTERNAL_SUPERVISE: [&str; 2] = ["internal", "supervise"];

/// First and second word of the command line with which `pyro` becomes a process that keeps spares.
pub const INTERNAL_KEEP_SPARES: [&str; 2] = ["internal", "keep-spares"];

/// First and second word of the command line with which `pyro` probes KVM.
pub const INTERNAL_PROBE_KVM: [&str; 2] = ["internal", "probe-kvm"];

/// First and second word of the command line with which `pyro` probes how far QEMU can be confined;
/// then follow the accelerator's name and QEMU's path.
pub const INTERNAL_PROBE_CONFINEMENT: [&str; 2] = ["internal", "probe-confinement"];

/// The directory of this product below the cache and state directories.
const PRODUCT_DIRECTORY: &str = "pyro-mcp";

/// Where things are and what the user chose. See `docs/configuration.md` for the variables.
#[derive(Debug, Clone)]
pub struct Config {
    /// Environments and whatever else can be made again.
    pub cache_dir: PathBuf,
    /// What belongs to running VMs.
    pub state_dir: PathBuf,
    /// The `pyro` executable, which is also the supervisor.
    pub pyro: PathBuf,
    pub accelerator: AcceleratorChoice,
    pub confinement: ConfinementChoice,
    pub guest_kernel: GuestKernelChoice,
    /// How many VMs with a life of their own there may be.
    pub active_vms_max: ActiveVmsMax,
    /// Boot every VM instead of restoring it from a template.
    pub cold_boot: bool,
    /// Debian mirrors, as URLs or one-line apt sources; none for the host's own.
    pub mirrors: Vec<String>,
    /// The proxy through which mirrors are reached.
    pub proxy: Option<String>,
    /// Where programs are looked for, like `PATH`.
    pub tool_path: OsString,
    /// The kind of terminal that the user sits at, like `TERM`.
    pub terminal_type: Option<String>,
    /// What VMs with a network can have of this host.
    pub network: NetworkSettings,
}

/// Where programs of this user keep their configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserDirectories {
    pub home: PathBuf,
    /// `XDG_CONFIG_HOME`, or `.config` at home.
    pub config: PathBuf,
    /// `CLAUDE_CONFIG_DIR`, or home: where Claude Code has its `.claude.json`.
    pub claude_code: PathBuf,
    /// `CODEX_HOME`, or `.codex` at home.
    pub codex: PathBuf,
}

/// How a model's endpoint is reached, and what it is shown. Holds secrets, which nothing prints.
#[derive(Clone, Default)]
pub struct EndpointSettings {
    /// `OPENAI_API_KEY`
    pub api_key: Option<String>,
    /// The proxies of this host, as `curl` finds them.
    pub http_proxy: Option<String>,
    pub https_proxy: Option<String>,
    pub no_proxy: Option<String>,
    /// The authorities that this host trusts, in PEM form: `SSL_CERT_FILE`, or the distribution's.
    pub ca_bundle: Option<PathBuf>,
}

/// Which accelerator to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// KVM where it is usable, emulation elsewhere.
    Auto,
    /// KVM, or fail.
    Kvm,
    /// Emulation, even where KVM is usable.
    Tcg,
}

/// How much of QEMU's confinement is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfinementChoice {
    /// As much as the host allows.
    Auto,
    /// All of it, or fail.
    Required,
}

/// Which kernel VMs boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestKernelChoice {
    /// The one that is faster here, of those that there are.
    Auto,
    /// The small one that is shipped with pyro, or fail.
    Pyro,
    /// Debian's, which comes with the environment.
    Debian,
}

impl Config {
    /// Reads the process's environment. `pyro` is the path of the `pyro` executable.
    ///
    /// Fails with `invalid_input` for a value that makes no sense, and where neither the directories
    /// nor `HOME` are set.
    pub fn from_environment(pyro: PathBuf) -> Result<Self, PyroError> {
        Self::from_variables(pyro, &from_process)
    }

    fn from_variables(
        pyro: PathBuf,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, PyroError> {
        let cache_dir = match variable("PYRO_ENVIRONMENT_CACHE_DIR") {
            Some(directory) => absolute("PYRO_ENVIRONMENT_CACHE_DIR", &directory)?,
            None => base_directory(variable, "XDG_CACHE_HOME", ".cache")?,
        };
        let state_dir = match variable("PYRO_STATE_DIR") {
            Some(directory) => absolute("PYRO_STATE_DIR", &directory)?,
            None => base_directory(variable, "XDG_STATE_HOME", ".local/state")?,
        };
        let accelerator = match text(variable, "PYRO_ACCELERATOR")? {
            None => AcceleratorChoice::Auto,
            Some(name) => AcceleratorChoice::from_name(&name)?,
        };
        let confinement = match text(variable, "PYRO_CONFINEMENT")?.as_deref() {
            None | Some("auto") => ConfinementChoice::Auto,
            Some("required") => ConfinementChoice::Required,
            Some(other) => {
                return Err(PyroError::new(
                    ErrorKind::InvalidInput,
                    format!("PYRO_CONFINEMENT must be auto or required, not '{other}'"),
                ));
            }
        };
        let guest_kernel = match text(variable, "PYRO_GUEST_KERNEL")?.as_deref() {
            None | Some("auto") => GuestKernelChoice::Auto,
            Some("pyro") => GuestKernelChoice::Pyro,
            Some("debian") => GuestKernelChoice::Debian,
            Some(other) => {
                return Err(PyroError::new(
                    ErrorKind::InvalidInput,
                    format!("PYRO_GUEST_KERNEL must be auto, pyro or debian, not '{other}'"),
                ));
            }
        };
        let cold_boot = match text(variable, "PYRO_START")?.as_deref() {
            None | Some("restore") => false,
            Some("boot") => true,
            Some(other) => {
                return Err(PyroError::new(
                    ErrorKind::InvalidInput,
                    format!("PYRO_START must be restore or boot, not '{other}'"),
                ));
            }
        };
        let active_vms_max = match text(variable, "PYRO_MAX_ACTIVE_VMS")? {
            None => ActiveVmsMax::DEFAULT,
            Some(number) => ActiveVmsMax::parse("PYRO_MAX_ACTIVE_VMS", &number)?,
        };
        let mirrors = text(variable, "PYRO_DEBIAN_MIRROR")?
            .map(|mirrors| mirrors.lines().map(|line| line.trim().to_owned()).collect())
            .unwrap_or_default();
        let proxy = match text(variable, "PYRO_DEBIAN_PROXY")? {
            Some(proxy) => Some(proxy),
            // In lower case only, as curl and apt do: an upper-case one may come from a web client
            // (CVE-2016-5385).
            None => text(variable, "http_proxy")?,
        };
        let tool_path = variable("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        Ok(Self {
            cache_dir,
            state_dir,
            pyro,
            accelerator,
            confinement,
            guest_kernel,
            active_vms_max,
            cold_boot,
            mirrors,
            proxy,
            tool_path,
            // One that is no text is of no kind that a guest knows.
            terminal_type: text(variable, "TERM").ok().flatten(),
            network: network_settings(variable)?,
        })
    }

    /// The settings for pulling, checked.
    pub(crate) fn archive(&self) -> Result<ArchiveSettings, PyroError> {
        ArchiveSettings::new(self.mirrors.clone(), self.proxy.clone(), self.tool_path.clone())
            .map_err(|error| PyroError::from_error(ErrorKind::InvalidInput, &error))
    }

    /// Finds a program VMs need, or says which Debian package has it.
    pub(crate) fn tool(&self, program: &str, package: &str) -> Result<PathBuf, PyroError> {
        pyro_qemu::executable::find(program, &self.tool_path).ok_or_else(|| {
            PyroError::new(ErrorKind::HostUnsupported, format!("`{program}` is not installed"))
                .hint(format!(
                    "install it: `{}`",
                    PackageInstaller::of_this_host().command(&[package])
                ))
        })
    }

    /// Where the scratch disks of VMs lie, as files without a name, and the directories of those with a life
    /// of their own.
    pub(crate) fn vms_directory(&self) -> PathBuf {
        self.state_dir.join("vms")
    }

    /// Where spares can be claimed.
    pub(crate) fn spares_directory(&self) -> PathBuf {
        self.state_dir.join("spares")
    }

    /// Where the processes are found that keep spares.
    pub(crate) fn keepers_directory(&self) -> PathBuf {
        self.state_dir.join("keepers")
    }

    /// Where the machines lie from which VMs are restored.
    pub(crate) fn templates_directory(&self) -> PathBuf {
        self.cache_dir.join("templates")
    }

    /// How VMs of `environment` come to life.
    pub(crate) fn start_policy(&self, environment: &InstalledEnvironment) -> StartPolicy {
        if self.cold_boot {
            return StartPolicy::ColdBoot;
        }
        let warm_up = environment.definition().warm_up.iter().map(|&command| command.to_owned());
        StartPolicy::Restore { templates: self.templates_directory(), warm_up: warm_up.collect() }
    }

    pub(crate) fn executable(&self, words: [&str; 2]) -> Executable {
        Executable { path: self.pyro.clone(), arguments: words.map(str::to_owned).into() }
    }
}

impl UserDirectories {
    /// Reads the process's environment. Fails with `invalid_input` where `HOME` is not set.
    pub fn from_environment() -> Result<Self, PyroError> {
        Self::from_variables(&from_process)
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, PyroError> {
        let home = variable("HOME")
            .ok_or_else(|| PyroError::new(ErrorKind::InvalidInput, "HOME is not set"))?;
        let home = absolute("HOME", &home)?;
        // The XDG base directory specification says to ignore a relative one.
        let config =
            variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let config = config.unwrap_or_else(|| home.join(".config"));
        // Clients take theirs relative to where they are started.
        let of_client = |name: &str, otherwise: PathBuf| match variable(name) {
            Some(directory) => absolute(name, &directory),
            None => Ok(otherwise),
        };
        let claude_code = of_client("CLAUDE_CONFIG_DIR", home.clone())?;
        let codex = of_client("CODEX_HOME", home.join(".codex"))?;
        Ok(Self { home, config, claude_code, codex })
    }
}

impl EndpointSettings {
    /// Reads the process's environment. Fails with `invalid_input` for a variable that is no text.
    pub fn from_environment() -> Result<Self, PyroError> {
        Self::from_variables(&from_process)
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, PyroError> {
        let NetworkSettings { proxies, ca_bundle, .. } = network_settings(variable)?;
        let ProxySettings { http, https, all, no_proxy } = proxies;
        let text = |name: &str, value: Option<OsString>| {
            // Without the value, which may be a secret.
            let no_text =
                |_| PyroError::new(ErrorKind::InvalidInput, format!("{name} is no text in UTF-8"));
            value.map(|value| value.into_string().map_err(no_text)).transpose()
        };
        Ok(Self {
            api_key: text("OPENAI_API_KEY", variable("OPENAI_API_KEY"))?,
            http_proxy: text("HTTP_PROXY", http.or_else(|| all.clone()))?,
            https_proxy: text("HTTPS_PROXY", https.or(all))?,
            no_proxy: text("NO_PROXY", no_proxy)?,
            ca_bundle: from_host::host_bundle(ca_bundle.as_deref()),
        })
    }
}

impl fmt::Debug for EndpointSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EndpointSettings")
            .field("ca_bundle", &self.ca_bundle)
            .finish_non_exhaustive()
    }
}

fn network_settings(
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<NetworkSettings, PyroError> {
    let path =
        |name| variable(name).map(|path: OsString| absolute(name, path.as_os_str())).transpose();
    let either = |lower: &str, upper: &str| variable(lower).or_else(|| variable(upper));
    // Behind a web server `HTTP_PROXY` is what a client sent as its header `Proxy` (CVE-2016-5385).
    let is_cgi = variable("REQUEST_METHOD").is_some();
    let http = if is_cgi { variable("http_proxy") } else { either("http_proxy", "HTTP_PROXY") };
    Ok(NetworkSettings {
        dns_servers: variable("PYRO_DNS_SERVERS"),
        pin: variable("PYRO_NETWORK"),
        pin_file: path("PYRO_NETWORK_FILE")?,
        proxies: ProxySettings {
            http,
            https: either("https_proxy", "HTTPS_PROXY"),
            all: either("all_proxy", "ALL_PROXY"),
            no_proxy: either("no_proxy", "NO_PROXY"),
        },
        ca_bundle: path("SSL_CERT_FILE")?,
    })
}

/// Whether the terminal that the user sits at can do no more than print: `TERM` says so, or says nothing.
pub fn terminal_is_dumb() -> bool {
    from_process("TERM").is_none_or(|kind| kind == "dumb")
}

/// A variable of the process's environment; an empty one is none.
fn from_process(name: &str) -> Option<OsString> {
    #[allow(clippy::disallowed_methods, reason = "this is the place that reads them")]
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// What a shell without any configuration searches.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

impl AcceleratorChoice {
    fn from_name(name: &str) -> Result<Self, PyroError> {
        match name {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err(PyroError::new(
                ErrorKind::InvalidInput,
                format!("PYRO_ACCELERATOR must be auto, kvm or tcg, not '{name}'"),
            )),
        }
    }
}

fn base_directory(
    variable: &dyn Fn(&str) -> Option<OsString>,
    name: &str,
    below_home: &str,
) -> Result<PathBuf, PyroError> {
    // The XDG base directory specification says to ignore a relative one.
    if let Some(directory) = variable(name).map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Ok(directory.join(PRODUCT_DIRECTORY));
    }
    let home = variable("HOME").ok_or_else(|| {
        PyroError::new(ErrorKind::InvalidInput, format!("neither {name} nor HOME is set"))
            .hint("set `PYRO_ENVIRONMENT_CACHE_DIR` and `PYRO_STATE_DIR`")
    })?;
    Ok(absolute("HOME", &home)?.join(below_home).join(PRODUCT_DIRECTORY))
}

fn absolute(name: &str, directory: &OsStr) -> Result<PathBuf, PyroError> {
    std::path::absolute(Path::new(directory)).map_err(|source| {
        PyroError::from_error(ErrorKind::InvalidInput, &source)
            .context(format!("{name} is no directory: '{}'", directory.display()))
    })
}

fn text(
    variable: &dyn Fn(&str) -> Option<OsString>,
    name: &str,
) -> Result<Option<String>, PyroError> {
    variable(name)
        .map(|value| {
            value.into_string().map_err(|value| {
                let error = VarError::NotUnicode(value);
                PyroError::new(ErrorKind::InvalidInput, format!("{name}: {error}"))
            })
        })
        .transpose()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// With these variables and no others.
    pub(crate) fn config(variables: &[(&str, &str)]) -> Result<Config, PyroError> {
        Config::from_variables("/pyro".into(), &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn directories_lie_below_home_by_default() {
        let config = config(&[("HOME", "/home/ada")]).unwrap();
        assert_eq!(config.cache_dir, Path::new("/home/ada/.cache/pyro-mcp"));
        assert_eq!(config.state_dir, Path::new("/home/ada/.local/state/pyro-mcp"));
        assert_eq!(config.accelerator, AcceleratorChoice::Auto);
    }

    #[test]
    fn a_relative_xdg_directory_is_ignored() {
        let config = config(&[("HOME", "/home/ada"), ("XDG_CACHE_HOME", "cache")]).unwrap();
        assert_eq!(config.cache_dir, Path::new("/home/ada/.cache/pyro-mcp"));
    }

    #[test]
    fn configuration_lies_at_home_or_where_the_user_says() {
        let directories = |variables: &[(&str, &str)]| {
            UserDirectories::from_variables(&|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            })
        };
        let at_home = directories(&[("HOME", "/home/ada")]).unwrap();
        assert_eq!(at_home.config, Path::new("/home/ada/.config"));
        assert_eq!(at_home.codex, Path::new("/home/ada/.codex"));
        assert_eq!(at_home.claude_code, Path::new("/home/ada"));
        let own = [("XDG_CONFIG_HOME", "/c"), ("CODEX_HOME", "/x"), ("CLAUDE_CONFIG_DIR", "/l")];
        let elsewhere = directories(&[&[("HOME", "/h")], &own[..]].concat()).unwrap();
        assert_eq!(elsewhere.config, Path::new("/c"));
        assert_eq!(elsewhere.codex, Path::new("/x"));
        assert_eq!(elsewhere.claude_code, Path::new("/l"));
        let relative = own.map(|(name, path)| (name, &path[1..]));
        let relative = directories(&[&[("HOME", "/h")], &relative[..]].concat()).unwrap();
        assert_eq!(relative.config, Path::new("/h/.config"), "a relative one is ignored");
        assert_eq!(relative.codex, std::path::absolute("x").unwrap());
        assert_eq!(relative.claude_code, std::path::absolute("l").unwrap());
        assert_eq!(directories(&[]).unwrap_err().message, "HOME is not set");
    }

    #[test]
    fn own_directories_win() {
        let config =
            config(&[("PYRO_ENVIRONMENT_CACHE_DIR", "/cache"), ("PYRO_STATE_DIR", "/state")])
                .unwrap();
        assert_eq!(config.cache_dir, Path::new("/cache"));
        assert_eq!(config.state_dir, Path::new("/state"));
    }

    #[test]
    fn without_any_directory_the_error_says_what_to_set() {
        let error = config(&[]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidInput);
        assert!(error.hints[0].contains("PYRO_ENVIRONMENT_CACHE_DIR"));
    }

    #[test]
    fn an_unknown_accelerator_is_refused() {
        let error = config(&[("HOME", "/h"), ("PYRO_ACCELERATOR", "hvf")]).unwrap_err();
        assert_eq!(error.message, "PYRO_ACCELERATOR must be auto, kvm or tcg, not 'hvf'");
    }

    #[test]
    fn an_unknown_guest_kernel_is_refused() {
        let choice = |name| config(&[("HOME", "/h"), ("PYRO_GUEST_KERNEL", name)]);
        assert_eq!(choice("auto").unwrap().guest_kernel, GuestKernelChoice::Auto);
        assert_eq!(choice("pyro").unwrap().guest_kernel, GuestKernelChoice::Pyro);
        assert_eq!(choice("debian").unwrap().guest_kernel, GuestKernelChoice::Debian);
        let error = choice("small").unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidInput);
        assert_eq!(error.message, "PYRO_GUEST_KERNEL must be auto, pyro or debian, not 'small'");
    }

    #[test]
    fn the_number_of_vms_is_limited_to_what_makes_sense() {
        let number = |number| config(&[("HOME", "/h"), ("PYRO_MAX_ACTIVE_VMS", number)]);
        assert_eq!(config(&[("HOME", "/h")]).unwrap().active_vms_max, ActiveVmsMax::DEFAULT);
        assert_eq!(number("1000").unwrap().active_vms_max.get(), 1000);
        for wrong in ["0", "1001", "-1", "many"] {
            let error = number(wrong).unwrap_err();
            let text = format!("PYRO_MAX_ACTIVE_VMS must be between 1 and 1000, not {wrong}");
            assert_eq!(error.message, text);
        }
    }

    #[test]
    fn proxies_are_found_in_either_case_but_not_in_what_a_web_client_sent() {
        let http = |variables: &[(&str, &str)]| {
            config(&[&[("HOME", "/h")], variables].concat()).unwrap().network.proxies.http
        };
        assert_eq!(http(&[("HTTP_PROXY", "a:1")]), Some("a:1".into()));
        assert_eq!(http(&[("HTTP_PROXY", "a:1"), ("http_proxy", "b:1")]), Some("b:1".into()));
        assert_eq!(http(&[("HTTP_PROXY", "a:1"), ("REQUEST_METHOD", "GET")]), None);
    }

    #[test]
    fn a_password_of_a_proxy_is_not_shown() {
        let config = config(&[("HOME", "/h"), ("HTTPS_PROXY", "http://me:secret@a:1")]).unwrap();
        assert!(!format!("{:?}", config.network).contains("secret"));
    }

    #[test]
    fn a_models_endpoint_has_its_key_and_the_hosts_proxies_but_shows_neither() {
        let endpoint = |variables: &[(&str, &str)]| {
            EndpointSettings::from_variables(&|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            })
            .unwrap()
        };
        let settings = endpoint(&[
            ("OPENAI_API_KEY", "secret-key"),
            ("https_proxy", "http://me:secret@a:1"),
            ("ALL_PROXY", "b:1"),
            ("NO_PROXY", "c"),
            ("SSL_CERT_FILE", "/bundle.pem"),
        ]);
        assert_eq!(settings.api_key.as_deref(), Some("secret-key"));
        assert_eq!(settings.https_proxy.as_deref(), Some("http://me:secret@a:1"));
        assert_eq!(settings.http_proxy.as_deref(), Some("b:1"));
        assert_eq!(settings.no_proxy.as_deref(), Some("c"));
        assert_eq!(settings.ca_bundle.as_deref(), Some(Path::new("/bundle.pem")));
        assert!(!format!("{settings:?}").contains("secret"));
        assert_eq!(endpoint(&[]).api_key, None);
    }

    #[test]
    fn each_line_of_the_mirror_variable_is_a_mirror() {
        let config =
            config(&[("HOME", "/h"), ("PYRO_DEBIAN_MIRROR", "http://a/debian\n deb http://b x y")])
                .unwrap();
        assert_eq!(config.mirrors, ["http://a/debian", "deb http://b x y"]);
    }
}
