//! What this host can do: asked in a process of its own, because an answer may never come, and
//! remembered for as long as nothing changes that it depends on.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// A question to the host.
#[derive(Debug)]
pub(crate) struct Question<Key> {
    /// With these `pyro` prints the answer as JSON.
    pub(crate) arguments: Vec<OsString>,
    /// If none of it has changed, the answer has not either.
    pub(crate) depends_on: Key,
    /// The file in the cache directory that holds the last answer.
    pub(crate) memory: &'static str,
    pub(crate) deadline: Duration,
}

/// Whether an answer holds for as long as nothing changes that it depends on. One that came about because
/// something ran out for a moment does not.
pub(crate) trait Answer: Serialize + DeserializeOwned {
    fn is_lasting(&self) -> bool;
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered<Key, Found> {
    key: Key,
    answer: Found,
}

impl<Key: Serialize + DeserializeOwned + PartialEq> Question<Key> {
    /// The answer, remembered or fresh; or why there is none, for people.
    pub(crate) async fn answer<Found: Answer>(self, config: &Config) -> Result<Found, String> {
        match remembered::<Remembered<Key, Found>>(&config.cache_dir.join(self.memory)) {
            Some(Remembered { key, answer }) if key == self.depends_on => Ok(answer),
            _ => self.fresh_answer(config).await,
        }
    }

    /// The same, whatever is remembered.
    pub(crate) async fn fresh_answer<Found: Answer>(
        self,
        config: &Config,
    ) -> Result<Found, String> {
        let output = tokio::process::Command::new(&config.pyro)
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(self.deadline, output)
            .await
            .map_err(|_| format!("the probe hung for {} seconds", self.deadline.as_secs()))?
            .map_err(|error| {
                format!("the probe `{}` does not start: {error}", config.pyro.display())
            })?;
        let answer: Found = serde_json::from_slice(&output.stdout)
            .map_err(|_| format!("the probe failed ({})", output.status))?;
        if !answer.is_lasting() {
            return Ok(answer);
        }
        let remembered = Remembered { key: self.depends_on, answer };
        // Forgetting costs some milliseconds next time.
        remember(&config.cache_dir.join(self.memory), &remembered).ok();
        Ok(remembered.answer)
    }
}

/// What the kernel lets this process do, as far as `/proc` tells: user, groups, privileges, filters, and
/// the profile of its security module.
pub(crate) fn privileges() -> Vec<String> {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let is_privilege = |line: &&str| PRIVILEGES.iter().any(|name| line.starts_with(name));
    let mut privileges: Vec<_> = status.lines().filter(is_privilege).map(str::to_owned).collect();
    privileges.extend(fs_err::read_to_string("/proc/self/attr/current"));
    privileges
}

const PRIVILEGES: [&str; 9] = [
    "Uid:",
    "Gid:",
    "Groups:",
    "CapPrm:",
    "CapEff:",
    "CapBnd:",
    "NoNewPrivs:",
    "Seccomp:",
    "Seccomp_filters:",
];

/// Changes with every boot of the host.
pub(crate) fn boot_id() -> String {
    fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn remembered<T: DeserializeOwned>(memory: &Path) -> Option<T> {
    serde_json::from_slice(&fs_err::read(memory).ok()?).ok()
}

fn remember(memory: &Path, value: &impl Serialize) -> io::Result<()> {
    let directory = memory.parent().expect("a file in the cache directory");
    fs_err::create_dir_all(directory)?;
    // In place, because a file that is renamed afterwards stays where this process is killed before.
    // Whoever reads half of an answer asks anew.
    fs_err::write(memory, serde_json::to_vec(value)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn an_answer_takes_the_place_of_another_without_a_further_file() {
        let cache = tempfile::tempdir().unwrap();
        let memory = cache.path().join("cache/answer");
        remember(&memory, &"a long answer").unwrap();
        let before = fs_err::metadata(&memory).unwrap().ino();
        remember(&memory, &"short").unwrap();
        assert_eq!(remembered::<String>(&memory).unwrap(), "short");
        // A rename would have come by way of another name.
        assert_eq!(fs_err::metadata(&memory).unwrap().ino(), before);
        fs_err::write(&memory, "\"sho").unwrap();
        assert_eq!(remembered::<String>(&memory), None);
    }
}
