//! What would become of a request that nobody has sent, by the code that decides about those that are.

use std::sync::Arc;

use http::request::Parts;
use mesh_common::model::{Connection, Decision, RequestFacts};

use super::{
    decider::{Decider, Judged, Unauthorized},
    message::{self, Malformed},
    told,
};
use crate::state::Snapshot;

/// What would become of it.
#[derive(Debug)]
pub enum Foreseen {
    /// It is none that can be passed on.
    Malformed(Malformed),
    /// `facts` as the application would see it.
    Refused {
        why: Unauthorized,
        facts: RequestFacts,
    },
    Permitted {
        decision: Box<Decision>,
        facts: RequestFacts,
    },
}

/// To the pod with this uid, of this node, on a connection that is permitted.
pub fn foresee(uid: &str, snapshot: &Arc<Snapshot>, connection: &Connection, mut parts: Parts) -> Foreseen {
    let asked = match message::read(&mut parts, &connection.destination.to_string()) {
        Ok(asked) => asked,
        Err(why) => return Foreseen::Malformed(why),
    };
    let own = snapshot.workload(uid).map(|own| &own.identity);
    told::tell(&mut parts.headers, connection.source_ip, connection.source_identity.as_ref(), own);
    let decider = Decider::new(uid, snapshot, None);
    let Judged { facts, outcome } = decider.judge(connection, &mut parts, asked.authority.as_str());
    match outcome {
        Ok(approved) => {
            let decision = decider.approval(connection, Arc::new(facts.clone()), approved);
            Foreseen::Permitted { decision: Box::new(decision), facts }
        }
        Err(why) => Foreseen::Refused { why, facts },
    }
}
