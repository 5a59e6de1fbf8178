//! What the dashboards show: the mesh, one service, one workload, the agents, the controller.

mod agent;
mod controller;
mod mesh;
mod service;
mod workload;

use super::grafana::{Dashboard, Kind, Panel, Variable};

pub const DASHBOARDS: &[Dashboard] =
    &[mesh::MESH, service::SERVICE, workload::WORKLOAD, agent::AGENT, controller::CONTROLLER];

const fn graph(
    title: &'static str,
    unit: &'static str,
    about: &'static str,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, about, kind: Kind::Graph, unit, queries }
}

const fn number(
    title: &'static str,
    unit: &'static str,
    about: &'static str,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, about, kind: Kind::Number, unit, queries }
}

const fn table(title: &'static str, about: &'static str, queries: &'static [(&'static str, &'static str)]) -> Panel {
    Panel { title, about, kind: Kind::Table, unit: "short", queries }
}

const fn variable(name: &'static str, title: &'static str, metric: &'static str, label: &'static str) -> Variable {
    Variable { name, title, metric, label }
}
