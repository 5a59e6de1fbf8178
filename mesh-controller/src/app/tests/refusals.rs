//! Who is not served, and with what a controller does not start.

use std::{
    io::{self, Write},
    sync::Mutex,
};

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::*;

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8")
    }
}

#[tokio::test]
async fn no_token_no_service() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let scene = scene().await;
    let mut agent = scene.agent("a").await;
    let good = agent.token.clone();
    for token in ["nm1.a.x".to_owned(), good.replacen("nm1.a.", "nm1.b.", 1)] {
        agent.token = token;
        let refused = agent.certificate(CART_ID).await.expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        let message = refused.message();
        assert!(
            message.starts_with("TOKEN_INVALID: the join token is not valid: it was replaced, or is of another"),
            "{message}"
        );
        assert!(message.contains("`mesh-controller join-token --node NAME`"), "{message}");
    }
    let mut client = IstioCertificateServiceClient::new(agent.channel.clone());
    let refused = client.create_certificate(IstioCertificateRequest::default()).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    assert!(refused.message().starts_with("TOKEN_MISSING: no token of an agent: "), "{}", refused.message());

    let log = log.text();
    let audit: Vec<_> = log.lines().filter(|line| line.contains(" audit: refused caller=\"127.0.0.1:")).collect();
    assert_eq!(audit.len(), 3, "{log}");
    assert!(audit[2].contains("TOKEN_MISSING") && !log.contains(&good), "{log}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_greet_is_hung_up_on() {
    let scene = scene().await;
    let mut silent = TcpStream::connect(scene.app.address).await.expect("connected");
    let read = tokio::time::timeout(Duration::from_secs(60), silent.read_u8()).await;
    assert!(read.expect("in time").is_err());
}

#[tokio::test]
async fn a_part_of_the_configuration_is_not_served() {
    let folder = tempfile::tempdir().expect("folder");
    fs::create_dir(folder.path().join("config")).expect("folder");
    fs::write(folder.path().join("config/shop.yaml"), SHOP).expect("file");
    fs::write(folder.path().join("config/policies.yaml"), "kind: [").expect("file");
    let error = format!("{:#}", App::start(&config(folder.path())).await.expect_err("refused"));
    assert!(error.starts_with("--source dir:") && error.contains("policies.yaml: document 1: "), "{error}");
    fs::remove_file(folder.path().join("config/policies.yaml")).expect("file");
    assert!(App::start(&config(folder.path())).await.is_ok());
}
