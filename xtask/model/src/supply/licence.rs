//! Licences as packages state them, as SPDX expressions.
//!
//! A name that is not known becomes a `LicenseRef-`, never a guess.

use std::collections::BTreeMap;

/// Names of Python's classifiers and of Debian's copyright files, in lower case, with the SPDX identifier.
const NAMES: &[(&str, &str)] = &[
    ("0bsd", "0BSD"),
    ("apache", "Apache-2.0"),
    ("apache 2", "Apache-2.0"),
    ("apache 2.0", "Apache-2.0"),
    ("apache license 2.0", "Apache-2.0"),
    ("apache license, version 2.0", "Apache-2.0"),
    ("apache software license", "Apache-2.0"),
    ("apache-2", "Apache-2.0"),
    ("apache-2.0", "Apache-2.0"),
    ("artistic", "Artistic-1.0-Perl"),
    ("artistic-2.0", "Artistic-2.0"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd 2-clause", "BSD-2-Clause"),
    ("bsd 3-clause", "BSD-3-Clause"),
    ("bsd-4-clause", "BSD-4-Clause"),
    ("bsl-1.0", "BSL-1.0"),
    ("cc0-1.0", "CC0-1.0"),
    ("curl", "curl"),
    ("expat", "MIT"),
    ("gfdl-1.3", "GFDL-1.3-only"),
    ("gfdl-1.3+", "GFDL-1.3-or-later"),
    ("gnu general public license v2 (gplv2)", "GPL-2.0-only"),
    ("gnu general public license v3 (gplv3)", "GPL-3.0-only"),
    ("gnu general public license v3 or later (gplv3+)", "GPL-3.0-or-later"),
    ("gnu lesser general public license v3 (lgplv3)", "LGPL-3.0-only"),
    ("gnu lesser general public license v3 or later (lgplv3+)", "LGPL-3.0-or-later"),
    ("gpl-1", "GPL-1.0-only"),
    ("gpl-1+", "GPL-1.0-or-later"),
    ("gpl-2", "GPL-2.0-only"),
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-2+", "GPL-2.0-or-later"),
    ("gpl-2.0+", "GPL-2.0-or-later"),
    ("gpl-3", "GPL-3.0-only"),
    ("gpl-3.0", "GPL-3.0-only"),
    ("gpl-3+", "GPL-3.0-or-later"),
    ("gpl-3.0+", "GPL-3.0-or-later"),
    ("isc", "ISC"),
    ("isc license (iscl)", "ISC"),
    ("lgpl-2", "LGPL-2.0-only"),
    ("lgpl-2+", "LGPL-2.0-or-later"),
    ("lgpl-2.1", "LGPL-2.1-only"),
    ("lgpl-2.1+", "LGPL-2.1-or-later"),
    ("lgpl-3", "LGPL-3.0-only"),
    ("lgpl-3+", "LGPL-3.0-or-later"),
    ("mit", "MIT"),
    ("mit license", "MIT"),
    ("mit-0", "MIT-0"),
    ("mozilla public license 2.0 (mpl 2.0)", "MPL-2.0"),
    ("mpl-2.0", "MPL-2.0"),
    ("psf-2.0", "PSF-2.0"),
    ("python software foundation license", "PSF-2.0"),
    ("the unlicense (unlicense)", "Unlicense"),
    ("unlicense", "Unlicense"),
    ("zlib", "Zlib"),
    ("zpl-2.1", "ZPL-2.1"),
    ("zope public license", "ZPL-2.1"),
];

/// Prefix of a licence that SPDX does not list.
pub const REFERENCE: &str = "LicenseRef-";

/// The expression of a licence's name.
pub fn named(name: &str) -> Option<String> {
    let name = name.trim();
    let lower = name.to_ascii_lowercase();
    if let Some((_, id)) = NAMES.iter().find(|(known, _)| *known == lower) {
        return Some((*id).to_owned());
    }
    // A licence's whole text in place of its name says nothing short.
    if name.is_empty() || name.len() > 64 || name.contains('\n') || lower == "unknown" {
        return None;
    }
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let parts: Vec<&str> = plain.split('-').filter(|part| !part.is_empty()).collect();
    (!parts.is_empty()).then(|| format!("{REFERENCE}{}", parts.join("-")))
}

/// An expression as it is, if its form is valid: identifiers between `AND`, `OR`, `WITH` and parentheses.
pub fn expression(text: &str) -> Option<String> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let mut depth = 0_i32;
    let mut wants_name = true;
    let mut out = String::new();
    for word in spaced.split_whitespace() {
        let upper = word.to_ascii_uppercase();
        match (word, upper.as_str(), wants_name) {
            ("(", _, true) => depth += 1,
            (")", _, false) if depth > 0 => depth -= 1,
            (_, "AND" | "OR" | "WITH", false) => wants_name = true,
            (_, "AND" | "OR" | "WITH", true) | ("(" | ")", ..) => return None,
            (name, _, true) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.+".contains(&b)) => {
                wants_name = false
            }
            _ => return None,
        }
        let tight = out.is_empty() || out.ends_with('(') || word == ")";
        out += if tight { "" } else { " " };
        out += if matches!(upper.as_str(), "AND" | "OR" | "WITH") { &upper } else { word };
    }
    (depth == 0 && !wants_name).then_some(out)
}

