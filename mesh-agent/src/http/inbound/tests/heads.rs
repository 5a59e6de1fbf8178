//! Hosts and headers are judged as they are passed on, and what two servers could read differently is refused: raw
//! bytes to an agent whose policies ask for them (X26, X27, X28).

use mesh_common::model::{Action, Clause, HeaderCondition, HttpMatch, Match, Rule, StringMatch};

use super::{
    authorization::{Judge, WEB, policy},
    *,
};

fn object(action: Action, http: HttpMatch) -> Object {
    let matched = Match { http: Some(Box::new(http)), ..Match::default() };
    policy("heads", action, vec![Rule { clauses: vec![Clause { matches: vec![matched] }] }])
}

fn is(value: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(value.to_owned())]
}

/// An application that says which host and which values of some headers it saw.
async fn witness(spoken: Spoken) -> App {
    let answer = |request: Request<Incoming>| async move {
        let of = |name: &str| {
            let values = request.headers().get_all(name).iter();
            values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect::<Vec<_>>().join("|")
        };
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_else(|| of("host"));
        let mut response = Response::new(text(""));
        let seen = format!("host={host} x-role={} x_role={}", of("x-role"), of("x_role"));
        response.headers_mut().insert("x-seen", HeaderValue::from_bytes(seen.as_bytes()).unwrap());
        response
    };
    App::new(answer, spoken).await
}

/// The status and what the application says it saw.
async fn said(judge: &Judge, app: &App, head: &[u8]) -> (u16, String) {
    let mut client = judge.client(app, Spoken::Http1, WEB).await;
    client.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    // It may be waited for more than is written: the end says that there is none.
    client.shutdown().await.unwrap();
    // A refusal may reset what was not read.
    let _ = timeout(SOON, client.read_to_end(&mut answer)).await.expect("no end");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let seen = answer.lines().find_map(|line| line.strip_prefix("x-seen: ")).unwrap_or_default();
    (status, seen.trim_end().to_owned())
}

