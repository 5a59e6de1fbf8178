//! What is assumed of attributes that are not known, and what follows of it.

use std::fmt;

use crate::model::{PathPattern, StringMatch};

/// Of which something may be assumed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    /// Whether the connection carried requests at all.
    Requests,
    Method,
    Path,
    Host,
    /// In lower case.
    Header(String),
    /// Of TLS of the application's own.
    ServerName,
    /// Of the token by the rules of one question; `anew`: of another one.
    Token {
        anew: bool,
        what: TokenPart,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenPart {
    /// It is not right by the rules, and the request is refused for it.
    Wrong,
    Principal,
    Audience,
    Presenter,
    Claim(Vec<String>),
}

/// One condition on such an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess {
    pub attribute: Attribute,
    pub pattern: PathPattern,
}

/// Conditions that are taken to hold, or not to hold.
#[derive(Clone, Debug, Default)]
pub struct Assumed(Vec<(Guess, bool)>);

/// What may come out.
#[derive(Clone, Debug)]
pub struct Outcomes<T> {
    /// Without repeats.
    pub all: Vec<T>,
    /// On what it depends which of them; sorted.
    pub depends_on: Vec<Attribute>,
    /// There were too many cases to look at each: there may be other outcomes.
    pub cut: bool,
}

impl Attribute {
    /// It is one text, if it is there at all.
    fn is_single(&self) -> bool {
        match self {
            Self::Method | Self::Path | Self::ServerName => true,
            Self::Token { what, .. } => matches!(what, TokenPart::Presenter),
            // Asked with its port and without; by each value.
            Self::Host | Self::Header(_) | Self::Requests => false,
        }
    }

    /// Its conditions are on texts, as they are written.
    fn is_text(&self) -> bool {
        let rules = matches!(self, Self::Token { what: TokenPart::Principal, .. });
        !(rules || matches!(self, Self::Host))
    }
}

/// As people call it.
impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests => f.write_str("whether it carried requests"),
            Self::Method => f.write_str("method"),
            Self::Path => f.write_str("path"),
            Self::Host => f.write_str("host"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::ServerName => f.write_str("server name"),
            Self::Token { anew: _, what } => match what {
                TokenPart::Wrong => f.write_str("token"),
                TokenPart::Principal => f.write_str("request principal"),
                TokenPart::Audience => f.write_str("audience"),
                TokenPart::Presenter => f.write_str("presenter"),
                TokenPart::Claim(path) => write!(f, "claim {}", path.join(".")),
            },
        }
    }
}

impl Assumed {
    /// What is assumed of a condition, or follows of what is assumed of others.
    pub fn answer(&self, attribute: &Attribute, pattern: &PathPattern) -> Option<bool> {
        // No request is without.
        let always = matches!(attribute, Attribute::Method | Attribute::Path);
        if always && *pattern == PathPattern::Text(StringMatch::Presence) {
            return Some(true);
        }
        let follows = |(guess, holds): &(Guess, bool)| -> Option<bool> {
            if guess.attribute != *attribute {
                let absent = !holds && guess.pattern == PathPattern::Text(StringMatch::Presence);
                return (absent && is_token_of(attribute, &guess.attribute)).then_some(false);
            }
            if guess.pattern == *pattern {
                return Some(*holds);
            }
            match holds {
                true if implies(attribute, &guess.pattern, pattern) => Some(true),
                true if excludes(attribute, &guess.pattern, pattern) => Some(false),
                false if implies(attribute, pattern, &guess.pattern) => Some(false),
                _ => None,
            }
        };
        self.0.iter().find_map(follows)
    }

    fn push(&mut self, guess: Guess, holds: bool) {
        self.0.push((guess, holds));
    }

    fn pop(&mut self) {
        self.0.pop();
    }
}

/// Without a principal there is no token, and nothing else of it.
fn is_token_of(attribute: &Attribute, principal: &Attribute) -> bool {
    match (attribute, principal) {
        (Attribute::Token { anew, what }, Attribute::Token { anew: other, what: TokenPart::Principal }) => {
            anew == other && *what != TokenPart::Wrong
        }
        _ => false,
    }
}

