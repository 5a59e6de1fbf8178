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
