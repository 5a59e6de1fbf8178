//! An answer on its way to the client, counted and with its request's record.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use http::{Response, StatusCode};
use http_body::Body as _;

use super::{
    Session,
    answer::{flag, own},
    body::ResponseBody,
    counts::RouteCounts,
    record::{OpenRequest, Why},
    upgrade::Switched,
};

/// An answer, and the flag that counts for it.
pub struct Answered {
    pub response: Response<ResponseBody>,
    pub flag: Option<&'static str>,
    /// Why the agent gave it itself, where somebody should look for that.
    pub why: Option<Why>,
    /// What becomes of the connection when the client has it.
    pub switched: Option<Switched>,
}

/// Counts an answer when it is there, and a client that goes before.
pub struct Counted(pub Arc<RouteCounts>, pub Option<(u16, Option<&'static str>)>);

impl From<Response<ResponseBody>> for Answered {
    fn from(response: Response<ResponseBody>) -> Self {
        Self { response, flag: None, why: None, switched: None }
    }
}

impl Answered {
    pub fn own(status: StatusCode, flag: &'static str, why: &str, grpc: bool) -> Self {
        let response = own(status, flag, why, grpc);
        Self { flag: Some(flag), why: Why::of(flag, why), ..response.into() }
    }

    /// On to the client, with the record of its request. What becomes of an HTTP/1.1 connection is left in `kept`,
    /// until hyper has let go of it.
    pub fn passes(self, told: OpenRequest, kept: &Mutex<Option<Switched>>, http2: bool) -> Response<ResponseBody> {
        let Self { mut response, flag, why, switched } = self;
        told.answered(&response, flag, why);
        if let Some(mut switched) = switched {
            switched.told = Some(told);
            match http2 {
                true => drop(tokio::spawn(switched.join())),
                false => *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(switched),
            }
        } else if let ResponseBody::Streamed(streamed) = response.body_mut() {
            streamed.told = Some(told);
        } else {
            // All of it is there.
            let bytes = response.body().size_hint().exact().unwrap_or_default();
            told.passed().received.store(bytes, Ordering::Relaxed);
            told.whole();
        }
        response
    }
}

impl Counted {
    pub fn begin<C>(session: &Session<C>, route: &str) -> Self {
        let counts = session.http.counts.of(&session.service, route);
        counts.begun();
        Self(counts, None)
    }

    pub fn end(mut self, answered: Answered) -> Answered {
        self.1 = Some((answered.response.status().as_u16(), answered.flag));
        answered
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let (status, flag) = self.1.unwrap_or((0, Some(flag::CLIENT_GONE)));
        self.0.answered(status, flag);
    }
}
