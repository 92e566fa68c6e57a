//! The clients of the MCP server: where each keeps its configuration, and how a server is written there.

mod entry;
mod file;
mod line_ends;
mod merge;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use pyro_core::{ErrorKind, PyroError, UserDirectories};

pub(crate) use self::entry::Entry;
use self::entry::{Field, Value};
pub(crate) use self::file::{InstallError, Installed};
pub(crate) use self::merge::Change;

/// What the server is called in clients' configurations.
const NAME: &str = "pyro";

/// The environment variable with the bearer token of a server over HTTP.
const TOKEN_VARIABLE: &str = "PYRO_MCP_TOKEN";

/// A program that uses MCP servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Client {
    ClaudeCode,
    ClaudeDesktop,
    Codex,
    Cursor,
    Opencode,
    Vscode,
    Gemini,
}

/// The server that a client is to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Server {
    /// The client starts it.
    Stdio { command: String, arguments: Vec<String> },
    /// It runs already.
    Http { url: String },
}

/// How a configuration file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// With comments, where the client allows them.
    Json,
    Toml,
}

impl Client {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Claude Code",
            Self::ClaudeDesktop => "Claude Desktop",
            Self::Codex => "Codex",
            Self::Cursor => "Cursor",
            Self::Opencode => "opencode",
            Self::Vscode => "VS Code",
            Self::Gemini => "Gemini CLI",
        }
    }

    /// The user's configuration file.
    pub(crate) fn file(self, user: &UserDirectories) -> PathBuf {
        match self {
            Self::ClaudeCode => user.claude_code.join(".claude.json"),
            Self::ClaudeDesktop => user.config.join("Claude/claude_desktop_config.json"),
            Self::Codex => user.codex.join("config.toml"),
            Self::Cursor => user.home.join(".cursor/mcp.json"),
            Self::Opencode => {
                let directory = user.config.join("opencode");
                let commented = directory.join("opencode.jsonc");
                // A link that leads nowhere is one as well, and refused later.
                let is_there = commented.exists() || commented.is_symlink();
                if is_there { commented } else { directory.join("opencode.json") }
            }
            Self::Vscode => user.config.join("Code/User/mcp.json"),
            Self::Gemini => user.home.join(".gemini/settings.json"),
        }
    }

    /// Where in the file the server stands, for people.
    pub(crate) fn place(self) -> String {
        format!("{}.{NAME}", self.key())
    }

    /// What belongs into the file.
    pub(crate) fn snippet(self, entry: &Entry) -> String {
        merge::merge(self.format(), "", self.key(), NAME, entry)
            .expect("an empty file takes everything")
            .text
    }

    /// Writes it there.
    pub(crate) fn install(self, file: &Path, entry: &Entry) -> Result<Installed, InstallError> {
        file::install(file, |text| merge::merge(self.format(), text, self.key(), NAME, entry))
    }

    /// The server as this client wants it.
    pub(crate) fn entry(self, server: &Server) -> Result<Entry, PyroError> {
        let fields = match server {
            Server::Stdio { command, arguments } => self.stdio(command, arguments),
            Server::Http { url } => self.http(url)?,
        };
        Ok(Entry::new(fields))
    }

    fn stdio(self, command: &str, arguments: &[String]) -> Vec<Field> {
        let started = || {
            vec![
                Field::new("command", Value::Text(command.to_owned())),
                Field::new("args", Value::Texts(arguments.to_vec())),
            ]
        };
        match self {
            Self::ClaudeCode | Self::Vscode => {
                let mut fields = vec![Field::text("type", "stdio")];
                fields.extend(started());
                fields
            }
            Self::ClaudeDesktop | Self::Codex | Self::Cursor | Self::Gemini => started(),
            Self::Opencode => {
                let words = [command.to_owned()].into_iter().chain(arguments.iter().cloned());
                vec![
                    Field::text("type", "local"),
                    Field::new("command", Value::Texts(words.collect())),
                    Field::new("enabled", Value::Flag(true)),
                ]
            }
        }
    }

    /// The token stays in the environment; each client has its own way to say so.
    fn http(self, url: &str) -> Result<Vec<Field>, PyroError> {
        let headers = |token: String| {
            let authorization = ("Authorization".to_owned(), format!("Bearer {token}"));
            Field::new("headers", Value::Map(vec![authorization]))
        };
        let url_field = || Field::text("url", url);
        Ok(match self {
            Self::ClaudeCode => {
                let token = headers(format!("${{{TOKEN_VARIABLE}}}"));
                vec![Field::text("type", "http"), url_field(), token]
            }
            Self::ClaudeDesktop => {
                let message = "Claude Desktop's configuration file knows no servers over HTTP";
                return Err(PyroError::new(ErrorKind::InvalidInput, message)
                    .hint("leave out `--url`: Claude Desktop then starts the server itself"));
            }
            Self::Codex => vec![url_field(), Field::text("bearer_token_env_var", TOKEN_VARIABLE)],
            Self::Cursor => vec![url_field(), headers(format!("${{env:{TOKEN_VARIABLE}}}"))],
            Self::Opencode => vec![
                Field::text("type", "remote"),
                url_field(),
                headers(format!("{{env:{TOKEN_VARIABLE}}}")),
                Field::new("enabled", Value::Flag(true)),
            ],
            Self::Vscode => {
                let token = headers(format!("${{env:{TOKEN_VARIABLE}}}"));
                vec![Field::text("type", "http"), url_field(), token]
            }
            Self::Gemini => {
                vec![Field::text("httpUrl", url), headers(format!("${TOKEN_VARIABLE}"))]
            }
        })
    }

    /// Under which key the file lists servers.
    fn key(self) -> &'static str {
        match self {
            Self::ClaudeCode | Self::ClaudeDesktop | Self::Cursor | Self::Gemini => "mcpServers",
            Self::Codex => "mcp_servers",
            Self::Opencode => "mcp",
            Self::Vscode => "servers",
        }
    }

    fn format(self) -> Format {
        match self {
            Self::Codex => Format::Toml,
            Self::ClaudeCode
            | Self::ClaudeDesktop
            | Self::Cursor
            | Self::Opencode
            | Self::Vscode
            | Self::Gemini => Format::Json,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_lies_where_its_client_looks() {
        let home = tempfile::tempdir().unwrap();
        let user = UserDirectories {
            home: "/home/ada".into(),
            config: home.path().to_owned(),
            claude_code: "/claude".into(),
            codex: "/codex".into(),
        };
        assert_eq!(Client::ClaudeCode.file(&user), Path::new("/claude/.claude.json"));
        assert_eq!(Client::Codex.file(&user), Path::new("/codex/config.toml"));
        assert_eq!(Client::Gemini.file(&user), Path::new("/home/ada/.gemini/settings.json"));
        let directory = home.path().join("opencode");
        assert_eq!(Client::Opencode.file(&user), directory.join("opencode.json"));
        fs_err::create_dir(&directory).unwrap();
        let commented = directory.join("opencode.jsonc");
        fs_err::os::unix::fs::symlink("nowhere", &commented).unwrap();
        assert_eq!(Client::Opencode.file(&user), commented);
    }

    fn snippet(client: Client, server: &Server) -> String {
        client.snippet(&client.entry(server).unwrap())
    }

    fn stdio() -> Server {
        let arguments = ["mcp", "serve"].map(str::to_owned).into();
        Server::Stdio { command: "/usr/bin/pyro".to_owned(), arguments }
    }

    #[test]
    fn each_client_gets_what_it_understands() {
        let cursor = "{\n  \"mcpServers\": {\n    \"pyro\": {\n      \"command\": \"/usr/bin/pyro\",\n      \
                      \"args\": [\"mcp\", \"serve\"]\n    }\n  }\n}\n";
        assert_eq!(snippet(Client::Cursor, &stdio()), cursor);
        let codex =
            "[mcp_servers.pyro]\ncommand = \"/usr/bin/pyro\"\nargs = [\"mcp\", \"serve\"]\n";
        assert_eq!(snippet(Client::Codex, &stdio()), codex);
        let opencode = snippet(Client::Opencode, &stdio());
        assert!(opencode.contains("\"command\": [\"/usr/bin/pyro\", \"mcp\", \"serve\"]"));
        assert!(snippet(Client::Vscode, &stdio()).starts_with("{\n  \"servers\": {"));
    }

    #[test]
    fn no_configuration_holds_a_token() {
        let server = Server::Http { url: "http://127.0.0.1:8765/mcp".to_owned() };
        for client in Client::value_variants() {
            match client.entry(&server) {
                Ok(entry) => {
                    let text = client.snippet(&entry);
                    assert!(text.contains("http://127.0.0.1:8765/mcp"), "{text}");
                    assert!(text.contains(TOKEN_VARIABLE), "{text}");
                }
                Err(error) => assert!(error.message.contains("Claude Desktop"), "{error}"),
            }
        }
    }
}
