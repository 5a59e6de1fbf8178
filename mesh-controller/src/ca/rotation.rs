//! A new root takes the place of the old one, in steps that each leave a whole Secret behind: the new root is trusted
//! first; an overlap later it signs; an overlap after that the old one is trusted no more. Where a rotation stands is
//! said by the Secret's annotations, so that any replica can go on with it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::{ByteString, api::core::v1::Secret, jiff::Timestamp};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;

use super::{
    renewal, root,
    secret::{CERTIFICATE, KEY, OWN, Place, ROOTS, TLS_CERTIFICATE, read},
};
use crate::leader::Leading;

/// Any value that it has not had before asks for a rotation.
const ASKED: &str = "nodemesh.io/rotate";
/// The value of [`ASKED`] that was taken up last.
const TAKEN: &str = "nodemesh.io/rotate-taken";
/// `announced TIME` or `switched TIME`; absent: no rotation.
pub const STATE: &str = "nodemesh.io/rotation";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";

/// A root is replaced when less than this part of its life is left: a year of ten.
const LEFT: f64 = 0.1;
/// How soon a step that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// A root's age is looked at this often at least.
const LONGEST: Duration = Duration::from_secs(3600);

/// What must happen to a Secret.
#[derive(Debug)]
pub enum Step {
    /// Nothing before that time; `None`: before it is asked for or the root grows old.
    Wait(Option<SystemTime>),
    /// Replaces it, if it is still the one that was looked at.
    Write { secret: Box<Secret>, what: &'static str },
}

/// The next step, given the Secret and the time. Pure, but for the key of a new root.
///
/// # Errors
/// If the Secret is not whole: then nothing is done to it.
pub fn next(secret: &Secret, place: &Place, overlap: Duration, now: SystemTime) -> Result<Step> {
    if place.given {
        return renewal::next(secret, place, overlap, now);
    }
    ensure!(
        !secret.data.iter().any(|data| data.contains_key(TLS_CERTIFICATE)),
        "{place}: has {TLS_CERTIFICATE}, so it is somebody else's to renew: --ca-given"
    );
    let material = read(secret, place)?;
    let annotations = secret.metadata.annotations.clone().unwrap_or_default();
    let mut data = secret.data.clone().unwrap_or_default();
    let Some(state) = annotations.get(STATE) else {
        let asked = annotations.get(ASKED).filter(|asked| annotations.get(TAKEN) != Some(asked));
        let (begin, end) = material.life;
        let whole = end.duration_since(begin).unwrap_or_default();
        let is_old = end.duration_since(now).unwrap_or_default() < whole.mul_f64(LEFT);
        if asked.is_none() && !is_old {
            return Ok(Step::Wait(None));
        }
        let root::Made { certificate, key } = root::make(&place.trust_domain)?;
        let roots = text(&data, place, ROOTS)? + &certificate;
        put(&mut data, [(NEXT_CERTIFICATE, &certificate), (NEXT_KEY, &key), (ROOTS, &roots)]);
        let taken = asked.map(|asked| (TAKEN, asked.clone()));
        let said = [(STATE, format!("announced {}", time(now)?))].into_iter().chain(taken);
        return Ok(write(secret, data, said, "a new root is trusted"));
    };
    let (step, since) = parse(place, state)?;
    let due = since + overlap;
    match step {
        "announced" | "switched" if now < due => Ok(Step::Wait(Some(due))),
        "announced" => {
            let (certificate, key) = (text(&data, place, NEXT_CERTIFICATE)?, text(&data, place, NEXT_KEY)?);
            put(&mut data, [(CERTIFICATE, &certificate), (KEY, &key)]);
            data.remove(NEXT_CERTIFICATE);
            data.remove(NEXT_KEY);
            Ok(write(secret, data, [(STATE, format!("switched {}", time(now)?))], "the new root signs"))
        }
        "switched" => {
            let root = text(&data, place, CERTIFICATE)?;
            put(&mut data, [(ROOTS, &root)]);
            Ok(write(secret, data, [(STATE, String::new())], "the old root is no longer trusted"))
        }
        _ => Err(unknown(place, state)),
    }
}

/// Drives rotations while this replica leads. `secret` is what the authority's Secret is now.
pub async fn run(
    client: Client,
    place: Place,
    overlap: Duration,
    mut secret: watch::Receiver<Arc<Secret>>,
    mut leading: Leading,
) {
    let secrets: Api<Secret> = Api::namespaced(client, &place.namespace);
    loop {
        if leading.leads().await.is_none() {
            return;
        }
        let current = secret.borrow_and_update().clone();
        let wait = match next(&current, &place, overlap, SystemTime::now()) {
            Ok(Step::Wait(until)) => {
                let until = until.and_then(|until| until.duration_since(SystemTime::now()).ok());
                until.map_or(LONGEST, |until| until.min(LONGEST).max(Duration::from_millis(10)))
            }
            // A conflict is somebody else's change, which arrives soon.
            Ok(Step::Write { secret, what }) => match secrets.replace(OWN, &PostParams::default(), &secret).await {
                Ok(_) => {
                    tracing::info!(target: "audit", secret = %place, what, "root rotation");
                    LONGEST
                }
                Err(error) => {
                    tracing::warn!(secret = %place, what, %error, "a step of root rotation is tried again");
                    AGAIN
                }
            },
            // The follower of the Secret has said what is wrong with it.
            Err(error) => {
                tracing::debug!(secret = %place, error = format!("{error:#}"), "no rotation");
                LONGEST
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = secret.changed() => if changed.is_err() { return },
            changed = leading.changed() => if changed.is_none() { return },
        }
    }
}

/// The step that was made last, and when.
pub fn parse<'a>(place: &Place, state: &'a str) -> Result<(&'a str, SystemTime)> {
    let (step, since) = state.split_once(' ').ok_or_else(|| unknown(place, state))?;
    let since: Timestamp = since.parse().map_err(|_| unknown(place, state))?;
    Ok((step, since.into()))
}

pub type Data = std::collections::BTreeMap<String, ByteString>;

pub fn text(data: &Data, place: &Place, key: &str) -> Result<String> {
    let bytes = data.get(key).ok_or_else(|| anyhow!("{place}: {key}: is missing"))?;
    let mut text = String::from_utf8(bytes.0.clone()).with_context(|| format!("{place}: {key}: not text"))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

pub fn put<const N: usize>(data: &mut Data, entries: [(&str, &String); N]) {
    data.extend(entries.map(|(key, value)| (key.to_owned(), ByteString(value.clone().into_bytes()))));
}

/// An empty value takes the annotation away. The resource version is that of what was looked at.
pub fn write(
    secret: &Secret,
    data: Data,
    said: impl IntoIterator<Item = (&'static str, String)>,
    what: &'static str,
) -> Step {
    let mut secret = Box::new(secret.clone());
    secret.data = Some(data);
    secret.metadata.managed_fields = None;
    let annotations = secret.metadata.annotations.get_or_insert_default();
    for (key, value) in said {
        if value.is_empty() {
            annotations.remove(key);
        } else {
            annotations.insert(key.to_owned(), value);
        }
    }
    Step::Write { secret, what }
}

pub fn time(now: SystemTime) -> Result<String> {
    Ok(Timestamp::try_from(now).context("the clock")?.to_string())
}

pub fn unknown(place: &Place, state: &str) -> anyhow::Error {
    anyhow!("{place}: annotation {STATE}: `{state}` is neither `announced TIME` nor `switched TIME`")
}

#[cfg(test)]
mod tests;