/// The licence in a distribution's `METADATA`: its expression (PEP 639), else its classifiers, else the name in `License`.
pub fn of_metadata(text: &str) -> Option<String> {
    let head: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
    let field = |name: &str| {
        head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim).map(str::to_owned)
    };
    if let Some(stated) = field("License-Expression") {
        return expression(&stated).or_else(|| named(&stated));
    }
    let classified =
        head.iter().filter_map(|line| line.strip_prefix("Classifier:")?.trim().strip_prefix("License :: "));
    let mut ids: Vec<String> = classified
        .filter_map(|name| name.rsplit(" :: ").next())
        // These name a family of licences, of which `License` may say which one.
        .filter(|name| !matches!(*name, "OSI Approved" | "BSD License" | "Other/Proprietary License"))
        .filter_map(named)
        .collect();
    ids.sort();
    ids.dedup();
    if !ids.is_empty() {
        return Some(ids.join(" AND "));
    }
    let stated = field("License")?;
    let known = named(&stated).filter(|id| !id.starts_with(REFERENCE));
    known.or_else(|| expression(&stated).filter(|text| text.contains(' '))).or_else(|| named(&stated))
}

/// The licences of a Debian copyright file in the machine-readable format, joined by `AND`; `None` for a plain text.
pub fn of_copyright(text: &str) -> Option<String> {
    let (first, rest) = text.split_once('\n')?;
    if !first.starts_with("Format:") && !first.starts_with("Format-Specification:") {
        return None;
    }
    let lines = rest.lines().filter_map(|line| line.strip_prefix("License:"));
    let mut ids: Vec<String> = Vec::new();
    for stated in lines.map(str::trim) {
        // `GPL-2+ or Artistic`, `Expat and BSD-3-clause, ...`
        for word in stated
            .split([' ', ','])
            .filter(|word| !matches!(*word, "" | "and" | "or" | "and/or" | "with" | "exception"))
        {
            ids.extend(named(word));
        }
    }
    ids.sort();
    ids.dedup();
    (!ids.is_empty()).then(|| ids.join(" AND "))
}

/// The licence in a crate's manifest: an expression, in which older ones write `/` for `OR`.
pub fn of_crate(stated: &str) -> Option<String> {
    expression(&stated.replace('/', " OR ")).or_else(|| named(stated))
}

/// Licences of crates by name and version, as a file of a repository has them: `"serde 1.0.228" = "MIT OR Apache-2.0"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrateLicences(BTreeMap<String, String>);

impl CrateLicences {
    const HEAD: &str =
        "# Licences of the crates in `Cargo.lock`, for SBOMs. Written by `cargo xtask sbom --write-licences`.\n";

    /// # Errors
    /// It is not TOML, or has values that are not SPDX expressions.
    pub fn read(text: &str) -> Result<Self, String> {
        let licences: BTreeMap<String, String> = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        match licences.iter().find(|(_, licence)| expression(licence).is_none()) {
            Some((name, licence)) => Err(format!("the licence of `{name}`, `{licence}`, is not an SPDX expression")),
            None => Ok(Self(licences)),
        }
    }

    pub fn insert(&mut self, name: &str, version: &str, licence: String) {
        self.0.insert(format!("{name} {version}"), licence);
    }

