//! The server's name in a client's hello of TLS (RFC 6066, 3). Nothing of it is decrypted, and all of it is passed on.

use std::{io, time::Duration};

use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use super::Peeked;

/// How much of a connection may belong to its hello: those of clients with keys for post-quantum exchange have 2 KiB.
const MOST: usize = 16 * 1024;
/// How long a hello is waited for that has not come whole.
const WAIT: Duration = Duration::from_secs(5);

/// The name in lower case; `None`: it has none, or what comes is no hello. All is read again afterwards.
///
/// # Errors
/// If the client is gone.
pub async fn server_name<T: AsyncRead + Unpin>(io: &mut Peeked<T>) -> io::Result<Option<String>> {
    let hello = async {
        loop {
            if let Some(told) = told(io.first()) {
                return Ok(told);
            }
            let mut piece = [0; 2048];
            let length = io.io.read(&mut piece).await?;
            if length == 0 {
                return Ok(None);
            }
            io.learn(&piece[..length]);
        }
    };
    timeout(WAIT, hello).await.unwrap_or(Ok(None))
}

/// `None`: too little has come.
fn told(first: &[u8]) -> Option<Option<String>> {
    if first.first().is_some_and(|byte| *byte != 22) {
        return Some(None);
    }
    let (mut acceptor, mut rest) = (Acceptor::default(), first);
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Some(None),
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Some(accepted.client_hello().server_name().map(str::to_ascii_lowercase)),
            Ok(None) => {}
            Err(_) => return Some(None),
        }
    }
    (first.len() >= MOST).then_some(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    /// The bytes that a client sends first.
    fn hello(name: &'static str) -> Vec<u8> {
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
        let whole = hello("Shop.Example.com");
        assert_eq!(told(&whole), Some(Some("shop.example.com".to_owned())));
        for length in [0, 1, 5, 6, whole.len() - 1] {
            assert_eq!(told(&whole[..length]), None, "{length} bytes");
        }
        // Addresses are no names (RFC 6066, 3).
        assert_eq!(told(&hello("192.0.2.1")), Some(None));
    }

    #[test]
    fn what_is_no_hello_has_no_name() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[22, 3, 1, 0, 4, 2, 0, 0, 0], &[22, 3, 1, 0xff, 0xff, 1]] {
            assert_eq!(told(bytes), Some(None), "{bytes:?}");
        }
        let endless: Vec<u8> = (0..MOST).map(|at| [22, 3, 1, 0, 1, 1][at % 6]).collect();
        assert_eq!(told(&endless), Some(None));
    }

    #[tokio::test]
    async fn it_is_read_again() {
        let (mut client, server) = duplex(64);
        let sent = hello("shop.example.com");
        let copy = sent.clone();
        let sending = tokio::spawn(async move { client.write_all(&copy).await });
        let mut io = Peeked::new(server);
        assert_eq!(server_name(&mut io).await.unwrap().as_deref(), Some("shop.example.com"));
        let mut again = Vec::new();
        io.read_to_end(&mut again).await.unwrap();
        sending.await.unwrap().unwrap();
        assert_eq!(again, sent);
    }
}
