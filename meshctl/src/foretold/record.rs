//! A recorded flow as policies are asked about it.

use std::net::SocketAddr;

use mesh_common::{
    model::{Connection, Identity, Reason},
    proto::nodemesh::{Direction, Endpoint, Flow, Path, Verdict},
};
use mesh_controller::analyze::{Recorded, RecordedRequest, TOKEN};

/// Why a flow says nothing of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// Recorded at the source; the destination's node decides, and has a record of its own.
    OfTheSource,
    /// To a destination outside the mesh, or of a pod to itself.
    OutsidePolicies,
    /// Refused by something else than a policy.
    RefusedOtherwise,
    /// The destination is not among the pods of now.
    Gone,
    /// An end of it is not recorded in full.
    Unreadable,
}

impl Skipped {
    pub const ALL: [Self; 5] =
        [Self::OfTheSource, Self::OutsidePolicies, Self::RefusedOtherwise, Self::Gone, Self::Unreadable];

    /// As in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::OfTheSource => "of_the_source",
            Self::OutsidePolicies => "outside_policies",
            Self::RefusedOtherwise => "refused_otherwise",
            Self::Gone => "gone",
            Self::Unreadable => "unreadable",
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::OfTheSource => "of the source's side",
            Self::OutsidePolicies => "about which no policy decides",
            Self::RefusedOtherwise => "refused by something else than a policy",
            Self::Gone => "to pods that are gone",
            Self::Unreadable => "without an address or identity that can be read",
        }
    }
}

/// What of it is put to policies. Of connections within a node there is one record, the source's, and its agent
/// decided.
pub fn recorded(flow: &Flow) -> Result<Recorded, Skipped> {
    let nobody = Endpoint::default();
    let (source, destination) = (flow.source.as_ref().unwrap_or(&nobody), flow.destination.as_ref().unwrap_or(&nobody));
    let is_itself = source.pod == destination.pod && source.namespace == destination.namespace;
    match (flow.direction(), flow.path()) {
        (Direction::Inbound, _) => {}
        (Direction::Outbound, Path::Local | Path::Direct) if !is_itself => {}
        (Direction::Outbound, Path::Local | Path::Direct | Path::Passthrough) => return Err(Skipped::OutsidePolicies),
        _ => return Err(Skipped::OfTheSource),
    }
    let token_refused = flow.verdict() == Verdict::Dropped && flow.reason.starts_with(TOKEN);
    let of_policies =
        Reason::ALL.iter().any(|reason| reason.code() == flow.reason && *reason != Reason::IdentityRevoked);
    if flow.verdict() == Verdict::Dropped && !of_policies && !token_refused && flow.reason != "PATH_AMBIGUOUS" {
        return Err(Skipped::RefusedOtherwise);
    }
    if destination.pod.is_empty() {
        return Err(Skipped::Gone);
    }
    let address = |end: &Endpoint| end.address.parse::<SocketAddr>().map_err(|_| Skipped::Unreadable);
    let source_identity: Option<Identity> = match source.identity.as_str() {
        "" => None,
        id => Some(id.parse().map_err(|_| Skipped::Unreadable)?),
    };
    let connection =
        Connection { source_identity, source_ip: address(source)?.ip(), destination: address(destination)? };
    let request = flow.http.as_ref().map(|http| RecordedRequest {
        method: http.method.clone(),
        path: http.path.clone(),
        host: http.host.clone(),
        principal: (!http.principal.is_empty()).then(|| http.principal.clone()),
        token_refused,
    });
    Ok(Recorded { connection, request })
}
