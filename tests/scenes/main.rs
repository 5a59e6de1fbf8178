//! The scenes: each a small story on real nodes and pods. `cargo test -p mesh-tests --test scenes`, as root, with
//! mesh-agent, mesh-controller and meshctl built.

mod admin_socket;
mod agent_killed;
mod audit;
mod bad_object;
mod canary;
mod cast;
mod full_table;
mod half_close_reset_slow;
mod harness;
mod identities;
mod leave_and_uninstall;
mod load;
mod own_pod;
mod pod_recreated;
mod policy_allow_deny_default;
mod policy_change;
mod ready;
mod redirect_and_addresses;
mod replaced;
mod restarted;
mod server_speaks_first;
mod stays_closed;
mod strict_and_permissive;
mod tunnels_not_shared;
mod unmeshed;
mod wrong_token;
