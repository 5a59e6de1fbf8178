//! An expression's words, with their places.

use std::fmt;

use super::Wrong;

pub struct Place {
    /// Of its first character; the first of all is 1.
    pub at: usize,
    pub word: Word,
}

pub enum Word {
    Name(String),
    Number(i64),
    Text(String),
    Symbol(&'static str),
}

/// The longer ones first.
const SYMBOLS: [&str; 15] = ["&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ",", "."];

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "`{}`", name.chars().take(64).collect::<String>()),
            Self::Number(number) => write!(f, "`{number}`"),
            Self::Text(_) => f.write_str("a text"),
            Self::Symbol(symbol) => write!(f, "`{symbol}`"),
        }
    }
}

pub fn words(text: &str) -> Result<Vec<Place>, Wrong> {
    let characters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(first) = characters.get(next).copied() {
        let at = next + 1;
        let run = |from: usize, is: fn(char) -> bool| characters[from..].iter().take_while(|c| is(**c)).count();
        let word = match first {
            ' ' | '\t' | '\n' | '\r' => {
                next += 1;
                continue;
            }
            '"' | '\'' => {
                let (text, behind) = quoted(&characters, next, first)?;
                next = behind;
                Word::Text(text)
            }
            _ if first.is_ascii_alphabetic() || first == '_' => {
                let length = run(next, |c| c.is_ascii_alphanumeric() || c == '_');
                let name = characters[next..next + length].iter().collect();
                next += length;
                // `r"..."` is CEL's raw text.
                if matches!(characters.get(next), Some('"' | '\'')) {
                    return Err(Wrong { at, why: "texts with a prefix are not understood".to_owned() });
                }
                Word::Name(name)
            }
            '-' | '0'..='9' => {
                let sign = usize::from(first == '-');
                let length = sign + run(next + sign, |c| c.is_ascii_alphanumeric());
                let digits: String = characters[next..next + length].iter().collect();
                let number = digits.parse();
                let number = number.map_err(|_| Wrong { at, why: "is not a whole number, as in 404".to_owned() })?;
                next += length;
                Word::Number(number)
            }
            _ => {
                let is = |symbol: &&&str| symbol.chars().eq(characters[next..].iter().copied().take(symbol.len()));
                let Some(symbol) = SYMBOLS.iter().find(is) else {
                    return Err(Wrong { at, why: format!("{first:?} is not understood") });
                };
                next += symbol.len();
                Word::Symbol(symbol)
            }
        };
        found.push(Place { at, word });
    }
    Ok(found)
}

/// The text that begins at `start`, and the place behind it.
fn quoted(characters: &[char], start: usize, quote: char) -> Result<(String, usize), Wrong> {
    let mut text = String::new();
    let mut next = start + 1;
    loop {
        match characters.get(next) {
            None | Some('\n') => return Err(Wrong { at: start + 1, why: "the text has no end".to_owned() }),
            Some('\\') => match characters.get(next + 1) {
                Some(escaped @ ('\\' | '"' | '\'')) => {
                    text.push(*escaped);
                    next += 2;
                }
                _ => {
                    let why = r#"only \\, \" and \' are understood in a text"#.to_owned();
                    return Err(Wrong { at: next + 1, why });
                }
            },
            Some(end) if *end == quote => return Ok((text, next + 1)),
            Some(character) => {
                text.push(*character);
                next += 1;
            }
        }
    }
}
