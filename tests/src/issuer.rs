//! Who issues tokens: keys that sign them (RFC 7515, RFC 8037), and a real web server that publishes key sets, among
//! others that are of no use.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519, PublicKeyData, SanType,
    SigningKey,
};
use serde_json::{Value, json};

use crate::{B, Place, Process, World, config, network};

const PORT: u16 = 8700;
const TLS_PORT: u16 = 8743;
/// More than a key set may have.
const HUGE: usize = 4 * 1024 * 1024;

/// A key of an issuer's.
#[derive(Debug)]
pub struct TokenKey {
    pub id: String,
    pair: KeyPair,
}

/// A web server on node b, where the controller reaches it.
#[derive(Debug)]
pub struct Issuer {
    folder: PathBuf,
    place: Place,
    process: Arc<Process>,
}

impl TokenKey {
    pub fn new(id: &str) -> Result<Self> {
        Ok(Self { id: id.to_owned(), pair: KeyPair::generate_for(&PKCS_ED25519).context("make a key")? })
    }

    pub fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.der_bytes());
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.id })
    }

    /// A token that says this.
    pub fn token(&self, claims: &Value) -> Result<String> {
        let header = json!({ "alg": "EdDSA", "kid": self.id }).to_string();
        let signed = [header, claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = self.pair.sign(signed.as_bytes()).context("sign a token")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// These keys as a set (RFC 7517, 5).
pub fn key_set(keys: &[&TokenKey]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Issuer {
    /// Publishes these keys.
    pub fn start(world: &World, keys: &[&TokenKey]) -> Result<Self> {
        let folder = world.root().join("issuer");
        fs::create_dir_all(folder.join("www")).with_context(|| format!("create {}", folder.display()))?;
        certify(&folder)?;
        publish(&folder, keys)?;
        for (name, size) in [("huge", HUGE), ("slow", 1000)] {
            write(&folder.join("www").join(name), &" ".repeat(size))?;
        }
        let place = world.node(B).host.clone();
        let process = serve(&folder, &place)?;
        Ok(Self { folder, place, process })
    }

    /// Where `/keys`, `/huge`, `/slow`, `/moved`, `/circle`, `/inward`, `/metadata` are; nothing else is there.
    pub fn uri(&self, path: &str) -> String {
        format!("http://{}:{PORT}{path}", network::to_controller(B))
    }

    /// The same over TLS.
    pub fn secure(&self, path: &str) -> String {
        format!("https://{}:{TLS_PORT}{path}", network::to_controller(B))
    }

    /// Whoever trusts this trusts the certificate of this server; it is there before the server is.
    pub fn ca_file(world: &World) -> PathBuf {
        world.root().join("issuer/ca.pem")
    }

    pub fn publish(&self, keys: &[&TokenKey]) -> Result<()> {
        publish(&self.folder, keys)
    }

    /// Nobody listens any more when this returns.
    pub fn go_away(&self) -> Result<()> {
        self.process.kill()
    }

    pub fn come_back(&mut self) -> Result<()> {
        self.process = serve(&self.folder, &self.place)?;
        Ok(())
    }
}

/// A CA, and what it signs for the address.
fn certify(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("make a CA")?;
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::IpAddress(network::to_controller(B).into()));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer).context("make a certificate")?;
    write(&folder.join("ca.pem"), &issuer.pem())?;
    write(&folder.join("cert.pem"), &certificate.pem())?;
    write(&folder.join("key.pem"), &key.serialize_pem())
}

fn publish(folder: &Path, keys: &[&TokenKey]) -> Result<()> {
    // Nobody reads half of it.
    let draft = folder.join("draft");
    write(&draft, &key_set(keys))?;
    fs::rename(&draft, folder.join("www/keys")).context("publish keys")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn serve(folder: &Path, place: &Place) -> Result<Arc<Process>> {
    let at = folder.display();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log stderr notice;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n  access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n  \
         fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n  \
         server {{\n    listen {PORT}; listen {TLS_PORT} ssl; root {at}/www; default_type application/json;\n    \
         ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;\n    \
         location /slow {{ limit_rate 10; }}\n    location /moved {{ return 302 /keys; }}\n    \
         location /circle {{ return 302 /circle; }}\n    \
         location /inward {{ return 302 http://127.0.0.1:{PORT}/keys; }}\n    \
         location /metadata {{ return 302 http://169.254.169.254/latest/meta-data/; }}\n  }}\n}}\n"
    );
    let file = folder.join("nginx.conf");
    write(&file, &text)?;
    let options = ["-c", &file.display().to_string(), "-e", "stderr"].map(str::to_owned);
    let process = place.keep("issuer", &config::installed("nginx")?, &options)?;
    process.listens(PORT)?;
    Ok(process)
}
