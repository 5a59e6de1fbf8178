//! Join tokens: one a node, `nm1.<node>.<secret>`. Only a hash of it is kept; whoever holds the token is that node's
//! agent. A token is valid as long as its file is there, so that deleting the file locks the agent out.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::{constant_time, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{Caller, Hash, Proof, hash};
use crate::{
    names,
    refusal::{Reason, Refusal},
};

const VERSION: &str = "nm1";
/// Bytes of randomness in a token.
const SECRET: usize = 32;

/// The tokens of one controller.
#[derive(Clone, Debug)]
pub struct Tokens {
    folder: PathBuf,
}

impl Tokens {
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join("tokens") }
    }

    /// Makes a new token for a node; one that it had is void from now on.
    ///
    /// # Errors
    /// If the name is none of a node, or the state folder cannot be written.
    pub fn create(&self, node: &str) -> Result<String> {
        names::subdomain(node).map_err(|why| anyhow!("--node: {why}"))?;
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot create {}", self.folder.display()))?;
        let mut secret = [0; SECRET];
        rand::fill(&mut secret).context("the system gave no random bytes")?;
        let token = format!("{VERSION}.{node}.{}", URL_SAFE_NO_PAD.encode(secret));
        write_private(&self.folder.join(node), hex(&hash(&token)).as_bytes())?;
        Ok(token)
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// If it is nobody's; which part of it is wrong is not said.
    pub fn verify(&self, token: &str) -> Result<Caller, Refusal> {
        let parts = token.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix('.')?.rsplit_once('.'));
        let (node, _secret) = parts.ok_or_else(invalid)?;
        let hash = hash(token);
        if self.is_valid(node, &hash) {
            Ok(Caller { node: node.to_owned(), proof: Proof::Join(hash) })
        } else {
            Err(invalid())
        }
    }

    /// That this is still the node's token.
    ///
    /// # Errors
    /// If it was replaced or its file is gone.
    pub fn still(&self, node: &str, hash: &Hash) -> Result<(), Refusal> {
        if self.is_valid(node, hash) { Ok(()) } else { Err(invalid()) }
    }

    fn is_valid(&self, node: &str, hash: &Hash) -> bool {
        // The name becomes that of a file.
        if names::subdomain(node).is_err() {
            return false;
        }
        let kept = match fs::read(self.folder.join(node)) {
            Ok(kept) => kept,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(node, %error, "cannot read the node's token: its agent is refused");
                }
                return false;
            }
        };
        constant_time::verify_slices_are_equal(kept.trim_ascii(), hex(hash).as_bytes()).is_ok()
    }
}

/// Writes a file that only its owner can read, in one step.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    use io::Write;
    let mut name = path.file_name().with_context(|| format!("{} has no file name", path.display()))?.to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let write = || {
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn invalid() -> Refusal {
    let why = "the join token is not valid: it was replaced, or is of another controller; \
               make one with `mesh-controller join-token --node NAME`";
    Refusal::new(Reason::TokenInvalid, why)
}

/// Lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_says_its_node() {
        let state = tempfile::tempdir().expect("folder");
        let tokens = Tokens::new(state.path());
        let token = tokens.create("node-a.example").expect("token");
        assert!(token.starts_with("nm1.node-a.example."));
        assert_eq!(token.rsplit('.').next().map(str::len), Some(43));
        assert_eq!(tokens.verify(&token).expect("valid").node(), "node-a.example");
        let path = state.path().join("tokens/node-a.example");
        assert!(!fs::read_to_string(&path).expect("file").contains(&token));
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn other_tokens_are_nobody_s() {
        let state = tempfile::tempdir().expect("folder");
        let tokens = Tokens::new(state.path());
        let (a, b) = (tokens.create("a").expect("token"), tokens.create("b").expect("token"));
        let swapped = a.replacen("nm1.a.", "nm1.b.", 1);
        for token in
            ["", "nm1", "nm1.a", "nm1.a.", "nm1..x", "nm1.../tokens/a.x", &a[..a.len() - 1], &swapped, "nm2.a.x"]
        {
            assert_eq!(tokens.verify(token).expect_err(token).reason, Reason::TokenInvalid, "{token}");
        }
        let old = tokens.verify(&a).expect("valid");
        assert!(tokens.create("a").expect("token") != a);
        let Proof::Join(hash) = &old.proof else { panic!("{old:?}") };
        assert!(tokens.still("a", hash).is_err());
        assert!(tokens.verify(&b).is_ok());
        fs::remove_file(state.path().join("tokens/b")).expect("file");
        assert_eq!(tokens.verify(&b).map_err(|refusal| refusal.reason), Err(Reason::TokenInvalid));
    }

    #[test]
    fn names_that_are_no_node_s() {
        let state = tempfile::tempdir().expect("folder");
        for name in ["", "A", "a/b", "..", ".", "a..b", "-a", "a b"] {
            assert!(Tokens::new(state.path()).create(name).is_err(), "{name}");
        }
    }
}
