//! What users write of telemetry is what agents hold of their pods, a second later at most.

use anyhow::{Context, Result};
use mesh_tests::{NodeId, Patience, Pod, World, eventually, kube_folder, refused};
use serde_json::{Value, json};

use crate::cast::Cast;

/// As users apply it: a ServiceMonitor, which is none of the mesh's business, and settings of tracing.
const OBSERVABILITY: &str = include_str!("../../mesh-controller/src/analyze/tests/samples/003-4-observability.yaml");

fn telemetry(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{ name: t, namespace: {namespace} }}\n\
         spec: {{ {spec} }}\n"
    )
}

/// What the agent of that node was told of the pod; null: nothing, or it is another node's.
fn told(world: &World, node: NodeId, pod: &Pod) -> Result<Value> {
    let all = world.ask_agent(node, &["config", "workloads"])?;
    let own = all.into_iter().find(|workload| workload["pod"] == pod.name.as_str());
    Ok(own.context("the agent does not list the pod")?["telemetry"].take())
}

fn becomes(world: &World, pod: &Pod, expected: &Value) -> Result<()> {
    let mut last = Value::Null;
    let found = world.within_a_second(&format!("{} is seen otherwise", pod.name), || {
        last = told(world, pod.node, pod)?;
        Ok(last == *expected)
    });
    found.with_context(|| format!("it was told {last}, and should be told {expected}"))
}

/// Whether the client's agent is to read requests to the service.
fn is_seen(world: &World, node: NodeId, service: &str) -> Result<bool> {
    let all = world.ask_agent(node, &["config", "routes"])?;
    Ok(all.iter().any(|rules| {
        rules["service"].as_str().is_some_and(|name| name.contains(service)) && rules["rules"]["seen"] == true
    }))
}

fn problems(world: &World, part: &str) -> Result<Vec<String>> {
    eventually(format_args!("the controller reports {part}"), Patience::LONG, || {
        let status = world.ask_controller(&["status"])?;
        let of_controller = status.iter().find(|answer| answer["kind"] == "controller");
        let problems = of_controller.and_then(|answer| answer["problems"].as_array()).into_iter().flatten();
        let all: Vec<String> = problems.filter_map(|problem| problem.as_str().map(str::to_owned)).collect();
        Ok(all.iter().any(|problem| problem.contains(part)).then_some(all))
    })
}

