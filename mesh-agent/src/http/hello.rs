//! The server's name in a client's hello of TLS (RFC 6066, 3). Nothing of it is decrypted, and all of it is passed on.
//!
//! Whoever begins with the first byte of TLS and does not say a whole hello has a name that nobody knows, so that
//! nobody gets past a condition by saying it late, or in a way that is not understood here. Whoever begins in another
//! way, or lets the server speak first, has none.

use std::{future::Future, pin::pin, time::Duration};

use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::{Instant, sleep_until},
};

use super::Peeked;

/// How much of a connection may belong to its hello: those of clients with keys for post-quantum exchange have 2 KiB.
const MOST: usize = 16 * 1024;
/// How long a hello is waited for that has not come whole.
const WAIT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// In lower case.
    Named(String),
    /// One without a name, or something else.
    Nameless,
    /// It has begun, and cannot be read.
    Unread,
}

/// Waits as long as it takes that the client speaks, and then 5 seconds for the rest of its hello, but no longer than
/// until `answered`, with which the server speaks. All is read again afterwards.
pub async fn hello<T: AsyncRead + Unpin>(client: &mut Peeked<T>, answered: impl Future<Output = ()>) -> Hello {
    let mut answered = pin!(answered);
    let mut patience = None;
    loop {
        if let Some(told) = told(client.first()) {
            return told;
        }
        let begun = !client.first().is_empty();
        let rest = if begun { *patience.get_or_insert_with(|| Instant::now() + WAIT) } else { Instant::now() };
        let otherwise = if begun { Hello::Unread } else { Hello::Nameless };
        let mut piece = [0; 2048];
        tokio::select! {
            // What both have said by now, the client said to be heard first.
            biased;
            read = client.io.read(&mut piece) => match read {
                Ok(length @ 1..) => client.learn(&piece[..length]),
                Ok(_) | Err(_) => return otherwise,
            },
            () = answered.as_mut() => return otherwise,
            () = sleep_until(rest), if begun => return otherwise,
        }
    }
}

/// `None`: too little has come.
fn told(first: &[u8]) -> Option<Hello> {
    if first.first().is_some_and(|byte| *byte != 22) {
        return Some(Hello::Nameless);
    }
    let (mut acceptor, mut rest) = (Acceptor::default(), first);
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Some(Hello::Unread),
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return Some(name.map_or(Hello::Nameless, Hello::Named));
            }
            Ok(None) => {}
            Err(_) => return Some(Hello::Unread),
        }
    }
    (first.len() >= MOST).then_some(Hello::Unread)
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    /// The bytes that a client sends first.
    fn said(name: &'static str) -> Vec<u8> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_name_is_read_as_soon_as_it_is_there() {
        let whole = said("Shop.Example.com");
        assert_eq!(told(&whole), Some(Hello::Named("shop.example.com".to_owned())));
        for length in [0, 1, 5, 6, whole.len() - 1] {
            assert_eq!(told(&whole[..length]), None, "{length} bytes");
        }
        // Addresses are no names (RFC 6066, 3).
        assert_eq!(told(&said("192.0.2.1")), Some(Hello::Nameless));
    }

    #[test]
    fn what_is_no_hello_has_no_name_and_a_bad_one_may_have_any() {
        assert_eq!(told(b"GET / HTTP/1.1\r\n"), Some(Hello::Nameless));
        for bytes in [&[22, 3, 1, 0, 4, 2, 0, 0, 0][..], &[22, 3, 1, 0xff, 0xff, 1], &[22, 9, 9, 9, 9, 9]] {
            assert_eq!(told(bytes), Some(Hello::Unread), "{bytes:?}");
        }
        let endless: Vec<u8> = (0..MOST).map(|at| [22, 3, 1, 0, 1, 1][at % 6]).collect();
        assert_eq!(told(&endless), Some(Hello::Unread));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_client_whose_server_speaks() {
        let whole = said("shop.example.com");
        for (words, expected) in [(&b""[..], Hello::Nameless), (&whole[..9], Hello::Unread)] {
            let (mut client, near) = duplex(4096);
            client.write_all(words).await.unwrap();
            let greeting = tokio::time::sleep(Duration::from_millis(20));
            assert_eq!(hello(&mut Peeked::new(near), greeting).await, expected, "{words:?}");
        }
    }

    #[tokio::test]
    async fn who_ends_within_a_hello_has_any_name() {
        let (mut client, near) = duplex(4096);
        client.write_all(&said("shop.example.com")[..40]).await.unwrap();
        drop(client);
        assert_eq!(hello(&mut Peeked::new(near), pending()).await, Hello::Unread);
    }

    #[tokio::test]
    async fn it_is_read_again() {
        let (mut client, server) = duplex(64);
        let sent = said("shop.example.com");
        let copy = sent.clone();
        let sending = tokio::spawn(async move { client.write_all(&copy).await });
        let mut io = Peeked::new(server);
        assert_eq!(hello(&mut io, pending()).await, Hello::Named("shop.example.com".to_owned()));
        let mut again = Vec::new();
        io.read_to_end(&mut again).await.unwrap();
        sending.await.unwrap().unwrap();
        assert_eq!(again, sent);
    }
}
