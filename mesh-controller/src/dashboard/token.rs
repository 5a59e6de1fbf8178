//! The token that opens the dashboard: 256 bits of chance, another one after each start.

use std::fmt;

use anyhow::{Context, Result};
use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use http::{HeaderMap, header::AUTHORIZATION};

use crate::tokens::hex;

pub struct Token(String);

impl Token {
    pub(super) fn new() -> Result<Self> {
        let mut secret = [0; 32];
        rand::fill(&mut secret).context("the system gave no random bytes")?;
        Ok(Self(hex(&secret)))
    }

    /// 64 hexadecimal digits.
    pub fn as_text(&self) -> &str {
        &self.0
    }

    /// Whether a request has it. How long the comparison takes says nothing of the token.
    pub(super) fn is_borne_by(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).into_iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let bearer = value.as_bytes().strip_prefix(b"Bearer ").unwrap_or_default();
        verify_slices_are_equal(bearer, self.0.as_bytes()).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_token_itself_opens() {
        let (token, other) = (Token::new().unwrap(), Token::new().unwrap());
        assert_eq!(token.as_text().len(), 64);
        assert!(!format!("{token:?}").contains(token.as_text()));
        let bears = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::try_from(value).unwrap());
            }
            token.is_borne_by(&headers)
        };
        let right = format!("Bearer {}", token.as_text());
        assert!(bears(std::slice::from_ref(&right)));
        for wrong in [
            vec![],
            vec![right.clone(), right.clone()],
            vec![format!("Bearer {}", other.as_text())],
            vec![format!("{right}0")],
            vec![right[..right.len() - 1].to_owned()],
            vec![format!("Basic {}", token.as_text())],
            vec!["Bearer ".to_owned()],
        ] {
            assert!(!bears(&wrong), "{wrong:?}");
        }
    }
}
