//! How it stands with the certificate of an identity, in the words that agents answer and meshctl reads.

use std::fmt;

/// The state of one identity's certificate; `E` says why the latest attempt to get one failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity<E> {
    Valid,
    /// Still valid, but its renewal failed.
    NotRenewed(E),
    /// There has been none yet, and no attempt failed.
    Fetching,
    Expired(Option<E>),
    /// There has been none yet.
    Failed(E),
}

impl Validity<&str> {
    /// Is this the text of [`Validity::Valid`]? Everything else is for somebody to look at.
    pub fn is_valid(text: &str) -> bool {
        text == Validity::<&str>::Valid.to_string()
    }
}

impl<E: fmt::Display> fmt::Display for Validity<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid => f.write_str("valid"),
            Self::NotRenewed(why) => write!(f, "valid, not renewed: {why}"),
            Self::Fetching => f.write_str("fetching"),
            Self::Expired(None) => f.write_str("expired"),
            Self::Expired(Some(why)) => write!(f, "expired: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_is_valid() {
        assert!(Validity::is_valid(&Validity::<&str>::Valid.to_string()));
        let others = [
            (Validity::NotRenewed("no answer"), "valid, not renewed: no answer"),
            (Validity::Fetching, "fetching"),
            (Validity::Expired(None), "expired"),
            (Validity::Expired(Some("no answer")), "expired: no answer"),
            (Validity::Failed("no answer"), "failed: no answer"),
        ];
        for (state, text) in others {
            assert_eq!(state.to_string(), text);
            assert!(!Validity::is_valid(text), "{text}");
        }
    }
}
