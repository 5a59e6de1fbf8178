//! What is decided is what is passed on, byte by byte: tables of paths and hosts as clients may write them, and random
//! paths as applications may read them.

mod read;
mod wire;

use mesh_common::model::{
    Action, Clause, HeaderCondition, HttpMatch, Match, PathPattern, Policy, PolicyName, Rule, Scope, StringMatch,
};

use super::*;
use crate::state::tests::workload;
use wire::{Asked, One, Two};

fn exact(path: &str) -> PathPattern {
    PathPattern::Text(StringMatch::Exact(path.into()))
}

fn prefix(path: &str) -> PathPattern {
    PathPattern::Text(StringMatch::Prefix(path.into()))
}

fn suffix(path: &str) -> PathPattern {
    PathPattern::Text(StringMatch::Suffix(path.into()))
}

fn template(path: &str) -> PathPattern {
    PathPattern::Template(path.into())
}

/// The policies of paths.tsv and hosts.tsv. Each is asked about requests that name it in `x-set`.
fn rules() -> [Vec<(char, HttpMatch)>; 2] {
    let path = |path| HttpMatch { paths: vec![path], ..HttpMatch::default() };
    let host = |host| HttpMatch { hosts: vec![host], ..HttpMatch::default() };
    let name = |name: &str| StringMatch::Exact(name.into());
    [
        vec![
            ('A', path(exact("/admin"))),
            ('B', path(prefix("/pub/"))),
            ('C', path(suffix(".txt"))),
            ('D', path(template("/u/{*}/me"))),
            ('I', host(name("cart"))),
            ('J', host(StringMatch::Suffix(".shop.example".into()))),
        ],
        vec![
            ('E', path(exact("/admin"))),
            ('F', path(prefix("/secret/"))),
            ('G', path(suffix(".key"))),
            ('H', path(template("/u/{*}/keys"))),
            ('K', host(name("admin.example"))),
            ('L', host(name("[fd00::1]"))),
        ],
    ]
}

fn about(set: char, mut condition: HttpMatch) -> Rule {
    let values = vec![StringMatch::Exact(set.to_string())];
    condition.headers = vec![HeaderCondition { name: "x-set".into(), values, not_values: Vec::new() }];
    let matched = Match { http: Some(Box::new(condition)), ..Match::default() };
    Rule { clauses: vec![Clause { matches: vec![matched] }] }
}

/// An agent with these policies.
pub struct Judge {
    store: Arc<Store>,
    http: Arc<Http>,
    flows: Arc<FlowLog>,
}

impl Judge {
    fn new() -> Self {
        let judge = Self { store: Arc::default(), http: Arc::default(), flows: FlowLog::new(Default::default()) };
        limited(&judge.store, Vec::new());
        let own =
            mesh_common::model::Workload { namespace: "shop".into(), uid: UID.into(), ..workload("a", "10.0.0.1") };
        put(&judge.store, [Object::Workload(own)]);
        let [allow, deny] = rules();
        let open = deny.iter().map(|(set, _)| about(*set, HttpMatch::default())).collect::<Vec<_>>();
        let allow = allow.into_iter().map(|(set, condition)| about(set, condition)).chain(open).collect();
        let deny = deny.into_iter().map(|(set, condition)| about(set, condition)).collect();
        let policy = |name: &str, action, rules| {
            let name = PolicyName { namespace: "shop".into(), name: name.into() };
            Object::Policy(Policy { name, scope: Scope::Namespace, action, rules, dry_run: false })
        };
        put(&judge.store, [policy("allow", Action::Allow, allow), policy("deny", Action::Deny, deny)]);
        judge
    }

    async fn client(&self, app: SocketAddr, spoken: Spoken) -> TcpStream {
        joined(&self.store, &self.http, app, spoken, None, &self.flows).await.0
    }
}

/// `\xNN` and `\\`.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend(before.bytes());
        rest = match after.strip_prefix('\\') {
            Some(rest) => {
                bytes.push(b'\\');
                rest
            }
            None => {
                bytes.push(u8::from_str_radix(&after[1..3], 16).unwrap());
                &after[3..]
            }
        };
    }
    bytes.extend(rest.bytes());
    bytes
}

fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().filter(|line| !line.starts_with("##")).map(|line| line.split('\t').collect())
}

