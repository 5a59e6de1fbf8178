//! Who asks, by a token: `<issuer>/<subject>`.

use crate::model::{StringMatch, Token};

/// The last `/` of a pattern parts issuer and subject. Otherwise who may choose a subject, as `tenant/admin`, would pass
/// for `admin` of the issuer `<issuer>/tenant`.
pub(crate) fn fits(want: &StringMatch, token: Option<&Token>) -> bool {
    let Some(token) = token else { return false };
    let (issuer, subject) = parts(token);
    if issuer.is_empty() || subject.is_empty() || !want.matches(Some(&token.principal)) {
        return false;
    }
    match want {
        StringMatch::Presence => true,
        StringMatch::Exact(_) => !subject.contains('/'),
        StringMatch::Suffix(text) => !text.contains('/') || !subject.contains('/'),
        StringMatch::Prefix(text) => match text.rsplit_once('/') {
            // That of `https://`: the pattern ends within the issuer.
            Some((before, _)) if before.ends_with('/') => true,
            Some((before, _)) => issuer == before,
            None => true,
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
        for (want, issuer, subject, holds) in [
            (exact("https://a/t/admin"), "https://a/t", "admin", true),
            (exact("https://a/t/admin"), "https://a", "t/admin", false),
            (exact("a/b"), "a", "b", true),
            (exact("a/b"), "a", "c", false),
            (exact("a/"), "a", "", false),
            (exact("/b"), "", "b", false),
            (Presence, "a", "b", true),
            (Presence, "a", "x/y", true),
            (Presence, "a", "", false),
            (Presence, "", "b", false),
            (suffix("/admin"), "https://a", "admin", true),
            (suffix("/admin"), "https://a", "t/admin", false),
            (suffix("min"), "https://a", "t/admin", true),
            (suffix("/t/admin"), "https://a/t", "admin", true),
            (suffix("/t/admin"), "https://a", "t/admin", false),
            (prefix("https://a/"), "https://a", "b", true),
            (prefix("https://a/"), "https://a", "b/c", true),
            (prefix("https://a/"), "https://a/evil", "b", false),
            (prefix("https://a/te"), "https://a", "team-1", true),
            (prefix("https://a/te"), "https://a/team-1", "x", false),
            (prefix("https://a"), "https://a/team", "x", true),
            (prefix("https://a"), "https://b", "x", false),
            (prefix("acc"), "accounts", "x", true),
        ] {
            assert_eq!(fits(&want, Some(&token(issuer, subject))), holds, "{want} against {issuer} and {subject}");
            assert!(!fits(&want, None));
        }
        let bare = Token { principal: "https://a/b".into(), ..Token::default() };
        assert!(fits(&exact("https://a/b"), Some(&bare)), "without claims the last `/` decides");
        assert!(!fits(&exact("b"), Some(&Token { principal: "b".into(), ..Token::default() })));
    }
}
