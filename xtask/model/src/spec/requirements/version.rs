//! Versions and specifiers of PEP 440: read, normalised, compared.
//!
//! Pure. Which version is *wanted* is the resolver's business; this only says whether a locked one still fits.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A version of PEP 440, normalised: `1.0-RC.1` is `1.0rc1`.
#[derive(Clone, Debug)]
pub struct Version {
    epoch: u64,
    release: Vec<u64>,
    pre: Option<(&'static str, u64)>,
    post: Option<u64>,
    dev: Option<u64>,
    local: Vec<Segment>,
}

/// A part of a local version; numbers are newer than words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Word(String),
    Number(u64),
}

impl Version {
    /// The release numbers without trailing zeros, which do not count.
    fn trimmed(&self) -> &[u64] {
        let length = self.release.iter().rposition(|n| *n != 0).map_or(0, |last| last + 1);
        &self.release[..length]
    }

    /// PEP 440's order: dev < alpha < beta < rc < final < post.
    fn key(&self) -> impl Ord + use<> {
        // A bare dev release comes before every pre-release; a final one after them.
        let pre = match (&self.pre, self.post, self.dev) {
            (Some((kind, number)), _, _) => (1, *kind, *number),
            (None, None, Some(_)) => (0, "", 0),
            (None, _, _) => (2, "", 0),
        };
        let post = self.post.map_or(0, |n| n.saturating_add(1));
        let dev = self.dev.unwrap_or(u64::MAX);
        (self.epoch, self.trimmed().to_vec(), pre, post, dev, self.local.clone())
    }

    fn public(&self) -> Self {
        Self { local: Vec::new(), ..self.clone() }
    }

    fn is_pre(&self) -> bool {
        self.pre.is_some() || self.dev.is_some()
    }

    /// The oldest pre-release of a final version: `2.dev0` for `2`, before `2a1` and `2a1.post1`.
    fn first_pre(&self) -> Self {
        Self { dev: Some(0), ..self.clone() }
    }

    /// True if this is a post-release of that version: `>1.7` does not mean `1.7.post1`.
    fn is_post_of(&self, wanted: &Self) -> bool {
        let before = Self { post: None, dev: None, local: Vec::new(), ..self.clone() };
        self.post.is_some() && wanted.post.is_none() && before == *wanted
    }

    /// True if the release begins with these numbers, zeros filling up what is missing.
    fn begins(&self, prefix: &Self, length: usize) -> bool {
        let number = |version: &Self, index: usize| version.release.get(index).copied().unwrap_or(0);
        self.epoch == prefix.epoch && (0..length).all(|index| number(self, index) == number(prefix, index))
    }

    /// Without trailing zeros: how a specifier other than `~=` and `==….*` is written.
    fn canonical(&self) -> String {
        let mut version = self.clone();
        version.release = self.trimmed().to_vec();
        if version.release.is_empty() {
            version.release.push(0);
        }
        version.to_string()
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.epoch != 0 {
            write!(f, "{}!", self.epoch)?;
        }
        let release: Vec<String> = self.release.iter().map(u64::to_string).collect();
        f.write_str(&release.join("."))?;
        if let Some((kind, number)) = self.pre {
            write!(f, "{kind}{number}")?;
        }
        if let Some(number) = self.post {
            write!(f, ".post{number}")?;
        }
        if let Some(number) = self.dev {
            write!(f, ".dev{number}")?;
        }
        for (index, segment) in self.local.iter().enumerate() {
            f.write_str(if index == 0 { "+" } else { "." })?;
            match segment {
                Segment::Word(word) => f.write_str(word)?,
                Segment::Number(number) => write!(f, "{number}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a version of PEP 440, like `1.2.3` or `2.0rc1`");
        let lower = text.to_ascii_lowercase();
        let mut rest = Rest(lower.strip_prefix('v').unwrap_or(&lower));
        let mut first = rest.number().ok_or_else(wrong)?;
        let mut epoch = 0;
        if rest.eat("!") {
            epoch = first;
            first = rest.number().ok_or_else(wrong)?;
        }
        let mut release = vec![first];
        while let Some(number) = rest.dotted() {
            release.push(number);
        }
        let pre = rest.pre();
        let post = rest.post();
        let dev = rest.labelled(&["dev"]);
        let local = if rest.eat("+") { rest.local().ok_or_else(wrong)? } else { Vec::new() };
        if rest.0.is_empty() { Ok(Self { epoch, release, pre, post, dev, local }) } else { Err(wrong()) }
    }
}

/// Remaining text of a version; each step consumes a whole part or nothing.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn eat(&mut self, text: &str) -> bool {
        self.0.strip_prefix(text).map(|rest| self.0 = rest).is_some()
    }

