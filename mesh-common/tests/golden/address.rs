//! Bytes of `istio.workload`.

use mesh_common::proto::workload;

use super::golden;

#[test]
fn workload_with_every_field() {
    use workload::{
        AppProtocol, ApplicationTunnel, GatewayAddress, Locality, NamespacedHostname, NetworkAddress, NetworkMode,
        Port, PortList, TunnelProtocol, WorkloadStatus, WorkloadType, application_tunnel, gateway_address::Destination,
    };
    golden(
        &[
            b"\x0a\x03c-1",                                       // 1 name
            b"\x12\x04shop",                                      // 2 namespace
            b"\x1a\x04\x0a\x00\x00\x01",                          // 3 addresses, the first: 10.0.0.1
            b"\x1a\x10\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01",      // 3 the second: fd00::1
            b"\x22\x03net",                                       // 4 network
            b"\x28\x01",                                          // 5 tunnel_protocol HBONE
            b"\x32\x02td",                                        // 6 trust_domain
            b"\x3a\x04cart",                                      // 7 service_account
            b"\x42\x0e",                                          // 8 waypoint, 14 bytes:
            b"\x0a\x09\x0a\x02ns\x12\x03w.x",                     //   1 hostname { 1 namespace, 2 hostname }
            b"\x18\x98\x75",                                      //   3 hbone_mtls_port 15000
            b"\x4a\x02n1",                                        // 9 node
            b"\x52\x01c",                                         // 10 canonical_name
            b"\x5a\x02v1",                                        // 11 canonical_revision
            b"\x60\x03",                                          // 12 workload_type JOB
            b"\x6a\x01w",                                         // 13 workload_name
            b"\x70\x01",                                          // 14 native_tunnel
            b"\x82\x01\x03a/p",                                   // 16 authorization_policies, the first
            b"\x82\x01\x03b/q",                                   // 16 the second
            b"\x88\x01\x01",                                      // 17 status UNHEALTHY
            b"\x92\x01\x02k8",                                    // 18 cluster_id
            b"\x9a\x01\x10",                                      // 19 network_gateway, 16 bytes:
            b"\x12\x0b\x0a\x01n\x12\x04\x01\x02\x03\x04\x18\x20", // 2 address { 1 network, 2 address, 3 length 32 }
            b"\x18\x90\x4e",                                      //   3 hbone_mtls_port 10000
            b"\xa2\x01\x05u/1/2",                                 // 20 uid
            b"\xaa\x01\x03h.x",                                   // 21 hostname
            b"\xb2\x01\x12",                                      // 22 services, one entry of 18 bytes:
            b"\x0a\x05s/h.x",                                     //   1 key
            b"\x12\x09",                                          //   2 value: PortList of 9 bytes:
            b"\x0a\x07\x08\x50\x10\x90\x3f\x18\x02",              //    1 ports { 1 service 80, 2 target 8080, 3 HTTP2 }
            b"\xba\x01\x05\x08\x01\x10\x90\x3f",                  // 23 application_tunnel { 1 PROXY, 2 port 8080 }
            b"\xc2\x01\x09\x0a\x01r\x12\x01z\x1a\x01s",           // 24 locality { 1 region, 2 zone, 3 subzone }
            b"\xc8\x01\x01",                                      // 25 network_mode HOST_NETWORK
            b"\xd2\x01\x08\x0a\x01e\x12\x03\x0a\x01t", // 26 extensions { 1 name, 2 config, an Any { 1 type_url } }
            b"\xda\x01\x02\x08\x07",                   // 27 capacity, a UInt32Value { 1 value 7 }
        ],
        workload::Workload {
            name: "c-1".into(),
            namespace: "shop".into(),
            addresses: vec![vec![10, 0, 0, 1], vec![0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]],
            network: "net".into(),
            tunnel_protocol: TunnelProtocol::Hbone.into(),
            trust_domain: "td".into(),
            service_account: "cart".into(),
            waypoint: Some(GatewayAddress {
                destination: Some(Destination::Hostname(NamespacedHostname {
                    namespace: "ns".into(),
                    hostname: "w.x".into(),
                })),
                hbone_mtls_port: 15000,
            }),
            node: "n1".into(),
            canonical_name: "c".into(),
            canonical_revision: "v1".into(),
            workload_type: WorkloadType::Job.into(),
            workload_name: "w".into(),
            native_tunnel: true,
            authorization_policies: vec!["a/p".into(), "b/q".into()],
            status: WorkloadStatus::Unhealthy.into(),
            cluster_id: "k8".into(),
            network_gateway: Some(GatewayAddress {
                destination: Some(Destination::Address(NetworkAddress {
                    network: "n".into(),
                    address: vec![1, 2, 3, 4],
                    length: 32,
                })),
                hbone_mtls_port: 10000,
            }),
            uid: "u/1/2".into(),
            hostname: "h.x".into(),
            services: [(
                "s/h.x".to_owned(),
                PortList {
                    ports: vec![Port { service_port: 80, target_port: 8080, app_protocol: AppProtocol::Http2.into() }],
                },
            )]
            .into(),
            application_tunnel: Some(ApplicationTunnel {
                protocol: application_tunnel::Protocol::Proxy.into(),
                port: 8080,
            }),
            locality: Some(Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() }),
            network_mode: NetworkMode::HostNetwork.into(),
            extensions: vec![workload::Extension {
                name: "e".into(),
                config: Some(prost_types::Any { type_url: "t".into(), value: vec![] }),
            }],
            capacity: Some(7),
        },
    );
}