/// Whatever meets `a` meets `b`.
fn implies(attribute: &Attribute, a: &PathPattern, b: &PathPattern) -> bool {
    use PathPattern::{Template, Text};
    use StringMatch::{Exact, Prefix, Presence, Suffix};
    match (a, b) {
        // Every value that conditions are met by is there.
        (_, Text(Presence)) => true,
        _ if !attribute.is_text() => false,
        (Text(Exact(text)), b) => b.matches(text),
        (Text(Prefix(long)), Text(Prefix(short))) => long.starts_with(short.as_str()),
        (Text(Suffix(long)), Text(Suffix(short))) => long.ends_with(short.as_str()),
        (Text(_) | Template(_), _) => false,
    }
}

/// Nothing meets both.
fn excludes(attribute: &Attribute, a: &PathPattern, b: &PathPattern) -> bool {
    use PathPattern::Text;
    use StringMatch::{Exact, Prefix, Suffix};
    if !(attribute.is_single() && attribute.is_text()) {
        return false;
    }
    match (a, b) {
        (Text(Exact(text)), other) | (other, Text(Exact(text))) => !other.matches(text),
        (Text(Prefix(a)), Text(Prefix(b))) => !a.starts_with(b.as_str()) && !b.starts_with(a.as_str()),
        (Text(Suffix(a)), Text(Suffix(b))) => !a.ends_with(b.as_str()) && !b.ends_with(a.as_str()),
        _ => false,
    }
}

/// All that `ask` may answer, whatever is so of what is not known. At most `most` cases are looked at.
pub fn outcomes<T: PartialEq + Clone>(most: usize, ask: impl Fn(&Assumed) -> Result<T, Guess>) -> Outcomes<T> {
    let mut search = Search { ask, left: most.max(1), assumed: Assumed::default(), depends_on: Vec::new(), cut: false };
    let all = search.cases();
    let Search { mut depends_on, cut, .. } = search;
    depends_on.sort();
    depends_on.dedup();
    Outcomes { all, depends_on, cut }
}

struct Search<F> {
    ask: F,
    left: usize,
    assumed: Assumed,
    depends_on: Vec<Attribute>,
    cut: bool,
}

