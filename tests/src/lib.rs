//! The harness of the integration tests and of the demo: a [`World`] is two nodes made of network namespaces and
//! cgroups on this machine, with pods that run real programs, and, once started, a controller and two agents.
//!
//! It knows the mesh only as a user does: it writes Kubernetes manifests, runs the mesh's own programs and asks
//! meshctl. Everything it makes carries the world's id in its name and goes when the world is dropped, or, should this
//! process die, by the hand of a janitor process. It needs root.

mod agent;
mod apps;
mod browser;
mod capture;
mod cleanup;
mod cni;
mod collector;
mod config;
mod controller;
mod ctl;
mod datagrams;
pub mod forge;
mod http;
pub mod issuer;
mod kube_api;
mod manifest;
mod network;
mod node;
mod place;
mod pod;
mod process;
pub mod prometheus;
pub mod promql;
pub mod refused;
mod report;
pub mod rogue;
pub mod runtime;
pub mod simulated;
pub mod talk;
mod wait;
mod world;

pub use agent::{Agent, CAPABILITIES};
pub use apps::{Held, Nginx};
pub use browser::Browser;
pub use capture::Capture;
pub use cleanup::{leftovers, sweep};
pub use cni::{Called, Plugin};
pub use collector::{Collector, Log, Otlp, Span};
pub use config::{
    BUILT, asked, grpc_program, installed, load_connections, patience, programs_dir, requests, take_programs_from,
};
pub use controller::Controller;
pub use ctl::{Denial, Flow, Observation, expect_flow};
pub use datagrams::Exchanged;
pub use http::{Answer, Answers, Ask, Lived, piece};
pub use kube_api::{Change, HostApi, KubeApi, kube_folder};
pub use manifest::Manifests;
pub use network::{CONTROLLER, inside};
pub use node::{
    Node,
    NodeId::{self, A, B},
};
pub use place::Place;
pub use pod::{Families, Pod, Service};
pub use process::Process;
pub use report::{Dialled, End, Knocked, Seen, checksum, pattern};
pub use wait::{Patience, eventually, interrupt, interrupted};
pub use world::World;
