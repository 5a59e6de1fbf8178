//! One key set over HTTP/1.1: GET, at most three redirects, nothing kept open. What is connected to is the address that
//! was looked at, so that a name which leads elsewhere a moment later leads nowhere.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use mesh_common::model::{KeySet, KeySetError, MAX_KEY_SET};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::address::permitted;
use crate::translate::request_authentication::is_uri;

const REDIRECTS: usize = 3;

#[derive(Debug)]
pub struct Fetcher {
    tls: Option<Arc<ClientConfig>>,
    /// Names or addresses of the API server.
    api: Vec<Api>,
    /// Addresses that are permitted whatever they are: a test's own.
    besides: Vec<SocketAddr>,
}

#[derive(Clone, Debug)]
struct Api {
    host: String,
    /// If it cannot be looked up, nothing is fetched.
    must_be_known: bool,
}

/// What an answer is.
enum Answer {
    Keys(Vec<u8>),
    Elsewhere(String),
}

impl Fetcher {
    /// Trusts what the system trusts, and the certificates in the file `besides` (PEM). `api` is the host of the
    /// Kubernetes API, if there is one.
    ///
    /// # Errors
    /// If that file cannot be read, or has no certificate.
    pub fn new(api: Option<String>, besides: Option<&Path>) -> Result<Self> {
        let api = api.map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned());
        let names = api.is_some().then(|| Api { host: "kubernetes.default.svc".into(), must_be_known: false });
        let api = api.map(|host| Api { host, must_be_known: true }).into_iter().chain(names).collect();
        Ok(Self { tls: trusting_the_system(besides)?, api, besides: Vec::new() })
    }

    #[cfg(test)]
    pub fn permitting(besides: Vec<SocketAddr>) -> Self {
        Self { tls: None, api: Vec::new(), besides }
    }

    #[cfg(test)]
    pub fn trusting(self, file: &Path) -> Result<Self> {
        Ok(Self { tls: trusting_the_system(Some(file))?, ..self })
    }

    /// The keys that count, as [`KeySet::written`] has them. `nodes` are the addresses of the cluster's nodes.
    ///
    /// # Errors
    /// Says why not, for the author of the rule: in fixed sentences, with the answer's status at most. What else was
    /// heard is in the log, since the author may be somebody who could not hear it.
    pub async fn fetch(&self, uri: &str, within: Duration, nodes: &BTreeSet<IpAddr>) -> Result<String, String> {
        let fetched = timeout(within, self.follow(uri, nodes)).await;
        let body = fetched.unwrap_or_else(|_| Err(format!("there was no answer within {within:?}")))?;
        let text = String::from_utf8(body).map_err(|_| "the answer is no text".to_owned())?;
        let set = KeySet::read(&text).map_err(|why| match why {
            KeySetError::Json(_) => heard("the answer is no JSON", &why),
            KeySetError::Empty(_) => heard("the answer has no key that can be used", &why),
            KeySetError::Size(_) | KeySetError::Form | KeySetError::Many => format!("the answer {why}"),
        })?;
        Ok(set.written())
    }

    async fn follow(&self, uri: &str, nodes: &BTreeSet<IpAddr>) -> Result<Vec<u8>, String> {
        is_uri(uri)?;
        let mut uri: Uri = uri.parse().map_err(|_| "is no URI".to_owned())?;
        for _ in 0..=REDIRECTS {
            match self.ask(&uri, nodes).await? {
                Answer::Keys(body) => return Ok(body),
                Answer::Elsewhere(location) => uri = next(&uri, &location)?,
            }
        }
        Err(format!("there are more than {REDIRECTS} redirects"))
    }

    async fn ask(&self, uri: &Uri, nodes: &BTreeSet<IpAddr>) -> Result<Answer, String> {
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let authority = uri.authority().ok_or("names no host")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.connect(host, port, nodes).await?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, authority.as_str())
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, "mesh-controller")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        if !secure {
            return exchange(stream, request).await;
        }
        let tls = self.tls.clone().ok_or("there are no certificates of the system to trust")?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| "its host is no name for TLS".to_owned())?;
        let connected = TlsConnector::from(tls).connect(name, stream).await;
        exchange(connected.map_err(|error| heard("TLS failed, or the certificate is not trusted", &error))?, request)
            .await
    }

    async fn connect(&self, host: &str, port: u16, nodes: &BTreeSet<IpAddr>) -> Result<TcpStream, String> {
        let api = self.api_addresses().await?;
        let found = lookup_host((host, port)).await.map_err(|error| heard("its host is not found", &error))?;
        let found: Vec<_> = found.collect();
        let mut failed = String::new();
        for address in permitted(&found, &api, nodes, &self.besides)? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = heard("cannot connect to its host", &format_args!("{address}: {error}")),
            }
        }
        Err(failed)
    }

    async fn api_addresses(&self) -> Result<Vec<IpAddr>, String> {
        let mut all = Vec::new();
        for Api { host, must_be_known } in &self.api {
            match lookup_host((host.as_str(), 443)).await {
                Ok(found) => all.extend(found.map(|address| address.ip())),
                Err(error) if *must_be_known => return Err(format!("the API server's address is not known: {error}")),
                Err(_) => {}
            }
        }
        Ok(all)
    }
}

