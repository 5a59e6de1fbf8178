//! Conditions on a token of which at most the principal was recorded.

use serde_json::{Map, Value};

use super::{Asking, Attribute, Bearer, Maybe, TokenPart, all, any, both};
use crate::model::{
    Action, HttpMatch, StringMatch, Token,
    http_policy::{Fit, fits_principal},
};

impl Asking<'_> {
    pub(super) fn token(&self, http: &HttpMatch, action: Action, bearer: Bearer<'_>) -> Maybe<bool> {
        let tokens = candidates(bearer);
        let anew = matches!(bearer, Bearer::Unknown { anew: true });
        let guess = |what: TokenPart, want: &StringMatch| self.text(Attribute::Token { anew, what }, want);
        // What all that it may be agree on is known.
        let agreed = |fits: &dyn Fn(Option<&Token>) -> bool| {
            let mut answers = tokens.iter().map(|token| fits(token.as_ref()));
            let first = answers.next()?;
            answers.all(|answer| answer == first).then_some(first)
        };
        let is_whole = matches!(bearer, Bearer::Exactly(_));
        let principals = |wants: &[StringMatch], fit| {
            any(wants.iter().map(|want| {
                let known = agreed(&|token| fits_principal(std::slice::from_ref(want), token, fit));
                known.map_or_else(|| guess(TokenPart::Principal, want), Ok)
            }))
        };
        let is_any = http.request_principals.is_empty();
        all([
            if is_any { Ok(true) } else { principals(&http.request_principals, Fit::of(action)) },
            principals(&http.not_request_principals, Fit::of_not(action)).map(|fits| !fits),
            both(&http.audiences, &http.not_audiences, |want| match bearer {
                Bearer::Exactly(token) => {
                    let mut audiences = token.into_iter().flat_map(|token| &token.audiences);
                    Ok(audiences.any(|audience| want.matches(Some(audience))))
                }
                _ => guess(TokenPart::Audience, want),
            }),
            both(&http.presenters, &http.not_presenters, |want| match bearer {
                Bearer::Exactly(token) => Ok(want.matches(token.and_then(|token| token.presenter.as_deref()))),
                _ => guess(TokenPart::Presenter, want),
            }),
            all(http.claims.iter().map(|condition| {
                both(&condition.values, &condition.not_values, |want| {
                    let named = matches!(condition.path.as_slice(), [one] if one == "iss" || one == "sub");
                    let known = if is_whole || named { agreed(&|token| condition.fits(want, token)) } else { None };
                    known.map_or_else(|| guess(TokenPart::Claim(condition.path.clone()), want), Ok)
                })
            })),
        ])
    }
}

/// All that the token may be, as far as `iss` and `sub` go; none: nothing is known of it.
fn candidates(bearer: Bearer<'_>) -> Vec<Option<Token>> {
    match bearer {
        Bearer::Unknown { .. } => Vec::new(),
        Bearer::Exactly(token) => vec![token.cloned()],
        Bearer::Principal { principal, issuers } => {
            let known = issuers.iter().filter_map(|issuer| {
                principal.strip_prefix(issuer)?.strip_prefix('/').map(|subject| (*issuer, subject))
            });
            let mut parts: Vec<_> = known.collect();
            if parts.is_empty() {
                let slashes = principal.match_indices('/');
                parts = slashes.map(|(at, _)| (&principal[..at], &principal[at + 1..])).collect();
            }
            let token = |(issuer, subject): (&str, &str)| {
                let text = |text: &str| Value::String(text.to_owned());
                let claims = Map::from_iter([("iss".to_owned(), text(issuer)), ("sub".to_owned(), text(subject))]);
                Some(Token { principal: principal.to_owned(), claims, ..Token::default() })
            };
            parts.into_iter().map(token).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Issuers and subjects.
    fn parts(principal: &str, issuers: &[&str]) -> Vec<(String, String)> {
        let tokens = candidates(Bearer::Principal { principal, issuers });
        let claim = |token: &Token, name: &str| token.claims[name].as_str().unwrap_or_default().to_owned();
        tokens.iter().flatten().map(|token| (claim(token, "iss"), claim(token, "sub"))).collect()
    }

    #[test]
    fn a_principal_is_taken_apart_by_known_issuers_or_at_any_slash() {
        let pair = |issuer: &str, subject: &str| (issuer.to_owned(), subject.to_owned());
        assert_eq!(parts("https://i/a/b", &["https://i", "other"]), [pair("https://i", "a/b")]);
        assert_eq!(parts("https://i/a/b", &["https://i", "https://i/a"]).len(), 2, "nobody knows which one it was");
        assert_eq!(parts("i/a/b", &["other"]), [pair("i", "a/b"), pair("i/a", "b")]);
        assert!(parts("i", &["i"]).is_empty(), "no issuer and subject");
    }
}
