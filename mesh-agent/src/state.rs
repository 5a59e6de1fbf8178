//! What the agent knows of the mesh: one writer, immutable snapshots. It imports the model only; it neither asks for
//! configuration (`control`) nor acts on it (`proxy`, `bpf`).

mod applicable;
mod backends;
mod index;
mod questions;
mod rules;
mod snapshot;
mod store;
#[cfg(test)]
pub mod tests;

pub use applicable::Applicable;
pub use backends::backends;
pub use index::Group;
pub use questions::Turn;
pub use rules::{Acts, Rules, View};
pub use snapshot::Snapshot;
pub use store::{Delta, Kind, Object, Reach, Store, Unreadable};
