//! `meshctl bypass`: takes the pods of a namespace out of the mesh for some time, by an annotation that the controller
//! reads. It ends by itself: nobody has to remember it.

use std::io;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    Outcome,
    client::Failure,
    cluster::{Access, MANAGER, explained},
    output::{Mood, Screen},
};

/// Annotation on a Namespace: RFC 3339.
pub const UNTIL: &str = "nodemesh.io/bypass-until";
const LONGEST: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl bypass shop --ttl 10m     # its connections go as without a mesh: plaintext, no policies
  meshctl bypass shop --end")]
pub struct Arguments {
    namespace: String,
    /// For how long, as in 90s, 10m or 2h; 24h at most
    #[arg(long, value_parser = span, required_unless_present = "end")]
    ttl: Option<SignedDuration>,
    /// Back into the mesh at once
    #[arg(long, conflicts_with = "ttl")]
    end: bool,
}

pub async fn run<W: io::Write>(
    arguments: &Arguments,
    access: &Access,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { namespace, ttl, end: _ } = arguments;
    let api: Api<Namespace> = Api::all(access.client().await?);
    let until = ttl.map(|ttl| until(Timestamp::now(), ttl));
    let patch = json!({ "metadata": { "annotations": { UNTIL: until } } });
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let patched = api.patch(namespace, &parameters, &Patch::Merge(patch)).await;
    let patched = patched.map_err(|error| explained(&format!("annotating namespace {namespace}"), error))?;
    let labelled = patched.metadata.labels.is_some_and(|labels| labels.contains_key("nodemesh.io/mode"));
    match until {
        Some(until) => screen.line(&format!("{namespace} is out of the mesh until {until}"), Mood::Plain)?,
        None => screen.line(&format!("{namespace} is no longer bypassed"), Mood::Plain)?,
    }
    if !labelled {
        screen.line("it has no label nodemesh.io/mode; only pods with one of their own are meant", Mood::Dim)?;
    }
    Ok(Outcome::Fine)
}

/// To the second, as people read it.
fn until(now: Timestamp, ttl: SignedDuration) -> String {
    let end = now.checked_add(ttl).unwrap_or(Timestamp::MAX);
    Timestamp::from_second(end.as_second()).unwrap_or(end).to_string()
}

fn span(text: &str) -> Result<SignedDuration, String> {
    let wrong = || format!("{text:?} is no time, as in 90s, 10m or 2h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let span = SignedDuration::from_secs(i64::from(number) * seconds);
    match span {
        span if span.is_zero() => Err("0 is no time; --end ends it".into()),
        span if span > LONGEST => Err("24h at most: take the label away for longer".into()),
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_end_and_are_bounded() {
        assert_eq!(span("90s"), Ok(SignedDuration::from_secs(90)));
        assert_eq!(span("10m"), Ok(SignedDuration::from_mins(10)));
        for wrong in ["", "m", "10", "10d", "25h", "0m", "-1m", "1.5h", "99999999999h"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        let now: Timestamp = "2026-11-21T23:09:33.7Z".parse().unwrap();
        assert_eq!(until(now, SignedDuration::from_mins(10)), "2026-11-21T23:19:33Z");
    }
}
