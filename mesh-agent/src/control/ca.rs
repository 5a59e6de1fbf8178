//! Certificates: the controller's CA signs for the identities of this node's pods.

use std::{collections::BTreeMap, time::Duration};

use mesh_common::{
    model::Identity,
    proto::auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
};
use prost_types::{Struct, Value, value};
use tonic::Code;

use super::channel::{Connection, TokenError, explain};

/// Signing is one round trip and one signature; a CA that takes longer is stuck.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A CA that asks for more patience than this gets this.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(60);

/// Asks the CA. Clones share the connection to the controller.
#[derive(Clone, Debug)]
pub struct CaClient {
    connection: Connection,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The CA answered that it will not sign this for this node.
    #[error("the CA refuses to sign for {identity} ({code}): {message}")]
    Refused { identity: Identity, code: &'static str, message: String },
    /// The CA was not reached or could not sign now.
    #[error("the CA cannot sign for {identity} now ({code}): {message}")]
    Unavailable { identity: Identity, code: &'static str, message: String, retry_after: Option<Duration> },
    #[error("the CA answered for {identity} without a certificate")]
    Empty { identity: Identity },
}

impl CaError {
    /// When the CA wants to be asked again, if it said so: this node, or all of them, ask for too much.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::Token(_) | Self::Refused { .. } | Self::Empty { .. } => None,
        }
    }

    /// The same request may succeed later without anybody changing a setting or a policy. A refusal may end too,
    /// once the controller knows a pod of that identity on this node, but asking often will not hasten it.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Token(_) | Self::Unavailable { .. } => true,
            Self::Refused { .. } | Self::Empty { .. } => false,
        }
    }
}

impl CaClient {
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Has `csr_pem` signed for `identity`; what the request says of names is ignored by the CA. Returns PEM
    /// certificates, the leaf first and the root last. `ttl` is a wish, counted in whole seconds.
    ///
    /// # Errors
    ///
    /// [`CaError`]; ask it whether to retry.
    pub async fn sign(&self, identity: &Identity, csr_pem: String, ttl: Duration) -> Result<Vec<String>, CaError> {
        let impersonated = Value { kind: Some(value::Kind::StringValue(identity.to_string())) };
        let message = IstioCertificateRequest {
            csr: csr_pem,
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(Struct { fields: BTreeMap::from([("ImpersonatedIdentity".to_owned(), impersonated)]) }),
        };
        let mut request = self.connection.request(message).await?;
        request.set_timeout(TIMEOUT);
        let mut client = IstioCertificateServiceClient::new(self.connection.channel());
        let response = tokio::time::timeout(TIMEOUT, client.create_certificate(request))
            .await
            .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded(format!("no answer within {TIMEOUT:?}"))))
            .map_err(|status| failed(identity, &status))?;
        let chain = response.into_inner().cert_chain;
        if chain.is_empty() { Err(CaError::Empty { identity: identity.clone() }) } else { Ok(chain) }
    }
}

fn failed(identity: &Identity, status: &tonic::Status) -> CaError {
    let identity = identity.clone();
    let code = status.code().description();
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => CaError::Refused { identity, code, message: explain(status) },
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => {
            CaError::Unavailable { identity, code, message: explain(status), retry_after: pushback(status) }
        }
    }
}

/// As gRPC has it for retries (gRFC A6).
fn pushback(status: &tonic::Status) -> Option<Duration> {
    let value = status.metadata().get("grpc-retry-pushback-ms")?.to_str().ok()?;
    value.parse().ok().map(|ms| Duration::from_millis(ms).min(LONGEST_PUSHBACK))
}
