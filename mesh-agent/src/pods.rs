//! The pods of this node: who joined, who of them shall be redirected, and the steps between. Knows nothing of
//! tunnels or policies.

mod cgroup;
mod hook;
mod join;
mod netns;
mod registry;
mod table;

pub use cgroup::{enter_agent_cgroup, remove_agent_cgroup};
pub use join::{Operation, Request, request, serve_joins};
pub use netns::{Netns, remember_own_namespace};
pub use registry::{PodStatus, Redirection, Registry, Settings, Start};
pub use table::{Pod, PodTable};
