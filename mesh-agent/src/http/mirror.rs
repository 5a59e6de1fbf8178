//! Copies of requests. Their answers are dropped, they are never tried again, and nobody waits for them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, header, uri::PathAndQuery};
use http_body_util::BodyExt as _;
use mesh_common::model::traffic::Backend;
use tokio::time::timeout_at;

use super::{
    Connect, Session,
    body::RequestBody,
    counts::RouteCounts,
    exchange::{Understood, version},
    message,
    pool::{NotSent, Version, Wanted},
    replay::Replay,
};

/// A copy takes no longer.
const LONGEST: Duration = Duration::from_secs(15);
/// Copies of one client's connection that are under way; what comes beyond is not copied.
pub const AT_ONCE: usize = 128;

/// Sends a copy on its way. It carries the body only if all of it is there within the bound of what is kept; one that
/// is larger is not copied, nor is one that its client broke off or that was answered before it was read.
pub fn copy<C: Connect>(
    session: &Arc<Session<C>>,
    request: &Understood,
    path: &PathAndQuery,
    backend: &Backend,
    body: &Replay,
    counts: &Arc<RouteCounts>,
) {
    let Ok(place) = Arc::clone(&session.mirrors).try_acquire_owned() else { return };
    let Ok(destination) = session.destination(&request.snapshot, &request.source, backend) else { return };
    // Copies count as what is under way, and no copy takes the place of a request.
    let Ok(admitted) = destination.cluster.admit() else { return };
    let version = version(destination.policy().pool.upgrade, destination.protocol(), request);
    let (session, body, path) = (Arc::clone(session), body.copied(), path.clone());
    let counts = Arc::clone(counts);
    let (mut parts, authority) = (request.parts.clone(), request.asked.authority.clone());
    tokio::spawn(async move {
        let _held = (place, admitted);
        let until = tokio::time::Instant::now() + LONGEST;
        let sending = async {
            let whole = body.whole().await?;
            let picked = destination.cluster.pick(None, &[], fastrand::u64(..), Instant::now())?;
            let endpoint = destination.endpoint(picked.address())?;
            let policy = destination.policy();
            let shadow = format!("{}-shadow", authority.host());
            let authority = match authority.port_u16() {
                Some(port) => format!("{shadow}:{port}").parse().ok()?,
                None => shadow.parse().ok()?,
            };
            let tls = destination.secure().transpose().ok()?.map(|secure| secure.secured(&authority));
            let wanted = Wanted { endpoint: &endpoint, version, settings: &policy.pool, tls: tls.as_ref() };
            let mut lease = destination.pool.lease(&destination.cluster, wanted, &session.connect).await.ok()?;
            let form = message::Form { version, secure: tls.is_some(), upgrades: false };
            message::address(&mut parts, &authority, path, form);
            if version == Version::Http1 && !whole.is_empty() {
                parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
            }
            let sent = lease.send(Request::from_parts(parts, RequestBody::Whole(Some(whole))));
            let answer = timeout_at(until, sent).await;
            if !matches!(answer, Ok(Err(NotSent::Unsent))) {
                counts.mirrored();
            }
            // Read to its end, so that the connection can be used again.
            let mut answer = answer.ok()?.ok()?.into_body();
            while let Some(Ok(_)) = answer.frame().await {}
            lease.complete();
            Some(())
        };
        let _ = timeout_at(until, sending).await;
    });
}
