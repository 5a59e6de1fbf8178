//! The ports at which a pod lets the kubelet look after it: probes and lifecycle hooks of its containers. They are the
//! only ones that the kubelet reaches without an identity where one is asked for.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Container, LifecycleHandler, PodSpec, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::status::Fault;

use super::{port, usable};

/// In ascending order. `named` are the pod's named ports. A port that is none is left out and added to `faults`: the
/// kubelet fails to probe it in any case.
pub fn probe_ports(spec: &PodSpec, named: &BTreeMap<String, u16>, faults: &mut Vec<Fault>) -> Vec<u16> {
    let containers = spec.containers.iter().enumerate().map(|(i, c)| (format!("spec.containers[{i}]"), c));
    let starting = spec.init_containers.iter().flatten().enumerate();
    let starting = starting.map(|(i, c)| (format!("spec.initContainers[{i}]"), c));
    let mut found = BTreeSet::new();
    for (place, container) in containers.chain(starting) {
        for (field, wanted) in declared(container) {
            let field = format!("{place}.{field}");
            let number = match wanted {
                IntOrString::Int(number) => port(field, number),
                IntOrString::String(name) => match (named.get(&name), name.parse()) {
                    (Some(number), _) => Ok(*number),
                    (None, Ok(number)) => port(field, number),
                    (None, Err(_)) => Err(Fault::new(field, format_args!("the pod has no port named `{name}`"))),
                },
            };
            found.extend(usable(number, faults));
        }
    }
    found.into_iter().collect()
}

/// Each port of one container that is probed or called, with the field that says so.
fn declared(container: &Container) -> Vec<(&'static str, IntOrString)> {
    let Container { liveness_probe, readiness_probe, startup_probe, lifecycle, .. } = container;
    let probes = [
        ("livenessProbe", liveness_probe.as_ref()),
        ("readinessProbe", readiness_probe.as_ref()),
        ("startupProbe", startup_probe.as_ref()),
    ];
    let hooks = [
        ("lifecycle.postStart", lifecycle.as_ref().and_then(|l| l.post_start.as_ref())),
        ("lifecycle.preStop", lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())),
    ];
    let probes = probes.into_iter().filter_map(|(field, probe)| Some((field, of_probe(probe?)?)));
    let hooks = hooks.into_iter().filter_map(|(field, hook)| Some((field, of_hook(hook?)?)));
    probes.chain(hooks).collect()
}

fn of_probe(probe: &Probe) -> Option<IntOrString> {
    let Probe { http_get, tcp_socket, grpc, .. } = probe;
    let http = http_get.as_ref().map(|get| get.port.clone());
    let tcp = tcp_socket.as_ref().map(|socket| socket.port.clone());
    http.or(tcp).or_else(|| grpc.as_ref().map(|grpc| IntOrString::Int(grpc.port)))
}

fn of_hook(hook: &LifecycleHandler) -> Option<IntOrString> {
    let LifecycleHandler { http_get, tcp_socket, .. } = hook;
    let tcp = tcp_socket.as_ref().map(|socket| socket.port.clone());
    http_get.as_ref().map(|get| get.port.clone()).or(tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(spec: &str) -> (Vec<u16>, Vec<String>) {
        let spec: PodSpec = serde_yaml_ng::from_str(spec).expect("a pod spec");
        let named = BTreeMap::from([("health".to_owned(), 8081)]);
        let mut faults = Vec::new();
        let found = probe_ports(&spec, &named, &mut faults);
        (found, faults.into_iter().map(|fault| fault.field).collect())
    }

    #[test]
    fn every_kind_of_probe_and_hook_is_read() {
        let (found, faults) = ports(
            "containers:\n\
             - name: a\n  livenessProbe: { httpGet: { port: health } }\n  readinessProbe: { tcpSocket: { port: 7000 } }\n  \
               startupProbe: { grpc: { port: 9000 } }\n  \
               lifecycle: { postStart: { httpGet: { port: 7002 } }, preStop: { tcpSocket: { port: '7003' } } }\n\
             - name: b\n  livenessProbe: { exec: { command: [true] } }\n  readinessProbe: { httpGet: { port: 7000 } }\n\
             initContainers:\n- name: c\n  startupProbe: { tcpSocket: { port: 7004 } }\n",
        );
        assert_eq!(found, [7000, 7002, 7003, 7004, 8081, 9000]);
        assert_eq!(faults, [""; 0]);
    }

    #[test]
    fn what_is_no_port_is_told_by_its_field() {
        let (found, faults) = ports(
            "containers:\n- name: a\n  livenessProbe: { httpGet: { port: nowhere } }\n  \
             readinessProbe: { tcpSocket: { port: 70000 } }\n",
        );
        assert_eq!(found, [0; 0]);
        assert_eq!(faults, ["spec.containers[0].livenessProbe", "spec.containers[0].readinessProbe"]);
    }
}
