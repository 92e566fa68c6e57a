//! What every part of a network works with.

use std::collections::{HashSet, VecDeque};

use mio::Registry;

use crate::gate::Gate;
use crate::line::Output;
use crate::sources::{SourceId, SourceIds};
use crate::stack::Stack;
use crate::timers::Timers;

/// Holds any datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) gate: Gate,
    pub(crate) stack: Stack,
    pub(crate) output: Output,
    pub(crate) registry: Registry,
    pub(crate) ids: SourceIds,
    pub(crate) timers: Timers,
    pub(crate) ready: Ready,
    /// For what is read and passed on at once.
    pub(crate) datagram: Box<[u8]>,
}

/// Who has something to do, each once, in turn.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    queue: VecDeque<SourceId>,
    queued: HashSet<SourceId>,
}

impl Means {
    pub(crate) fn new(gate: Gate, registry: Registry, seed: u64) -> Self {
        Self {
            gate,
            stack: Stack::new(seed),
            output: Output::default(),
            registry,
            ids: SourceIds::default(),
            timers: Timers::default(),
            ready: Ready::default(),
            datagram: vec![0; DATAGRAM_BYTES_MAX].into(),
        }
    }
}

impl Ready {
    pub(crate) fn add(&mut self, source: SourceId) {
        if self.queued.insert(source) {
            self.queue.push_back(source);
        }
    }

    pub(crate) fn take(&mut self) -> Option<SourceId> {
        let source = self.queue.pop_front()?;
        self.queued.remove(&source);
        Some(source)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}
