//! Changes of headers that users ask for.
//!
//! Headers that delimit messages or belong to one connection (RFC 9110, 7.6.1) are the agent's own: a rule that names
//! one is refused, since it could make two readers disagree about where a message ends.

use http::{HeaderMap, HeaderName, HeaderValue, header, uri::Authority};

use super::RouteError;
use crate::model::traffic::{HeaderChanges, HeaderEdit};

/// Compiled [`HeaderChanges`].
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub request: RequestEdit,
    pub response: Edit,
}

/// A compiled [`HeaderEdit`] of requests.
#[derive(Clone, Debug, Default)]
pub struct RequestEdit {
    edit: Edit,
    authority: Option<Authority>,
}

/// A compiled [`HeaderEdit`].
#[derive(Clone, Debug, Default)]
pub struct Edit {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

const OWN: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

impl Changes {
    /// Errors name fields as in `request.set[0]`.
    pub fn new(changes: &HeaderChanges) -> Result<Self, RouteError> {
        let HeaderChanges { request, response } = changes;
        Ok(Self {
            request: RequestEdit::new(request).map_err(|error| error.within("request"))?,
            response: Edit::new(response).map_err(|error| error.within("response"))?,
        })
    }
}

impl RequestEdit {
    fn new(edit: &HeaderEdit) -> Result<Self, RouteError> {
        let HeaderEdit { remove, set, add } = edit;
        let host = |name: &str| name.eq_ignore_ascii_case("host");
        let refused = |field: &str, number| {
            Err(RouteError::new(format!("{field}[{number}]"), "`host` can be set, neither removed nor added to"))
        };
        if let Some(number) = remove.iter().position(|name| host(name)) {
            return refused("remove", number);
        }
        if let Some(number) = add.iter().position(|(name, _)| host(name)) {
            return refused("add", number);
        }
        let mut edit = Edit::new(edit)?;
        edit.set.retain(|(name, _)| *name != header::HOST);
        let mut authority = None;
        for (number, (_, value)) in set.iter().enumerate().filter(|(_, (name, _))| host(name)) {
            authority =
                Some(super::rewrite::authority(value).map_err(|error| error.within(format_args!("set[{number}]")))?);
        }
        Ok(Self { edit, authority })
    }

    /// The request's new authority, if it gets one: `Host`, or `:authority`, is for the caller to write.
    pub fn apply(&self, headers: &mut HeaderMap) -> Option<&Authority> {
        self.edit.apply(headers);
        self.authority.as_ref()
    }
}

impl Edit {
    fn new(edit: &HeaderEdit) -> Result<Self, RouteError> {
        let HeaderEdit { remove, set, add } = edit;
        let pairs = |field: &str, list: &[(String, String)]| -> Result<Vec<_>, RouteError> {
            let pair = |(number, (name, value)): (usize, &(String, String))| {
                let at = |why: String| RouteError::new(format!("{field}[{number}]"), why);
                let value = HeaderValue::from_str(value).map_err(|_| at(format!("`{value}` is no header's value")))?;
                Ok((named(name).map_err(at)?, value))
            };
            list.iter().enumerate().map(pair).collect()
        };
        let removed = |(number, name): (usize, &String)| {
            named(name).map_err(|why| RouteError::new(format!("remove[{number}]"), why))
        };
        Ok(Self {
            remove: remove.iter().enumerate().map(removed).collect::<Result<_, _>>()?,
            set: pairs("set", set)?,
            add: pairs("add", add)?,
        })
    }

    pub fn apply(&self, headers: &mut HeaderMap) {
        let Self { remove, set, add } = self;
        for name in remove {
            headers.remove(name);
        }
        for (name, value) in set {
            headers.insert(name, value.clone());
        }
        for (name, value) in add {
            headers.append(name, value.clone());
        }
    }
}

fn named(name: &str) -> Result<HeaderName, String> {
    let named = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no header's name"))?;
    if OWN.contains(&named) || named == "proxy-connection" {
        return Err(format!("`{name}` delimits messages or belongs to one connection"));
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut shown: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        shown.sort();
        shown
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let edit = HeaderEdit {
            remove: vec!["gone".into(), "both".into(), "absent".into()],
            set: pairs(&[("both", "set"), ("set", "1"), ("X-Upper", "u")]),
            add: pairs(&[("both", "added"), ("kept", "2"), ("kept", "3")]),
        };
        let changes = Changes::new(&HeaderChanges { request: edit.clone(), response: edit }).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [("gone", "0"), ("gone", "1"), ("both", "0"), ("set", "0"), ("set", "00"), ("kept", "1")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut response = headers.clone();
        assert_eq!(changes.request.apply(&mut headers), None);
        let want = ["both: added", "both: set", "kept: 1", "kept: 2", "kept: 3", "set: 1", "x-upper: u"];
        assert_eq!(shown(&headers), want);
        changes.response.apply(&mut response);
        assert_eq!(shown(&response), want);
    }

    #[test]
    fn a_host_that_is_set_is_the_authority() {
        let set = pairs(&[("Host", "other:8080"), ("k", "v")]);
        let edit = HeaderEdit { set, ..HeaderEdit::default() };
        let changes = Changes::new(&HeaderChanges { request: edit.clone(), response: edit }).unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(changes.request.apply(&mut headers).unwrap(), "other:8080");
        assert_eq!(shown(&headers), ["k: v"]);
        // Of an answer it is a header as any other.
        changes.response.apply(&mut headers);
        assert_eq!(shown(&headers), ["host: other:8080", "k: v"]);
    }

    #[test]
    fn a_change_that_would_break_messages_is_refused() {
        let set =
            |name: &str, value: &str| HeaderEdit { set: pairs(&[("k", ""), (name, value)]), ..Default::default() };
        let add = |name: &str| HeaderEdit { add: pairs(&[(name, "x")]), ..Default::default() };
        let remove = |name: &str| HeaderEdit { remove: vec![name.into()], ..Default::default() };
        for (edit, field) in [
            (set("content-length", "0"), "request.set[1]"),
            (set("k", "a\r\nb: c"), "request.set[1]"),
            (set(":path", "/x"), "request.set[1]"),
            (set("host", "a/b"), "request.set[1]"),
            (set("host", "user@a"), "request.set[1]"),
            (set("host", ""), "request.set[1]"),
            (add("Transfer-Encoding"), "request.add[0]"),
            (add("host"), "request.add[0]"),
            (remove("host"), "request.remove[0]"),
            (remove("connection"), "request.remove[0]"),
            (remove("proxy-connection"), "request.remove[0]"),
            (remove("a b"), "request.remove[0]"),
        ] {
            let changes = HeaderChanges { request: edit, ..HeaderChanges::default() };
            assert_eq!(Changes::new(&changes).expect_err(field).field, field, "{changes:?}");
        }
        let response = HeaderChanges { response: add("te"), ..HeaderChanges::default() };
        assert_eq!(Changes::new(&response).unwrap_err().field, "response.add[0]");
    }
}
