//! Random paths against a slow model of their one form, and against what applications may make of them.

use std::collections::BTreeSet;

use super::*;

const PARTS: [&str; 47] = [
    "/",
    "/",
    "/",
    "..",
    ".",
    "%2e",
    "%2E%2e",
    "%2f",
    "%2F",
    "%5c",
    "%25",
    "%252f",
    "%252e",
    "%255C",
    "%25252f",
    ";",
    ";x=1",
    "%3b",
    "%3B",
    "%3f",
    "%23",
    "%c0%af",
    "%c0%ae",
    "%C1%9c",
    "%e0%80%ae",
    "%f0%80%80%af",
    "%00",
    "%2500",
    "%",
    "%zz",
    "%20",
    "%c3%a9",
    "{x}",
    "admin",
    "%61dmin",
    "pub",
    "/pub/",
    "/u/x/me",
    "/u/a;x/me",
    "/u/%41/keys",
    "secret",
    "u",
    "me",
    "keys",
    ".txt",
    ".key",
    "x",
];

/// Bounded numbers, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn path(&mut self) -> String {
        let parts: String = (0..=self.below(9)).map(|_| PARTS[self.below(PARTS.len())]).collect();
        format!("/{parts}")
    }
}

/// RFC 3986, section by section; `None`: there is no such path.
fn settled(path: &str) -> Option<String> {
    let letters: Vec<char> = path.chars().collect();
    let mut spelled = String::new();
    let mut at = 0;
    while at < letters.len() {
        match letters[at] {
            '%' => {
                let digits: String = letters.get(at + 1..at + 3)?.iter().collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| !digits.contains('+'))?;
                match char::from_u32(code)? {
                    '\0' => return None,
                    letter @ ('a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~') => spelled.push(letter),
                    _ => spelled.push_str(&format!("%{}", digits.to_uppercase())),
                }
                at += 3;
            }
            letter => {
                match letter {
                    '{' => spelled.push_str("%7B"),
                    '}' => spelled.push_str("%7D"),
                    letter => spelled.push(letter),
                }
                at += 1;
            }
        }
    }
    Some(walked(&spelled))
}

/// The algorithm of 5.2.4 as it is written there.
fn walked(path: &str) -> String {
    let mut input = path.to_owned();
    let mut output = String::new();
    while !input.is_empty() {
        if input.starts_with("/./") {
            input.replace_range(..2, "");
        } else if input == "/." {
            input = "/".into();
        } else if input.starts_with("/../") || input == "/.." {
            input = format!("/{}", &input[3..].strip_prefix('/').unwrap_or_default());
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
            output.push_str(&input[..end]);
            input.replace_range(..end, "");
        }
    }
    output
}

/// Texts are bytes here, a character each.
fn unescaped(path: &str, of: fn(char) -> bool) -> String {
    let mut pieces = path.split('%');
    let mut text = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let code = piece.get(..2).filter(|code| !code.starts_with('+'));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()).map(char::from).filter(|letter| of(*letter)) {
            Some(letter) => text.extend([letter.to_string().as_str(), &piece[2..]]),
            None => text.extend(["%", piece]),
        }
    }
    text
}

/// What some application does to a path before it looks at it.
fn done(what: usize, path: &str) -> String {
    let is_slash = |letter| letter == '/' || letter == '\\';
    match what {
        0 => unescaped(path, |_| true),
        1 => unescaped(path, is_slash),
        2 => unescaped(path, |letter| letter != '/' && letter != '\\'),
        3 => path.replace('\\', "/"),
        4 => {
            let mut path = path.to_owned();
            while path.contains("//") {
                path = path.replace("//", "/");
            }
            path
        }
        5 => walked(path),
        6 => path
            .split('/')
            .map(|segment| &segment[..segment.find(';').unwrap_or(segment.len())])
            .collect::<Vec<_>>()
            .join("/"),
        7 => path[..path.find(['?', '#']).unwrap_or(path.len())].to_owned(),
        _ => {
            let slashes = path.replace("\u{c0}\u{af}", "/").replace("\u{f0}\u{80}\u{80}\u{af}", "/");
            let dots = slashes.replace("\u{c0}\u{ae}", ".").replace("\u{e0}\u{80}\u{ae}", ".");
            dots.replace("\u{c1}\u{9c}", "\\")
        }
    }
}

/// The policies of the tables, in other words.
fn permits(set: char, path: &str) -> bool {
    let segments: Vec<_> = path.split('/').collect();
    let of_somebody = |last| matches!(segments[..], ["", "u", who, end] if !who.is_empty() && end == last);
    match set {
        'A' => path == "/admin",
        'B' => path.starts_with("/pub/"),
        'C' => path.ends_with(".txt"),
        'D' => of_somebody("me"),
        'E' => path != "/admin",
        'F' => !path.starts_with("/secret/"),
        'G' => !path.ends_with(".key"),
        _ => !of_somebody("keys"),
    }
}

/// What a request that is permitted asks for in the eyes of any application is permitted too.
#[tokio::test]
async fn no_reading_of_what_is_permitted_is_denied() {
    let (judge, mut dice) = (Judge::new(), Dice(11));
    let decider = judge.http.deciders.of_pod("a", UID, &judge.store.snapshot());
    let connection = Connection {
        source_identity: None,
        source_ip: [127, 0, 0, 1].into(),
        destination: SocketAddr::from(([10, 0, 0, 1], 80)),
    };
    let cases =
        std::env::var("MESH_TEST_CASES").map_or(1_000, |cases| cases.parse().expect("MESH_TEST_CASES is a number"));
    let (mut permitted, mut refused, mut ambiguous) = (BTreeSet::new(), 0, 0);
    for _ in 0..cases {
        let path = dice.path();
        let mut parts = Request::builder().uri(&path).header("host", "cart").body(()).unwrap().into_parts().0;
        let Ok(_) = message::read(&mut parts, "") else {
            assert_eq!(settled(&path), None, "{path} is refused");
            refused += 1;
            continue;
        };
        let passed = parts.uri.path().to_owned();
        let passed = passed.as_str();
        assert_eq!(settled(&path).as_deref(), Some(passed), "{path}");
        for set in "ABCDEFGH".chars() {
            parts.headers.insert("x-set", HeaderValue::from_str(&set.to_string()).unwrap());
            match decider.judge(&connection, &mut parts, "cart").outcome {
                Ok(_) => {}
                Err(Unauthorized::Path(_)) => {
                    ambiguous += 1;
                    continue;
                }
                Err(_) => continue,
            }
            permitted.insert(set);
            assert!(permits(set, passed), "{set} {passed}");
            for _ in 0..15 {
                let (mut read, mut story) = (passed.to_owned(), vec![passed.to_owned()]);
                for _ in 0..dice.below(7) {
                    read = done(dice.below(9), &read);
                    story.push(read.clone());
                }
                assert!(permits(set, &read), "{set} permits what an application reads so: {story:#?}");
            }
        }
    }
    assert_eq!(permitted.iter().collect::<String>(), "ABCDEFGH");
    assert!(refused > 0 && ambiguous > 0, "{refused} {ambiguous}");
}
