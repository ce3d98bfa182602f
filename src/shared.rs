//! The shared store: results and states of a whole team, in a directory or in an object store such as S3.
//!
//! ```text
//! vadpipe.json                                the format of the store
//! blob/<digest>                               the bytes of a tensor or a file; the digest is their BLAKE3
//! result/<key>/<files>                        the record of a result; `key` is that without the files that a program
//!                                             read, and `files` is their digest, or `none`
//! state/<key>/<class>/<step>/<files>          the record of a state of a training
//! claim/<key>/<n>                             a worker that runs this key now
//! word/<key>/<files>/<signer>/<digest>        another machine's record of a result: it agrees or dissents
//! root/<pipeline>/<run>                       the records that a run needs
//! run/<id>                                    a pipeline with its files, for workers on any machine
//! event/<run>/<worker>/<n>                    events of a worker, for whoever watches the run
//! log/<run>/<stage>                           the log of a stage of the run
//! trash/<collection>/<name>                   what a collection removes
//! ```
//!
//! The cache of each machine stays in front. A result or a state that the cache lacks is pulled: its record, then the
//! blobs that the cache lacks. What a run makes is pushed if the user asks for it: first the blobs, then the record
//! that names them. Objects other than claims never change, but a push replaces a damaged one.
//!
//! Nothing that comes from the store is trusted. A record must be consistent with its key, signed by a trusted key if
//! the user has named any, and each blob must have its digest. Whatever is missing, truncated or altered counts as
//! missing and is reported. So nobody else's mistake ends a run or changes a byte of it.
//!
//! - `address`, `variables`: which store, and how it is opened; `cloud`: the clients of object stores.
//! - `objects`: objects by name, with many requests at a time and with retries.
//! - `blobs`: blobs up and down as streams; `transfer`: how far a transfer is.
//! - `signature`: keys and signatures.
//! - `record`: records as objects: names, signatures, checks.
//! - `handle`: the store; `pull`, `push`: what it exchanges with a cache.
//! - `words`: who agrees about a result, and who dissents.
//! - `contents`, `roots`: what it holds, and what recent runs need; `gc`, `trash`: cleaning; `doctor`: checking.
//! - `runs`: a pipeline with its files; `claims`: which worker runs which key; `events`: what workers tell.

mod address;
mod blobs;
mod claims;
#[cfg(feature = "cloud")]
mod cloud;
mod contents;
mod doctor;
mod error;
mod events;
mod gc;
mod handle;
mod objects;
mod pull;
mod push;
mod record;
mod roots;
mod runs;
mod signature;
mod transfer;
mod trash;
mod variables;
mod words;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use claims::{ClaimOwner, Claims, HEARTBEAT};
pub use contents::Counts;
pub use doctor::SharedDoctorReport;
pub use error::SharedError;
pub use events::EventsRead;
pub use gc::{SharedGcPolicy, SharedGcReport};
pub use handle::{SharedStore, Trust};
pub use objects::GRACE;
pub use pull::{Asked, WantedState};
pub use push::Pushed;
pub use runs::{SharedFile, SharedRun};
pub use signature::{PublicKey, SecretKey};
pub use transfer::Transfer;
pub use variables::Variables;
pub use words::{Voice, Voices};