    fn number(&mut self) -> Option<u64> {
        let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
        let number = self.0[..end].parse().ok()?;
        self.0 = &self.0[end..];
        Some(number)
    }

    fn dotted(&mut self) -> Option<u64> {
        let before = self.0;
        let number = self.eat(".").then(|| self.number()).flatten();
        if number.is_none() {
            self.0 = before;
        }
        number
    }

    fn separator(&mut self) -> bool {
        self.eat(".") || self.eat("-") || self.eat("_")
    }

    /// One of the words, between optional separators, with a number that is 0 when left out.
    fn labelled(&mut self, words: &[&str]) -> Option<u64> {
        let before = self.0;
        self.separator();
        if !words.iter().any(|word| self.eat(word)) {
            self.0 = before;
            return None;
        }
        let after = self.0;
        self.separator();
        Some(self.number().unwrap_or_else(|| {
            self.0 = after;
            0
        }))
    }

    fn pre(&mut self) -> Option<(&'static str, u64)> {
        let kinds: [(&str, &[&str]); 3] =
            [("a", &["alpha", "a"]), ("b", &["beta", "b"]), ("rc", &["preview", "pre", "rc", "c"])];
        kinds.into_iter().find_map(|(kind, words)| self.labelled(words).map(|number| (kind, number)))
    }

    fn post(&mut self) -> Option<u64> {
        let before = self.0;
        if self.eat("-") {
            if let Some(number) = self.number() {
                return Some(number);
            }
            self.0 = before;
        }
        self.labelled(&["post", "rev", "r"])
    }

    fn local(&mut self) -> Option<Vec<Segment>> {
        let text = std::mem::take(&mut self.0);
        text.split(['.', '-', '_'])
            .map(|part| {
                let good = !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
                good.then(|| part.parse().map_or_else(|_| Segment::Word(part.to_owned()), Segment::Number))
            })
            .collect()
    }
}

/// The operators of PEP 440, longest first, as they must be looked for.
pub(crate) const OPERATORS: [&str; 8] = ["===", "~=", "==", "!=", "<=", ">=", "<", ">"];

/// An operator and a version, normalised: `>= 2.2.0` is `>=2.2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specifier {
    operator: &'static str,
    /// Normalised where it is a version; `===` takes any text.
    text: String,
    /// The same without trailing zeros, where they do not count: how it is printed.
    canonical: String,
}

impl Specifier {
    /// A specifier of an operator of PEP 440 and what follows it, or why it is none.
    pub fn new(operator: &'static str, text: &str) -> Result<Self, String> {
        if operator == "===" {
            let text = text.to_ascii_lowercase();
            return Ok(Self { operator, canonical: text.clone(), text });
        }
        let (base, wild) = text.strip_suffix(".*").map_or((text, false), |base| (base, true));
        let version: Version = base.parse()?;
        if wild {
            if !matches!(operator, "==" | "!=") {
                return Err(format!("`.*` is only allowed with `==` and `!=`, not with `{operator}`"));
            }
            if version.dev.is_some() || !version.local.is_empty() {
                return Err("`.*` cannot follow a dev release or a local version".to_owned());
            }
            let text = format!("{version}.*");
            return Ok(Self { operator, canonical: text.clone(), text });
        }
        if operator == "~=" && version.release.len() < 2 {
            return Err(format!("`~=` needs two numbers at least, as in `~={version}.0`"));
        }
        if !version.local.is_empty() && !matches!(operator, "==" | "!=") {
            return Err(format!("a local version (`+…`) is only allowed with `==` and `!=`, not with `{operator}`"));
        }
        let canonical = if operator == "~=" { version.to_string() } else { version.canonical() };
        Ok(Self { operator, text: version.to_string(), canonical })
    }

