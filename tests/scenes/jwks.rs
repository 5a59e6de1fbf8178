//! Keys of issuers of tokens: where they come from, and what becomes of tokens when they cannot be had.

use anyhow::{Result, ensure};
use mesh_tests::{
    A, Ask, B, Patience, Pod, World, eventually,
    issuer::{Issuer, TokenKey, key_set, now},
    refused,
};
use serde_json::json;

use crate::cast::Cast;

const PORT: u16 = 8080;

/// A client and a server on each node, of which both take tokens of these issuers.
fn cast(title: &str) -> Result<(Cast, TokenKey, Issuer)> {
    let key = TokenKey::new("first")?;
    let mut world = World::new(title)?;
    let issuer = Issuer::start(&world, &[&key])?;
    world.controller_options.push("--jwks-refresh=1s".to_owned());
    world.controller_options.push(format!("--jwks-ca={}", Issuer::ca_file(&world).display()));
    let mut cast = Cast::in_world(world)?;
    for server in [&cast.near, &cast.far] {
        server.http(PORT)?;
    }
    cast.world.mesh("shop")?;
    Ok((cast, key, issuer))
}

/// A rule of each issuer's: its name, and what says where its keys are.
fn rules(issuers: &[(&str, String)]) -> String {
    let rules: String =
        issuers.iter().map(|(name, keys)| format!("  - {{ issuer: {name}, timeout: 1s, {keys} }}\n")).collect();
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
         metadata: {{ name: all, namespace: shop }}\nspec:\n  jwtRules:\n{rules}"
    )
}

/// The status, and the reason if there is one.
fn asked(client: &Pod, server: &Pod, token: Option<&str>) -> Result<(u16, String)> {
    let mut ask = Ask::at(server.at(PORT), "shop");
    if let Some(token) = token {
        ask = ask.header("authorization", &format!("Bearer {token}"));
    }
    let answers = client.ask_http(&ask)?;
    let Some(answer) = answers.first.first() else { return Ok((0, format!("{:?}", answers.failed))) };
    Ok((answer.status, answer.headers.get("nodemesh-reason").cloned().unwrap_or_default()))
}

fn becomes(client: &Pod, server: &Pod, what: &str, token: &str, status: u16, reason: &str) -> Result<()> {
    let mut last = (0, String::new());
    let found = eventually(format_args!("{what} at {} is {status} {reason}", server.name), Patience::LONG, || {
        last = asked(client, server, Some(token))?;
        Ok((last == (status, reason.to_owned())).then_some(()))
    });
    found.map_err(|error| error.context(format!("the last answer was {last:?}")))
}

#[test]
fn keys_come_from_where_the_rules_say_and_an_issuer_without_keys_has_no_tokens() -> Result<()> {
    let (Cast { mut world, client, near, far }, key, issuer) = cast("keys of issuers")?;
    let remote = |uri: String| format!("jwksUri: '{uri}'");
    let gone = issuer.uri("/keys").replace("8700", "8701");
    let issuers = [
        ("plain", remote(issuer.uri("/keys")), true),
        ("secure", remote(issuer.secure("/keys")), true),
        ("moved", remote(issuer.uri("/moved")), true),
        ("inline", format!("jwks: '{}'", key_set(&[&key])), true),
        ("gone", remote(gone), false),
        ("missing", remote(issuer.uri("/nothing")), false),
        ("slow", remote(issuer.uri("/slow")), false),
        ("huge", remote(issuer.uri("/huge")), false),
        ("circle", remote(issuer.uri("/circle")), false),
        ("inward", remote(issuer.uri("/inward")), false),
        ("metadata", remote(issuer.uri("/metadata")), false),
        ("loopback", remote("http://127.0.0.1:8700/keys".to_owned()), false),
    ];
    let listed: Vec<_> = issuers.iter().map(|(name, keys, _)| (*name, keys.clone())).collect();
    world.apply("tokens", &rules(&listed))?;
    let token = |issuer: &str| key.token(&json!({ "iss": issuer, "sub": "alice", "exp": now() + 600 }));
    for server in [&near, &far] {
        for (name, _, _) in issuers.iter().filter(|(_, _, good)| *good) {
            becomes(&client, server, name, &token(name)?, 200, "")?;
        }
        for (name, _, _) in issuers.iter().filter(|(_, _, good)| !good) {
            let found = asked(&client, server, Some(&token(name)?))?;
            ensure!(found == (401, "JWT_KEYS".to_owned()), "{name} at {}: {found:?}", server.name);
            let attack = format!("a token whose issuer's keys cannot be had: {name}");
            refused::row("X17", &attack, "401", "JWT_KEYS", "flow of the application's node");
        }
        let found = asked(&client, server, None)?;
        ensure!(found == (200, String::new()), "no token is left to policies: {found:?}");
        let found = asked(&client, server, Some(&token("stranger")?))?;
        ensure!(found == (401, "JWT_ISSUER".to_owned()), "{found:?}");
    }
    for node in [A, B] {
        world.flow(node, "refused for want of keys", |flow| flow.reason == "JWT_KEYS")?;
    }
    Ok(())
}

#[test]
fn keys_rotate_outlive_their_issuers_absence_and_come_back() -> Result<()> {
    let (Cast { mut world, client, near, far }, first, mut issuer) = cast("keys that change")?;
    world.apply("tokens", &rules(&[("shop", format!("jwksUri: '{}'", issuer.uri("/keys")))]))?;
    let second = TokenKey::new("second")?;
    let token = |key: &TokenKey| key.token(&json!({ "iss": "shop", "sub": "alice", "exp": now() + 600 }));
    let (old, new) = (token(&first)?, token(&second)?);
    let servers = [&near, &far];
    for server in servers {
        becomes(&client, server, "the first key", &old, 200, "")?;
        let found = asked(&client, server, Some(&new))?;
        ensure!(found == (401, "JWT_KEY".to_owned()), "{found:?}");
    }
    issuer.publish(&[&first, &second])?;
    for server in servers {
        becomes(&client, server, "the second key beside the first", &new, 200, "")?;
        ensure!(asked(&client, server, Some(&old))?.0 == 200, "both count");
    }
    issuer.publish(&[&second])?;
    for server in servers {
        // It was right a moment ago, and is kept by nobody.
        becomes(&client, server, "the first key when it is gone", &old, 401, "JWT_KEY")?;
        ensure!(asked(&client, server, Some(&new))?.0 == 200, "the second one counts");
    }
    issuer.go_away()?;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    for server in servers {
        ensure!(asked(&client, server, Some(&new))?.0 == 200, "the last good keys count");
    }
    // Keys do not outlive the controller.
    world.kill_controller()?;
    world.start_controller()?;
    for server in servers {
        becomes(&client, server, "a token of an issuer that is away", &new, 401, "JWT_KEYS")?;
        ensure!(asked(&client, server, None)?.0 == 200, "no token is left to policies");
    }
    issuer.come_back()?;
    for server in servers {
        becomes(&client, server, "a token of an issuer that is back", &new, 200, "")?;
    }
    Ok(())
}
