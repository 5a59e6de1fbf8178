//! The engine between a client and real servers on the loopback interface.

mod routing;
mod strict;
mod tries;
mod world;
