//! Clients that say what they are told to, byte by byte, and an application that repeats what it was sent.

use tokio::io::{AsyncRead, BufReader};

use super::*;

/// What became of a request: its status, 0 if there is none; the `nodemesh-reason` of HTTP/1.1.
pub type Became = u16;

/// One that speaks HTTP/1.1 (RFC 9112).
pub struct One(BufReader<TcpStream>);

impl One {
    pub fn new(stream: TcpStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// The status; `None`: the connection is over with it.
    pub async fn ask(&mut self, target: &[u8], hosts: &[Vec<u8>], set: char) -> (Became, bool) {
        let mut head = [b"GET ", target, b" HTTP/1.1\r\nx-set: "].concat();
        head.extend(set.to_string().bytes());
        head.extend(b"\r\n");
        for host in hosts {
            head.extend([b"Host: ", &host[..], b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        let _ = self.0.write_all(&head).await;
        timeout(SOON, answer(&mut self.0)).await.expect("an answer")
    }
}

/// The status, and whether the connection goes on.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> (Became, bool) {
    let Some(head) = head(stream).await else { return (0, false) };
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |of| of.parse().unwrap());
    stream.read_exact(&mut vec![0; length]).await.unwrap();
    (status, !head.contains("connection: close"))
}

/// Up to the empty line; `None`: the end came before.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(head)
}

/// One that speaks HTTP/2 (RFC 9113), with fields that are no table's and not compressed (RFC 7541, 6.2.3).
pub struct Two {
    stream: BufReader<TcpStream>,
    next: u32,
}

const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;

impl Two {
    pub async fn new(mut stream: TcpStream) -> Self {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        // HEADER_TABLE_SIZE 0: what comes back is in no table either.
        stream.write_all(&frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])).await.unwrap();
        Self { stream: BufReader::new(stream), next: 1 }
    }

    /// The status, or 0 if the stream was reset; and whether the connection goes on.
    pub async fn ask(&mut self, fields: &[(&str, &[u8])]) -> (Became, bool) {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0x10);
            for text in [name.as_bytes(), value] {
                // 5.1, with a prefix of 7 bits.
                match u8::try_from(text.len()).ok().filter(|length| *length < 127) {
                    Some(length) => block.push(length),
                    None => {
                        let more = text.len() - 127;
                        assert!(more < 128 * 128);
                        block.extend([127, (more % 128) as u8 | 128, (more / 128) as u8]);
                    }
                }
                block.extend_from_slice(text);
            }
        }
        let own = self.next;
        self.next += 2;
        // END_STREAM and END_HEADERS.
        self.stream.write_all(&frame(1, END_STREAM | 4, own, &block)).await.unwrap();
        timeout(SOON, self.answer(own)).await.expect("an answer")
    }

    async fn answer(&mut self, own: u32) -> (Became, bool) {
        let mut status = 0;
        loop {
            let mut head = [0; 9];
            if self.stream.read_exact(&mut head).await.is_err() {
                return (status, false);
            }
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.unwrap();
            match (kind, u32::from_be_bytes(id)) {
                (SETTINGS, _) if flags & 1 == 0 => {
                    self.stream.write_all(&frame(SETTINGS, 1, 0, &[])).await.unwrap();
                }
                (1, id) if id == own => status = status_in(&payload),
                // RST_STREAM and GOAWAY.
                (3, id) if id == own => return (status, true),
                (7, _) => return (status, false),
                _ => {}
            }
            if matches!(kind, 0 | 1) && flags & END_STREAM != 0 && u32::from_be_bytes(id) == own {
                return (status, true);
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// `:status` is the first field (RFC 7541, appendices A and B).
fn status_in(block: &[u8]) -> Became {
    let block = &block[block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count()..];
    match *block {
        [indexed @ 0x80..=0xff, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed & 0x7f) - 8],
        [0x08 | 0x18 | 0x48, length, ref value @ ..] => {
            let value = &value[..usize::from(length & 0x7f)];
            if length < 0x80 {
                return std::str::from_utf8(value).unwrap().parse().unwrap();
            }
            let mut bits = value.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
            let mut digit = || {
                let five = (0..5).fold(0, |all, _| all << 1 | bits.next().unwrap());
                if five < 3 { five } else { (five << 1 | bits.next().unwrap()) - 22 }
            };
            (0..3).fold(0, |status, _| status * 10 + digit())
        }
        _ => panic!("no status in {block:x?}"),
    }
}

/// What an application was asked: the target and the host.
pub type Asked = (String, String);

/// An application of HTTP/1.1 that looks at bytes.
pub async fn app1() -> (SocketAddr, mpsc::UnboundedReceiver<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (saw, sees) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let saw = saw.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(head) = head(&mut stream).await {
                    let head = String::from_utf8(head).unwrap();
                    let target = head.strip_prefix("GET ").unwrap().split_once(" HTTP/1.1\r\n").unwrap().0;
                    let hosts: Vec<_> = head.lines().filter_map(|line| line.strip_prefix("host: ")).collect();
                    saw.send((target.to_owned(), hosts.join("|"))).unwrap();
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, sees)
}

/// One of HTTP/2.
pub async fn app2() -> (SocketAddr, mpsc::UnboundedReceiver<Asked>) {
    let (saw, sees) = mpsc::unbounded_channel();
    let answer = move |request: Request<Incoming>| {
        let uri = request.uri();
        let target = uri.path_and_query().unwrap().as_str().to_owned();
        saw.send((target, uri.authority().unwrap().as_str().to_owned())).unwrap();
        async { Response::new(text("")) }
    };
    (App::new(answer, Spoken::Http2).await.address, sees)
}
