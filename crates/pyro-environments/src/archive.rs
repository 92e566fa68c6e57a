//! Where packages come from: the mirrors and the proxy a user sets, or else
//! what the host's own apt is configured with.
//!
//! No host name is written here. With no mirror set and none found on the
//! host, mmdebstrap's own default applies.

use std::ffi::OsString;
use std::process::Command;

use crate::catalog::EnvironmentDefinition;

/// How to reach the Debian archive, and where the tools that do it are.
#[derive(Clone, Debug)]
pub struct ArchiveSettings {
    mirrors: Vec<String>,
    proxy: Option<String>,
    tool_path: OsString,
}

/// A mirror or proxy that cannot be handed to apt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveSettingsError {
    #[error(
        "mirror `{mirror}` is neither a URL that begins with `http://` or `https://` nor an apt \
         source that begins with `deb `"
    )]
    MirrorNotUnderstood { mirror: String },

    #[error("proxy `{proxy}` is not a URL that begins with `http://` or `https://`")]
    ProxyNotUnderstood { proxy: String },

    #[error("{setting} `{value}` holds {character:?}, which is not allowed there")]
    ForbiddenCharacter { setting: &'static str, value: String, character: char },
}

impl ArchiveSettings {
    /// `mirrors` are URLs or complete one-line apt sources (`deb …`); none
    /// means: as the host's apt. `tool_path` is searched for executables, in
    /// the form of `PATH`.
    pub fn new(
        mirrors: Vec<String>,
        proxy: Option<String>,
        tool_path: OsString,
    ) -> Result<Self, ArchiveSettingsError> {
        mirrors.iter().try_for_each(|mirror| check_mirror(mirror))?;
        proxy.iter().try_for_each(|proxy| check_proxy(proxy))?;
        Ok(Self { mirrors, proxy, tool_path })
    }

    pub(crate) fn tool_path(&self) -> &OsString {
        &self.tool_path
    }

    /// What mmdebstrap gets as its sources, and what apt gets as its proxy.
    /// Asks the host's apt for whatever the user has not set.
    pub(crate) fn resolve(&self, definition: &EnvironmentDefinition) -> ResolvedArchive {
        let mut sources = self.mirrors.clone();
        let mut proxy = self.proxy.clone();
        if sources.is_empty() {
            sources = self.host_sources(definition);
            // The host's mirror may be reachable through the host's proxy only.
            proxy = proxy.or_else(|| self.host_proxy());
        }
        ResolvedArchive { sources, proxy }
    }

    fn host_sources(&self, definition: &EnvironmentDefinition) -> Vec<String> {
        let architecture = definition.platform.rsplit('/').next().unwrap_or_default();
        let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
        let listing = self.output_of(Command::new("apt-get").args([
            "indextargets",
            "--format",
            format,
            "Identifier: Packages",
            "Component: main",
            "Origin: Debian",
            &format!("Architecture: {architecture}"),
        ]));
        host_sources_from(&listing, definition.suite)
    }

    fn host_proxy(&self) -> Option<String> {
        let listing = self.output_of(Command::new("apt-config").args([
            "dump",
            "--format",
            "%v%n",
            "Acquire::http::Proxy",
        ]));
        let proxy = listing.lines().next()?.trim();
        check_proxy(proxy).is_ok().then(|| proxy.to_owned())
    }

    /// What `command` prints, or nothing where the host has no such tool: a
    /// host without apt is an ordinary case.
    fn output_of(&self, command: &mut Command) -> String {
        command
            .env_clear()
            .env("PATH", &self.tool_path)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
    }
}

/// The sources and the proxy of one build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedArchive {
    /// Handed to mmdebstrap as they are; empty means its own default.
    pub sources: Vec<String>,
    pub proxy: Option<String>,
}

/// The suites of a release that belong in every environment, where the host
/// has them: the release, its updates, and its security updates.
fn host_sources_from(listing: &str, suite: &str) -> Vec<String> {
    let wanted = [suite.to_owned(), format!("{suite}-updates"), format!("{suite}-security")];
    let mut sources = Vec::new();
    for line in listing.lines() {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [uri, release, component] = fields[..] else { continue };
        if wanted.iter().any(|wanted| wanted == release) && check_mirror(uri).is_ok() {
            sources.push(format!("deb {uri} {release} {component}"));
        }
    }
    sources.sort_by_key(|source| source.split(' ').nth(2).map(str::len));
    sources.dedup();
    // Updates without the release they update are no archive to install from.
    let has_release = sources.iter().any(|source| source.contains(&format!(" {suite} ")));
    if has_release { sources } else { Vec::new() }
}

