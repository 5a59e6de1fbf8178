//! Whoever holds a mesh certificate and speaks HBONE itself gets what its certificate and its address may have, at the
//! pod that it dialled, and nothing else.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_tests::{B, forge::Forged, refused, rogue::Attempt};

use crate::{
    cast::{Cast, policy},
    rogue::{Attack, Stage, shown},
};

const MISMATCH: &str = "HBONE_ADDRESS_MISMATCH";

#[test]
fn a_tunnel_leads_to_the_pod_that_was_dialled_and_nowhere_else() -> Result<()> {
    let mut stage = Stage::new("refused destinations")?;
    let second = stage.cast.world.pod("shop", "second", B)?;
    stage.cast.world.wait_for(std::slice::from_ref(&second), true)?;
    second.serve("echo", 7000)?;
    let vip = stage.cast.world.service("shop", "web", 80, 7000, &[&stage.cast.far])?;
    stage.cast.world.settle()?;
    let Cast { client, near, far, .. } = &stage.cast;
    let stolen = stage.stolen(client)?;
    let ask = |authority: String| Attempt { authority, ..stage.attempt(&stolen) };
    let controls = stage.outcomes(&[ask(far.at(7000).to_string())])?;
    assert_eq!((controls[0].status, controls[0].text.as_str()), (200, "hello"), "{controls:?}");

    let elsewhere = |what: &str, authority: &str| Attack {
        id: "X2",
        what: format!("CONNECT to {what}"),
        attempt: ask(authority.to_owned()),
        code: MISMATCH,
    };
    let mut attacks = vec![
        elsewhere("loopback", "127.0.0.1:7000"),
        elsewhere("IPv6 loopback", "[::1]:7000"),
        elsewhere("the agent's redirect address", "127.64.1.1:15001"),
        elsewhere("the agent's own sources", "127.128.0.1:7000"),
        elsewhere("link-local", "169.254.1.1:80"),
        elsewhere("IPv6 link-local", "[fe80::1]:80"),
        elsewhere("the cloud's metadata service", "169.254.169.254:80"),
        elsewhere("the controller (API server)", "172.19.0.1:15012"),
        elsewhere("multicast", "224.0.0.1:7000"),
        elsewhere("broadcast", "255.255.255.255:7000"),
        elsewhere("the subnet's broadcast", "10.244.2.255:7000"),
        elsewhere("0.0.0.0", "0.0.0.0:7000"),
        elsewhere("::", "[::]:7000"),
        elsewhere("the node", "172.18.0.2:7000"),
        elsewhere("the node's bridge", "10.244.2.1:7000"),
        elsewhere("a pod of another node", &near.at(7000).to_string()),
        elsewhere("another pod of the same node", &second.at(7000).to_string()),
        elsewhere("a Service's cluster IP", &vip.addr().to_string()),
        elsewhere("a host outside the cluster", "203.0.113.10:80"),
        Attack {
            code: "HBONE_PORT",
            ..elsewhere("the tunnel's own port (a tunnel in a tunnel)", &far.at(15008).to_string())
        },
    ];
    // The outer connection enters at one address, the request names another.
    attacks.push(Attack {
        id: "X4",
        what: "the outer address is another pod, the authority is right".to_owned(),
        attempt: Attempt { to: second.at(15008), ..ask(far.at(7000).to_string()) },
        code: MISMATCH,
    });
    let extra: SocketAddr = "10.244.2.77:15008".parse()?;
    far.output(
        &mesh_tests::installed("ip")?,
        &["addr", "add", "10.244.2.77/32", "dev", "eth0"].map(str::to_owned),
        std::time::Duration::from_secs(5),
    )?;
    for (what, authority) in
        [("authority names the pod", far.at(7000)), ("so does the authority", "10.244.2.77:7000".parse()?)]
    {
        attacks.push(Attack {
            id: "X4",
            what: format!("the outer address is one that the pod gave itself, {what}"),
            attempt: Attempt { to: extra, ..ask(authority.to_string()) },
            code: MISMATCH,
        });
    }
    stage.refused(&attacks)?;
    Ok(())
}

