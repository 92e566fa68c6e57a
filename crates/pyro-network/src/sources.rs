//! What the loop waits for, by numbers that are used once: an event that comes late finds nobody.

use mio::{Interest, Registry, Token, event::Source};

/// What a number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SourceKind {
    /// The line, and the end.
    Line,
    Listener,
    Tcp,
    Udp,
    Lookup,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceId(usize);

#[derive(Debug, Default)]
pub(crate) struct SourceIds {
    next: usize,
}

const KINDS: [SourceKind; 5] =
    [SourceKind::Line, SourceKind::Listener, SourceKind::Tcp, SourceKind::Udp, SourceKind::Lookup];

impl SourceIds {
    pub(crate) fn next(&mut self, kind: SourceKind) -> SourceId {
        let id = self.next * KINDS.len() + kind as usize;
        self.next += 1;
        SourceId(id)
    }
}

impl SourceId {
    pub(crate) fn of(token: Token) -> Self {
        Self(token.0)
    }

    pub(crate) fn kind(self) -> SourceKind {
        KINDS[self.0 % KINDS.len()]
    }

    pub(crate) fn token(self) -> Token {
        Token(self.0)
    }

    pub(crate) fn register(
        self,
        source: &mut impl Source,
        registry: &Registry,
    ) -> std::io::Result<()> {
        registry.register(source, self.token(), Interest::READABLE | Interest::WRITABLE)
    }
}
