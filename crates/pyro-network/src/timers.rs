//! Who wants to be woken when, at most once each.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::sources::SourceId;

#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_time: BTreeSet<(Instant, SourceId)>,
    by_source: HashMap<SourceId, Instant>,
}

impl Timers {
    /// Replaces what was set for this source.
    pub(crate) fn set(&mut self, source: SourceId, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.by_source.insert(source, at),
            None => self.by_source.remove(&source),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, source));
        }
        if let Some(at) = at {
            self.by_time.insert((at, source));
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// One whose time has come, which is then no longer set.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<SourceId> {
        let &(at, source) = self.by_time.first()?;
        if at > now {
            return None;
        }
        self.set(source, None);
        Some(source)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sources::{SourceIds, SourceKind};

    #[test]
    fn each_source_is_due_once_at_its_latest_setting() {
        let (mut timers, mut ids) = (Timers::default(), SourceIds::default());
        let (first, second) = (ids.next(SourceKind::Tcp), ids.next(SourceKind::Udp));
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        timers.set(first, Some(start));
        timers.set(second, Some(start));
        timers.set(second, Some(later));
        assert_eq!(timers.take_due(start), Some(first));
        assert_eq!(timers.take_due(start), None);
        assert_eq!(timers.next(), Some(later));
        timers.set(second, None);
        assert_eq!(timers.take_due(later), None);
        assert_eq!(timers.next(), None);
    }
}
