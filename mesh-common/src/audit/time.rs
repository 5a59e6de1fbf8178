//! Points in time as RFC 3339 writes them: UTC, microseconds, always as long.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

const DAY: u64 = 24 * 3600;

/// As in `2026-01-31T12:00:00.000000Z`. What is before 1970 is 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub SystemTime);

impl Time {
    pub fn now() -> Self {
        Self(SystemTime::now())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / DAY, since.as_secs() % DAY);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
    }
}

impl FromStr for Time {
    type Err = &'static str;

    /// Of this form only.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &[u8] = b"0000-00-00T00:00:00.000000Z";
        const WHY: &str = "no time as in 2026-01-31T12:00:00.000000Z";
        let fits = |(is, form): (u8, &u8)| if *form == b'0' { is.is_ascii_digit() } else { is == *form };
        if text.len() != FORM.len() || !text.bytes().zip(FORM).all(fits) {
            return Err(WHY);
        }
        let part = |from: usize, to: usize| text[from..to].parse::<u64>().map_err(|_| WHY);
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
        let days = days(year, month, day).ok_or(WHY)?;
        if date(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
            return Err(WHY);
        }
        let since = Duration::from_secs(days * DAY + hour * 3600 + minute * 60 + second);
        Ok(Self(UNIX_EPOCH + since + Duration::from_micros(part(20, 26)?)))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Days of the Gregorian calendar before the year's first of March, since that of the year 0: years begin there, so
/// that the odd day is the last of one.
fn before(year: u64) -> u64 {
    365 * year + year / 4 - year / 100 + year / 400
}

/// From the 1st of March of the year 0 to the 1st of January 1970.
const EPOCH: u64 = 719_468;

/// Year, month and day so many days after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + EPOCH;
    let mut year = days * 400 / 146_097;
    while before(year + 1) <= days {
        year += 1;
    }
    while before(year) > days {
        year -= 1;
    }
    let day = days - before(year);
    // Months from March: 153 days in every five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    (before(year) + (153 * month + 2) / 5 + day.checked_sub(1)?).checked_sub(EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_and_read() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (1_769_860_800, "2026-01-31T12:00:00.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
            (253_402_300_799, "9999-12-31T23:59:59.000000Z"),
        ] {
            let time = Time(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time), "{text}");
        }
        let time = Time(UNIX_EPOCH + Duration::from_micros(7));
        assert_eq!(time.to_string(), "1970-01-01T00:00:00.000007Z");
        assert_eq!(Time(UNIX_EPOCH - Duration::from_secs(1)).to_string(), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn every_day_has_a_date_and_each_follows_the_one_before() {
        let mut before = (1969, 12, 31);
        for day in 0..200_000 {
            let date = date(day);
            assert!(date > before, "{before:?} {date:?}");
            assert_eq!(days(date.0, date.1, date.2), Some(day));
            before = date;
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00.000000+00:00",
            "2026-02-29T12:00:00.000000Z",
            "2026-13-01T12:00:00.000000Z",
            "2026-00-01T12:00:00.000000Z",
            "2026-01-00T12:00:00.000000Z",
            "2026-01-31T24:00:00.000000Z",
            "2026-01-31t12:00:00.000000z",
            "1969-12-31T23:59:59.000000Z",
        ] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }
}
