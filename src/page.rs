//! The live page, `vadpipe ui`: a web server on this machine that shows what a cache holds and what runs do.
//!
//! ```text
//! cache (journals, packs, run records, events) → watch → model ─┬→ routes → JSON → page
//!                                                               └→ messages (server-sent events) → page
//! ```
//!
//! The server takes no lock of the cache, so no run waits for it: see [`crate::store::CacheReader`]. It only reads,
//! except that it writes the tags and notes of users beside the data. It follows the files that runs write anyway, so
//! it shows runs of other processes. `guard` decides who may read, in front of every route.
//!
//! The page is written in plain JavaScript modules, which are part of the program. It asks for no file of another
//! server. Everything that users write is inserted as text, never as HTML.

mod assets;
mod chain;
mod curves;
mod decimation;
mod details;
mod graph;
mod guard;
mod images;
mod importance;
mod kept;
mod live;
mod logs;
mod model;
mod notes;
mod point;
mod remote;
mod routes;
mod runs;
mod seen_runs;
mod server;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod watch;

pub use model::Pipeline;
pub use server::{Server, Settings};
pub use state::Remote;
