//! Who owns an address that several objects claim.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};

use crate::{
    source::Object,
    status::{Fault, Problem},
};

/// Gives each address to the oldest claimant (its time of creation, then its name); the others are reported and go
/// without. An address that has two owners would lend one of them the other's identity.
pub fn settle<'a>(
    claims: impl Iterator<Item = (&'a Object, i64, &'a [IpAddr])>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<IpAddr, &'a Object> {
    let name = |object: &'a Object| {
        let metadata = object.metadata();
        (metadata.namespace.as_deref(), metadata.name.as_deref())
    };
    let claims = claims.map(|(object, created, addresses)| ((created, name(object)), object, addresses));
    let mut claims: Vec<_> = claims.collect();
    claims.sort_by_key(|(order, _, _)| *order);
    let mut owners: BTreeMap<IpAddr, &Object> = BTreeMap::new();
    for (_, object, addresses) in claims {
        for ip in addresses {
            match owners.entry(*ip) {
                Entry::Vacant(vacant) => {
                    vacant.insert(object);
                }
                Entry::Occupied(owner) => {
                    let why = format!("{ip} belongs to {} already, which is older", owner.get().key());
                    problems.push(object.problem(Fault::new("address", why)));
                }
            }
        }
    }
    owners
}
