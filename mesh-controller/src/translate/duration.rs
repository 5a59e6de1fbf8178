//! Spans of time as users write them: Go's form (`1h30m`, `500ms`) and protobuf's (`1.5s`), which is a part of it.

use mesh_common::model::traffic::Millis;

/// What is longer bounds nothing: a year.
const MAX: f64 = 365.0 * 24.0 * 3_600_000.0;
/// More digits and units than a year needs in nanoseconds.
const MAX_TEXT: usize = 64;

/// # Errors
/// If the text is none, is negative, longer than a year or, but for zero, shorter than a millisecond.
pub fn duration(text: &str) -> Result<Millis, String> {
    let why = |why: &str| format!("`{}` {why}", text.chars().take(MAX_TEXT).collect::<String>());
    if text == "0" {
        return Ok(Millis(0));
    }
    if text.is_empty() || text.len() > MAX_TEXT {
        return Err(why("is no time span, as in 10s, 1h30m or 500ms"));
    }
    let mut rest = text;
    let mut millis = 0.0;
    while !rest.is_empty() {
        let (amount, unit, behind) = element(rest).ok_or_else(|| why("is no time span, as in 10s, 1h30m or 500ms"))?;
        millis += amount * unit;
        rest = behind;
    }
    if millis > MAX {
        Err(why("is longer than a year"))
    } else if millis > 0.0 && millis < 1.0 {
        Err(why("is shorter than a millisecond"))
    } else {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a year")]
        Ok(Millis(millis.round() as u64))
    }
}

/// The first number with its unit in milliseconds, and what is behind them.
fn element(text: &str) -> Option<(f64, f64, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(unit_at);
    let next_at = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, behind) = rest.split_at(next_at);
    let unit = match unit {
        "h" => 3_600_000.0,
        "m" => 60_000.0,
        "s" => 1_000.0,
        "ms" => 1.0,
        "us" | "µs" => 1e-3,
        "ns" => 1e-6,
        _ => return None,
    };
    Some((number.parse().ok()?, unit, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        for (text, expected) in [
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("0.5s", 500),
            (".5s", 500),
            ("0s", 0),
            ("0", 0),
            ("2000us", 2),
            ("5000000ns", 5),
            ("8760h", 31_536_000_000),
            ("1m0.010s", 60_010),
        ] {
            assert_eq!(duration(text), Ok(Millis(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_quoted() {
        let long = format!("{}s", "1".repeat(64));
        for text in [
            "",
            "10",
            "s",
            "10 s",
            "-1s",
            "1d",
            "1.2.3s",
            "1s2",
            "1e3s",
            "8761h",
            "1us",
            "infs",
            ".s",
            "1µ",
            long.as_str(),
        ] {
            let why = duration(text).expect_err(text);
            assert!(why.starts_with(&format!("`{}", text.chars().take(5).collect::<String>())), "{why}");
        }
    }
}
