//! Go's duration syntax: `1h2m3.5s`.
//!
//! Pure. Reference: <https://pkg.go.dev/time#ParseDuration>.

/// In nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Duration(pub(super) i64);

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Returns `None` for invalid text, or for more than 290 years.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration(0));
    }
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit = UNITS.iter().find(|(name, _)| *name == &after[..end])?.1;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part = part(fraction, unit);
        total = total.checked_add(i64::try_from(whole.checked_mul(unit)?.checked_add(part)?).ok()?)?;
        rest = &after[end..];
    }
    Some(Duration(if negative { -total } else { total }))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Fraction of a unit. Digits after the eighteenth are dropped: they are far below a nanosecond.
fn part(fraction: &str, unit: u64) -> u64 {
    let kept = &fraction[..fraction.len().min(18)];
    let numerator: u128 = kept.parse().unwrap_or(0);
    let scale = 10_u128.pow(kept.len() as u32);
    u64::try_from(numerator * u128::from(unit) / scale).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn is(text: &str, expected: Option<i64>) {
        assert_eq!(parse(text), expected.map(Duration), "{text}");
    }

    #[test]
    fn units_add_up() {
        is("0", Some(0));
        is("5s", Some(5_000_000_000));
        is("1m30s", Some(90_000_000_000));
        is("1.5h", Some(5_400_000_000_000));
        is(".5s", Some(500_000_000));
        is("1.s", Some(1_000_000_000));
        is("100ms", Some(100_000_000));
        is("3us2ns", Some(3_002));
        is("3\u{b5}s", Some(3_000));
        is("-2s", Some(-2_000_000_000));
        is("+2s", Some(2_000_000_000));
        is("0.1234567890123456789s", Some(123_456_789));
    }

    #[test]
    fn invalid_durations_are_reported() {
        for text in ["", "5", "s", "5x", ".s", "5s5", "1e3s", "- 1s", "9999999h", "5 s"] {
            is(text, None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_rejected(text in "[-+0-9.hmsnu\u{b5}]{0,24}") {
            let _ = parse(&text);
        }
    }
}
