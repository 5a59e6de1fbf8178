//! The agent of one node.

mod control;
mod identity;
mod state;
mod tunnel;

fn main() {}
