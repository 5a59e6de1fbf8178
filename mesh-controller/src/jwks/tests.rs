//! Issuers that are away, slow, huge, elsewhere, or have new keys.

use std::{
    future::Future,
    net::SocketAddr,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn keys(id: &str) -> String {
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk"{id}}}]}}"#)
}

fn named(id: &str) -> String {
    keys(&format!(r#","kid":"{id}""#))
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn moved(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
}

/// Answers every request by its path until it drops.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(String, TcpStream) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut under_way = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, count) = (answer.clone(), Arc::clone(&count));
                under_way.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    count.fetch_add(1, SeqCst);
                    let head = String::from_utf8(head).expect("a request is text");
                    let path = head.split(' ').nth(1).expect("a path").to_owned();
                    answer(path, stream).await;
                });
            }
        });
        Self { address, asked, _task: task }
    }

    /// Says what is in a table.
    async fn saying(answers: Vec<(&'static str, String)>) -> Self {
        Self::start(move |path, mut stream| {
            let found = answers.iter().find(|(known, _)| *known == path).map(|(_, answer)| answer.clone());
            async move {
                let answer = found.unwrap_or_else(|| "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
        .await
    }

    fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn fetcher(&self) -> Fetcher {
        Fetcher::permitting(vec![self.address])
    }

    async fn fetch(&self, path: &str) -> Result<String, String> {
        self.fetcher().fetch(&self.uri(path), PATIENCE, &BTreeSet::new()).await
    }
}

#[tokio::test]
async fn what_is_a_key_set_is_fetched_and_nothing_else() {
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        named("a").len(),
        named("a")
    );
    let server = Server::saying(vec![
        ("/", ok(&named("a"))),
        ("/nameless", ok(&keys(""))),
        ("/chunked", chunked),
        ("/until-the-end", format!("HTTP/1.0 200 OK\r\n\r\n{}", named("a"))),
        ("/garbage", ok("<html>")),
        ("/secret", ok(r#"{"password-of-mine":1,"password-of-mine":2}"#)),
        ("/bytes", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()),
        ("/no-key", ok(r#"{"keys":[{"kty":"oct","k":"AA"}]}"#)),
        ("/fault", "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into()),
        ("/short", "HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{}".into()),
        ("/no-http", "SSH-2.0-x\r\n".into()),
    ])
    .await;
    for path in ["/", "/chunked", "/until-the-end"] {
        let set = server.fetch(path).await.expect(path);
        assert!(set.contains(r#""kid":"a""#), "{path}: {set}");
    }
    assert!(server.fetch("/nameless").await.is_ok_and(|set| !set.contains("kid")), "a key needs no name");
    for (path, why) in [("/garbage", "the answer is no JSON"), ("/secret", "the answer is no JSON")] {
        assert_eq!(server.fetch(path).await.expect_err(path), why, "nothing of the answer is told");
    }
    for (path, why) in [
        ("/bytes", "the answer is no JSON"),
        ("/no-key", "the answer has no key that can be used"),
        ("/fault", "the answer is 500"),
        ("/nowhere", "the answer is 404"),
        ("/short", "the answer broke off"),
        ("/no-http", "HTTP failed"),
    ] {
        let refused = server.fetch(path).await.expect_err(path);
        assert!(refused.starts_with(why), "{path}: {refused}");
    }
}

#[tokio::test]
async fn who_is_away_slow_or_endless_costs_no_more_than_was_agreed() {
    let none = BTreeSet::new();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("an address")
    };
    let refused = Fetcher::permitting(vec![gone]).fetch(&format!("http://{gone}/"), PATIENCE, &none).await;
    assert!(refused.expect_err("away").starts_with("cannot connect"));
    let fetcher = Fetcher::new(None, None).expect("a fetcher");
    let refused = fetcher.fetch("http://no-such-host.invalid/", PATIENCE, &none).await;
    assert!(refused.expect_err("no name").starts_with("its host is not found"));

    let server = Server::start(|path, mut stream| async move {
        if path == "/silent" {
            return std::future::pending().await;
        }
        let endless = path == "/endless";
        let head = if path == "/huge" { format!("content-length: {}\r\n", MAX + 1) } else { String::new() };
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n").as_bytes()).await;
        let piece = vec![b' '; if endless || path == "/huge" { 65_536 } else { 1 }];
        while stream.write_all(&piece).await.is_ok() {
            if path == "/drops" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    })
    .await;
    for path in ["/silent", "/drops"] {
        let begun = Instant::now();
        let refused = server.fetcher().fetch(&server.uri(path), Duration::from_millis(300), &none).await;
        assert_eq!(refused.expect_err(path), "there was no answer within 300ms");
        assert!(begun.elapsed() < PATIENCE);
    }
    for path in ["/endless", "/huge"] {
        assert_eq!(server.fetch(path).await.expect_err(path), format!("the answer has more than {MAX} bytes"));
    }
}

const MAX: usize = mesh_common::model::MAX_KEY_SET;

/// An issuer with a certificate by `authority` for localhost, which answers every request so.
async fn secure(authority: &CertifiedIssuer<'static, KeyPair>, answer: String) -> (SocketAddr, JoinSet<()>) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = config.with_single_cert(vec![certificate.der().clone()], key).expect("its own key");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, task)
}

#[tokio::test]
async fn who_answers_over_tls_proves_its_name() {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
    };
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let folder = tempfile::tempdir().expect("a folder");
    let trust = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("a file");
        file
    };
    let (ours_file, theirs_file) = (trust("ours", &ours.pem()), trust("theirs", &theirs.pem()));
    let plain = Server::saying(vec![("/", ok(&named("stolen")))]).await;
    let (at, _task) = secure(&ours, ok(&named("a"))).await;
    let (down, _downs) = secure(&ours, moved(&plain.uri("/"))).await;
    let all =
        |port: u16| [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))];
    let fetch = async |at: SocketAddr, host: &str, file: &Path| {
        let besides = [all(at.port()), all(plain.address.port())].concat();
        let fetcher = Fetcher::permitting(besides).trusting(file).expect("roots");
        fetcher.fetch(&format!("https://{host}:{}/", at.port()), PATIENCE, &BTreeSet::new()).await
    };
    assert!(fetch(at, "localhost", &ours_file).await.is_ok_and(|set| set.contains("\"a\"")));
    // Of an unknown issuer, and for another name.
    for (host, file) in [("localhost", &theirs_file), ("127.0.0.1", &ours_file)] {
        let refused = fetch(at, host, file).await.expect_err(host);
        assert_eq!(refused, "TLS failed, or the certificate is not trusted", "{host}");
    }
    assert_eq!(fetch(down, "localhost", &ours_file).await.expect_err("down"), "a redirect from https to http");
    assert_eq!(plain.asked.load(SeqCst), 0, "nobody connected");
    let plaintext = Fetcher::permitting(all(plain.address.port()).to_vec()).trusting(&ours_file).expect("roots");
    let refused = plaintext
        .fetch(&format!("https://localhost:{}/", plain.address.port()), Duration::from_secs(2), &BTreeSet::new())
        .await;
    assert!(refused.is_err(), "no TLS");
    for (name, text) in [("empty", ""), ("words", "no certificate"), ("broken", "-----BEGIN CERTIFICATE-----\nx\n")] {
        assert!(Fetcher::new(None, Some(&trust(name, text))).is_err(), "{name}");
    }
    assert!(Fetcher::new(None, Some(Path::new("/nowhere"))).is_err());
}

#[tokio::test]
async fn a_redirect_is_looked_at_like_the_first_address() {
    let other = Server::saying(vec![("/", ok(&named("stolen")))]).await;
    let server = Server::saying(vec![
        ("/1", moved("/2")),
        ("/2", moved("3")),
        ("/3", moved("?4")),
        ("/3?4", ok(&named("a"))),
        ("/0", moved("/1")),
        ("/circle", moved("/circle")),
        ("/loopback", moved(&other.uri("/"))),
        ("/name", moved(&format!("http://localhost:{}/", other.address.port()))),
        ("/metadata", moved("http://169.254.169.254/latest/meta-data/")),
        ("/file", moved("file:///etc/passwd")),
        ("/nowhere", "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n".into()),
    ])
    .await;
    assert!(server.fetch("/1").await.is_ok_and(|set| set.contains("\"a\"")), "three of them");
    for (path, why) in [
        ("/0", "there are more than 3 redirects"),
        ("/circle", "there are more than 3 redirects"),
        ("/loopback", "nothing is fetched from 127.0.0.1: it is a loopback address"),
        ("/name", "nothing is fetched from "),
        ("/metadata", "nothing is fetched from 169.254.169.254: it is a link-local address"),
        ("/file", "a redirect to what "),
        ("/nowhere", "a redirect to nowhere"),
    ] {
        let refused = server.fetch(path).await.expect_err(path);
        assert!(refused.starts_with(why), "{path}: {refused}");
    }
    assert_eq!(other.asked.load(SeqCst), 0, "nobody connected");
    // What runs in a cluster permits none of it to begin with.
    for uri in [server.uri("/3?4"), format!("http://localhost:{}/3?4", server.address.port())] {
        let fetcher = Fetcher::new(None, None).expect("a fetcher");
        let refused = fetcher.fetch(&uri, PATIENCE, &BTreeSet::new()).await.expect_err("loopback");
        assert!(refused.starts_with("nothing is fetched from "), "{uri}: {refused}");
    }
    let api = Fetcher::new(Some("10.96.0.1".into()), None).expect("a fetcher");
    let api = api.fetch("https://10.96.0.1/openid/v1/jwks", PATIENCE, &BTreeSet::new()).await;
    assert_eq!(api.expect_err("the API"), "nothing is fetched from 10.96.0.1: it is the API server's");
}

/// One that says what it is told to.
async fn changing(body: &Arc<Mutex<String>>) -> Server {
    let body = Arc::clone(body);
    Server::start(move |_, mut stream| {
        let answer = body.lock().unwrap_or_else(PoisonError::into_inner).clone();
        async move {
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await
}

fn want(namespace: &str, within: u64) -> Want {
    Want { within: Millis(within), namespaces: [namespace.to_owned()].into() }
}

fn all(sets: impl IntoIterator<Item = (String, Want)>) -> Wanted {
    Wanted { sets: sets.into_iter().collect(), ..Wanted::default() }
}

async fn until(told: &mut watch::Receiver<Arc<Sets>>, what: &str, holds: impl Fn(&Sets) -> bool) -> Arc<Sets> {
    let waited = timeout(PATIENCE, told.wait_for(|sets| holds(sets))).await;
    waited.unwrap_or_else(|_| panic!("{what} never came")).expect("the keeper runs").clone()
}

#[tokio::test]
async fn keys_rotate_outlive_a_failure_and_end() {
    let body = Arc::new(Mutex::new(ok(&named("old"))));
    let say = |text: String| *body.lock().unwrap_or_else(PoisonError::into_inner) = text;
    let server = changing(&body).await;
    let (uri, away) = (server.uri("/"), "http://no-such-host.invalid/".to_owned());
    let pace = Pace {
        refresh: Duration::from_millis(50),
        again: Duration::from_millis(20),
        again_at_most: Duration::from_millis(50),
        keep: Duration::from_millis(1500),
    };
    let (mut keeper, mut told) = Keeper::new(server.fetcher(), pace);
    let wanted = all([&uri, &away].map(|uri| (uri.clone(), want("shop", 5000))));
    keeper.first(&wanted, PATIENCE).await;
    let has = |sets: &Sets, id: &str| {
        sets.get(&uri).and_then(|set| set.keys.as_ref()).is_some_and(|keys| keys.contains(&format!("\"{id}\"")))
    };
    {
        let first = told.borrow();
        assert!(has(&first, "old"), "{first:?}");
        let none = &first[&away];
        assert!(none.keys.is_none() && none.why.is_some(), "{none:?}");
    }
    let (want, wanting) = watch::channel(wanted);
    let mut running = JoinSet::new();
    running.spawn(keeper.run(wanting));

    say(ok(&named("new")));
    until(&mut told, "the new key", |sets| has(sets, "new") && !has(sets, "old")).await;
    say("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into());
    let kept = until(&mut told, "the failure", |sets| sets[&uri].why.is_some()).await;
    assert!(has(&kept, "new"), "the last good one counts");
    until(&mut told, "the end of the last good one", |sets| sets[&uri].keys.is_none()).await;
    say(ok(&named("newer")));
    let well = until(&mut told, "the key after that", |sets| has(sets, "newer")).await;
    assert_eq!(well[&uri].why, None);

    want.send_replace(Wanted::default());
    until(&mut told, "nothing", Sets::is_empty).await;
    drop(want);
    let ended = timeout(PATIENCE, running.join_next()).await.expect("it ends with who wants");
    assert!(matches!(ended, Some(Ok(()))));
}

/// Says nothing unless the path ends in `good`.
async fn silent_but_to_the_good() -> Server {
    Server::start(|path, mut stream| async move {
        if !path.ends_with("good") {
            return std::future::pending().await;
        }
        let _ = stream.write_all(ok(&named("a")).as_bytes()).await;
    })
    .await
}

#[tokio::test]
async fn slow_issuers_of_a_namespace_hold_up_no_other() {
    let server = silent_but_to_the_good().await;
    let good = server.uri("/z/good");
    let mut wanted = all((0..40).map(|i| (server.uri(&format!("/{i:02}")), want("slow", 30_000))));
    wanted.sets.insert(good.clone(), want("shop", 30_000));
    // Who wants what another wants too loses nothing by it.
    let shared = server.uri("/shared/good");
    let both = Want { namespaces: ["slow".to_owned(), "web".to_owned()].into(), ..want("web", 30_000) };
    wanted.sets.insert(shared.clone(), both);
    let (mut keeper, told) = Keeper::new(server.fetcher(), Pace::default());
    keeper.first(&wanted, Duration::from_secs(3)).await;
    let told = told.borrow();
    assert_eq!(told.keys().collect::<Vec<_>>(), [&shared, &good], "the others had no time to fail");
}

#[tokio::test]
async fn who_has_waited_longest_is_next() {
    let server = silent_but_to_the_good().await;
    let good = server.uri("/z/good");
    let slow = |i: usize| (server.uri(&format!("/{i:02}")), want(&format!("n{i}"), 200));
    let mut wanted = all((0..4 * AT_ONCE).map(slow));
    wanted.sets.insert(good.clone(), want("shop", 200));
    let (mut keeper, told) = Keeper::new(server.fetcher(), Pace::default());
    // By then those at the front of the queue are due again.
    keeper.want(&wanted);
    let moment = Instant::now();
    for known in keeper.known.values_mut().take(2 * AT_ONCE) {
        known.due = moment;
    }
    keeper.known.get_mut(&good).expect("it is wanted").due = moment - Duration::from_secs(1);
    keeper.start(Instant::now());
    assert!(keeper.under_way.values().any(|one| one.uri == good), "{:?}", keeper.under_way);
    assert_eq!(keeper.fetching.len(), AT_ONCE);
    drop(told);
}

#[test]
fn what_fails_slowly_is_asked_more_and_more_rarely() {
    let pace = Pace::default();
    let after = |failures, took| pace.after(failures, Duration::from_secs(took)).as_secs();
    assert_eq!([0, 1, 2, 5, 6, 99].map(|failures| after(failures, 0)), [1, 2, 4, 32, 60, 60]);
    assert_eq!([0, 1, 2, 5, 6, 99].map(|failures| after(failures, 30)), [30, 60, 90, 180, 210, 240]);
    assert_eq!(after(u32::MAX, 5), 60);
}
