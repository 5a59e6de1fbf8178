//! The scenes: each a small story on real nodes and pods. `cargo test -p mesh-tests --test scenes`, as root, with
//! mesh-agent, mesh-controller and meshctl built.

mod admin_socket;
mod agent_killed;
mod audit_and_dry_run;
mod bad_object;
mod bytes;
mod bytes_memory;
mod bytes_random;
mod bytes_stage;
mod canary;
mod cast;
mod closed_ports;
mod explain;
mod full_table;
mod half_close_reset_slow;
mod harness;
mod identities;
mod ipv6;
mod l4_conditions;
mod leave_and_uninstall;
mod origins;
mod own_pod;
mod pod_recreated;
mod policy_allow_deny_default;
mod policy_change;
mod redirect_and_addresses;
mod refused_certificates;
mod refused_tunnels;
mod restarted;
mod rogue;
mod server_speaks_first;
mod stays_closed;
mod strict_and_permissive;
mod tunnels_not_shared;
mod unmeshed;
mod wrong_token;
