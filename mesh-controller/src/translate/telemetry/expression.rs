//! `filter.expression` of access logs: the part of CEL that conditions of lines can say. What is left of it is refused
//! with its place, never guessed.
//!
//! As in Envoy an attribute that a record does not have makes what asks for it false, and so what denies it: of bytes
//! neither `request.method == "GET"` holds nor `request.method != "GET"`. So denials are taken inwards, to where an
//! attribute is asked.

mod words;

use mesh_common::model::telemetry::{LogAttribute, LogCondition};

use words::{Place, Word, words};

/// What an expression may have of characters, of brackets in brackets, and of conditions.
const LONGEST: usize = 2048;
const DEEPEST: usize = 32;
const MOST: usize = 64;

/// Why it is not understood, and where: the first character is 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub at: usize,
    pub why: String,
}

/// The conditions that must all hold.
///
/// # Errors
/// Names the place of what it does not understand.
pub fn expression(text: &str) -> Result<Vec<LogCondition>, Wrong> {
    if text.chars().count() > LONGEST {
        return Err(Wrong { at: LONGEST + 1, why: format!("it has more than {LONGEST} characters") });
    }
    let words = words(text)?;
    let end = text.chars().count() + 1;
    let mut reader = Reader { words: &words, next: 0, end, depth: 0, asked: 0 };
    let read = reader.any()?;
    match reader.words.get(reader.next) {
        Some(Place { at, word }) => Err(Wrong { at: *at, why: format!("{word} is not understood here") }),
        None => Ok(all(read, true)),
    }
}

enum Read {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    /// The code is in one of these ranges.
    Code(Vec<(u16, u16)>),
    /// One of them is the text.
    Is(LogAttribute, Vec<String>),
    Begins(LogAttribute, String),
    Authenticated,
}

/// What stands on one side of a comparison.
enum Side {
    Code,
    Text(LogAttribute),
    Authenticated,
    Number(i64),
    String(String),
    Bool(bool),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    Equal,
    Other,
    Less,
    AtMost,
    More,
    AtLeast,
}

struct Reader<'w> {
    words: &'w [Place],
    next: usize,
    /// Behind the last character.
    end: usize,
    depth: usize,
    asked: usize,
}