/// A client, the agent, and an application.
struct Line {
    judge: Judge,
    spoken: Spoken,
    app: SocketAddr,
    sees: mpsc::UnboundedReceiver<Asked>,
    one: Option<One>,
    two: Option<Two>,
}

impl Line {
    async fn new(spoken: Spoken) -> Self {
        let (app, sees) = match spoken {
            Spoken::Http1 => wire::app1().await,
            Spoken::Http2 => wire::app2().await,
        };
        Self { judge: Judge::new(), spoken, app, sees, one: None, two: None }
    }

    /// What it becomes, and what the application sees of it.
    async fn ask(&mut self, own: Option<&[u8]>, path: &[u8], hosts: &[Vec<u8>], set: char) -> (u16, Option<Asked>) {
        let (status, goes_on) = match self.spoken {
            Spoken::Http1 => {
                if self.one.is_none() {
                    self.one = Some(One::new(self.judge.client(self.app, self.spoken).await));
                }
                self.one.as_mut().unwrap().ask(own.unwrap_or(path), hosts, set).await
            }
            Spoken::Http2 => {
                if self.two.is_none() {
                    self.two = Some(Two::new(self.judge.client(self.app, self.spoken).await).await);
                }
                let set = set.to_string();
                let mut fields: Vec<(&str, &[u8])> = vec![(":method", b"GET"), (":scheme", b"http"), (":path", path)];
                fields.extend(own.map(|own| (":authority", own)));
                fields.push(("x-set", set.as_bytes()));
                fields.extend(hosts.iter().map(|host| ("host", &host[..])));
                self.two.as_mut().unwrap().ask(&fields).await
            }
        };
        if !goes_on {
            (self.one, self.two) = (None, None);
        }
        (status, self.sees.try_recv().ok())
    }

    /// The newest record of a request that could be read in too many ways.
    fn ambiguous(&self) -> Option<u64> {
        let records = self.judge.flows.newest();
        records.iter().filter(|flow| flow.reason.as_deref() == Some("PATH_AMBIGUOUS")).map(|flow| flow.id).max()
    }

    /// Which of `sets` permit it, and what the application saw; `None` if it is refused without a question.
    async fn permitted(
        &mut self,
        own: Option<&[u8]>,
        path: &[u8],
        hosts: &[Vec<u8>],
        sets: &str,
    ) -> Result<(String, Vec<Asked>), String> {
        let (mut permitted, mut seen, mut refused) = (String::new(), Vec::new(), 0);
        for set in sets.chars() {
            match self.ask(own, path, hosts, set).await {
                (200, Some(asked)) => {
                    permitted.push(set);
                    if !seen.contains(&asked) {
                        seen.push(asked);
                    }
                }
                (403, None) => {}
                // Streams of HTTP/2 that are malformed are reset (RFC 9113, 8.1.1).
                (400, None) => refused += 1,
                (0, None) if self.spoken == Spoken::Http2 => refused += 1,
                other => return Err(format!("{set}: {other:?}")),
            }
        }
        match refused {
            0 => Ok((permitted, seen)),
            all if all == sets.len() => Ok(("400".to_owned(), seen)),
            // The others deny it as it is.
            _ if permitted.is_empty() => Ok(("400 path".to_owned(), seen)),
            some => Err(format!("refused {some} times, and permitted by {permitted}")),
        }
    }
}

