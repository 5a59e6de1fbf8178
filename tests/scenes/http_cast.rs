//! Who plays in scenes of HTTP: a client and a server on node a, a server of another version on node b, one service
//! over both.

use std::sync::Arc;

use anyhow::Result;
use mesh_tests::{A, B, Patience, Pod, Service, World, eventually};

pub const PORT: u16 = 8080;

/// The service's ports.
pub const HTTP: &str = "[{ name: tcp, appProtocol: http, port: 80, targetPort: 8080 }]";

pub struct HttpCast {
    pub world: World,
    /// On node a.
    pub client: Arc<Pod>,
    /// On node a too, labelled `version: v1`.
    pub v1: Arc<Pod>,
    /// On node b, labelled `version: v2`.
    pub v2: Arc<Pod>,
    /// Port 80 of both.
    pub service: Service,
    told: u8,
}

impl HttpCast {
    /// In the mesh.
    pub fn meshed(title: &str, service: &str, namespace: &str) -> Result<Self> {
        Self::in_world(World::new(title)?, service, namespace)
    }

    /// The same in a world that was prepared.
    pub fn in_world(mut world: World, service: &str, namespace: &str) -> Result<Self> {
        let client = world.pod(namespace, "client", A)?;
        let v1 = world.pod(namespace, "v1", A)?;
        let v2 = world.pod(namespace, "v2", B)?;
        for pod in [&v1, &v2] {
            world.label(pod, "version", &pod.name)?;
            pod.http(PORT)?;
        }
        let service = world.service(namespace, service, 80, PORT, &[&v1, &v2])?;
        world.change_service(&service, &[&v1, &v2], &[("ports", HTTP)])?;
        world.start()?;
        world.mesh(namespace)?;
        Ok(Self { world, client, v1, v2, service, told: 0 })
    }

    /// Writes rules; both agents have them when this returns.
    pub fn rules(&mut self, name: &str, yaml: &str) -> Result<()> {
        self.told += 1;
        self.world.manifests.write(name, yaml)?;
        told(&mut self.world, self.told)
    }

    /// What the client's agent says of its open connections to that pod, in lower case.
    pub fn open_to(&self, pod: &Pod) -> Result<String> {
        let name = format!("\"{}\"", pod.full_name());
        eventually(format_args!("a connection to {name} is listed"), Patience::SHORT, || {
            let all = self.world.ask_agent(self.client.node, &["config", "connections"])?;
            let lines: Vec<String> = all.iter().map(|one| one.to_string().to_lowercase()).collect();
            let outbound = |line: &&String| {
                line.contains("outbound") && (line.contains(&name) || line.contains(&format!("\"{}\"", pod.name)))
            };
            Ok(lines.iter().find(outbound).cloned())
        })
    }

    /// Both pods serve the service's port of this name on `target`.
    pub fn slices_name(&self, port: &str, target: u16) -> Result<()> {
        let name = &self.service.name;
        let endpoint = |pod: &Pod| {
            format!(
                "- addresses: ['{}']\n  conditions: {{ ready: true }}\n  nodeName: {}\n  \
                 targetRef: {{ kind: Pod, namespace: {}, name: {}, uid: {} }}\n",
                pod.ip,
                pod.node.name(),
                pod.namespace,
                pod.name,
                pod.uid
            )
        };
        self.world.manifests.write(
            &format!("endpointslice-{}-{name}", self.service.namespace),
            &format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  \
                 namespace: {}\n  labels: {{ kubernetes.io/service-name: {name} }}\naddressType: IPv4\n\
                 ports: [{{ name: {port}, protocol: TCP, port: {target} }}]\nendpoints:\n{}{}",
                self.service.namespace,
                endpoint(&self.v1),
                endpoint(&self.v2)
            ),
        )
    }
}

/// Waits until both agents have all rules written so far; another number each time.
pub fn told(world: &mut World, number: u8) -> Result<()> {
    world.settle()?;
    // Rules are told after services: when both agents have later ones, they have these.
    let mark = format!("mark-{number}");
    let ip = format!("10.96.254.{number}");
    world.manifests.write(
        "mark",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {mark}, namespace: settling }}\n\
             spec: {{ clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{ port: 1 }}] }}\n---\n\
             apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{ name: {mark}, namespace: settling }}\n\
             spec: {{ hosts: [{mark}], http: [{{ directResponse: {{ status: 418 }} }}] }}\n"
        ),
    )?;
    for node in [A, B] {
        eventually(format_args!("agent {} has {mark}", node.name()), Patience::LONG, || {
            let all = world.ask_agent(node, &["config", "routes"])?;
            Ok(all.iter().any(|rules| rules.to_string().contains(&mark)).then_some(()))
        })?;
    }
    Ok(())
}

/// A DestinationRule of the service that calls versions so.
pub fn subsets(service: &str, named: [(&str, &str); 2]) -> String {
    let [(one, v1), (other, v2)] = named;
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{ name: {service}, namespace: default }}\nspec:\n  host: {service}\n  subsets:\n  \
         - {{ name: {one}, labels: {{ version: {v1} }} }}\n  - {{ name: {other}, labels: {{ version: {v2} }} }}\n"
    )
}