    pub fn is_pin(&self) -> bool {
        (self.operator == "==" && !self.text.ends_with(".*")) || self.operator == "==="
    }

    pub fn version(&self) -> &str {
        &self.text
    }

    /// True if the version fits, by PEP 440. Pre-releases are judged by their order alone: the resolver has decided on them.
    pub fn contains(&self, version: &Version) -> bool {
        if self.operator == "===" {
            return version.to_string() == self.text;
        }
        let (base, wild) = self.text.strip_suffix(".*").map_or((self.text.as_str(), false), |base| (base, true));
        let Ok(wanted) = base.parse::<Version>() else { return false };
        let public = version.public();
        match self.operator {
            "==" => equal(version, &wanted, wild),
            "!=" => !equal(version, &wanted, wild),
            "<=" => public <= wanted,
            ">=" => public >= wanted,
            "~=" => public >= wanted && version.begins(&wanted, wanted.release.len() - 1),
            // PEP 440: neither `<` nor `>` takes what belongs to the version itself, its pre- or post-releases.
            "<" if wanted.is_pre() => public < wanted,
            "<" => public < wanted.first_pre(),
            _ => public > wanted && !version.is_post_of(&wanted),
        }
    }
}

fn equal(version: &Version, wanted: &Version, wild: bool) -> bool {
    if wild {
        let same_pre = wanted.pre.is_none() || version.pre == wanted.pre;
        let same_post = wanted.post.is_none() || version.post == wanted.post;
        return same_pre && same_post && version.begins(wanted, wanted.release.len());
    }
    // A local version that was not asked for does not count.
    if wanted.local.is_empty() { version.public() == *wanted } else { version == wanted }
}

