//! Callers whose token proves nothing, or not now.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use mesh_common::proto::{
    auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    discovery::{DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, transport::Channel};

use super::{
    identity, stage,
    stage::{Ask, CART, CHECK, OWN, Stage, bearer, csr, named},
};

/// The same token with other words in header or payload, and its old signature.
fn bent(token: &str, part: usize, change: impl FnOnce(&mut Value)) -> String {
    let mut parts: Vec<String> = token.split('.').map(ToOwned::to_owned).collect();
    let mut value = serde_json::from_slice(&BASE64.decode(&parts[part]).expect("base64")).expect("JSON");
    change(&mut value);
    parts[part] = BASE64.encode(value.to_string());
    parts.join(".")
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a payload");
    serde_json::from_slice(&BASE64.decode(payload).expect("base64")).expect("JSON")
}

fn ask(token: &str) -> Ask {
    Ask { authorization: bearer(token), identity: named(CART), csr: csr() }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_prove_nothing() -> Result<()> {
    let Some(stage) = stage(&[]).await? else { return Ok(()) };
    // Over when it is its turn.
    let short = stage.token((OWN, "mesh-agent"), Some("mesh-agent-a"), &["nodemesh"], 1).await?;
    let over = tokio::time::Instant::now() + Duration::from_secs(3);
    let good = stage.agent("a").await?;
    stage.ask(ask(&good)).await.context("the good one")?;

    let refused = async |what: &str, token: &str, code: &str| stage.refused("X17", what, ask(token), code).await;
    for (what, authorization) in [
        ("no token", None),
        ("a password instead of a token", Some("Basic bWVzaDptZXNo".to_owned())),
        ("the token without the word Bearer", Some(good.clone())),
    ] {
        let ask = Ask { authorization, identity: named(CART), csr: csr() };
        stage.refused("X17", what, ask, "TOKEN_MISSING").await?;
    }
    for (what, token) in [
        ("an empty token", ""),
        ("the API's own administrator", "t"),
        ("a join token", "nm1.a.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        ("a token of three words", "a.b.c"),
        ("a token of 10 KB", &"a".repeat(10 << 10)),
    ] {
        refused(what, token, "TOKEN_MALFORMED").await?;
    }

    // Forged signatures.
    let none = bent(&good, 0, |header| header["alg"] = json!("none"));
    refused("alg: none, with a signature", &none, "TOKEN_ALGORITHM").await?;
    let unsigned = format!("{}.", none.rsplit_once('.').context("parts")?.0);
    refused("alg: none, without a signature", &unsigned, "TOKEN_ALGORITHM").await?;
    let symmetric = bent(&good, 0, |header| header["alg"] = json!("HS256"));
    refused("HS256 with what everybody knows as the secret", &symmetric, "TOKEN_ALGORITHM").await?;
    let other = bent(&good, 0, |header| header["alg"] = json!("RS256"));
    refused("RS256 over a signature of ES256", &other, "TOKEN_REJECTED").await?;
    let key = bent(&good, 0, |header| header["jwk"] = json!({"kty": "EC"}));
    refused("a key of its own in the header", &key, "TOKEN_REJECTED").await?;
    let node = bent(&good, 1, |claims| claims["kubernetes.io"]["node"]["name"] = json!("b"));
    refused("the node in the token changed", &node, "TOKEN_REJECTED").await?;
    let longer = bent(&good, 1, |claims| claims["exp"] = json!(claims["exp"].as_u64().map(|exp| exp + 86_400)));
    refused("the expiry in the token changed", &longer, "TOKEN_REJECTED").await?;
    let b = stage.agent("b").await?;
    let (signed, _) = good.rsplit_once('.').context("parts")?;
    let (_, signature) = b.rsplit_once('.').context("parts")?;
    refused("the signature of another token", &format!("{signed}.{signature}"), "TOKEN_REJECTED").await?;
    let past = bent(&good, 1, |claims| claims["exp"] = json!(1_000_000_000));
    refused("a token that says it is over for years", &past, "TOKEN_EXPIRED").await?;

    // Real ones, made for something else.
    let agents = (OWN, "mesh-agent");
    let pod = Some("mesh-agent-a");
    for (what, of, pod, audience, code) in [
        ("a token for another audience", agents, pod, &["istio-ca"][..], "TOKEN_AUDIENCE"),
        ("a token for the API itself", agents, pod, &[], "TOKEN_AUDIENCE"),
        ("a token of another account of the mesh", (OWN, "other"), Some("other-a"), &["nodemesh"], "TOKEN_ACCOUNT"),
        ("an account of that name elsewhere", ("shop", "mesh-agent"), pod, &["nodemesh"], "TOKEN_ACCOUNT"),
        ("a token that is bound to no pod", agents, None, &["nodemesh"], "TOKEN_UNBOUND"),
        ("a token of a pod on no node", agents, Some("mesh-agent-nowhere"), &["nodemesh"], "TOKEN_NODE"),
    ] {
        let token = stage.token(of, pod, audience, 3600).await?;
        refused(what, &token, code).await?;
    }
    tokio::time::sleep_until(over).await;
    refused("a token that has just expired", &short, "TOKEN_REJECTED").await?;

    // Another node's agent is what it is, and has nothing of this one.
    ensure!(claims(&b)["kubernetes.io"]["node"]["name"] == "b", "{}", claims(&b));
    refused("another node's token", &b, "IDENTITY_NOT_HERE").await?;
    let web = Ask { authorization: bearer(&b), identity: named(&identity("shop", "web")), csr: csr() };
    stage.ask(web).await.context("its own")?;

    // Pods that are gone.
    stage.pod(OWN, "mesh-agent-c", "a", "mesh-agent").await?;
    let gone = stage.token(agents, Some("mesh-agent-c"), &["nodemesh"], 3600).await?;
    stage.delete_pod("mesh-agent-c").await?;
    refused("the token of a pod that was deleted", &gone, "TOKEN_REJECTED").await?;
    stage.pod(OWN, "mesh-agent-c", "a", "mesh-agent").await?;
    let again = bent(&gone, 1, |claims| claims["jti"] = json!("x"));
    refused("that token, changed", &again, "TOKEN_REJECTED").await?;
    // Longer than the controller's answer of before holds.
    tokio::time::sleep(2 * CHECK).await;
    refused("that token, when a pod of the same name is there", &gone, "TOKEN_REJECTED").await
}

/// An open discovery stream of the agent.
pub async fn subscribe(
    stage: &Stage,
    token: &str,
) -> Result<(
    mpsc::Sender<DeltaDiscoveryRequest>,
    tonic::Streaming<mesh_common::proto::discovery::DeltaDiscoveryResponse>,
)> {
    let (requests, stream) = mpsc::channel(8);
    let type_url = mesh_common::proto::type_url::TRUST_BUNDLE.to_owned();
    requests.send(DeltaDiscoveryRequest { type_url, ..Default::default() }).await?;
    let mut request = Request::new(ReceiverStream::new(stream));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let mut client = AggregatedDiscoveryServiceClient::new(stage.channel().await?);
    let mut responses = client.delta_aggregated_resources(request).await?.into_inner();
    let first = responses.message().await?.context("an answer")?;
    ensure!(first.resources.len() == 1, "no roots: {first:?}");
    Ok((requests, responses))
}

/// A call with this token over an open channel, which is refused.
async fn refused(channel: &Channel, token: &str) -> Result<Status> {
    let mut request = Request::new(IstioCertificateRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let answer = IstioCertificateServiceClient::new(channel.clone()).create_certificate(request).await;
    Ok(answer.expect_err("refused"))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_answers_nothing_nobody_new_is_let_in() -> Result<()> {
    let Some(stage) = stage(&[]).await? else { return Ok(()) };
    let (a, other) = (stage.agent("a").await?, stage.agent("a").await?);
    let expiring = stage.token((OWN, "mesh-agent"), Some("mesh-agent-b"), &["nodemesh"], 4).await?;
    let (_requests, mut live) = subscribe(&stage, &a).await?;
    let (_more, mut of_b) = subscribe(&stage, &expiring).await?;
    // Its channel before the API is gone: the roots come from there.
    let before = stage.log_length()?;
    let channel = stage.channel().await?;
    stage.api.hold_still(true)?;
    // Longer than the check of live streams, and than one token's life.
    let silent = tokio::time::timeout(5 * CHECK, async {
        tokio::select! { end = live.message() => end, end = of_b.message() => end }
    });
    let (slow, silent) = tokio::join!(refused(&channel, &other), silent);
    let slow = slow?;
    ensure!(slow.code() == Code::Unavailable, "{slow}");
    stage.told("X17", "a good token, while the API answers nothing", &slow, "TOKEN_UNCHECKED", before).await?;
    ensure!(silent.is_err(), "a live stream ended with the API away");
    stage.api.hold_still(false)?;

    // Back again, with a token that has expired and a pod that is there: it stays. A pod that is gone: it ends.
    stage.ask(ask(&other)).await.context("good again")?;
    stage.delete_pod("mesh-agent-a").await?;
    let from = stage.log_length()?;
    let end = tokio::time::timeout(Duration::from_secs(20), live.message()).await.context("it ends")?;
    let status = end.expect_err("with a reason");
    stage.told("X17", "a live stream of a pod that was deleted", &status, "TOKEN_GONE", from).await?;
    let stays = tokio::time::timeout(CHECK + CHECK / 2, of_b.message()).await;
    ensure!(stays.is_err(), "the other agent's stream goes on: {stays:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_is_down_nobody_new_is_let_in() -> Result<()> {
    let Some(stage) = stage(&[]).await? else { return Ok(()) };
    let (a, b) = (stage.agent("a").await?, stage.agent("b").await?);
    let (_requests, mut live) = subscribe(&stage, &a).await?;
    let channel = stage.channel().await?;
    let before = stage.log_length()?;
    stage.api.kill()?;
    let down = refused(&channel, &b).await?;
    ensure!(down.code() == Code::Unavailable, "{down}");
    stage.told("X17", "a good token, while the API is down", &down, "TOKEN_UNCHECKED", before).await?;
    let stays = tokio::time::timeout(2 * CHECK, live.message()).await;
    ensure!(stays.is_err(), "a live stream goes on: {stays:?}");
    // Nothing must be told to the controller when it is back. That API signs with a new key at each start.
    stage.api.start_again()?;
    let web =
        Ask { authorization: bearer(&stage.agent("b").await?), identity: named(&identity("shop", "web")), csr: csr() };
    stage.ask(web).await.context("good again").map(drop)
}
