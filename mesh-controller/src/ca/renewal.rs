//! What somebody else renews, as cert-manager does for a Certificate, taken into use with overlap: a new root is
//! trusted first, and signs an overlap later; an overlap after that the old one is trusted no more. What is in use
//! stands beside what was written last, in keys of our own that whoever renews leaves alone, so that any replica can go
//! on with it.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;

use super::{
    rotation::{Data, STATE, Step, parse, put, text, time, unknown, write},
    secret::{CERTIFICATE, Place, ROOTS, SIGNING_CERTIFICATE, SIGNING_KEY, TLS_CERTIFICATE, TLS_KEY, read, read_given},
};

/// The next step, given the Secret and the time. Pure.
///
/// # Errors
/// If what was written last is not whole: what is in use stays.
pub fn next(secret: &Secret, place: &Place, overlap: Duration, now: SystemTime) -> Result<Step> {
    let given = read_given(secret, place)?;
    let mut data = secret.data.clone().unwrap_or_default();
    let in_use = match data.contains_key(SIGNING_CERTIFICATE) {
        true => read(secret, place).ok(),
        false => None,
    };
    // Nothing is in use yet, or it is over: nobody who trusts it could be kept.
    let Some(in_use) = in_use else {
        sign(&mut data, place)?;
        alone(&mut data, place)?;
        return Ok(write(secret, data, [(STATE, String::new())], "what was given signs"));
    };
    let is_trusted = given.roots.iter().all(|root| in_use.roots.contains(root));
    let signs = given.certificate == in_use.certificate;
    let is_alone = given.roots == in_use.roots;
    let annotations = secret.metadata.annotations.as_ref();
    let state = annotations.and_then(|said| said.get(STATE)).map(|state| parse(place, state)).transpose()?;
    if !is_trusted {
        let roots = text(&data, place, ROOTS)? + &text(&data, place, CERTIFICATE)?;
        put(&mut data, [(ROOTS, &roots)]);
        return Ok(write(secret, data, [(STATE, format!("announced {}", time(now)?))], "a new root is trusted"));
    }
    match state {
        None if signs && is_alone => Ok(Step::Wait(None)),
        // What signs must not end while it is waited for.
        Some(("announced", since)) if now < since + overlap && since + overlap < in_use.not_after => {
            Ok(Step::Wait(Some(since + overlap)))
        }
        Some(("switched", since)) if signs && now < since + overlap => Ok(Step::Wait(Some(since + overlap))),
        Some(("switched", _)) if signs => {
            alone(&mut data, place)?;
            Ok(write(secret, data, [(STATE, String::new())], "the old root is no longer trusted"))
        }
        None | Some(("announced" | "switched", _)) => {
            sign(&mut data, place)?;
            let state = if is_alone { String::new() } else { format!("switched {}", time(now)?) };
            Ok(write(secret, data, [(STATE, state)], "what was renewed signs"))
        }
        Some((other, _)) => Err(unknown(place, other)),
    }
}

/// What was given last signs.
fn sign(data: &mut Data, place: &Place) -> Result<()> {
    let (certificate, key) = (text(data, place, TLS_CERTIFICATE)?, text(data, place, TLS_KEY)?);
    put(data, [(SIGNING_CERTIFICATE, &certificate), (SIGNING_KEY, &key)]);
    Ok(())
}

/// Its roots alone are trusted.
fn alone(data: &mut Data, place: &Place) -> Result<()> {
    let roots = text(data, place, CERTIFICATE)?;
    put(data, [(ROOTS, &roots)]);
    Ok(())
}

#[cfg(test)]
mod tests;
