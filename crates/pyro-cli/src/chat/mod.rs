//! A model behind an endpoint with `/chat/completions`, as Ollama and many others serve it, and the tools that it is
//! given.
//!
//! ```text
//!   conversation ── messages, tools ──► endpoint ── one request ──► connection ──► model
//!        │    ◄── text, calls ───────── reply   ◄── one answer ──────
//!        └── name, arguments ──► pyro-mcp-server, in this process
//! ```

mod connection;

mod endpoint;

mod reply;

mod tool_call;

mod conversation;

#[cfg(test)]
pub(crate) use self::conversation::Executed;
pub(crate) use self::conversation::{Conversation, Event, Tally};
pub(crate) use self::endpoint::Endpoint;
