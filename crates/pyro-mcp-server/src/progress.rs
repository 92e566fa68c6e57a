//! Tells a client how far its call is, where it asked to be told. Whoever works never waits for that.

use std::pin::pin;
use std::time::Duration;

use pyro_core::{Measure, Progress, Step};
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RoleServer};
use tokio::sync::watch;
use tokio::time::Instant;

/// How often a client hears of a call in which nothing happens, so that it does not give up.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// From one notification to the next at least: 10 a second at most.
const PACE: Duration = Duration::from_millis(100);

/// For a client to take a notification. One that does not is spared the rest of it.
const SEND_DEADLINE: Duration = Duration::from_secs(1);

/// What a call is doing at this moment.
#[derive(Debug)]
pub(crate) struct Narrator {
    step: watch::Sender<String>,
}

/// Who asked to be told.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) peer: Peer<RoleServer>,
    pub(crate) token: ProgressToken,
}

impl Narrator {
    pub(crate) fn new() -> Self {
        Self { step: watch::Sender::new(String::new()) }
    }

    pub(crate) fn say(&self, step: impl Into<String>) {
        let step = step.into();
        self.step.send_if_modified(|known| {
            let is_new = *known != step;
            *known = step;
            is_new
        });
    }

    /// Says what the core reports.
    pub(crate) fn report(&self, progress: Progress) {
        match progress {
            Progress::Pull(step) => self.say(words(&Step::of_pull(&step))),
            Progress::Launch(phase) => self.say(words(&Step::of_launch(phase))),
            Progress::SpareFailed { .. } => {
                self.say("a spare failed when it was claimed: making another VM");
            }
            Progress::VmReady { .. } => self.say("the VM is ready"),
            Progress::HostCompat { .. } => {
                self.say("no VM can be had: running the command on the host itself");
            }
        }
    }

    /// Drives `work` to its end, and has `hear` hear of its steps meanwhile.
    pub(crate) async fn follow<T>(
        &self,
        hear: &(dyn Fn(&str) + Send + Sync),
        work: impl Future<Output = T>,
    ) -> T {
        let mut steps = self.step.subscribe();
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return outcome,
                changed = steps.changed() => changed.expect("the sender is `self`"),
            }
            let text = steps.borrow_and_update().clone();
            hear(&text);
        }
    }

    /// Drives `work` to its end, and tells `listener` of its steps meanwhile; of none after its end.
    pub(crate) async fn accompany<T>(
        &self,
        listener: Option<&Listener>,
        work: impl Future<Output = T>,
    ) -> T {
        let Some(listener) = listener else {
            return work.await;
        };
        let mut steps = self.step.subscribe();
        let mut work = pin!(work);
        let begin = Instant::now();
        loop {
            let news = async {
                // An error would mean that `self` is gone.
                tokio::time::timeout(HEARTBEAT, steps.changed()).await.ok();
            };
            tokio::select! {
                biased;
                outcome = &mut work => return outcome,
                () = news => {}
            }
            let text = steps.borrow_and_update().clone();
            let mut told = pin!(listener.tell(begin.elapsed(), text));
            tokio::select! {
                biased;
                outcome = &mut work => {
                    // What is on its way must not arrive behind the answer.
                    told.await;
                    return outcome;
                }
                () = &mut told => {}
            }
            tokio::select! {
                biased;
                outcome = &mut work => return outcome,
                () = tokio::time::sleep(PACE) => {}
            }
        }
    }
}

impl Listener {
    /// The seconds since the call began always grow, whatever the steps are.
    async fn tell(&self, since_begin: Duration, step: String) {
        let mut told =
            ProgressNotificationParam::new(self.token.clone(), since_begin.as_secs_f64());
        if !step.is_empty() {
            told = told.with_message(step);
        }
        let sent = self.peer.notify_progress(told);
        // Whoever has gone, or does not listen, has the call end in another way.
        tokio::time::timeout(SEND_DEADLINE, sent).await.ok();
    }
}

fn words(step: &Step) -> String {
    let text = &step.text;
    match &step.measure {
        Measure::Unknown => text.clone(),
        Measure::Bytes { done, total } => format!("{text} ({} of {})", mib(*done), mib(*total)),
        Measure::Count { done, total, detail } => format!("{text} ({done} of {total}, {detail})"),
        Measure::Growing { bytes } => format!("{text} ({})", mib(*bytes)),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_say_how_far_they_are() {
        let step = |measure| Step { text: "downloading".to_owned(), measure };
        let bytes = Measure::Bytes { done: 3 << 20, total: 40 << 20 };
        assert_eq!(words(&step(bytes)), "downloading (3 MiB of 40 MiB)");
        assert_eq!(words(&step(Measure::Unknown)), "downloading");
    }

    #[tokio::test]
    async fn who_follows_hears_of_the_steps() {
        let narrator = Narrator::new();
        let heard = std::sync::Mutex::new(Vec::new());
        let work = async {
            for step in ["one", "two"] {
                narrator.say(step);
                tokio::task::yield_now().await;
            }
            3
        };
        let hear = |step: &str| heard.lock().unwrap().push(step.to_owned());
        assert_eq!(narrator.follow(&hear, work).await, 3);
        assert_eq!(*heard.lock().unwrap(), ["one", "two"]);
    }

    #[tokio::test]
    async fn without_a_listener_the_work_is_all_there_is() {
        assert_eq!(Narrator::new().accompany(None, async { 3 }).await, 3);
    }
}