/// What the author is told; the rest is for the log.
fn heard(why: &str, what: &dyn std::fmt::Display) -> String {
    tracing::info!(why, %what, "keys of an issuer of tokens were not fetched");
    why.to_owned()
}

/// `None` if there is nothing to trust.
fn trusting_the_system(besides: Option<&Path>) -> Result<Option<Arc<ClientConfig>>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = besides {
        let failed = || format!("read the certificates of issuers in {}", file.display());
        let text = fs::read(file).with_context(failed)?;
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            roots.add(certificate.with_context(failed)?).with_context(failed)?;
        }
        ensure!(roots.len() > before, "{}: there is none", failed());
    }
    if roots.is_empty() {
        return Ok(None);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().context("set up TLS to issuers")?;
    Ok(Some(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
}

async fn exchange<T>(io: T, request: Request<Empty<Bytes>>) -> Result<Answer, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| heard("HTTP failed", &error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
    let answer = async { read(sender.send_request(request).await.map_err(failed)?).await };
    tokio::pin!(answer);
    // The connection does the work; what was read before it ended is still there.
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, String> {
    let (parts, mut body) = response.into_parts();
    match parts.status {
        StatusCode::OK => {}
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {
            let location = parts.headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
            return location
                .map(|to| Answer::Elsewhere(to.to_owned()))
                .ok_or_else(|| "a redirect to nowhere".to_owned());
        }
        status => return Err(format!("the answer is {}", status.as_u16())),
    }
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| heard("the answer broke off", &error))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > MAX_KEY_SET {
            return Err(format!("the answer has more than {MAX_KEY_SET} bytes"));
        }
        whole.extend_from_slice(&data);
    }
    Ok(Answer::Keys(whole))
}

/// Where a redirect leads (RFC 9110, 10.2.2; RFC 3986, 5.2): never from https to http.
fn next(from: &Uri, location: &str) -> Result<Uri, String> {
    let scheme = from.scheme_str().unwrap_or("http");
    let authority = from.authority().map_or("", |authority| authority.as_str());
    let location = location.split('#').next().unwrap_or_default();
    let is_absolute = location.split(['/', '?']).next().is_some_and(|start| start.contains(':'));
    let whole = match location {
        absolute if is_absolute => absolute.to_owned(),
        other_host if other_host.starts_with("//") => format!("{scheme}:{other_host}"),
        path if path.starts_with('/') => format!("{scheme}://{authority}{path}"),
        query if query.starts_with('?') => format!("{scheme}://{authority}{}{query}", from.path()),
        relative => {
            let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{relative}")
        }
    };
    is_uri(&whole).map_err(|why| format!("a redirect to what {why}"))?;
    let next: Uri = whole.parse().map_err(|_| "a redirect to what is no URI".to_owned())?;
    if from.scheme() == Some(&Scheme::HTTPS) && next.scheme() != Some(&Scheme::HTTPS) {
        return Err("a redirect from https to http".into());
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_the_same_scheme_or_a_better_one() {
        let lead = |from: &str, to: &str| next(&from.parse().expect("a URI"), to).map(|uri| uri.to_string());
        for (from, to, expected) in [
            ("https://a/b/c?d", "https://x/y", Some("https://x/y")),
            ("https://a/b/c?d", "/y?z#f", Some("https://a/y?z")),
            ("https://a/b/c?d", "y", Some("https://a/b/y")),
            ("https://a/b/c?d", "?e", Some("https://a/b/c?e")),
            ("https://a/b/c?d", "//x/y", Some("https://x/y")),
            ("http://a/b", "https://a/b", Some("https://a/b")),
            ("http://a:8080/b", "/c", Some("http://a:8080/c")),
            ("http://a/b", "http://[::1]/b", Some("http://[::1]/b")),
            ("https://a/b", "http://a/b", None),
            ("https://a/b", "HTTP://a/b", None),
            ("http://a/b", "ftp://a/b", None),
            ("http://a/b", "file:///etc/passwd", None),
            ("http://a/b", "http://me@a/b", None),
            ("http://a/b", "javascript:x", None),
            ("http://a/b", "http://", None),
        ] {
            assert_eq!(lead(from, to).ok().as_deref(), expected, "{from} -> {to}");
        }
    }
}
