//! Empty on purpose: it lets mesh-agent's build script depend on this package's sources.
#![no_std]
