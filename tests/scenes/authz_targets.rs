//! Whom a policy is about, and what one that cannot be honoured does.

use anyhow::{Result, ensure};
use mesh_tests::{Ask, Pod};

use crate::{
    cast::Cast,
    http_cast::{HTTP, PORT},
};

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{ name: {name}, namespace: shop }}\nspec: {{ {spec} }}\n"
    )
}

/// The status of one request; 0: no answer.
fn status(client: &Pod, server: &Pod, method: &str) -> Result<u16> {
    let answers = client.ask_http(&Ask::at(server.at(PORT), "server").method(method))?;
    Ok(answers.by_status.keys().next().copied().unwrap_or(0))
}

#[test]
fn authz_targets_of_a_service_are_the_pods_behind_it() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("authz targets")?;
    for server in [&near, &far] {
        server.http(PORT)?;
    }
    let service = world.service("shop", "web", 80, PORT, &[&far])?;
    world.change_service(&service, &[&far], &[("ports", HTTP)])?;
    let rules = "rules: [{ to: [{ operation: { methods: [GET] } }] }]";
    let targets = "targetRefs: [{ kind: Service, group: '', name: web }]";
    world.apply("target", &policy("target", &format!("{targets}, {rules}")))?;
    for (method, at_far) in [("GET", 200), ("POST", 403)] {
        let found = status(&client, &far, method)?;
        ensure!(found == at_far, "{method}: {found}");
        ensure!(status(&client, &near, method)? == 200, "it is not behind the service: {method}");
    }
    // Nobody selects anybody by a service that is not there.
    let targets = "targetRefs: [{ kind: Service, group: '', name: absent }]";
    world.apply("target", &policy("target", &format!("{targets}, {rules}")))?;
    for server in [&near, &far] {
        ensure!(status(&client, server, "POST")? == 200, "{}", server.name);
    }
    Ok(())
}

/// What it would have refused nobody else does, so that it refuses everybody whom it is about.
#[test]
fn authz_targets_of_what_cannot_be_honoured_are_closed() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("authz closed")?;
    for server in [&near, &far] {
        server.http(PORT)?;
    }
    let near_only = "selector: { matchLabels: { app: near } }";
    for (name, spec) in [
        ("custom", format!("{near_only}, action: CUSTOM, provider: {{ name: x }}, rules: [{{ }}]")),
        ("unknown", format!("{near_only}, rules: [{{ to: [{{ operation: {{ verbs: [GET] }} }}] }}]")),
        ("star", format!("{near_only}, rules: [{{ to: [{{ operation: {{ paths: ['/a*b'] }} }}] }}]")),
    ] {
        world.apply("odd", &policy(name, &spec))?;
        ensure!([0, 403].contains(&status(&client, &near, "GET")?), "{name} is open");
        ensure!(status(&client, &far, "GET")? == 200, "{name} is about another");
        let asked = near.asked(PORT)?;
        ensure!(asked.is_empty(), "{name}: the application saw {asked:?}");
    }
    // What can fit no request permits none.
    let never = format!("{near_only}, rules: [{{ to: [{{ operation: {{ paths: ['api/v1'] }} }}] }}]");
    world.apply("odd", &policy("never", &never))?;
    ensure!(status(&client, &near, "GET")? == 403);
    world.delete("odd")?;
    ensure!(status(&client, &near, "GET")? == 200);
    Ok(())
}