fn check_mirror(mirror: &str) -> Result<(), ArchiveSettingsError> {
    if mirror.starts_with("deb ") {
        return check_characters("mirror", mirror, |character| character == ' ');
    }
    if !is_http_url(mirror) {
        return Err(ArchiveSettingsError::MirrorNotUnderstood { mirror: mirror.to_owned() });
    }
    check_characters("mirror", mirror, |_| false)
}

fn check_proxy(proxy: &str) -> Result<(), ArchiveSettingsError> {
    if !is_http_url(proxy) {
        return Err(ArchiveSettingsError::ProxyNotUnderstood { proxy: proxy.to_owned() });
    }
    check_characters("proxy", proxy, |_| false)
}

fn is_http_url(text: &str) -> bool {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'))
}

/// Refuses what would end the line or the string that a setting is put into
/// (apt configuration, `sources.list`), and what no URL holds.
fn check_characters(
    setting: &'static str,
    value: &str,
    is_allowed_space: impl Fn(char) -> bool,
) -> Result<(), ArchiveSettingsError> {
    let is_forbidden = |character: char| {
        let is_quote = matches!(character, '"' | '\'' | '`' | '\\' | '<' | '>');
        let is_space = character.is_whitespace() && !is_allowed_space(character);
        is_quote || is_space || character.is_control() || !character.is_ascii()
    };
    match value.chars().find(|&character| is_forbidden(character)) {
        Some(character) => Err(ArchiveSettingsError::ForbiddenCharacter {
            setting,
            value: value.to_owned(),
            character,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(mirror: &str) -> Result<ArchiveSettings, ArchiveSettingsError> {
        ArchiveSettings::new(vec![mirror.to_owned()], None, OsString::new())
    }

    #[test]
    fn a_url_and_a_complete_source_are_mirrors() {
        for mirror in [
            "http://mirror.example/debian",
            "https://user:secret@mirror.example:8080/debian/",
            "deb [signed-by=/etc/key.gpg] http://mirror.example/debian bookworm main contrib",
        ] {
            settings(mirror).unwrap();
        }
    }

    #[test]
    fn what_could_break_out_of_its_line_is_refused() {
        for mirror in ["http://m.example/\ndeb http://evil", "http://m.example/\"", "http://m a"] {
            let error = settings(mirror).unwrap_err();
            assert!(
                matches!(error, ArchiveSettingsError::ForbiddenCharacter { .. }),
                "{mirror:?}: {error}"
            );
        }
    }

    #[test]
    fn a_mirror_of_another_kind_is_refused_by_name() {
        for mirror in ["", "-", "mirror.example", "file:///srv", "http://", "deb"] {
            assert_eq!(
                settings(mirror).unwrap_err(),
                ArchiveSettingsError::MirrorNotUnderstood { mirror: mirror.to_owned() }
            );
        }
    }

    #[test]
    fn a_proxy_must_be_a_url() {
        let settings =
            |proxy: &str| ArchiveSettings::new(Vec::new(), Some(proxy.to_owned()), OsString::new());
        settings("http://127.0.0.1:3128").unwrap();
        settings("DIRECT").unwrap_err();
        settings("http://p/ x").unwrap_err();
    }

    #[test]
    fn the_host_gives_the_release_its_updates_and_its_security_updates() {
        let listing = "\
http://s.example/debian-security/ bookworm-security main
http://m.example/debian/ bookworm-updates main
http://m.example/debian/ bookworm main
http://m.example/debian/ bookworm main
http://b.example/debian/ bookworm-backports main
";
        assert_eq!(
            host_sources_from(listing, "bookworm"),
            [
                "deb http://m.example/debian/ bookworm main",
                "deb http://m.example/debian/ bookworm-updates main",
                "deb http://s.example/debian-security/ bookworm-security main",
            ]
        );
    }

    #[test]
    fn a_host_of_another_release_gives_nothing() {
        let listing = "http://m.example/debian/ trixie main\nhttp://m.example/ bookworm-updates x";
        assert_eq!(host_sources_from(listing, "bookworm"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_accepted_setting_spans_lines_or_leaves_its_quotes(text in "(http://|deb )\\PC*") {
            if settings(&text).is_ok() {
                prop_assert!(!text.contains(['\n', '"', '\'', '\\']));
            }
        }

        #[test]
        fn whatever_apt_prints_is_read_without_a_panic(listing in "[ -~\n]{0,200}") {
            host_sources_from(&listing, "bookworm");
        }
    }
}
