//! A service with rules: requests are routed one by one, over mutual TLS.

use anyhow::Result;
use mesh_tests::Ask;

use crate::http_cast::HttpCast;

#[test]
fn requests_go_where_the_route_says() -> Result<()> {
    let mut cast = HttpCast::meshed("http routes", "order-service", "default")?;
    cast.rules("rules", ROUTED)?;
    let answers = cast.client.ask_http(&Ask::service(&cast.service).many(20, 2))?;
    assert_eq!((answers.status(200), answers.of("v1")), (20, 20), "{answers:?}");
    let answers = cast.client.ask_http(&Ask::service(&cast.service).header("x-canary", "true").many(20, 2))?;
    assert_eq!((answers.status(200), answers.of("v2")), (20, 20), "{answers:?}");
    // Connections stay for the next request, and are listed meanwhile.
    let far = cast.open_to(&cast.v2)?;
    assert!(far.contains("tunnel") && far.contains("mutual_tls"), "{far}");
    let near = cast.open_to(&cast.v1)?;
    assert!(near.contains("kernel_attested") || near.contains("mutual_tls"), "{near}");
    Ok(())
}

const ROUTED: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: order-service, namespace: default }
spec:
  hosts: [order-service]
  http:
  - match: [{ headers: { x-canary: { exact: 'true' } } }]
    route: [{ destination: { host: order-service, subset: v2 } }]
  - route: [{ destination: { host: order-service, subset: v1 } }]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: order-service, namespace: default }
spec:
  host: order-service
  subsets:
  - { name: v1, labels: { version: v1 } }
  - { name: v2, labels: { version: v2 } }
";