    pub fn get(&self, name: &str, version: &str) -> Option<&str> {
        self.0.get(&format!("{name} {version}")).map(String::as_str)
    }

    /// The file; the same licences give the same text.
    pub fn text(&self) -> String {
        let line = |(name, licence): (&String, &String)| format!("\"{name}\" = \"{licence}\"\n");
        self.0.iter().fold(Self::HEAD.to_owned(), |text, entry| text + &line(entry))
    }
}

/// The `LicenseRef-`s of an expression.
pub fn references(expression: &str) -> impl Iterator<Item = &str> {
    expression.split([' ', '(', ')']).filter(|word| word.starts_with(REFERENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn metadata(fields: &str, licence: Option<&str>) {
        let text = format!("Metadata-Version: 2.4\nName: a\n{fields}\n\nLicense: in the description\n");
        assert_eq!(of_metadata(&text).as_deref(), licence, "{fields}");
    }

    #[test]
    fn the_licence_of_a_distribution_is_read() {
        metadata("License-Expression: MIT", Some("MIT"));
        metadata(
            "License-Expression: BSD-3-Clause AND (MIT OR Apache-2.0)",
            Some("BSD-3-Clause AND (MIT OR Apache-2.0)"),
        );
        metadata("License-Expression: mit or", Some("LicenseRef-mit-or"));
        metadata("Classifier: License :: OSI Approved :: MIT License", Some("MIT"));
        metadata("License: BSD-3-Clause\nClassifier: License :: OSI Approved :: BSD License", Some("BSD-3-Clause"));
        metadata("License: MIT OR Apache-2.0", Some("MIT OR Apache-2.0"));
        metadata("License: Dual License", Some("LicenseRef-Dual-License"));
        metadata("License: UNKNOWN", None);
        metadata(&format!("License: {}", "x".repeat(200)), None);
        metadata("Summary: none", None);
    }

    #[test]
    fn expressions_are_checked() {
        for good in ["MIT", "GPL-2.0-only WITH Classpath-exception-2.0", "(MIT OR (ISC AND 0BSD))"] {
            assert_eq!(expression(good).as_deref(), Some(good));
        }
        assert_eq!(expression("mit and isc").as_deref(), Some("mit AND isc"));
        for bad in ["", "MIT ISC", "MIT AND", "(MIT", "MIT)", "OR MIT", "MIT; ISC", "()"] {
            assert_eq!(expression(bad), None, "{bad}");
        }
    }

    #[test]
    fn copyright_files_are_read() {
        let text = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+ or Artistic\n\n\
                    License: GPL-2+\n text\n";
        assert_eq!(of_copyright(text).as_deref(), Some("Artistic-1.0-Perl AND GPL-2.0-or-later"));
        assert_eq!(of_copyright("This is free software\nLicense: MIT\n"), None);
        assert_eq!(
            references("MIT AND (LicenseRef-a OR LicenseRef-b)").collect::<Vec<_>>(),
            ["LicenseRef-a", "LicenseRef-b"]
        );
    }

    #[test]
    fn licences_of_crates_survive_their_file() {
        assert_eq!(of_crate("MIT/Apache-2.0").as_deref(), Some("MIT OR Apache-2.0"));
        assert_eq!(
            of_crate("(MIT OR Apache-2.0) AND Unicode-3.0").as_deref(),
            Some("(MIT OR Apache-2.0) AND Unicode-3.0")
        );
        assert_eq!(of_crate("our \"own\"").as_deref(), Some("LicenseRef-our-own"));
        let mut licences = CrateLicences::default();
        licences.insert("serde", "1.0.228", "MIT OR Apache-2.0".to_owned());
        licences.insert("a", "0.1.0+build", "ISC".to_owned());
        assert_eq!(CrateLicences::read(&licences.text()).unwrap(), licences);
        assert_eq!(
            (licences.get("serde", "1.0.228"), licences.get("serde", "1.0.0")),
            (Some("MIT OR Apache-2.0"), None)
        );
        for wrong in ["\"a 1\" = 1", "a", "[a]\nb = \"MIT\"", "\"a 1\" = \"our own\""] {
            assert!(CrateLicences::read(wrong).is_err(), "{wrong}");
        }
    }
}
