//! What is refused, by whom and why; and how certificates come and go.

mod cache;
mod chain;
mod handshake;
mod peer;
mod trust;