#[test]
fn service_with_every_field() {
    use workload::{
        AppProtocol, GatewayAddress, IpFamilies, LoadBalancing, NamespacedHostname, NetworkAddress, Port,
        gateway_address::Destination,
        load_balancing::{HealthPolicy, Mode, Scope},
    };
    golden(
        &[
            b"\x0a\x04cart",                                      // 1 name
            b"\x12\x04shop",                                      // 2 namespace
            b"\x1a\x03c.x",                                       // 3 hostname
            b"\x22\x0b\x0a\x01n\x12\x04\x0a\x60\x00\x01\x18\x20", // 4 addresses { 1 network, 2 10.96.0.1, 3 length }
            b"\x2a\x06\x08\x50\x10\x50\x18\x05",                  // 5 ports { 1 service 80, 2 target 80, 3 TLS }
            b"\x32\x02s1",                                        // 6 subject_alt_names
            b"\x3a\x0b\x0a\x06\x0a\x01n\x12\x01h\x18\xbd\x75",    // 7 waypoint { 1 hostname { 1, 2 }, 3 port 15037 }
            b"\x42\x0c",                                          // 8 load_balancing, 12 bytes:
            b"\x0a\x06\x01\x02\x03\x04\x05\x06",                  //   1 routing_preference REGION … NETWORK, packed
            b"\x10\x02",                                          //   2 mode FAILOVER
            b"\x18\x01",                                          //   3 health_policy ALLOW_ALL
            b"\x48\x03",                                          // 9 ip_families DUAL
            b"\x58\x01",                                          // 11 canonical
            b"\xc0\x3e\xb0\x54",                                  // 1000 client_ip_affinity 10800, ours
        ],
        workload::Service {
            name: "cart".into(),
            namespace: "shop".into(),
            hostname: "c.x".into(),
            addresses: vec![NetworkAddress { network: "n".into(), address: vec![10, 96, 0, 1], length: 32 }],
            ports: vec![Port { service_port: 80, target_port: 80, app_protocol: AppProtocol::Tls.into() }],
            subject_alt_names: vec!["s1".into()],
            waypoint: Some(GatewayAddress {
                destination: Some(Destination::Hostname(NamespacedHostname {
                    namespace: "n".into(),
                    hostname: "h".into(),
                })),
                hbone_mtls_port: 15037,
            }),
            load_balancing: Some(LoadBalancing {
                routing_preference: [
                    Scope::Region,
                    Scope::Zone,
                    Scope::Subzone,
                    Scope::Node,
                    Scope::Cluster,
                    Scope::Network,
                ]
                .map(i32::from)
                .into(),
                mode: Mode::Failover.into(),
                health_policy: HealthPolicy::AllowAll.into(),
            }),
            ip_families: IpFamilies::Dual.into(),
            canonical: true,
            client_ip_affinity: 10_800,
        },
    );
}

#[test]
fn address_is_a_workload_or_a_service() {
    use workload::{Address, Service, Workload, address::Type};
    let workload = Workload { uid: "u".into(), ..Default::default() };
    golden(&[b"\x0a\x04\xa2\x01\x01u"], Address { r#type: Some(Type::Workload(workload)) });
    let service = Service { name: "s".into(), ..Default::default() };
    golden(&[b"\x12\x03\x0a\x01s"], Address { r#type: Some(Type::Service(service)) });
}
