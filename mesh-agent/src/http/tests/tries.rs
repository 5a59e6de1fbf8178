//! Timeouts, and requests that are tried again.