#[tokio::test]
async fn the_host_that_is_judged_is_the_host_that_is_passed_on() {
    let hosts = |action| object(action, HttpMatch { hosts: is("shop.example"), ..HttpMatch::default() });
    for (action, fits, not) in [(Action::Allow, 200, 403), (Action::Deny, 403, 200)] {
        let judge = Judge::new(vec![hosts(action)]);
        let app = witness(Spoken::Http1).await;
        for (line, host, status) in [
            ("/", "Host: shop.example\r\n", fits),
            ("/", "hOST:\t SHOP.Example \r\n", fits),
            ("/", "Host: shop.example.\r\n", fits),
            ("/", "Host: shop.example:8080\r\n", fits),
            ("/", "Host: Shop.Example.:8080\r\n", fits),
            ("http://shop.example/", "Host: SHOP.example\r\n", fits),
            ("/", "Host: other.example\r\n", not),
            ("/", "Host: shop.example.other\r\n", not),
            ("/", "Host: xshop.example\r\n", not),
            ("/", "Host: [::1]:80\r\n", not),
            ("/", "Host: 10.0.0.1\r\n", not),
            ("/", "Host: xn--shp-5qa.example\r\n", not),
            // Whose they are, two servers could disagree about.
            ("/", "", 400),
            ("/", "Host: \r\n", 400),
            ("/", "Host: shop.example\r\nHost: shop.example\r\n", 400),
            ("/", "Host: other.example\r\nhost: shop.example\r\n", 400),
            ("/", "Host: shop.example, other.example\r\n", 400),
            ("/", "Host: other.example@shop.example\r\n", 400),
            ("/", "Host: shop.example/\r\n", 400),
            ("/", "Host: shop.example:80:80\r\n", 400),
            ("/", "Host: shop.example:http\r\n", 400),
            ("/", "Host: sh\u{f6}p.example\r\n", 400),
            ("http://other.example/", "Host: shop.example\r\n", 400),
            ("http://shop.example/", "Host: other.example\r\n", 400),
            ("http://other.example@shop.example/", "Host: shop.example\r\n", 400),
        ] {
            let before = app.seen().1;
            let head = format!("GET {line} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
            let (found, seen) = said(&judge, &app, head.as_bytes()).await;
            assert_eq!(found, status, "{action:?} {head:?}");
            assert_eq!(app.seen().1 - before, usize::from(status == 200), "{action:?} {head:?}");
            if status == 200 {
                let host = host.split_once(':').unwrap().1.trim();
                let of = seen.split(' ').next().unwrap();
                assert!(of.eq_ignore_ascii_case(&format!("host={host}")), "{head:?} became {seen}");
            }
        }
    }
}

#[tokio::test]
async fn over_http2_host_and_authority_are_one() {
    let judge =
        Judge::new(vec![object(Action::Allow, HttpMatch { hosts: is("shop.example"), ..HttpMatch::default() })]);
    let app = witness(Spoken::Http2).await;
    for (authority, host, status) in [
        ("shop.example", None, 200),
        ("SHOP.example.:8080", None, 200),
        ("shop.example", Some("shop.example"), 200),
        ("shop.example", Some("other.example"), 400),
        ("other.example", Some("shop.example"), 400),
        ("other.example", None, 403),
    ] {
        let mut send = http2(judge.client(&app, Spoken::Http2, WEB).await).await;
        let request = Request::builder().uri(format!("http://{authority}/")).version(Version::HTTP_2);
        let request = host.into_iter().fold(request, |request, host| request.header("host", host));
        let answer = send.send_request(request.body(text("")).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{authority} {host:?}");
        if status == 200 {
            let seen = answer.headers()["x-seen"].to_str().unwrap();
            assert!(seen.starts_with(&format!("host={authority} ")), "{seen}");
        }
    }
}

#[tokio::test]
async fn the_headers_that_are_judged_are_those_that_are_passed_on() {
    let condition = HeaderCondition { name: "x-role".into(), values: is("admin"), not_values: Vec::new() };
    let judge = Judge::new(vec![object(Action::Deny, HttpMatch { headers: vec![condition], ..HttpMatch::default() })]);
    let app = witness(Spoken::Http1).await;
    for (headers, status, seen) in [
        ("", 200, "x-role= x_role="),
        ("X-Role: admin\r\n", 403, ""),
        ("x-ROLE:admin\r\n", 403, ""),
        ("x-role: \t admin \t\r\n", 403, ""),
        ("x-role: user\r\nX-Role: admin\r\n", 403, ""),
        ("x-role: admin\r\nx-role: user\r\n", 403, ""),
        ("x-role: user\r\nx-role: guest\r\n", 200, "x-role=user|guest x_role="),
        // One value, whatever an application makes of its commas.
        ("x-role: user,admin\r\n", 200, "x-role=user,admin x_role="),
        ("x-role: Admin\r\n", 200, "x-role=Admin x_role="),
        // Another name, which some applications take for it: nobody sees it.
        ("x_role: admin\r\n", 200, "x-role= x_role="),
        // What a client names as its connection's own is not passed on, so that nobody judges it.
        ("Connection: x-role\r\nx-role: admin\r\n", 200, "x-role= x_role="),
        ("x-role: \u{e4}dmin\r\n", 200, "x-role=\u{e4}dmin x_role="),
        // Folded lines (RFC 9112, 5.2), bytes that no value may have, spaces before the colon.
        ("x-role: user\r\n admin\r\n", 400, ""),
        ("x-role: ad\0min\r\n", 400, ""),
        ("x-role: user\rx-role: admin\r\n", 400, ""),
        ("x-role : admin\r\n", 400, ""),
        (" x-role: admin\r\n", 400, ""),
        ("x-r\u{f6}le: admin\r\n", 400, ""),
    ] {
        let before = app.seen().1;
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let (found, told) = said(&judge, &app, head.as_bytes()).await;
        assert_eq!(found, status, "{head:?}");
        assert_eq!(told, if seen.is_empty() { String::new() } else { format!("host=a {seen}") }, "{head:?}");
        assert_eq!(app.seen().1 - before, usize::from(status == 200), "{head:?}");
    }
}

/// A second request hides in the first one's body, for whoever reads its length in another way.
#[tokio::test]
async fn no_request_hides_in_another() {
    let judge = Judge::new(vec![object(Action::Allow, HttpMatch { methods: is("POST"), ..HttpMatch::default() })]);
    let app = witness(Spoken::Http1).await;
    let mut wrong = Vec::new();
    const HIDDEN: &str = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    for (headers, body) in [
        ("Content-Length: 5\r\nContent-Length: 6\r\n", "0\r\n\r\n"),
        ("Content-Length: 5, 5\r\n", "0\r\n\r\n"),
        ("Content-Length: +5\r\n", "0\r\n\r\n"),
        ("Content-Length: 0x5\r\n", "0\r\n\r\n"),
        ("Content-Length: -1\r\n", "0\r\n\r\n"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "0x\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "ffffffffffffffff1\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5;\n\r\nhello\r\n0\r\n\r\n"),
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}{HIDDEN}");
        let mut client = judge.client(&app, Spoken::Http1, WEB).await;
        client.write_all(head.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        let ended = timeout(Duration::from_secs(2), client.read_to_end(&mut answers)).await.is_ok();
        let answers = String::from_utf8_lossy(&answers);
        // The hidden one would be the second, and refused.
        if !ended || answers.matches("HTTP/1.1 ").count() > 1 || answers.contains("HTTP/1.1 403") {
            wrong.push(format!("{headers:?} {body:?}: ended: {ended}, {answers:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // HTTP/1.0 has no chunks.
    let old = format!("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}");
    assert_eq!(said(&judge, &app, old.as_bytes()).await.0, 400);
    // A body where none is usual is one, and what follows it is judged by itself.
    let two = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{HIDDEN}{HIDDEN}", HIDDEN.len());
    let mut client = judge.client(&app, Spoken::Http1, WEB).await;
    client.write_all(two.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = String::new();
    timeout(SOON, client.read_to_string(&mut answers)).await.unwrap().unwrap();
    let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "403"], "{answers}");
}