impl fmt::Display for Specifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.operator, self.canonical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap_or_else(|why| panic!("{why}"))
    }

    #[track_caller]
    fn check(text: &str, normal: &str) {
        assert_eq!(version(text).to_string(), normal);
    }

    #[test]
    fn versions_are_normalised() {
        check("1.0", "1.0");
        check("v1.0-RC.1", "1.0rc1");
        check("1.1ALPHA1", "1.1a1");
        check("1.0preview2", "1.0rc2");
        check("1.0c3", "1.0rc3");
        check("1.0-1", "1.0.post1");
        check("1.0.rev2", "1.0.post2");
        check("1.0dev", "1.0.dev0");
        check("1.0a.dev-3", "1.0a0.dev3");
        check("2!01.02", "2!1.2");
        check("1.0+Ubuntu-1_2", "1.0+ubuntu.1.2");
        check("2013b", "2013b0");
    }

    #[test]
    fn invalid_versions_are_refused() {
        for bad in ["", "x", "1.", "1..2", "1.0+", "1.0+a..b", "1.0 ", "1.0foo", "1!", "99999999999999999999999", "1.*"]
        {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_are_in_the_order_of_pep_440() {
        let sorted = [
            "1.0.dev456",
            "1.0a1",
            "1.0a2.dev456",
            "1.0a12.dev456",
            "1.0a12",
            "1.0b1.dev456",
            "1.0b2",
            "1.0b2.post345.dev456",
            "1.0b2.post345",
            "1.0rc1.dev456",
            "1.0rc1",
            "1.0",
            "1.0+abc.5",
            "1.0+abc.7",
            "1.0+5",
            "1.0.post456.dev34",
            "1.0.post456",
            "1.0.15",
            "1.1.dev1",
            "1!0.1",
        ];
        for (index, left) in sorted.iter().enumerate() {
            for (other, right) in sorted.iter().enumerate() {
                assert_eq!(version(left).cmp(&version(right)), index.cmp(&other), "{left} {right}");
            }
        }
        assert_eq!(version("1.0"), version("1.0.0"));
    }

    fn specifier(text: &str) -> Result<Specifier, String> {
        let operator = OPERATORS.into_iter().find(|operator| text.starts_with(operator)).unwrap();
        Specifier::new(operator, &text[operator.len()..])
    }

    #[track_caller]
    fn fits(text: &str, yes: &[&str], no: &[&str]) {
        let specifier = specifier(text).unwrap();
        for (texts, wanted) in [(yes, true), (no, false)] {
            for text in texts {
                assert_eq!(specifier.contains(&version(text)), wanted, "{text} {specifier}");
            }
        }
    }

    #[test]
    fn specifiers_hold_what_pep_440_says() {
        fits("==1.0", &["1.0", "1", "1.0.0", "1.0+local"], &["1.0.post1", "1.0rc1", "1.1"]);
        fits("==1.0+x", &["1.0+x"], &["1.0", "1.0+y"]);
        fits("==1.1.*", &["1.1", "1.1.5", "1.1rc1", "1.1.post1"], &["1.2", "1.10", "2!1.1"]);
        fits("==1.1.post1", &["1.1.post1"], &["1.1"]);
        fits("!=1.1.*", &["1.2"], &["1.1.1"]);
        fits("!=1.1", &["1.2", "1.1.1"], &["1.1", "1.1+x"]);
        fits("~=2.2", &["2.2", "2.9", "2.2.post3"], &["3.0", "2.1", "2.2rc1"]);
        fits("~=1.4.5.0", &["1.4.5.9"], &["1.4.6"]);
        fits("<3", &["2.9", "2.99.post1"], &["3.0", "3.0rc1", "3.0.dev1", "4"]);
        fits("<1.0.post1", &["1.0a1", "1.0"], &["1.0.post1.dev3", "1.0.post1"]);
        fits("<3.0rc2", &["3.0rc1"], &["3.0rc2"]);
        fits("<2", &["1.9.post1"], &["2.0a1.post1", "2.0a1.post1.dev1", "2.0.post1.dev1", "2.0rc1.dev1"]);
        fits("<1!2", &["2rc1", "1!1.9"], &["1!2rc1", "1!2.0b2.post1"]);
        fits(">1.7", &["1!1.7.post2"], &["1.7.post1.dev2", "1.7.post1+l"]);
        fits(">1.7a1", &["1.7.post1", "1.7"], &["1.7a1.post1"]);
        fits(">1.7", &["1.7.1", "1.8"], &["1.7", "1.7.post2", "1.7+local"]);
        fits(">1.7.post2", &["1.7.post3"], &["1.7.0"]);
        fits(">=2", &["2", "2.0.post1", "10"], &["2rc1", "1.9"]);
        fits("<=2", &["2", "2+x", "1"], &["2.1"]);
        fits("===1.0", &["1.0"], &["1.0.0"]);
    }

    #[test]
    fn specifiers_are_normalised_but_for_what_counts() {
        for (text, normal) in [
            (">=2.2.0", ">=2.2"),
            ("==0.0", "==0"),
            ("~=2.0", "~=2.0"),
            ("==2.0.*", "==2.0.*"),
            ("==1.0-RC1", "==1rc1"),
        ] {
            assert_eq!(specifier(text).unwrap().to_string(), normal);
        }
        for bad in [">=1.*", "~=1", ">=1+x", "==1.dev1.*", "==", "==*"] {
            assert!(specifier(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_reading_is_the_identity(epoch in 0..2u64, release in prop::collection::vec(0..99u64, 1..5),
                                                tail in "(a|b|rc)?", number in 0..9u64, post in any::<bool>(), dev in any::<bool>()) {
            let pre = if tail.is_empty() { String::new() } else { format!("{tail}{number}") };
            let release: Vec<String> = release.iter().map(u64::to_string).collect();
            let text = format!("{}{}{pre}{}{}", if epoch > 0 { "1!" } else { "" }, release.join("."),
                               if post { ".post3" } else { "" }, if dev { ".dev4" } else { "" });
            prop_assert_eq!(version(&text).to_string(), text);
        }

        #[test]
        fn no_text_ends_the_reader(text in "\\PC{0,20}") {
            let _ = text.parse::<Version>();
        }
    }
}
