//! Who asks, by a token: `<issuer>/<subject>`.

use super::Fit;
use crate::model::{StringMatch, Token};

/// Whether one of `wants` fits. [`Fit::Any`] compares texts. With [`Fit::Sure`] the last `/` of a pattern parts issuer
/// and subject: otherwise who may choose a subject, as `tenant/admin`, would pass for `admin` of the issuer
/// `<issuer>/tenant`.
pub(crate) fn fits(wants: &[StringMatch], token: Option<&Token>, fit: Fit) -> bool {
    let Some(token) = token else { return false };
    let (issuer, subject) = parts(token);
    let one = |want: &StringMatch| {
        want.matches(Some(&token.principal)) && (fit == Fit::Any || is_meant(want, issuer, subject))
    };
    !issuer.is_empty() && !subject.is_empty() && wants.iter().any(one)
}

/// Of a pattern that fits the text.
fn is_meant(want: &StringMatch, issuer: &str, subject: &str) -> bool {
    match want {
        StringMatch::Presence => true,
        StringMatch::Exact(_) => !subject.contains('/'),
        StringMatch::Suffix(text) => !text.contains('/') || !subject.contains('/'),
        StringMatch::Prefix(text) => match text.rsplit_once('/') {
            // Some issuers end with `/`.
            Some((before, rest)) if !before.ends_with(":/") => {
                issuer == before || (rest.is_empty() && issuer == text.as_str())
            }
            // That of `https://` or none: the pattern ends within the issuer.
            Some(_) | None => issuer.starts_with(text.as_str()),
        },
    }
}

fn parts(token: &Token) -> (&str, &str) {
    let subject = token.claims.get("sub").and_then(|subject| subject.as_str());
    let certain =
        subject.and_then(|subject| token.principal.strip_suffix(subject)?.strip_suffix('/').zip(Some(subject)));
    certain.or_else(|| token.principal.rsplit_once('/')).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(issuer: &str, subject: &str) -> Token {
        let mut claims = serde_json::Map::new();
        claims.insert("sub".into(), json!(subject));
        Token { principal: format!("{issuer}/{subject}"), claims, ..Token::default() }
    }

    #[test]
    fn a_principal_is_an_issuer_and_a_subject() {
        use StringMatch::{Exact, Prefix, Presence, Suffix};
        let exact = |text: &str| Exact(text.into());
        let (prefix, suffix) = (|text: &str| Prefix(text.into()), |text: &str| Suffix(text.into()));
        for (want, issuer, subject, any, sure) in [
            (exact("https://a/t/admin"), "https://a/t", "admin", true, true),
            (exact("https://a/t/admin"), "https://a", "t/admin", true, false),
            (exact("a/b"), "a", "b", true, true),
            (exact("a/b"), "a", "c", false, false),
            (exact("a/"), "a", "", false, false),
            (exact("/b"), "", "b", false, false),
            (Presence, "a", "b", true, true),
            (Presence, "a", "x/y", true, true),
            (Presence, "a", "", false, false),
            (Presence, "", "b", false, false),
            (suffix("/admin"), "https://a", "admin", true, true),
            (suffix("/admin"), "https://a", "t/admin", true, false),
            (suffix("min"), "https://a", "t/admin", true, true),
            (suffix("/t/admin"), "https://a/t", "admin", true, true),
            (suffix("/t/admin"), "https://a", "t/admin", true, false),
            (prefix("https://a/"), "https://a", "b", true, true),
            (prefix("https://a/"), "https://a", "b/c", true, true),
            (prefix("https://a/"), "https://a/evil", "b", true, false),
            (prefix("https://a/te"), "https://a", "team-1", true, true),
            (prefix("https://a/te"), "https://a/team-1", "x", true, false),
            (prefix("https://a"), "https://a/team", "x", true, true),
            (prefix("https://a"), "https://b", "x", false, false),
            (prefix("https://"), "https:", "/x", true, false),
            (prefix("acc"), "accounts", "x", true, true),
            // Auth0's issuers end with `/`.
            (prefix("https://a/"), "https://a/", "b", true, true),
            (prefix("https://a//"), "https://a/", "b", true, true),
            (prefix("https://a//"), "https://a//evil", "b", true, false),
            (exact("https://a//b"), "https://a/", "b", true, true),
            // GitHub's subjects have `/`.
            (exact("https://a/repo:o/app:ref:r"), "https://a", "repo:o/app:ref:r", true, false),
            (prefix("https://a/repo:o/"), "https://a", "repo:o/app:ref:r", true, false),
        ] {
            for (fit, holds) in [(Fit::Any, any), (Fit::Sure, sure)] {
                let wants = std::slice::from_ref(&want);
                let token = token(issuer, subject);
                assert_eq!(fits(wants, Some(&token), fit), holds, "{want} against {issuer} and {subject}, {fit:?}");
                assert!(!fits(wants, None, fit));
            }
        }
        let bare = Token { principal: "https://a/b".into(), ..Token::default() };
        assert!(fits(&[exact("https://a/b")], Some(&bare), Fit::Sure), "without claims the last `/` decides");
        assert!(!fits(&[exact("b")], Some(&Token { principal: "b".into(), ..Token::default() }), Fit::Any));
    }
}
