//! Users and passwords of a netrc file.
//!
//! Pure. No value is printed.

#[derive(Clone, Default)]
pub(super) struct Netrc {
    /// Host (`None` for `default`), user and password.
    entries: Vec<(Option<String>, String, String)>,
}

impl Netrc {
    pub(super) fn parse(text: &str) -> Self {
        let mut entries: Vec<(Option<String>, String, String)> = Vec::new();
        let mut lines = text.lines();
        let mut words: Vec<&str> = Vec::new();
        while let Some(line) = lines.next() {
            if line.trim_start().starts_with('#') {
                continue;
            }
            for word in line.split_whitespace() {
                if word == "macdef" {
                    // A macro ends at an empty line.
                    lines.by_ref().find(|line| line.trim().is_empty());
                    break;
                }
                words.push(word);
            }
        }
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let unquoted = |word: Option<&str>| word.unwrap_or_default().trim_matches('"').to_owned();
            match (word, entries.last_mut()) {
                ("machine", _) => {
                    entries.push((Some(unquoted(words.next()).to_lowercase()), String::new(), String::new()))
                }
                ("default", _) => entries.push((None, String::new(), String::new())),
                ("login" | "user", Some(entry)) => entry.1 = unquoted(words.next()),
                ("password", Some(entry)) => entry.2 = unquoted(words.next()),
                ("account", Some(_)) => drop(words.next()),
                _ => {}
            }
        }
        Self { entries }
    }

    /// User and password for a host without a port.
    pub(super) fn of(&self, host: &str) -> Option<(&str, &str)> {
        let named = self.entries.iter().find(|(known, ..)| known.as_deref() == Some(host));
        let entry = named.or_else(|| self.entries.iter().find(|(known, ..)| known.is_none()))?;
        Some((&entry.1, &entry.2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_host() {
        let netrc = Netrc::parse(
            "# comment machine x login y password z\nmachine H.example login u password p#1\n\
             machine b\n  login me account a\n  password \"w w\"\nmacdef init\n machine no login n password n\n\n\
             machine c login only\ndefault login any password thing\n",
        );
        assert_eq!(netrc.of("h.example"), Some(("u", "p#1")));
        assert_eq!(netrc.of("c"), Some(("only", "")));
        assert_eq!(netrc.of("no"), Some(("any", "thing")));
        assert_eq!(Netrc::parse("machine").of("x"), None);
        assert!(Netrc::parse("login x password y").of("x").is_none());
    }
}
