//! The JSON that the page reads: which question is which path, and its parameters.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use mesh_common::proto::nodemesh::{ConfigKind, ConfigQuery, StatBy, StatQuery, query};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    Source,
    asked::{Asked, Asking},
    certificates, explain, flows,
    fresh::{Bounds, Fresh},
    graph, service, tables,
};

/// Over which rates and latencies are told, unless somebody asks for another time.
const SECONDS: u32 = 60;
/// What agents keep.
const LONGEST: u32 = 600;
/// How long an answer of this file is the answer for all who ask the same.
const FRESH: Duration = Duration::from_secs(1);
/// Answers that are kept; the largest have some MiB.
const KEPT: usize = 16;

/// All questions, for all who look.
pub struct Api {
    asked: Arc<Asked>,
    /// By path and query.
    kept: Fresh<(StatusCode, Bytes)>,
}

/// A question that is not answered, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: StatusCode,
    pub why: String,
}

/// What stands behind `?`, until each is asked for.
pub struct Parameters(BTreeMap<String, String>);

impl Refused {
    pub fn unknown(what: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, why: what.into() }
    }

    pub fn wrong(name: &str, why: impl std::fmt::Display) -> Self {
        Self { status: StatusCode::BAD_REQUEST, why: format!("{name}: {why}") }
    }
}

impl Parameters {
    fn new(query: &str) -> Result<Self, Refused> {
        let mut all = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?.into_owned(), decoded(value)?.into_owned());
            if all.insert(name.clone(), value).is_some() {
                return Err(Refused::wrong(&name, "is there twice"));
            }
        }
        Ok(Self(all))
    }

    pub fn take(&mut self, name: &str) -> String {
        self.0.remove(name).unwrap_or_default()
    }

    /// A number, or nothing.
    pub fn number(&mut self, name: &str, most: u32) -> Result<Option<u32>, Refused> {
        match self.take(name).as_str() {
            "" => Ok(None),
            text => match text.parse() {
                Ok(number) if number <= most => Ok(Some(number)),
                _ => Err(Refused::wrong(name, format_args!("`{text}` is no number from 0 to {most}"))),
            },
        }
    }

    fn seconds(&mut self) -> Result<u32, Refused> {
        Ok(self.number("seconds", LONGEST)?.filter(|seconds| *seconds > 0).unwrap_or(SECONDS))
    }

    fn none_left(self) -> Result<(), Refused> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(Refused::wrong(&name, "there is no such parameter")),
        }
    }
}

fn decoded(text: &str) -> Result<Cow<'_, str>, Refused> {
    percent_decode_str(text).decode_utf8().map_err(|_| Refused::wrong("the address", "is not UTF-8"))
}

impl Api {
    pub fn new(source: Arc<dyn Source>) -> Self {
        let kept = Fresh::new(Bounds { life: FRESH, most: KEPT, failed });
        Self { asked: Arc::new(Asked::new(source)), kept }
    }

    pub async fn answer(&self, question: &str, query: &str) -> Response<Full<Bytes>> {
        let found = self.kept.find(format!("{question}?{query}").into_bytes(), || {
            let (asked, question, query) = (Arc::clone(&self.asked), question.to_owned(), query.to_owned());
            async move {
                let asking = asked.asking();
                let (status, value) = match find(&asking, &question, &query).await {
                    Ok(mut value) => {
                        value["asked"] = asking.oldest().into();
                        (StatusCode::OK, value)
                    }
                    Err(Refused { status, why }) => (status, json!({ "error": why })),
                };
                (status, Bytes::from(value.to_string()))
            }
            .boxed()
        });
        let (status, text) = found.await;
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

fn failed(error: &dyn fmt::Display) -> (StatusCode, Bytes) {
    let why = json!({ "error": format!("the answer broke off: {error}") });
    (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from(why.to_string()))
}

async fn find(asked: &Asking<'_>, question: &str, query: &str) -> Result<Value, Refused> {
    let parts = question.split('/').map(decoded).collect::<Result<Vec<_>, _>>()?;
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    let mut parameters = Parameters::new(query)?;
    match parts.as_slice() {
        ["graph"] => {
            let seconds = parameters.seconds()?;
            parameters.none_left()?;
            let (seen, workloads) =
                tokio::join!(asked.ask("", stat(StatBy::Edge, "", seconds)), config(asked, ConfigKind::Workloads, ""));
            Ok(graph::graph(&workloads, &seen))
        }
        ["workloads"] => {
            let seconds = parameters.seconds()?;
            parameters.none_left()?;
            let (seen, workloads) = tokio::join!(
                asked.ask("", stat(StatBy::Workload, "", seconds)),
                config(asked, ConfigKind::Workloads, "")
            );
            Ok(tables::workloads(&workloads, &seen))
        }
        ["services"] => {
            let seconds = parameters.seconds()?;
            parameters.none_left()?;
            let (seen, services) = tokio::join!(
                asked.ask("", stat(StatBy::Service, "", seconds)),
                config(asked, ConfigKind::Services, "")
            );
            Ok(tables::services(&services, &seen))
        }
        ["service", namespace, host] => {
            let seconds = parameters.seconds()?;
            parameters.none_left()?;
            service::answer(asked, namespace, host, seconds).await
        }
        ["flows"] => {
            let query = flows::query(&mut parameters)?;
            parameters.none_left()?;
            let last = query.last;
            Ok(flows::flows(&*asked.ask("", query::Kind::Flows(query)).await, last))
        }
        ["explain", node, id] => {
            parameters.none_left()?;
            let id = id.parse().map_err(|_| Refused::wrong("id", format_args!("`{id}` is no flow's number")))?;
            explain::answer(asked, node, id).await
        }
        ["certificates"] => {
            parameters.none_left()?;
            Ok(certificates::certificates(&*config(asked, ConfigKind::Certificates, "").await))
        }
        ["agents"] => {
            parameters.none_left()?;
            Ok(tables::agents(&*asked.ask("", query::Kind::Status(Default::default())).await))
        }
        _ => Err(Refused::unknown("there is no such question")),
    }
}

pub fn stat(by: StatBy, namespace: &str, seconds: u32) -> query::Kind {
    query::Kind::Stat(StatQuery { by: by.into(), namespace: namespace.to_owned(), seconds })
}

pub async fn config(asked: &Asking<'_>, kind: ConfigKind, namespace: &str) -> Arc<super::Said> {
    let query = ConfigQuery { kind: kind.into(), namespace: namespace.to_owned() };
    asked.ask("", query::Kind::Config(query)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_strictly() {
        let mut parameters = Parameters::new("from=shop%2Fcart&last=5&x=%20").unwrap();
        assert_eq!(parameters.take("from"), "shop/cart");
        assert_eq!(parameters.number("last", 10), Ok(Some(5)));
        assert_eq!(parameters.number("port", 10), Ok(None));
        assert_eq!(parameters.none_left().unwrap_err().why, "x: there is no such parameter");
        assert_eq!(Parameters::new("a=1&a=2").err().unwrap().why, "a: is there twice");
        assert_eq!(Parameters::new("a=%ff").err().unwrap().why, "the address: is not UTF-8");
        let wrong = Parameters::new("last=11").unwrap().number("last", 10).unwrap_err();
        assert_eq!(
            (wrong.status, wrong.why.as_str()),
            (StatusCode::BAD_REQUEST, "last: `11` is no number from 0 to 10")
        );
    }
}
