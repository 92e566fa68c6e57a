//! An output stream of a process, read as it comes by a thread of its own.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What was read so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collector(Arc<(Mutex<Collected>, Condvar)>);

#[derive(Debug, Default)]
struct Collected {
    bytes: Vec<u8>,
    ended: bool,
}

impl Collector {
    pub(crate) fn of(mut stream: impl Read + Send + 'static) -> Self {
        let collector = Self::default();
        let writer = collector.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = stream.read(&mut buffer).unwrap_or(0);
                writer.push(&buffer[..count]);
                if count == 0 {
                    break;
                }
            }
        });
        collector
    }

    /// Waits until `text` has come. Fails if the stream ends or the time is over before.
    pub(crate) fn wait_for(&self, text: &str, deadline: Duration) {
        let comes = self.comes_within(text, deadline);
        assert!(comes, "no `{text}` in: {}", String::from_utf8_lossy(&self.so_far()));
    }

    /// Waits until `text` has come; false if the stream ends or the time is over before.
    pub(crate) fn comes_within(&self, text: &str, deadline: Duration) -> bool {
        let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        self.wait_until(deadline, |collected| collected.ended || holds(&collected.bytes));
        holds(&self.so_far())
    }

    /// Waits for the end of the stream and gives all of it.
    pub(crate) fn all(&self, deadline: Duration) -> Vec<u8> {
        let ended = self.wait_until(deadline, |collected| collected.ended);
        assert!(ended, "somebody holds the stream open");
        self.so_far()
    }

    pub(crate) fn so_far(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().bytes.clone()
    }

    fn push(&self, bytes: &[u8]) {
        let mut collected = self.0.0.lock().unwrap();
        collected.bytes.extend_from_slice(bytes);
        collected.ended = bytes.is_empty();
        self.0.1.notify_all();
    }

    /// Waits for `condition`; false if the time is over before.
    fn wait_until(&self, deadline: Duration, condition: impl Fn(&Collected) -> bool) -> bool {
        let (collected, changed) = &*self.0;
        let collected = collected.lock().unwrap();
        let waited = changed.wait_timeout_while(collected, deadline, |state| !condition(state));
        !waited.unwrap().1.timed_out()
    }
}
