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
use rcgen::PublicKeyData;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{Authority, limits::Limits, request};
use crate::{
    audit,
    index::account,
    monitoring::figures,
    publish::Published,
    refusal::{Reason, Refusal},
    serve::{caller, not_signed, put_off},
};

const IDENTITY: &str = "ImpersonatedIdentity";

/// Signs for agents, by what the index says of their nodes.
#[derive(Clone, Debug)]
pub struct CertificateService {
    authority: Authority,
    trust_domain: String,
    limits: Limits,
    published: watch::Receiver<Arc<Published>>,
}

impl CertificateService {
    pub fn new(
        authority: Authority,
        trust_domain: &str,
        limits: Limits,
        published: watch::Receiver<Arc<Published>>,
    ) -> Self {
        Self { authority, trust_domain: trust_domain.to_owned(), limits, published }
    }

    /// Takes time: a signature is checked and one is made.
    fn sign(&self, node: &str, request: &IstioCertificateRequest) -> Result<IstioCertificateResponse, Refusal> {
        let IstioCertificateRequest { csr, validity_duration, metadata: _ } = request;
        let refused = |reason, why: String| Err(Refusal::new(reason, why));
        let Some(text) = identity(request) else {
            return refused(Reason::IdentityMalformed, format!("metadata.{IDENTITY}: is missing or no text"));
        };
        let identity: Identity =
            text.parse().map_err(|e| Refusal::new(Reason::IdentityMalformed, format!("metadata.{IDENTITY}: {e}")))?;
        let (here, exists) = {
            let world = &self.published.borrow().world;
            (world.runs_on(node, &identity), world.account_exists(&identity))
        };
        if identity.trust_domain() != self.trust_domain {
            let why = format!("{identity}: the trust domain is {}", self.trust_domain);
            return refused(Reason::IdentityTrustDomain, why);
        }
        if !here {
            let why = format!("{identity}: no pod of it on node {node} is in the mesh");
            return refused(Reason::IdentityNotHere, why);
        }
        if !exists {
            let why = format!("{identity}: ServiceAccount {} does not exist", account(&identity));
            return refused(Reason::IdentityAccount, why);
        }
        let of_identity = |refusal: Refusal| Refusal { why: format!("{identity}: {}", refusal.why), ..refusal };
        let key = request::public_key(csr).map_err(of_identity)?;
        self.limits.own_key(&key.subject_public_key_info(), node, text).map_err(of_identity)?;
        let wanted = u64::try_from(*validity_duration).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let signed = self.authority.sign_workload(&key, &identity, wanted).map_err(|error| {
            tracing::error!(node, %identity, error = format!("{error:#}"), "cannot sign");
            Refusal::new(Reason::SigningFailed, format!("{identity}: cannot sign"))
        })?;
        let not_after = signed.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        figures::signed();
        tracing::info!(target: "audit", node, %identity, serial = signed.serial, not_after, "certificate signed");
        audit::signed(node, identity.to_string(), &signed.serial, signed.not_after);
        Ok(IstioCertificateResponse { cert_chain: signed.chain })
    }
}

/// As it was asked for.
fn identity(request: &IstioCertificateRequest) -> Option<&str> {
    match request.metadata.as_ref()?.fields.get(IDENTITY)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

#[tonic::async_trait]
impl server::IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        figures::asked();
        let node = caller(&request)?.node().to_owned();
        let named = identity(request.get_ref()).map(str::to_owned);
        let not_signed = |refusal| not_signed(&node, named.clone(), &refusal);
        let crowded = |(refusal, after)| put_off(not_signed(refusal), after);
        self.limits.admit(&node).map_err(crowded)?;
        let turn = self.limits.turn().await.map_err(crowded)?;
        let (service, of) = (self.clone(), node.clone());
        let signing = tokio::task::spawn_blocking(move || {
            // Ends with the work, whether or not the caller still waits.
            let _turn = turn;
            service.sign(&of, request.get_ref())
        });
        let signed = signing.await.map_err(|error| {
            tracing::error!(node, %error, "cannot sign");
            not_signed(Refusal::new(Reason::SigningFailed, "cannot sign"))
        })?;
        signed.map(Response::new).map_err(not_signed)
    }
}