/// What is decided on, and the bytes that the application gets, are those of the table.
async fn paths_are_decided_on_as_they_are_passed_on(spoken: Spoken) {
    let table = include_str!("paths/paths.tsv");
    assert!(rows(table).count() >= 300);
    let mut wrong = Vec::new();
    let mut line = Line::new(spoken).await;
    for row in rows(table) {
        let sent = bytes(row[0]);
        let (own, hosts): (_, &[_]) = match spoken {
            Spoken::Http1 => (None, &[b"cart".to_vec()]),
            Spoken::Http2 => (Some(&b"cart"[..]), &[]),
        };
        let before = line.ambiguous();
        let found = line.permitted(own, &sent, hosts, "ABCDEFGH").await;
        let (permitted, seen) = match row[..] {
            [_, refused] => (refused.to_owned(), vec![]),
            [_, "=", permitted] => (permitted.to_owned(), vec![(row[0].to_owned(), "cart".to_owned())]),
            [_, passed, permitted] => (permitted.to_owned(), vec![(passed.to_owned(), "cart".to_owned())]),
            _ => panic!("{row:?}"),
        };
        let recorded = line.ambiguous() > before;
        if found != Ok((permitted, seen)) || recorded != (row[1] == "400 path") {
            wrong.push(format!("{row:?}: {found:?}, recorded as ambiguous: {recorded}"));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn paths_of_http1_are_decided_on_as_they_are_passed_on() {
    paths_are_decided_on_as_they_are_passed_on(Spoken::Http1).await;
}

#[tokio::test]
async fn paths_of_http2_are_decided_on_as_they_are_passed_on() {
    paths_are_decided_on_as_they_are_passed_on(Spoken::Http2).await;
}

#[tokio::test]
async fn hosts_are_decided_on_as_they_are_passed_on() {
    let mut one = Line::new(Spoken::Http1).await;
    let mut two = Line::new(Spoken::Http2).await;
    let mut wrong = Vec::new();
    for row in rows(include_str!("paths/hosts.tsv")) {
        let [version, own, hosts, passed, permitted] = row[..] else { panic!("{row:?}") };
        let line = if version == "1" { &mut one } else { &mut two };
        let hosts: Vec<_> = hosts.split(" | ").filter(|host| *host != "-").map(bytes).collect();
        let own = Some(bytes(own)).filter(|own| own != b"-");
        let found = line.permitted(own.as_deref(), b"/", &hosts, "IJKL").await;
        let seen = if passed == "400" { vec![] } else { vec![("/".to_owned(), passed.to_owned())] };
        if found != Ok((permitted.to_owned(), seen)) {
            wrong.push(format!("{row:?}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

/// Pseudo-headers that are missing, doubled or out of place (RFC 9113, 8.3): nobody is asked, and the application sees
/// nothing.
#[tokio::test]
async fn requests_of_http2_that_are_malformed_go_nowhere() {
    let mut line = Line::new(Spoken::Http2).await;
    let fields = |fields: &str| {
        let pairs = fields.split(' ').map(|field| field.split_once('=').unwrap());
        pairs.map(|(name, value)| (name.to_owned(), bytes(value))).collect::<Vec<_>>()
    };
    for request in [
        ":method=GET :scheme=http :authority=cart x-set=E",
        ":method=GET :scheme=http :authority=cart :path= x-set=E",
        ":method=GET :scheme=http :authority=cart :path=/ :path=/admin x-set=E",
        ":method=GET :scheme=http :authority=cart :authority=admin.example :path=/ x-set=K",
        ":method=GET :method=POST :scheme=http :authority=cart :path=/ x-set=E",
        ":method=GET :scheme=http :authority=cart x-set=E :path=/",
        ":method=GET :authority=cart :path=/ x-set=E",
        ":scheme=http :authority=cart :path=/ x-set=E",
        ":method=GET :scheme=http :authority=cart :path=/ :status=200 x-set=E",
        ":method=GET :scheme=http :authority=cart :path=/ :x=1 x-set=E",
        ":method=GET :scheme=http :authority=cart :path=/ X-Set=E",
        ":method=GET :scheme=http :authority=cart :path=/ connection=close x-set=E",
        ":method=GET :scheme=http :authority=cart :path=/ transfer-encoding=chunked x-set=E",
        ":method=GET :scheme=http :authority=cart :path=/ x-set=E x-b=a\\x00b",
        ":method=GET :scheme=http :authority=cart :path=/ x-set=E x-b=a\\x0d\\x0ab",
        ":method=GET :scheme=http :authority=cart :path=http://cart/ x-set=E",
        ":method=GET :scheme=http :authority=cart :path=//cart:80:80/\\x00 x-set=E",
        ":method=G\\x20T :scheme=http :authority=cart :path=/ x-set=E",
    ] {
        let mut two = Two::new(line.judge.client(line.app, Spoken::Http2).await).await;
        let fields = fields(request);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let (status, _) = two.ask(&fields).await;
        assert!(matches!(status, 0 | 400), "{request}: {status}");
        assert_eq!(line.sees.try_recv().ok(), None, "{request}");
    }
}
