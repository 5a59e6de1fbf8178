//! The engine between a client and real servers on the loopback interface.

mod destinations;
mod passing;
mod pools;
mod records;
mod routing;
mod secure;
mod strict;
mod tries;
mod world;
