//! The core of pyro as tools of the Model Context Protocol.
//!
//! A [`Server`] is made of a [`Pyro`](pyro_core::Pyro), of what its operator allows ([`Pins`]) and of how much of
//! it is shown ([`Profile`]). It speaks over any pair of byte streams, or over HTTP ([`http`]), and is called directly
//! within its process ([`ToolDescription`]). Like every surface it holds no policy of its own: what a tool takes, gives
//! and refuses is the core's.

mod server;

mod direct;

mod line;

mod tool;

mod pins;

mod schema;

mod arguments;

mod call;

mod perform;

mod turns;

mod progress;

mod answer;

mod text;

pub mod http;

pub use self::direct::{ToolDescription, ToolOutcome};
pub use self::pins::Pins;
pub use self::server::{ServeError, Server};
pub use self::tool::Profile;