impl<F> Search<F> {
    fn cases<T: PartialEq + Clone>(&mut self) -> Vec<T>
    where
        F: Fn(&Assumed) -> Result<T, Guess>,
    {
        if self.left == 0 {
            self.cut = true;
            return Vec::new();
        }
        let guess = match (self.ask)(&self.assumed) {
            Ok(outcome) => {
                self.left -= 1;
                return vec![outcome];
            }
            Err(guess) => guess,
        };
        let attribute = guess.attribute.clone();
        let mut assuming = |holds| {
            self.assumed.push(guess.clone(), holds);
            let found: Vec<T> = self.cases();
            self.assumed.pop();
            found
        };
        let (mut all, otherwise) = (assuming(true), assuming(false));
        let is_same = all.len() == otherwise.len() && all.iter().all(|outcome| otherwise.contains(outcome));
        if self.cut || !is_same {
            self.depends_on.push(attribute);
        }
        for outcome in otherwise {
            if !all.contains(&outcome) {
                all.push(outcome);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{
        PathPattern::{Template, Text},
        StringMatch::{Exact, Prefix, Presence, Suffix},
        *,
    };

    fn text(of: fn(String) -> StringMatch, text: &str) -> PathPattern {
        Text(of(text.to_owned()))
    }

    fn token(anew: bool, what: TokenPart) -> Attribute {
        Attribute::Token { anew, what }
    }

    /// What follows for `asked` if `guessed` is taken to hold, and if it is taken not to.
    fn follows(attribute: &Attribute, guessed: &PathPattern, asked: &PathPattern) -> [Option<bool>; 2] {
        [true, false].map(|holds| {
            let mut assumed = Assumed::default();
            assumed.push(Guess { attribute: attribute.clone(), pattern: guessed.clone() }, holds);
            assumed.answer(attribute, asked)
        })
    }

    fn patterns() -> Vec<PathPattern> {
        let words = ["", "a", "b", "ab", "ba", "aba", "abb", "bab"];
        let of = |make: fn(String) -> StringMatch| words.map(|word| text(make, word));
        let templates = ["/{*}", "/a/{**}"].map(|template| Template(template.to_owned()));
        let texts = of(Exact).into_iter().chain(of(Prefix)).chain(of(Suffix)).chain([Text(Presence)]);
        texts.filter(|one| *one != text(Exact, "")).chain(templates).collect()
    }

    /// Every value that may be there, as far as these patterns tell values apart.
    fn values() -> Vec<String> {
        let mut all = vec![String::new()];
        for _ in 0..6 {
            let longer: Vec<_> =
                all.iter().flat_map(|text| ["a", "b", "c"].map(|more| format!("{text}{more}"))).collect();
            all.extend(longer);
            all.sort();
            all.dedup();
        }
        all.extend(["/", "/a", "/a/", "/a/b", "/ab", "/b/a"].map(str::to_owned));
        all.into_iter().filter(|text| !text.is_empty()).collect()
    }

    #[test]
    fn what_follows_is_so_of_every_value_and_nothing_is_missed_of_texts() {
        let values = values();
        for (guessed, asked) in
            patterns().iter().flat_map(|one| patterns().into_iter().map(move |other| (one.clone(), other)))
        {
            let found = follows(&Attribute::ServerName, &guessed, &asked);
            for (holds, found) in [true, false].into_iter().zip(found) {
                // A name that is not there meets nothing.
                let absent = (!holds).then_some(false);
                let meant = values.iter().filter(|value| guessed.matches(value) == holds);
                let mut answers: Vec<bool> = meant.map(|value| asked.matches(value)).chain(absent).collect();
                answers.sort_unstable();
                answers.dedup();
                if let Some(found) = found {
                    assert!(answers.iter().all(|answer| *answer == found), "{guessed} {holds}: {asked} is {found}");
                }
                // A beginning and an end say nothing of each other, and templates follow of whole texts alone.
                let apart = |one: &PathPattern, other: &PathPattern| matches!((one, other), (Text(Prefix(a)), Text(Suffix(b))) if !a.is_empty() && !b.is_empty());
                let is_text = |one: &PathPattern| matches!(one, Text(_));
                let easy = is_text(&guessed) && is_text(&asked) && !apart(&guessed, &asked) && !apart(&asked, &guessed);
                let trivial =
                    [&guessed, &asked].into_iter().any(|one| *one == text(Prefix, "") || *one == text(Suffix, ""));
                if let ([only], true, false) = (&answers[..], easy, trivial) {
                    assert_eq!(found, Some(*only), "{guessed} {holds}: {asked}");
                }
            }
        }
    }

    #[test]
    fn what_has_many_values_excludes_nothing_and_what_is_read_otherwise_implies_nothing() {
        let [a, b, beginning] = [text(Exact, "a"), text(Exact, "b"), text(Prefix, "a")];
        let header = Attribute::Header("x".into());
        for (attribute, implied, excluded) in [
            (Attribute::Method, true, true),
            (Attribute::Path, true, true),
            (Attribute::ServerName, true, true),
            (token(false, TokenPart::Presenter), true, true),
            // More than one may be there.
            (header, true, false),
            (token(false, TokenPart::Audience), true, false),
            (token(false, TokenPart::Claim(vec!["role".into()])), true, false),
            // Compared with its port and without; by the rules of issuers.
            (Attribute::Host, false, false),
            (token(false, TokenPart::Principal), false, false),
        ] {
            assert_eq!(follows(&attribute, &a, &beginning)[0], implied.then_some(true), "{attribute}");
            assert_eq!(follows(&attribute, &beginning, &a)[1], implied.then_some(false), "{attribute}");
            assert_eq!(follows(&attribute, &a, &b)[0], excluded.then_some(false), "{attribute}");
            assert_eq!(follows(&attribute, &a, &Text(Presence))[0], Some(true), "{attribute}");
            assert_eq!(follows(&attribute, &a, &a), [Some(true), Some(false)], "{attribute}");
        }
        // No request is without.
        for attribute in [Attribute::Method, Attribute::Path] {
            assert_eq!(Assumed::default().answer(&attribute, &Text(Presence)), Some(true));
        }
        assert_eq!(Assumed::default().answer(&Attribute::ServerName, &Text(Presence)), None);
    }

    #[test]
    fn without_a_principal_there_is_nothing_of_its_token() {
        let told = |principal: &Attribute, pattern: PathPattern, holds, asked: &Attribute| {
            let mut assumed = Assumed::default();
            assumed.push(Guess { attribute: principal.clone(), pattern }, holds);
            assumed.answer(asked, &text(Exact, "a"))
        };
        let principal = token(false, TokenPart::Principal);
        let none = |asked: &Attribute| told(&principal, Text(Presence), false, asked);
        let claim = || TokenPart::Claim(vec!["role".into()]);
        assert_eq!(none(&token(false, TokenPart::Audience)), Some(false));
        assert_eq!(none(&token(false, TokenPart::Presenter)), Some(false));
        assert_eq!(none(&token(false, claim())), Some(false));
        assert_eq!(none(&token(true, claim())), None, "another token's");
        assert_eq!(none(&token(false, TokenPart::Wrong)), None, "a wrong one has no principal either");
        assert_eq!(none(&Attribute::Method), None);
        assert_eq!(told(&principal, Text(Presence), true, &token(false, claim())), None);
        assert_eq!(told(&principal, text(Exact, "i/s"), false, &token(false, claim())), None, "another principal's");
        assert_eq!(told(&token(false, TokenPart::Audience), Text(Presence), false, &token(false, claim())), None);
        assert_eq!(told(&Attribute::Method, Text(Presence), false, &token(false, claim())), None);
    }

    #[test]
    fn attributes_are_named_as_people_call_them() {
        let named = [
            (Attribute::Requests, "whether it carried requests"),
            (Attribute::Method, "method"),
            (Attribute::Path, "path"),
            (Attribute::Host, "host"),
            (Attribute::Header("x-team".into()), "header x-team"),
            (Attribute::ServerName, "server name"),
            (token(false, TokenPart::Wrong), "token"),
            (token(true, TokenPart::Principal), "request principal"),
            (token(false, TokenPart::Audience), "audience"),
            (token(false, TokenPart::Presenter), "presenter"),
            (token(false, TokenPart::Claim(vec!["realm".into(), "role".into()])), "claim realm.role"),
        ];
        for (attribute, name) in named {
            assert_eq!(attribute.to_string(), name);
        }
    }

    #[test]
    fn cases_are_bounded_and_what_decides_is_named() {
        let guess = |name: &str| Guess { attribute: Attribute::Header(name.into()), pattern: text(Exact, "a") };
        let ask = |assumed: &Assumed, name: &str| {
            let Guess { attribute, pattern } = guess(name);
            assumed.answer(&attribute, &pattern).ok_or_else(|| guess(name))
        };
        let of = |most| {
            outcomes(most, |assumed| {
                // `b` is asked and does not matter.
                ask(assumed, "b")?;
                Ok::<_, Guess>(ask(assumed, "a")? && ask(assumed, "c")?)
            })
        };
        let whole = of(8);
        assert_eq!((whole.all, whole.cut), (vec![true, false], false));
        let decides = whole.depends_on.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(decides, ["header a", "header c"]);
        // Each of two values of `b` has three cases.
        assert!(!of(6).cut && of(5).cut && of(0).cut && of(1).all.len() == 1);
        assert!(of(1).depends_on.iter().any(|attribute| attribute.to_string() == "header b"), "nobody knows");
    }
}
