//! Every L4 condition of AuthorizationPolicy and PeerAuthentication, each with a client that it matches and one that it
//! does not, over real connections.

use std::sync::Arc;

use anyhow::Result;
use mesh_tests::{A, Patience, Pod, World};

use crate::cast::Cast;

/// The first port of the table's rules: each rule has one of its own, so that one policy holds them all.
const FIRST: u16 = 7100;

struct Stage {
    world: World,
    /// shop/client, meshed.
    client: Arc<Pod>,
    /// market/stranger, meshed.
    stranger: Arc<Pod>,
    /// legacy/plain, without an identity.
    plain: Arc<Pod>,
    near: Arc<Pod>,
    far: Arc<Pod>,
}

impl Stage {
    fn new(title: &str) -> Result<Self> {
        let Cast { mut world, client, near, far } = Cast::meshed(title)?;
        let stranger = world.pod("market", "stranger", A)?;
        let plain = world.pod("legacy", "plain", A)?;
        world.mesh("market")?;
        Ok(Self { world, client, stranger, plain, near, far })
    }

    fn serve(&self, ports: impl Iterator<Item = u16> + Clone) -> Result<()> {
        for server in [&self.near, &self.far] {
            for port in ports.clone() {
                server.serve("echo", port)?;
            }
        }
        Ok(())
    }
}

/// Did the connection pass? Anything but a clear answer fails.
fn passes(who: &Pod, server: &Pod, port: u16) -> Result<bool> {
    let said = who.say(server.at(port), "hello")?;
    assert!(said.echoed() || said.turned_away(), "{} -> {}:{port}: {said:?}", who.name, server.name);
    Ok(said.echoed())
}

fn authorization(namespace: &str, name: &str, action: &str, selector: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec: {{ {selector} action: {action}, rules: {rules} }}\n"
    )
}

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{ name: {name}, namespace: {namespace} }}\nspec: {spec}\n"
    )
}

#[test]
fn who_the_client_is() -> Result<()> {
    let mut stage = Stage::new("who the client is")?;
    let (client, stranger, plain) = (Arc::clone(&stage.client), Arc::clone(&stage.stranger), Arc::clone(&stage.plain));
    let ip = client.ip;
    let source = |text: String| format!("from: [{{ source: {{ {text} }} }}]");
    let when = |key: &str, text: String| format!("when: [{{ key: {key}, {text} }}]");
    let principal = "cluster.local/ns/shop/sa/client";
    // A condition, whom it matches, whom it does not.
    let table = [
        (source(format!("principals: [{principal}]")), &client, &stranger),
        (source("principals: ['cluster.local/ns/market/*']".into()), &stranger, &client),
        (source("principals: ['*']".into()), &client, &plain),
        (source(format!("notPrincipals: [{principal}]")), &stranger, &client),
        (source("notPrincipals: ['*']".into()), &plain, &client),
        (source("namespaces: [market]".into()), &stranger, &client),
        (source("notNamespaces: [market]".into()), &client, &stranger),
        (source("serviceAccounts: [client]".into()), &client, &stranger),
        (source("notServiceAccounts: [shop/client]".into()), &stranger, &client),
        (source(format!("ipBlocks: [{ip}]")), &client, &stranger),
        (source(format!("ipBlocks: [{}/32]", plain.ip)), &plain, &client),
        (source(format!("notIpBlocks: [{ip}/32]")), &stranger, &client),
        (when("source.ip", format!("values: [{ip}]")), &client, &plain),
        (when("source.ip", format!("notValues: [{ip}]")), &plain, &client),
        (when("source.namespace", "values: [shop]".into()), &client, &stranger),
        (when("source.namespace", "notValues: [shop]".into()), &plain, &client),
        (when("source.principal", "values: ['*/sa/client']".into()), &client, &plain),
        (when("source.principal", "notValues: ['*/sa/client']".into()), &stranger, &client),
        (when("source.serviceAccount", "values: [market/stranger]".into()), &stranger, &client),
        (when("source.serviceAccount", "notValues: [market/stranger]".into()), &client, &stranger),
        // Conditions of one source must all hold; sources are alternatives.
        (source(format!("principals: [{principal}], ipBlocks: ['{ip}']")), &client, &stranger),
        (source(format!("principals: [{principal}], notIpBlocks: ['{ip}']")) + ", when: []", &client, &client),
        (
            format!("from: [{{ source: {{ namespaces: [market] }} }}, {{ source: {{ ipBlocks: ['{ip}'] }} }}]"),
            &client,
            &plain,
        ),
    ];
    // The last but one holds for nobody.
    let nobody = table.len() - 2;
    stage.serve((FIRST..).take(table.len()))?;
    let rule = |(index, (condition, ..)): (usize, &(String, _, _))| {
        format!("{{ {condition}, to: [{{ operation: {{ ports: ['{}'] }} }}] }}", FIRST + index as u16)
    };
    let rules = format!("[{}]", table.iter().enumerate().map(rule).collect::<Vec<_>>().join(", "));
    for (action, matching) in [("DENY", false), ("ALLOW", true)] {
        stage.world.apply("table", &authorization("shop", "table", action, "", &rules))?;
        for (index, (condition, yes, no)) in table.iter().enumerate() {
            // Half of them on the node, half across.
            let server = if index % 2 == 0 { &stage.far } else { &stage.near };
            let port = FIRST + index as u16;
            if index != nobody {
                assert_eq!(passes(yes, server, port)?, matching, "{action} {condition}: {} matches", yes.name);
            }
            assert_eq!(passes(no, server, port)?, !matching, "{action} {condition}: {} does not match", no.name);
        }
    }
    Ok(())
}