impl Reader<'_> {
    fn at(&self) -> usize {
        self.words.get(self.next).map_or(self.end, |place| place.at)
    }

    fn wrong<T>(&self, why: impl Into<String>) -> Result<T, Wrong> {
        Err(Wrong { at: self.at(), why: why.into() })
    }

    fn peek(&self) -> Option<&Word> {
        self.words.get(self.next).map(|place| &place.word)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Word::Symbol(own)) if *own == symbol);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Wrong> {
        if self.take(symbol) { Ok(()) } else { self.wrong(format!("`{symbol}` is missing")) }
    }

    fn any(&mut self) -> Result<Read, Wrong> {
        let mut list = vec![self.all()?];
        while self.take("||") {
            list.push(self.all()?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Read::Any(list) })
    }

    fn all(&mut self) -> Result<Read, Wrong> {
        let mut list = vec![self.one()?];
        while self.take("&&") {
            list.push(self.one()?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Read::All(list) })
    }

    fn one(&mut self) -> Result<Read, Wrong> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.wrong(format!("more than {DEEPEST} brackets or denials stand in each other"));
        }
        let read = if self.take("!") {
            Read::Not(Box::new(self.one()?))
        } else if self.take("(") {
            let inner = self.any()?;
            self.expect(")")?;
            inner
        } else {
            self.asked += 1;
            if self.asked > MOST {
                return self.wrong(format!("there are more than {MOST} conditions"));
            }
            self.comparison()?
        };
        self.depth -= 1;
        Ok(read)
    }

    fn comparison(&mut self) -> Result<Read, Wrong> {
        let start = self.at();
        let left = self.side()?;
        if let (Side::Text(attribute), true) = (&left, self.take(".")) {
            return self.call(*attribute);
        }
        let place = self.at();
        let Some(compared) = self.compared() else {
            if matches!(self.peek(), Some(Word::Name(name)) if name == "in") {
                self.next += 1;
                return self.listed(left, start);
            }
            return match left {
                Side::Authenticated => Ok(Read::Authenticated),
                _ => self.wrong("a comparison is missing"),
            };
        };
        let right_at = self.at();
        let right = self.side()?;
        let (asked, compared, said, said_at) = match left {
            Side::Number(_) | Side::String(_) | Side::Bool(_) => (right, compared.turned(), left, start),
            asked => (asked, compared, right, right_at),
        };
        let wrong = |at, why: &str| Err(Wrong { at, why: why.to_owned() });
        let read = match (asked, said) {
            (Side::Code, Side::Number(number)) => return Ok(Read::Code(compared.ranges(number))),
            (Side::Text(attribute), Side::String(text)) => {
                Read::Is(attribute, vec![without_query(attribute, text, said_at)?])
            }
            (Side::Authenticated, Side::Bool(true)) => Read::Authenticated,
            (Side::Authenticated, Side::Bool(false)) => Read::Not(Box::new(Read::Authenticated)),
            (Side::Code, _) => return wrong(said_at, "response.code is compared with a number"),
            (Side::Text(LogAttribute::ResponseFlags), _) => {
                return wrong(said_at, "response.flags is compared with a text, as in \"UH\"");
            }
            (Side::Text(_), _) => return wrong(said_at, "this attribute is compared with a text"),
            (Side::Authenticated, _) => return wrong(said_at, "connection.mtls is compared with true or false"),
            _ => return wrong(start, "an attribute is missing: two values are compared"),
        };
        match compared {
            Compared::Equal => Ok(read),
            Compared::Other => Ok(Read::Not(Box::new(read))),
            _ => wrong(place, "only response.code has an order; others are compared by == and !="),
        }
    }

    fn compared(&mut self) -> Option<Compared> {
        use Compared::{AtLeast, AtMost, Equal, Less, More, Other};
        let all = [("==", Equal), ("!=", Other), ("<=", AtMost), (">=", AtLeast), ("<", Less), (">", More)];
        all.into_iter().find(|(symbol, _)| self.take(symbol)).map(|(_, compared)| compared)
    }

    fn call(&mut self, attribute: LogAttribute) -> Result<Read, Wrong> {
        if !matches!(self.peek(), Some(Word::Name(name)) if name == "startsWith") {
            return self.wrong("only startsWith(\"...\") is understood of a text");
        }
        self.next += 1;
        self.expect("(")?;
        let at = self.at();
        let Side::String(text) = self.side()? else {
            return Err(Wrong { at, why: "startsWith takes a text".to_owned() });
        };
        self.expect(")")?;
        Ok(Read::Begins(attribute, without_query(attribute, text, at)?))
    }

    fn listed(&mut self, left: Side, start: usize) -> Result<Read, Wrong> {
        self.expect("[")?;
        let (mut codes, mut texts) = (Vec::new(), Vec::new());
        loop {
            self.asked += 1;
            if self.asked > MOST {
                return self.wrong(format!("there are more than {MOST} conditions"));
            }
            let at = self.at();
            match (&left, self.side()?) {
                (Side::Code, Side::Number(number)) => codes.extend(Compared::Equal.ranges(number)),
                (Side::Text(attribute), Side::String(text)) => texts.push(without_query(*attribute, text, at)?),
                _ => return Err(Wrong { at, why: "is not what the attribute is compared with".to_owned() }),
            }
            if !self.take(",") {
                break;
            }
        }
        self.expect("]")?;
        match left {
            Side::Code => Ok(Read::Code(joined(codes))),
            Side::Text(attribute) => Ok(Read::Is(attribute, texts)),
            _ => Err(Wrong { at: start, why: "only texts and response.code are looked for in a list".to_owned() }),
        }
    }

    fn side(&mut self) -> Result<Side, Wrong> {
        let Some(word) = self.peek() else { return self.wrong("an attribute or a value is missing") };
        let side = match word {
            Word::Number(number) => Side::Number(*number),
            Word::Text(text) => Side::String(text.clone()),
            Word::Name(name) => match name.as_str() {
                "true" => Side::Bool(true),
                "false" => Side::Bool(false),
                _ => return self.attribute(),
            },
            Word::Symbol(symbol) => return self.wrong(format!("`{symbol}` is not understood here")),
        };
        self.next += 1;
        Ok(side)
    }

    /// As far as its names go: the last may be a function.
    fn attribute(&mut self) -> Result<Side, Wrong> {
        let start = self.at();
        let mut path = String::new();
        let mut known = None;
        while let Some(Word::Name(name)) = self.peek() {
            path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            self.next += 1;
            // The longest that is known: `source.workload` goes on.
            if let Some(side) = attribute(&path) {
                known = Some((side, self.next));
            }
            if !self.take(".") {
                break;
            }
        }
        let Some((side, next)) = known else {
            let path: String = path.chars().take(64).collect();
            let why = format!("`{path}` is not an attribute that lines know; known are {KNOWN}");
            return Err(Wrong { at: start, why });
        };
        self.next = next;
        Ok(side)
    }
}

const KNOWN: &str = "response.code, response.flags, request.method, request.path, request.url_path, request.host, \
                     connection.mtls, source.workload.name, source.workload.namespace, destination.workload.name and \
                     destination.workload.namespace";

