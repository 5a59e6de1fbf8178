//! TLS as it stands on the wire: records, and the two hellos, which alone are not encrypted (RFC 8446, sections 4.1,
//! 4.2.1 and 5). Reads what anybody may have sent: every length is checked.

use rustls::{CipherSuite, ProtocolVersion};

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SUPPORTED_VERSIONS: u16 = 43;

const TLS13: u16 = 0x0304;
/// 2^14 bytes and what encryption may add (section 5.2).
const LONGEST: usize = (1 << 14) + 256;
/// A hello may be longer than a record; no sane one is longer than this.
const LONGEST_HELLO: usize = 1 << 16;

/// The `random` of a ServerHello that asks for another ClientHello (section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What a ServerHello settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub version: u16,
    pub cipher: u16,
}

/// What one side wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    pub offered: Vec<u16>,
    pub chosen: Option<Chosen>,
    /// Records of type application_data.
    pub encrypted: u32,
    /// Why that is not TLS 1.3 from the first byte to the last.
    pub fault: Option<&'static str>,
}

impl Chosen {
    /// By rustls' names, as in flow records: `TLSv1_3`, `TLS13_AES_256_GCM_SHA384`.
    pub fn names(self) -> (String, String) {
        let cipher = CipherSuite::from(self.cipher);
        let cipher = cipher.as_str().map_or_else(|| format!("{:#06x}", self.cipher), str::to_owned);
        (version_name(self.version), cipher)
    }
}

pub fn version_name(version: u16) -> String {
    ProtocolVersion::from(version).as_str().map_or_else(|| format!("{version:#06x}"), str::to_owned)
}

impl Spoken {
    /// Everything that one side wrote, from its first byte on. What is missing at the end is not missed.
    pub fn read(role: Role, bytes: &[u8]) -> Self {
        let mut spoken = Self::default();
        spoken.fault = spoken.records(role, bytes).err();
        spoken
    }

    fn records(&mut self, role: Role, mut bytes: &[u8]) -> Result<(), &'static str> {
        // Of handshake messages that are not encrypted, across records.
        let mut hello: Vec<u8> = Vec::new();
        let mut hellos = 0;
        while let [kind, major, _, high, low, rest @ ..] = bytes {
            if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(kind) || *major != 3 {
                return Err("some bytes are no TLS record");
            }
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if length > LONGEST {
                return Err("a TLS record is longer than one may be");
            }
            let Some((record, after)) = rest.split_at_checked(length) else { break };
            bytes = after;
            match *kind {
                HANDSHAKE => {
                    // A client's second one answers the server's wish for another.
                    let most = if role == Role::Client { 1 } else { 0 };
                    if self.encrypted > 0 || hellos > most {
                        return Err("a part of the handshake is not encrypted: that is older than TLS 1.3");
                    }
                    hello.extend_from_slice(record);
                    if hello.len() > LONGEST_HELLO {
                        return Err("the hello has no end");
                    }
                    if let Some(body) = message(role, &mut hello)? {
                        hellos += usize::from(self.hello(role, &body)?);
                    }
                }
                APPLICATION_DATA if hellos == 0 || !hello.is_empty() => return Err("data comes before a hello"),
                APPLICATION_DATA => self.encrypted = self.encrypted.saturating_add(1),
                // For middleboxes, without a meaning (appendix D.4).
                CHANGE_CIPHER_SPEC if record == [1] => {}
                ALERT => return Err("an alert is not encrypted: the handshake failed"),
                _ => return Err("some bytes are no TLS record"),
            }
        }
        match () {
            () if hellos == 0 => Err("there is no whole hello"),
            () if self.encrypted == 0 => Err("nothing follows the hello"),
            () => Ok(()),
        }
    }

    /// `false`: it asks for another one.
    fn hello(&mut self, role: Role, body: &[u8]) -> Result<bool, &'static str> {
        let mut body = Reader(body);
        match role {
            Role::Client => {
                self.offered = body.client_hello().ok_or("the ClientHello cannot be read")?;
                if !self.offered.contains(&TLS13) {
                    return Err("the ClientHello offers no TLS 1.3");
                }
                Ok(true)
            }
            Role::Server => {
                let (chosen, retry) = body.server_hello().ok_or("the ServerHello cannot be read")?;
                self.chosen = Some(chosen);
                if chosen.version != TLS13 {
                    return Err("the ServerHello chooses a version older than TLS 1.3");
                }
                Ok(!retry)
            }
        }
    }
}

/// The body of the first message, if it is whole; nothing may follow it.
fn message(role: Role, hello: &mut Vec<u8>) -> Result<Option<Vec<u8>>, &'static str> {
    let wanted = if role == Role::Client { CLIENT_HELLO } else { SERVER_HELLO };
    let [kind, a, b, c, ..] = hello[..] else { return Ok(None) };
    if kind != wanted {
        return Err("the first message is no hello");
    }
    let end = 4 + ((usize::from(a) << 16) | (usize::from(b) << 8) | usize::from(c));
    match hello.len().cmp(&end) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some(std::mem::take(hello).split_off(4))),
        std::cmp::Ordering::Greater => Err("another message follows the hello unencrypted: that is older than TLS 1.3"),
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<usize> {
        Some(usize::from(*self.take(1)?.first()?))
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// With its length in 16 bits before it.
    fn long(&mut self) -> Option<Reader<'a>> {
        let length = usize::from(self.word()?);
        self.take(length).map(Reader)
    }

    /// Section 4.1.2: the versions that it offers.
    fn client_hello(&mut self) -> Option<Vec<u16>> {
        let legacy = self.word()?;
        self.take(32)?;
        let session = self.byte()?;
        self.take(session)?;
        self.long()?;
        let compressions = self.byte()?;
        self.take(compressions)?;
        let Some(mut versions) = self.extension(SUPPORTED_VERSIONS)? else { return Some(vec![legacy]) };
        let length = versions.byte()?;
        let mut list = Reader(versions.take(length)?);
        let mut all = Vec::new();
        while !list.0.is_empty() {
            all.push(list.word()?);
        }
        // GREASE (RFC 8701) means nothing.
        all.retain(|version| version & 0x0f0f != 0x0a0a);
        Some(all)
    }

    /// Section 4.1.3, and whether it asks for another ClientHello.
    fn server_hello(&mut self) -> Option<(Chosen, bool)> {
        let legacy = self.word()?;
        let retry = self.take(32)? == RETRY;
        let session = self.byte()?;
        self.take(session)?;
        let cipher = self.word()?;
        self.byte()?;
        let version = match self.extension(SUPPORTED_VERSIONS)? {
            Some(mut version) => version.word()?,
            None => legacy,
        };
        Some((Chosen { version, cipher }, retry))
    }

    /// To the end: the extension of this type. The outer `None`: they cannot be read.
    fn extension(&mut self, wanted: u16) -> Option<Option<Reader<'a>>> {
        if self.0.is_empty() {
            // Before TLS 1.3 there need be none.
            return Some(None);
        }
        let mut all = self.long()?;
        let mut found = None;
        while !all.0.is_empty() {
            let kind = all.word()?;
            let body = all.long()?;
            if kind == wanted {
                found = Some(body);
            }
        }
        Some(found)
    }
}
