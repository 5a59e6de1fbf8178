//! The pods of this node: who joined, who of them shall be redirected, and the steps between. Knows nothing of
//! tunnels or policies.

mod audit;
mod cgroup;
mod handed;
mod hooks;
mod join;
mod listeners;
mod namespace;
mod netns;
mod older;
mod registry;
mod remembered;
mod table;

pub use cgroup::{agents_in, enter_agent_cgroup, remove_agent_cgroup};
pub use handed::{HandedActive, HandedPod, HandedPods};
pub use hooks::Start;
pub use join::{Answer, JoinError, Operation, Refusal, Request, request, serve_joins};
pub use netns::{Netns, remember_own_namespace};
pub use registry::{Command, Ended, PodStatus, Redirection, Registry, Settings};
pub use table::{Addresses, Pod, PodTable};
