//! A refusal as its caller, the audit log and the counter get it.

use std::time::Duration;

use tonic::{Code, Request, Status, metadata::MetadataValue};

use crate::{
    audit,
    refusal::{Reason, Refusal},
    tokens::Caller,
};

/// The code of a refusal, beside its text.
pub const REASON: &str = "nodemesh-reason";
/// When to come again, in milliseconds: as gRPC has it for retries (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Whose call this is: [`super::authenticate`] let it in.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| status(&Refusal::new(Reason::TokenMissing, "nobody has looked at the token")))
}

/// Logs and counts a refusal to `who`, a node or an address, and says it to them.
pub fn refuse(who: &str, refusal: &Refusal) -> Status {
    note(who, refusal);
    status(refusal)
}

/// As [`refuse`], of a certificate; of this identity, if one was named.
pub fn not_signed(node: &str, identity: Option<String>, refusal: &Refusal) -> Status {
    count(node, refusal);
    audit::not_signed(node, identity, refusal);
    status(refusal)
}

/// With the time to come again.
pub fn put_off(mut status: Status, after: Duration) -> Status {
    if let Ok(after) = MetadataValue::try_from(after.as_millis().to_string()) {
        status.metadata_mut().insert(PUSHBACK, after);
    }
    status
}

/// Logs and counts.
pub fn note(who: &str, refusal: &Refusal) {
    count(who, refusal);
    audit::not_served(who, refusal);
}

fn count(who: &str, Refusal { reason, why }: &Refusal) {
    reason.count();
    tracing::warn!(target: "audit", caller = who, reason = reason.code(), why, "refused");
}

fn status(refusal: &Refusal) -> Status {
    let mut status = Status::new(code(refusal.reason), refusal.to_string());
    status.metadata_mut().insert(REASON, MetadataValue::from_static(refusal.reason.code()));
    status
}

fn code(reason: Reason) -> Code {
    match reason {
        Reason::TokenMissing
        | Reason::TokenInvalid
        | Reason::TokenMalformed
        | Reason::TokenAlgorithm
        | Reason::TokenExpired
        | Reason::TokenAudience
        | Reason::TokenAccount
        | Reason::TokenUnbound
        | Reason::TokenNode
        | Reason::TokenRejected
        | Reason::TokenGone => Code::Unauthenticated,
        Reason::TokenUnchecked => Code::Unavailable,
        Reason::RateLimited | Reason::AuthorityBusy => Code::ResourceExhausted,
        Reason::IdentityTrustDomain | Reason::IdentityNotHere => Code::PermissionDenied,
        Reason::IdentityAccount => Code::FailedPrecondition,
        Reason::IdentityMalformed
        | Reason::CsrSize
        | Reason::CsrMalformed
        | Reason::CsrKey
        | Reason::CsrSignature
        | Reason::CsrKeyReused
        | Reason::RequestInvalid => Code::InvalidArgument,
        Reason::SigningFailed => Code::Internal,
    }
}
