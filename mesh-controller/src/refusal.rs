//! Why an agent, or who says to be one, does not get what it asks for: one stable code each, for the caller, the audit
//! log and the counter `mesh_controller_refused_total{reason}`.

/// What is wrong. The codes never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No `authorization: Bearer`.
    TokenMissing,
    /// A join token that is nobody's.
    TokenInvalid,
    /// No JSON web token of a ServiceAccount by its form.
    TokenMalformed,
    /// Signed by nobody (`none`), or with a secret that its readers would share (`HS256`).
    TokenAlgorithm,
    TokenExpired,
    /// Made for others.
    TokenAudience,
    /// Of another ServiceAccount than the agents'.
    TokenAccount,
    /// Bound to no pod: it would serve anywhere.
    TokenUnbound,
    /// Bound to a pod that is on no node, or is another one by now.
    TokenNode,
    /// The API says that it is not valid: tampered with, revoked, or its pod or account is gone.
    TokenRejected,
    /// The pod, or the account, with which a live stream was opened is gone.
    TokenGone,
    /// The API could not be asked: nobody new is let in.
    TokenUnchecked,
    /// Too much of the node's agent at once.
    RateLimited,
    /// The authority has enough to sign.
    AuthorityBusy,
    /// No identity by its form.
    IdentityMalformed,
    IdentityTrustDomain,
    /// No pod with this identity runs on the caller's node and is in the mesh.
    IdentityNotHere,
    /// Its ServiceAccount does not exist.
    IdentityAccount,
    CsrSize,
    /// No PKCS #10 in PEM.
    CsrMalformed,
    CsrKey,
    /// Not signed with its own key.
    CsrSignature,
    /// The key is another identity's or node's already.
    CsrKeyReused,
    SigningFailed,
    /// A call that the protocol does not know, or that is too large to be read.
    RequestInvalid,
}

/// A refusal, and why, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", .reason.code())]
pub struct Refusal {
    pub reason: Reason,
    pub why: String,
}

impl Reason {
    pub fn code(self) -> &'static str {
        match self {
            Self::TokenMissing => "TOKEN_MISSING",
            Self::TokenInvalid => "TOKEN_INVALID",
            Self::TokenMalformed => "TOKEN_MALFORMED",
            Self::TokenAlgorithm => "TOKEN_ALGORITHM",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::TokenAudience => "TOKEN_AUDIENCE",
            Self::TokenAccount => "TOKEN_ACCOUNT",
            Self::TokenUnbound => "TOKEN_UNBOUND",
            Self::TokenNode => "TOKEN_NODE",
            Self::TokenRejected => "TOKEN_REJECTED",
            Self::TokenGone => "TOKEN_GONE",
            Self::TokenUnchecked => "TOKEN_UNCHECKED",
            Self::RateLimited => "RATE_LIMITED",
            Self::AuthorityBusy => "AUTHORITY_BUSY",
            Self::IdentityMalformed => "IDENTITY_MALFORMED",
            Self::IdentityTrustDomain => "IDENTITY_TRUST_DOMAIN",
            Self::IdentityNotHere => "IDENTITY_NOT_HERE",
            Self::IdentityAccount => "IDENTITY_ACCOUNT",
            Self::CsrSize => "CSR_SIZE",
            Self::CsrMalformed => "CSR_MALFORMED",
            Self::CsrKey => "CSR_KEY",
            Self::CsrSignature => "CSR_SIGNATURE",
            Self::CsrKeyReused => "CSR_KEY_REUSED",
            Self::SigningFailed => "SIGNING_FAILED",
            Self::RequestInvalid => "REQUEST_INVALID",
        }
    }

    pub fn count(self) {
        metrics::counter!("mesh_controller_refused_total", "reason" => self.code()).increment(1);
    }
}

impl Refusal {
    pub fn new(reason: Reason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::model::advice;

    use super::*;

    #[test]
    fn every_code_has_its_sentence() {
        let all = [
            Reason::TokenMissing,
            Reason::TokenInvalid,
            Reason::TokenMalformed,
            Reason::TokenAlgorithm,
            Reason::TokenExpired,
            Reason::TokenAudience,
            Reason::TokenAccount,
            Reason::TokenUnbound,
            Reason::TokenNode,
            Reason::TokenRejected,
            Reason::TokenGone,
            Reason::TokenUnchecked,
            Reason::RateLimited,
            Reason::AuthorityBusy,
            Reason::IdentityMalformed,
            Reason::IdentityTrustDomain,
            Reason::IdentityNotHere,
            Reason::IdentityAccount,
            Reason::CsrSize,
            Reason::CsrMalformed,
            Reason::CsrKey,
            Reason::CsrSignature,
            Reason::CsrKeyReused,
            Reason::SigningFailed,
            Reason::RequestInvalid,
        ];
        assert_eq!(all.len(), Reason::RequestInvalid as usize + 1, "each is listed");
        for code in all.map(Reason::code) {
            let sentence = advice(code).unwrap_or_else(|| panic!("{code} has no sentence in mesh-common"));
            assert!(sentence.ends_with(['.', '?']), "{code}: {sentence}");
        }
    }
}
