//! A command as a caller gives it: its text, its environment variables, its working directory. Each is checked
//! once, when it enters.

use std::collections::BTreeMap;

use pyro_protocol::run::{COMMAND_BYTES_MAX, ENVIRONMENT_BYTES_MAX, WORKING_DIRECTORY_BYTES_MAX};

use crate::PyroError;
use crate::limits::invalid;

/// A shell command: not empty, without NUL, at most 128 KiB - 1 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandText(String);

/// Environment variables of a command, beside those that the guest has by itself: names without `=`, no NUL,
/// at most 128 KiB together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, String>);

/// Where a command starts: an absolute path without NUL, at most 4096 bytes. Root's home where none is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkingDirectory(String);

/// A file of the guest: an absolute path without NUL that does not end with `/`, at most 4095 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPath(String);

impl GuestPath {
    pub fn new(path: impl Into<String>) -> Result<Self, PyroError> {
        let path = path.into();
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(invalid(format!(
                "path must be absolute, without a NUL byte and without `/` at its end, not {path:?}"
            ))
            .hint("for instance `/root/file`"));
        }
        if path.len() > WorkingDirectory::BYTES_MAX {
            let max = WorkingDirectory::BYTES_MAX;
            let length = path.len();
            return Err(invalid(format!("path must be at most {max} bytes long, not {length}")));
        }
        Ok(Self(path))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl CommandText {
    pub const BYTES_MAX: usize = COMMAND_BYTES_MAX;

    pub fn new(text: impl Into<String>) -> Result<Self, PyroError> {
        let text = text.into();
        if text.trim().is_empty() {
            return Err(invalid("command must not be empty"));
        }
        if text.contains('\0') {
            return Err(invalid("command must not contain a NUL byte"));
        }
        if text.len() > COMMAND_BYTES_MAX {
            return Err(invalid(format!(
                "command must be at most {COMMAND_BYTES_MAX} bytes long, not {}",
                text.len()
            ))
            .hint("pass long scripts on standard input: `sh -s < script`"));
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

impl Variables {
    pub const BYTES_MAX: usize = ENVIRONMENT_BYTES_MAX;

    pub fn new(entries: BTreeMap<String, String>) -> Result<Self, PyroError> {
        for (name, value) in &entries {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(invalid(format!(
                    "the name of an environment variable must not be empty, nor contain `=` or NUL, like {name:?}"
                )));
            }
            if value.contains('\0') {
                return Err(invalid(format!(
                    "the environment variable `{name}` must not contain a NUL byte"
                )));
            }
        }
        // As the kernel counts them: `name=value` and a NUL byte.
        let bytes: usize = entries.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        if bytes > Self::BYTES_MAX {
            let max = Self::BYTES_MAX;
            return Err(invalid(format!(
                "environment variables must be at most {max} bytes together, not {bytes}"
            ))
            .hint("pass long values on standard input, or in a file"));
        }
        Ok(Self(entries))
    }

    pub(crate) fn into_entries(self) -> impl Iterator<Item = (String, String)> {
        self.0.into_iter()
    }
}

impl WorkingDirectory {
    /// With the NUL byte behind it, what the kernel allows for a path.
    pub const BYTES_MAX: usize = WORKING_DIRECTORY_BYTES_MAX - 1;

    pub fn new(path: impl Into<String>) -> Result<Self, PyroError> {
        let path = path.into();
        if !path.starts_with('/') || path.contains('\0') {
            return Err(invalid(format!(
                "cwd must be an absolute path without a NUL byte, not {path:?}"
            ))
            .hint("for instance `/root` or `/tmp`"));
        }
        if path.len() > Self::BYTES_MAX {
            let max = Self::BYTES_MAX;
            return Err(invalid(format!(
                "cwd must be at most {max} bytes long, not {}",
                path.len()
            )));
        }
        Ok(Self(path))
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str, value: String) -> Result<Variables, PyroError> {
        Variables::new([(name.to_owned(), value)].into())
    }

    #[test]
    fn a_command_that_is_empty_too_long_or_holds_nul_is_refused() {
        assert!(CommandText::new(" \n").is_err());
        assert!(CommandText::new("a\0b").is_err());
        assert!(CommandText::new("x".repeat(COMMAND_BYTES_MAX)).is_ok());
        assert!(CommandText::new("x".repeat(COMMAND_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn variables_have_names_and_limits() {
        assert!(variables("A", String::new()).is_ok());
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            assert!(variables(name, value.to_owned()).is_err(), "{name:?}={value:?}");
        }
        assert!(variables("A", "x".repeat(Variables::BYTES_MAX - 3)).is_ok());
        let error = variables("A", "x".repeat(Variables::BYTES_MAX - 2)).unwrap_err();
        let text = "environment variables must be at most 131072 bytes together, not 131073";
        assert_eq!(error.message, text);
    }

    #[test]
    fn a_file_of_the_guest_has_an_absolute_path() {
        assert!(GuestPath::new("/a b/'c'").is_ok());
        for wrong in ["", "a", "/", "/a/", "/a\0b", &format!("/{}", "x".repeat(4095))] {
            assert!(GuestPath::new(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_working_directory_is_an_absolute_path() {
        assert!(WorkingDirectory::new("/").is_ok());
        assert!(WorkingDirectory::new(format!("/{}", "x".repeat(4094))).is_ok());
        for wrong in ["", "relative", "/a\0b", &format!("/{}", "x".repeat(4095))] {
            assert!(WorkingDirectory::new(wrong).is_err(), "{wrong:?}");
        }
    }
}