#[test]
fn where_it_goes_and_for_whom_it_holds() -> Result<()> {
    let mut stage = Stage::new("where it goes")?;
    stage.serve([7000, 7070].into_iter())?;
    let far = stage.far.ip;
    // Of near:7000, near:7070, far:7000, far:7070 the client reaches …
    for (what, policies, reached) in [
        (
            "ports",
            vec![("shop", "DENY", "", "[{ to: [{ operation: { ports: ['7070'] } }] }]".into())],
            [true, false, true, false],
        ),
        (
            "notPorts",
            vec![("shop", "DENY", "", "[{ to: [{ operation: { notPorts: ['7070'] } }] }]".into())],
            [false, true, false, true],
        ),
        (
            "destination.port",
            vec![("shop", "ALLOW", "", "[{ when: [{ key: destination.port, values: ['7070'] }] }]".into())],
            [false, true, false, true],
        ),
        (
            "destination.port, notValues",
            vec![("shop", "ALLOW", "", "[{ when: [{ key: destination.port, notValues: ['7070'] }] }]".into())],
            [true, false, true, false],
        ),
        (
            "destination.ip and its opposite",
            vec![(
                "shop",
                "DENY",
                "",
                format!(
                    "[{{ when: [{{ key: destination.ip, values: [{far}] }}, {{ key: destination.port, values: ['7000'] }}] }}, \
                     {{ when: [{{ key: destination.ip, notValues: [{far}/32] }}, {{ key: destination.port, values: ['7070'] }}] }}]"
                ),
            )],
            [true, false, false, true],
        ),
        (
            "the mesh's root namespace",
            vec![("istio-system", "DENY", "", "[{ to: [{ operation: { ports: ['7000'] } }] }]".into())],
            [false, true, false, true],
        ),
        ("another namespace", vec![("market", "DENY", "", "[{}]".into())], [true; 4]),
        (
            "a selector",
            vec![("shop", "ALLOW", "selector: { matchLabels: { app: far } },", "[]".into())],
            [true, true, false, false],
        ),
        (
            "a selector in the root namespace",
            vec![("istio-system", "DENY", "selector: { matchLabels: { app: near } },", "[{}]".into())],
            [false, false, true, true],
        ),
        (
            "several: DENY first, then any ALLOW",
            vec![
                ("istio-system", "ALLOW", "", "[{ to: [{ operation: { ports: ['7000'] } }] }]".into()),
                ("shop", "ALLOW", "selector: { matchLabels: { app: far } },", "[{}]".into()),
                (
                    "shop",
                    "DENY",
                    "selector: { matchLabels: { app: near } },",
                    "[{ to: [{ operation: { ports: ['7000'] } }] }]".into(),
                ),
            ],
            [false, false, true, true],
        ),
    ] {
        let yaml: Vec<_> = policies
            .iter()
            .enumerate()
            .map(|(i, (namespace, action, selector, rules)): (usize, &(&str, &str, &str, String))| {
                authorization(namespace, &format!("p{i}"), action, selector, rules)
            })
            .collect();
        stage.world.namespace("istio-system")?;
        stage.world.apply("policies", &yaml.join("---\n"))?;
        let targets = [(&stage.near, 7000), (&stage.near, 7070), (&stage.far, 7000), (&stage.far, 7070)];
        for ((server, port), wanted) in targets.into_iter().zip(reached) {
            assert_eq!(passes(&stage.client, server, port)?, wanted, "{what}: {}:{port}", server.name);
        }
    }
    Ok(())
}