#[test]
fn claims_of_a_tunnelled_client_change_nothing() -> Result<()> {
    let mut stage = Stage::new("lying headers")?;
    let Cast { world, client, .. } = &mut stage.cast;
    let trusted = format!(
        "[{{ from: [{{ source: {{ serviceAccounts: [shop/admin] }} }}] }}, \
          {{ from: [{{ source: {{ serviceAccounts: [shop/client], ipBlocks: [{}/32] }} }}] }}]",
        client.ip
    );
    world.apply("admin-or-client-at-home", &policy("admin-or-client-at-home", "far", "ALLOW", &trusted))?;
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: admin, namespace: shop }\n";
    world.apply("serviceaccount-shop-admin", account)?;
    let admin = "spiffe://cluster.local/ns/shop/sa/admin";
    let real = stage.forge.leaf(admin, |_| {})?;
    let controls = stage.outcomes(&[stage.attempt(&real)])?;
    assert_eq!((controls[0].status, controls[0].text.as_str()), (200, "hello"), "an admin gets in: {controls:?}");

    let (client_ip, stolen) = (stage.cast.client.ip, stage.stolen(&stage.cast.client)?);
    let lie = |name: &str, value: &str| Attack {
        id: "X5",
        what: format!("a lie in {name}: {value}"),
        attempt: Attempt { headers: vec![(name.to_owned(), value.to_owned())], ..stage.attempt(&stolen) },
        code: "POLICY_NO_ALLOW",
    };
    let attacks = [
        lie("baggage", "k8s.namespace.name=shop,k8s.pod.name=admin,service.name=admin"),
        lie("baggage", &format!("spiffe={admin}")),
        lie("forwarded", &format!("for=\"{client_ip}:4711\"")),
        lie("forwarded", &format!("for={client_ip}:4711;by={admin}")),
        lie("x-forwarded-for", &client_ip.to_string()),
        lie("x-forwarded-client-cert", &format!("URI={admin}")),
        lie("x-real-ip", &client_ip.to_string()),
        lie("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        lie("authorization", "Bearer admin"),
        lie("host", "10.244.2.10:7000"),
    ];
    let flows = stage.refused(&attacks)?;
    for flow in flows {
        // By certificate and outer address, whatever was claimed.
        assert_eq!(flow.source.identity, stage.cast.client.identity(), "{flow:?}");
        assert!(flow.source.address.starts_with(&format!("{}:", stage.rogue.ip)), "{flow:?}");
        assert_eq!(flow.policy, "shop/admin-or-client-at-home", "{flow:?}");
    }
    Ok(())
}

#[test]
fn malformed_requests_and_floods_are_recorded_and_end() -> Result<()> {
    let stage = Stage::new("malformed tunnels")?;
    let stolen = stage.stolen(&stage.cast.client)?;
    let odd = |what: &str, code, change: &dyn Fn(&mut Attempt)| {
        let mut attempt = stage.attempt(&stolen);
        change(&mut attempt);
        Attack { id: "X3", what: what.to_owned(), attempt, code }
    };
    let attacks = [
        odd("CONNECT to a name, to the real agent", "BAD_AUTHORITY", &|a| a.authority = "far.shop:7000".into()),
        odd("CONNECT to hex, to the real agent", "BAD_AUTHORITY", &|a| a.authority = "0x0af4020a:7000".into()),
        odd("GET, to the real agent", "METHOD_NOT_ALLOWED", &|a| a.method = "GET".into()),
        odd("a space in the authority, to the real agent", "BAD_REQUEST", &|a| {
            a.authority = "10.244.2.10 :7000".into()
        }),
        odd("20 KiB of headers, to the real agent", "HEADERS_TOO_LARGE", &|a| {
            a.headers = vec![("x-much".to_owned(), "x".repeat(20 * 1024))];
        }),
    ];
    stage.refused(&attacks)?;

    // 300 handshakes that fail, one after the other: recorded, and not one line of log each.
    let none = stage.attempt(&Forged::default());
    let outcomes = stage.outcomes(&vec![none; 300])?;
    assert!(outcomes.iter().all(|outcome| outcome.status == 0), "{:?}", outcomes.first());
    let agent = &stage.cast.world.agent(B)?.process;
    let lines = agent.log()?.lines().filter(|line| line.contains("NO_CLIENT_CERTIFICATE")).count();
    assert!((1..300).contains(&lines), "{lines} lines of log for 300 refused handshakes");
    let flows = stage.cast.world.flows(B)?;
    let recorded = flows.iter().filter(|flow| flow.reason == "NO_CLIENT_CERTIFICATE").count();
    assert_eq!(recorded, 300);
    let what = "300 handshakes without a certificate in a row";
    refused::row(
        "X15",
        what,
        &shown(&outcomes[0]),
        "NO_CLIENT_CERTIFICATE",
        &format!("300 flows, {lines} lines of log"),
    );
    let Cast { client, far, .. } = &stage.cast;
    assert!(client.say(far.at(7000), "as before")?.echoed());
    Ok(())
}
