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

#[derive(Debug, Serialize, Deserialize)]
struct Remembered<Key, Answer> {
    key: Key,
    answer: Answer,
}

impl<Key: Serialize + DeserializeOwned + PartialEq> Question<Key> {
    /// The answer, remembered or fresh; or why there is none, for people.
    pub(crate) async fn answer<Answer>(self, config: &Config) -> Result<Answer, String>
    where
        Answer: Serialize + DeserializeOwned,
    {
        match remembered::<Remembered<Key, Answer>>(&config.cache_dir.join(self.memory)) {
            Some(Remembered { key, answer }) if key == self.depends_on => Ok(answer),
            _ => self.fresh_answer(config).await,
        }
    }

    /// The same, whatever is remembered.
    pub(crate) async fn fresh_answer<Answer>(self, config: &Config) -> Result<Answer, String>
    where
        Answer: Serialize + DeserializeOwned,
    {
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
        let answer = serde_json::from_slice(&output.stdout)
            .map_err(|_| format!("the probe failed ({})", output.status))?;
        let remembered = Remembered { key: self.depends_on, answer };
        // Forgetting costs a few milliseconds next time.
        remember(&config.cache_dir.join(self.memory), &remembered).ok();
        Ok(remembered.answer)
    }
}

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
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer(&mut file, value)?;
    file.persist(memory)?;
    Ok(())
}
