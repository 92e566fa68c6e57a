//! What was refused, collected for the outcome of each run that was on at that time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pyro_protocol::network::{Refusal, Refusals};

/// Where the refusals of one VM are noted. Clones are the same log.
#[derive(Debug, Clone, Default)]
pub struct RefusalLog(Arc<Mutex<Vec<Weak<Mutex<Refusals>>>>>);

/// Collects what is refused from its making to its end.
#[derive(Debug)]
pub struct RefusalWatch(Arc<Mutex<Refusals>>);

impl RefusalLog {
    pub fn watch(&self) -> RefusalWatch {
        let refusals = Arc::default();
        let mut watches = lock(&self.0);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(&refusals));
        RefusalWatch(refusals)
    }

    /// Notes a refusal; its `count` does not matter.
    pub(crate) fn note(&self, refusal: &Refusal) {
        for watch in lock(&self.0).iter().filter_map(Weak::upgrade) {
            collect(&mut lock(&watch), refusal);
        }
    }
}

impl RefusalWatch {
    /// What was refused so far.
    pub fn refusals(&self) -> Refusals {
        lock(&self.0).clone()
    }
}

fn collect(refusals: &mut Refusals, refusal: &Refusal) {
    let is_same = |known: &&mut Refusal| {
        let Refusal { protocol, destination, reason, author, count: _ } = refusal;
        known.protocol == *protocol
            && known.destination == *destination
            && known.reason == *reason
            && known.author == *author
    };
    if let Some(known) = refusals.list.iter_mut().find(is_same) {
        known.count = known.count.saturating_add(1);
    } else if refusals.list.len() < Refusals::LIST_MAX {
        refusals.list.push(Refusal { count: 1, ..refusal.clone() });
    } else {
        refusals.left_out = refusals.left_out.saturating_add(1);
    }
}

/// What is behind these locks is whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use pyro_protocol::network::{
        PolicyAuthor, RefusalReason, RefusedDestination, RefusedProtocol,
    };

    use super::*;

    fn refusal(name: &str) -> Refusal {
        Refusal {
            protocol: RefusedProtocol::Dns,
            destination: RefusedDestination::Name(name.to_owned()),
            reason: RefusalReason::NotAllowed,
            author: PolicyAuthor::Caller,
            count: 1,
        }
    }

    #[test]
    fn each_run_is_told_of_what_was_refused_while_it_was_on() {
        let log = RefusalLog::default();
        log.note(&refusal("before.test"));
        let first = log.watch();
        log.note(&refusal("a.test"));
        let second = log.watch();
        log.note(&refusal("a.test"));
        assert_eq!(first.refusals().list, [Refusal { count: 2, ..refusal("a.test") }]);
        assert_eq!(second.refusals().list, [refusal("a.test")]);
    }

    #[test]
    fn refusals_without_end_fill_no_memory() {
        let log = RefusalLog::default();
        let watch = log.watch();
        for index in 0..1000 {
            log.note(&refusal(&format!("{index}.test")));
            drop(log.watch());
        }
        let refusals = watch.refusals();
        assert_eq!(refusals.list.len(), Refusals::LIST_MAX);
        assert_eq!(refusals.left_out, 1000 - 32);
        assert!(lock(&log.0).len() <= 2);
    }
}