#[test]
fn whether_an_identity_is_asked_for() -> Result<()> {
    let mut stage = Stage::new("peer authentication")?;
    stage.serve([7000, 7070].into_iter())?;
    stage.world.namespace("istio-system")?;
    let strict = "{ mtls: { mode: STRICT } }";
    let far = |rest: &str| format!("{{ selector: {{ matchLabels: {{ app: far }} }}, {rest} }}");
    // A client without identity reaches, of near:7000, near:7070, far:7000, far:7070 …
    for (what, objects, reached) in [
        ("STRICT for the mesh", vec![peer("istio-system", "default", strict)], [false; 4]),
        (
            "PERMISSIVE for the namespace under a STRICT mesh",
            vec![peer("istio-system", "default", strict), peer("shop", "default", "{ mtls: { mode: PERMISSIVE } }")],
            [true; 4],
        ),
        (
            "DISABLE for a workload of a STRICT namespace",
            vec![peer("shop", "default", strict), peer("shop", "far", &far("mtls: { mode: DISABLE }"))],
            [false, false, true, true],
        ),
        (
            "UNSET for a workload inherits",
            vec![peer("shop", "default", strict), peer("shop", "far", &far("mtls: { mode: UNSET }"))],
            [false; 4],
        ),
        (
            "a STRICT port of a PERMISSIVE workload",
            vec![peer("shop", "far", &far("mtls: { mode: PERMISSIVE }, portLevelMtls: { 7070: { mode: STRICT } }"))],
            [true, true, true, false],
        ),
        (
            "a port of a STRICT workload that is disabled",
            vec![peer("shop", "far", &far("mtls: { mode: STRICT }, portLevelMtls: { 7000: { mode: DISABLE } }"))],
            [true, true, true, false],
        ),
        ("STRICT elsewhere", vec![peer("market", "default", strict)], [true; 4]),
    ] {
        stage.world.apply("peers", &objects.join("---\n"))?;
        let targets = [(&stage.near, 7000), (&stage.near, 7070), (&stage.far, 7000), (&stage.far, 7070)];
        for ((server, port), wanted) in targets.into_iter().zip(reached) {
            assert_eq!(passes(&stage.plain, server, port)?, wanted, "{what}: {}:{port}", server.name);
            assert!(passes(&stage.client, server, port)?, "{what}: an identity is never refused");
        }
    }
    Ok(())
}

#[test]
fn a_change_ends_the_live_connections_that_it_denies_and_no_other() -> Result<()> {
    let mut stage = Stage::new("live connections")?;
    stage.serve([7000].into_iter())?;
    for server in [Arc::clone(&stage.near), Arc::clone(&stage.far)] {
        let held = [&stage.client, &stage.stranger, &stage.plain].map(|who| who.hold(server.at(7000)));
        let [client, stranger, plain] = held;
        let (client, stranger, plain) = (client?, stranger?, plain?);
        // About another workload, and one that says what holds anyway.
        let other = authorization("shop", "other", "DENY", "selector: { matchLabels: { app: client } },", "[{}]");
        let same = authorization("shop", "same", "ALLOW", "", "[{}]");
        stage.world.apply("change", &[other, same].join("---\n"))?;
        for held in [&client, &stranger, &plain] {
            assert!(held.is_open()?, "{}: nobody was denied", server.name);
        }

        stage.world.manifests.write("change", &peer("shop", "default", "{ mtls: { mode: STRICT } }"))?;
        stage.world.within_a_second("STRICT ends plaintext", || Ok(!plain.is_open()?))?;
        stage.world.settle()?;
        assert!(client.is_open()? && stranger.is_open()?, "{}: the others proved who they are", server.name);

        let rules = "[{ from: [{ source: { namespaces: [shop] } }] }]";
        stage.world.manifests.write("own", &authorization("shop", "own", "ALLOW", "", rules))?;
        stage.world.within_a_second("an ALLOW for others ends it", || Ok(!stranger.is_open()?))?;
        stage.world.settle()?;
        assert!(client.is_open()?, "{}: the policy names it", server.name);
        for ended in [&plain, &stranger] {
            assert!(ended.ended(Patience::SHORT)?.received > 0, "it had worked before");
        }
        stage.world.delete("own")?;
        stage.world.delete("change")?;
    }
    Ok(())
}
