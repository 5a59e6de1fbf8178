//! `IstioCertificateService`: who may ask for which identity.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use mesh_common::{
    model::Identity,
    proto::auth::{IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server as server},
};
use prost_types::value::Kind;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{Authority, request};
use crate::{index::account, publish::Published, tokens::Caller};

const IDENTITY: &str = "ImpersonatedIdentity";

/// Signs for agents, by what the index says of their nodes.
#[derive(Clone, Debug)]
pub struct CertificateService {
    authority: Arc<Authority>,
    trust_domain: String,
    published: watch::Receiver<Arc<Published>>,
}

impl CertificateService {
    pub fn new(authority: Arc<Authority>, trust_domain: &str, published: watch::Receiver<Arc<Published>>) -> Self {
        Self { authority, trust_domain: trust_domain.to_owned(), published }
    }

    fn sign(&self, caller: &Caller, request: &IstioCertificateRequest) -> Result<IstioCertificateResponse, Status> {
        let IstioCertificateRequest { csr, validity_duration, metadata } = request;
        let node = caller.node();
        let value = metadata.as_ref().and_then(|metadata| metadata.fields.get(IDENTITY)?.kind.as_ref());
        let Some(Kind::StringValue(text)) = value else {
            return Err(Status::invalid_argument(format!("metadata.{IDENTITY}: is missing or no text")));
        };
        let identity: Identity =
            text.parse().map_err(|e| Status::invalid_argument(format!("metadata.{IDENTITY}: {e}")))?;
        let (here, exists) = {
            let world = &self.published.borrow().world;
            (world.runs_on(node, &identity), world.account_exists(&identity))
        };
        if identity.trust_domain() != self.trust_domain || !here {
            tracing::warn!(target: "audit", node, %identity, "certificate refused");
            return Err(Status::permission_denied(format!("{identity}: no pod of it on node {node} is in the mesh")));
        }
        if !exists {
            tracing::warn!(target: "audit", node, %identity, "certificate refused: its ServiceAccount does not exist");
            let account = account(&identity);
            return Err(Status::failed_precondition(format!("{identity}: ServiceAccount {account} does not exist")));
        }
        let key = request::public_key(csr).map_err(|e| {
            tracing::warn!(target: "audit", node, %identity, error = %e, "certificate refused");
            Status::invalid_argument(e.to_string())
        })?;
        let wanted = u64::try_from(*validity_duration).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let signed = self.authority.sign_workload(&key, &identity, wanted).map_err(|error| {
            tracing::error!(node, %identity, error = format!("{error:#}"), "cannot sign");
            Status::internal("cannot sign")
        })?;
        let not_after = signed.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        tracing::info!(target: "audit", node, %identity, serial = signed.serial, not_after, "certificate signed");
        Ok(IstioCertificateResponse { cert_chain: vec![signed.certificate, self.authority.root_pem().to_owned()] })
    }
}

#[tonic::async_trait]
impl server::IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("no token"))?;
        self.sign(&caller, request.get_ref()).map(Response::new)
    }
}
