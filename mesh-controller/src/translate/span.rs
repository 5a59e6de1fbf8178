//! Time spans as users write them: numbers with units one after another, as in `30s`, `1.5s`, `1h30m`, `100ms`.

use mesh_common::model::traffic::Millis;

/// The longest, a year: beyond it a span is a slip of the pen.
pub const LONGEST: Millis = Millis(365 * 24 * 3_600_000);

/// # Errors
/// Says what is wrong, quoting the text: no number, an unknown unit (of h, m, s, ms, us, ns), a sign, more than
/// [`LONGEST`], or more than nothing and less than a millisecond.
pub fn parse(text: &str) -> Result<Millis, String> {
    let quoted: String = text.chars().take(32).collect();
    let wrong = || format!("`{quoted}` is not a time span (as in 30s, 1.5s, 1h30m, 100ms)");
    if text == "0" {
        return Ok(Millis(0));
    }
    if text.is_empty() || text.len() > 64 {
        return Err(wrong());
    }
    let mut millis = 0.0_f64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        millis += number
            * match unit {
                "h" => 3_600_000.0,
                "m" => 60_000.0,
                "s" => 1_000.0,
                "ms" => 1.0,
                "us" | "µs" => 0.001,
                "ns" => 0.000_001,
                _ => return Err(wrong()),
            };
        rest = after;
    }
    #[expect(clippy::cast_precision_loss, reason = "a year in milliseconds is far below 2^52")]
    let longest = LONGEST.0 as f64;
    if millis > longest {
        return Err(format!("`{quoted}` is more than a year"));
    }
    if millis > 0.0 && millis < 1.0 {
        return Err(format!("`{quoted}` is less than a millisecond"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a year")]
    Ok(Millis(millis.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_as_users_write_them() {
        for (text, millis) in [
            ("30s", 30_000),
            ("0s", 0),
            ("0", 0),
            ("1.5s", 1_500),
            ("1h30m", 5_400_000),
            ("100ms", 100),
            ("1s500ms", 1_500),
            ("2500us", 3),
            (".5s", 500),
            ("1m0.010s", 60_010),
            ("8760h", LONGEST.0),
        ] {
            assert_eq!(parse(text), Ok(Millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "30",
            "-1s",
            "1 s",
            "1d",
            "1..5s",
            "1e9s",
            "8761h",
            "1us",
            "∞s",
            "infs",
            ".s",
            "1s2",
            "1µ",
            "9".repeat(80).as_str(),
        ] {
            let why = parse(text).expect_err(text);
            assert!(why.starts_with(&format!("`{}", text.chars().take(5).collect::<String>())), "{why}");
        }
    }
}