fn attribute(path: &str) -> Option<Side> {
    Some(match path {
        "response.code" => Side::Code,
        "connection.mtls" => Side::Authenticated,
        "response.flags" => Side::Text(LogAttribute::ResponseFlags),
        "request.method" => Side::Text(LogAttribute::Method),
        "request.path" | "request.url_path" => Side::Text(LogAttribute::Path),
        "request.host" => Side::Text(LogAttribute::Host),
        "source.workload" | "source.workload.name" => Side::Text(LogAttribute::SourceWorkload),
        "source.namespace" | "source.workload.namespace" => Side::Text(LogAttribute::SourceNamespace),
        "destination.workload" | "destination.workload.name" => Side::Text(LogAttribute::DestinationWorkload),
        "destination.namespace" | "destination.workload.namespace" => Side::Text(LogAttribute::DestinationNamespace),
        _ => return None,
    })
}

/// Records do not have it.
fn without_query(attribute: LogAttribute, text: String, at: usize) -> Result<String, Wrong> {
    if attribute == LogAttribute::Path && text.contains('?') {
        return Err(Wrong { at, why: "paths are known without their query".to_owned() });
    }
    Ok(text)
}

impl Compared {
    /// With its sides exchanged.
    fn turned(self) -> Self {
        match self {
            Self::Less => Self::More,
            Self::AtMost => Self::AtLeast,
            Self::More => Self::Less,
            Self::AtLeast => Self::AtMost,
            same => same,
        }
    }

    fn ranges(self, number: i64) -> Vec<(u16, u16)> {
        let (low, high) = match self {
            Self::Equal => (number, number),
            Self::Other => return others(&Self::Equal.ranges(number)),
            Self::Less => (0, number.saturating_sub(1)),
            Self::AtMost => (0, number),
            Self::More => (number.saturating_add(1), i64::MAX),
            Self::AtLeast => (number, i64::MAX),
        };
        if low > high || high < 0 || low > i64::from(u16::MAX) {
            return Vec::new();
        }
        let within = |number: i64| u16::try_from(number.max(0)).unwrap_or(u16::MAX);
        vec![(within(low), within(high))]
    }
}

/// In order, none of them touching another.
fn joined(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut all: Vec<(u16, u16)> = Vec::new();
    for (from, to) in ranges {
        match all.last_mut() {
            Some((_, last)) if from <= last.saturating_add(1) => *last = to.max(*last),
            _ => all.push((from, to)),
        }
    }
    all
}

/// Every code that is in none of these, which are in order.
fn others(ranges: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut next = Some(0_u16);
    let mut all = Vec::new();
    for (from, to) in ranges {
        if let Some(next) = next.filter(|next| next < from) {
            all.push((next, from - 1));
        }
        next = to.checked_add(1);
    }
    all.extend(next.map(|next| (next, u16::MAX)));
    all
}

/// What must all hold for this to be so, or not so.
fn all(read: Read, so: bool) -> Vec<LogCondition> {
    match (read, so) {
        (Read::Not(inner), so) => all(*inner, !so),
        (Read::All(list), true) | (Read::Any(list), false) => list.into_iter().flat_map(|one| all(one, so)).collect(),
        (Read::All(list), false) | (Read::Any(list), true) => {
            vec![LogCondition::Any(list.into_iter().map(|one| together(all(one, so))).collect())]
        }
        (Read::Code(ranges), so) => {
            let ranges = if so { ranges } else { others(&ranges) };
            vec![any(ranges.into_iter().map(|(from, to)| LogCondition::Status { from, to }))]
        }
        (Read::Authenticated, true) => vec![LogCondition::Authenticated],
        (Read::Authenticated, false) => vec![not(LogCondition::Authenticated)],
        (Read::Is(attribute, texts), so) => {
            let is = any(texts.into_iter().map(|value| LogCondition::Is { attribute, value }));
            if so { vec![is] } else { vec![there(attribute), not(is)] }
        }
        (Read::Begins(attribute, value), so) => {
            let begins = LogCondition::Begins { attribute, value };
            if so { vec![begins] } else { vec![there(attribute), not(begins)] }
        }
    }
}

/// Whatever it is.
fn there(attribute: LogAttribute) -> LogCondition {
    LogCondition::Begins { attribute, value: String::new() }
}

fn not(condition: LogCondition) -> LogCondition {
    match condition {
        LogCondition::Not(inner) => *inner,
        other => LogCondition::Not(Box::new(other)),
    }
}

fn any(conditions: impl Iterator<Item = LogCondition>) -> LogCondition {
    let mut list: Vec<_> = conditions.collect();
    if list.len() == 1 { list.remove(0) } else { LogCondition::Any(list) }
}

/// There is no word for all of several but that none of them fails.
fn together(mut list: Vec<LogCondition>) -> LogCondition {
    if list.len() == 1 {
        return list.remove(0);
    }
    not(LogCondition::Any(list.into_iter().map(not).collect()))
}

#[cfg(test)]
mod tests;