#[test]
fn the_sample_as_it_stands_and_what_is_said_closer() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("telemetry")?;
    let service = world.service("shop", "far", 80, 8080, &[&far])?;
    let http = "[{ name: http, port: 80, targetPort: 8080 }]";
    world.change_service(&service, &[&far], &[("ports", http)])?;
    world.settle()?;
    assert_eq!((told(&world, far.node, &far)?, is_seen(&world, client.node, "far.shop")?), (Value::Null, false));

    world.manifests.write("observability", OBSERVABILITY)?;
    let collector = json!({ "host": "jaeger-collector.observability", "port": 4317, "protocol": "grpc" });
    let traced = json!({ "sampled": 1_000_000, "collector": collector });
    let all = json!({ "requests": "seen", "tracedServer": traced, "tracedClient": traced });
    for pod in [&client, &near, &far] {
        becomes(&world, pod, &all)?;
    }
    world.within_a_second("requests to the service are seen", || is_seen(&world, client.node, "far.shop"))?;
    // Whose agent another one is, it is not told.
    assert_eq!(told(&world, client.node, &far)?, Value::Null);
    let said = problems(&world, "openCensusAgent.address")?;
    assert!(!said.iter().any(|problem| problem.contains("ServiceMonitor")), "{said:?}");

    let selector = "selector: { matchLabels: { app: far } }";
    world
        .manifests
        .write("t", &telemetry("shop", &format!("{selector}, tracing: [{{ disableSpanReporting: true }}]")))?;
    let off = json!({ "disabled": true });
    becomes(&world, &far, &json!({ "tracedServer": off, "tracedClient": off }))?;
    becomes(&world, &near, &all)?;
    world.within_a_second("requests to the service are seen no more", || {
        Ok(!is_seen(&world, client.node, "far.shop")?)
    })?;

    world.manifests.remove("observability")?;
    let lines = "accessLogging: [{ match: { mode: SERVER }, filter: { expression: 'response.code >= 500' } }]";
    world.manifests.write("t", &telemetry("shop", &format!("{selector}, {lines}")))?;
    let logged = json!({ "on": { "only": [{ "status": { "from": 500, "to": 65535 } }] } });
    becomes(&world, &far, &json!({ "requests": "seen", "loggedServer": logged }))?;
    becomes(&world, &near, &Value::Null)?;

    world.label(&far, "nodemesh.io/l7", "off")?;
    becomes(&world, &far, &json!({ "loggedServer": logged }))?;
    world.label(&near, "nodemesh.io/access-log", "errors")?;
    let errors = json!({ "on": { "only": ["errors"] } });
    becomes(&world, &near, &json!({ "loggedServer": errors, "loggedClient": errors }))?;

    // What is not understood is as if it was not there, and is named.
    for (what, spec, field) in [
        (
            "a filter of lines that is no condition",
            "accessLogging: [{ filter: { expression: 'exec(request.path)' } }]",
            "spec.accessLogging[0].filter.expression",
        ),
        (
            "a tag that tells a secret header",
            "tracing: [{ disableSpanReporting: true, customTags: { a: { header: { name: Authorization } } } }]",
            "spec.tracing[0].customTags.a.header.name",
        ),
    ] {
        world.manifests.write("t", &telemetry("shop", &format!("{selector}, {spec}")))?;
        let said = problems(&world, field)?;
        let expected =
            if what.contains("tag") { json!({ "tracedServer": off, "tracedClient": off }) } else { Value::Null };
        becomes(&world, &far, &expected)?;
        assert!(said.iter().any(|problem| problem.contains("Telemetry shop/t")), "{said:?}");
        refused::row("X19", what, "left out", "NotHonoured", "meshctl status, condition PartiallyInvalid");
    }
    Ok(())
}

#[test]
fn on_kubernetes_it_comes_from_objects_and_their_status_says_so() -> Result<()> {
    if kube_folder()?.is_none() {
        return Ok(());
    }
    let mut world = World::on_kubernetes("telemetry on kubernetes")?;
    let cart = world.pod("shop", "cart", mesh_tests::A)?;
    world.namespace("istio-system")?;
    world.start()?;
    world.mesh("shop")?;
    let mesh = "extensionProviders: [{ name: otel, opentelemetry: { service: otel.obs, port: 4318, http: {} } }]";
    world.manifests.write(
        "mesh",
        &format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: istio, namespace: istio-system }}\n\
             data: {{ mesh: '{mesh}' }}\n"
        ),
    )?;
    let spec = "tracing: [{ match: { mode: SERVER }, providers: [{ name: otel }], randomSamplingPercentage: 5 }, { \
                match: { mode: CLIENT }, providers: [{ name: nobody }] }]";
    world.manifests.write("t", &telemetry("shop", spec))?;
    let collector = json!({ "host": "otel.obs", "port": 4318, "protocol": "http" });
    let server = json!({ "sampled": 50_000, "collector": collector });
    let client = json!({ "disabled": true });
    becomes(&world, &cart, &json!({ "requests": "seen", "tracedServer": server, "tracedClient": client }))?;
    let mut last = Value::Null;
    let conditions = eventually("its status says what holds", Patience::LONG, || {
        let path = "/apis/telemetry.istio.io/v1/namespaces/shop/telemetries/t";
        last = world.api()?.get(path)?.unwrap_or_default()["status"]["conditions"].take();
        let says = |type_: &str, part: &str| {
            last.as_array().into_iter().flatten().any(|condition| {
                condition["type"] == type_
                    && condition["status"] == "True"
                    && condition["message"].as_str().is_some_and(|message| message.contains(part))
            })
        };
        let part = "spec.tracing[1].providers[0].name: no provider `nobody` is defined";
        Ok((says("Accepted", "") && says("Programmed", "on 2 of 2 nodes") && says("PartiallyInvalid", part))
            .then_some(()))
    });
    conditions.with_context(|| format!("they are {last}"))?;
    Ok(())
}
