//! The order of versions in each ecosystem: PEP 440, Semantic Versioning, and dpkg's.

use crate::spec::requirements::Version;
use std::cmp::Ordering;

/// System that the versions belong to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystem {
    Pypi,
    Crates,
    /// A release of Debian, `13`.
    Debian(String),
}

impl Ecosystem {
    /// Its name in OSV.
    pub fn name(&self) -> String {
        match self {
            Self::Pypi => "PyPI".to_owned(),
            Self::Crates => "crates.io".to_owned(),
            Self::Debian(release) => format!("Debian:{release}"),
        }
    }

    /// Compares two versions; `None` if one of them is not a version.
    pub fn compare(&self, one: &str, other: &str) -> Option<Ordering> {
        match self {
            Self::Pypi => Some(one.parse::<Version>().ok()?.cmp(&other.parse::<Version>().ok()?)),
            Self::Crates => Some(Semantic::parse(one)?.cmp(&Semantic::parse(other)?)),
            Self::Debian(_) => debian(one, other),
        }
    }
}

/// A version of Semantic Versioning 2.0; build metadata does not count.
#[derive(Debug, PartialEq, Eq)]
struct Semantic<'a> {
    numbers: [u64; 3],
    pre: Vec<&'a str>,
}

impl<'a> Semantic<'a> {
    /// Missing numbers are zero: ranges of databases have `0`.
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.split('+').next()?;
        let (release, pre) = text.split_once('-').map_or((text, None), |(release, pre)| (release, Some(pre)));
        let mut numbers = [0; 3];
        for (at, part) in release.split('.').enumerate() {
            *numbers.get_mut(at)? = part.parse().ok()?;
        }
        let pre: Vec<&str> = pre.map(|pre| pre.split('.').collect()).unwrap_or_default();
        (!pre.contains(&"")).then_some(Self { numbers, pre })
    }
}

impl Ord for Semantic<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let identifier = |one: &&str, other: &&str| match (one.parse::<u64>(), other.parse::<u64>()) {
            (Ok(one), Ok(other)) => one.cmp(&other),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => one.cmp(other),
        };
        let pre = match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let parts = self.pre.iter().zip(&other.pre);
                let differs = parts.map(|(one, other)| identifier(one, other)).find(|order| order.is_ne());
                differs.unwrap_or(self.pre.len().cmp(&other.pre.len()))
            }
        };
        self.numbers.cmp(&other.numbers).then(pre)
    }
}

impl PartialOrd for Semantic<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of Debian Policy, section 5.6.12.
fn debian(one: &str, other: &str) -> Option<Ordering> {
    fn parts(text: &str) -> Option<(u64, &str, &str)> {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().ok()?, rest),
            None => (0, text),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        let good = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.~-:".contains(&b));
        (!upstream.is_empty() && good(upstream) && good(revision)).then_some((epoch, upstream, revision))
    }
    let (one, other) = (parts(one)?, parts(other)?);
    Some(one.0.cmp(&other.0).then_with(|| alternating(one.1, other.1)).then_with(|| alternating(one.2, other.2)))
}

/// Compares runs of other characters and runs of digits in turn.
fn alternating(mut one: &str, mut other: &str) -> Ordering {
    fn split(text: &str, digits: bool) -> (&str, &str) {
        text.split_at(text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len()))
    }
    // A tilde is before the end, and letters before everything else.
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
        Some(rest) => i32::from(*rest) + 256,
    };
    while !one.is_empty() || !other.is_empty() {
        let ((words, rest), (other_words, other_rest)) = (split(one, false), split(other, false));
        let length = words.len().max(other_words.len());
        let (words, other_words) = (words.as_bytes(), other_words.as_bytes());
        let differs = (0..length).map(|at| weight(words.get(at)).cmp(&weight(other_words.get(at))));
        if let Some(order) = differs.into_iter().find(|order| order.is_ne()) {
            return order;
        }
        let ((number, rest), (other_number, other_rest)) = (split(rest, true), split(other_rest, true));
        let (number, other_number) = (number.trim_start_matches('0'), other_number.trim_start_matches('0'));
        let order = number.len().cmp(&other_number.len()).then_with(|| number.cmp(other_number));
        if order.is_ne() {
            return order;
        }
        (one, other) = (rest, other_rest);
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every version comes before all that follow it.
    #[track_caller]
    fn ascends(ecosystem: &Ecosystem, versions: &[&str]) {
        for (at, one) in versions.iter().enumerate() {
            for (other_at, other) in versions.iter().enumerate() {
                assert_eq!(ecosystem.compare(one, other), Some(at.cmp(&other_at)), "{one} and {other}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_is_one_of_any_versions(one in "[0-9a-c.~+:-]{0,6}", two in "[0-9a-c.~+:-]{0,6}", three in "[0-9a-c.~+:-]{0,6}") {
            for ecosystem in [Ecosystem::Pypi, Ecosystem::Crates, Ecosystem::Debian("13".to_owned())] {
                let order = |one: &str, other: &str| ecosystem.compare(one, other);
                prop_assert_eq!(order(&one, &two), order(&two, &one).map(Ordering::reverse));
                if order(&one, &two) == Some(Ordering::Less) && order(&two, &three) == Some(Ordering::Less) {
                    prop_assert_eq!(order(&one, &three), Some(Ordering::Less));
                }
            }
        }
    }

    #[test]
    fn versions_have_the_order_of_their_ecosystem() {
        ascends(&Ecosystem::Pypi, &["0", "1.0.dev1", "1.0a1", "1.0rc1", "1.0", "1.0.post1", "1.2", "1.10", "1!0.1"]);
        ascends(
            &Ecosystem::Crates,
            &[
                "0",
                "0.9.9",
                "1.0.0-alpha",
                "1.0.0-alpha.1",
                "1.0.0-alpha.beta",
                "1.0.0-beta.2",
                "1.0.0-beta.11",
                "1.0.0",
            ],
        );
        // From dpkg's own tests, and Debian Policy.
        ascends(
            &Ecosystem::Debian("13".to_owned()),
            &[
                "0",
                "1.0~~",
                "1.0~~a",
                "1.0~",
                "1.0-0~bpo1",
                "1.0",
                "1.0-1",
                "1.0-1+b1",
                "1.0-1+deb13u1",
                "1.0-1.1",
                "1.0a",
                "1.0+dfsg",
                "1.2",
                "1.10",
                "2.41-12",
                "2.41-12+deb13u1",
                "1:0.1",
            ],
        );
        let debian = Ecosystem::Debian(String::new());
        assert_eq!(debian.compare("1.01-0", "1.1"), Some(Ordering::Equal));
        assert_eq!(Ecosystem::Crates.compare("1.0.0+a", "1.0.0+b"), Some(Ordering::Equal));
        for (ecosystem, wrong) in
            [(&debian, "1 0"), (&debian, "x:1"), (&Ecosystem::Crates, "1.x"), (&Ecosystem::Pypi, "one")]
        {
            assert_eq!(ecosystem.compare(wrong, "1"), None, "{wrong}");
        }
    }
}
