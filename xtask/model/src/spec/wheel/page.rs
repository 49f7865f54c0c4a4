//! Pages of a package index: the files of one project, as JSON (PEP 691) or HTML (PEP 503), and pages of links.

use serde::Deserialize;
use std::collections::BTreeMap;

/// One file of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexFile {
    pub name: String,
    /// As the page has it: absolute, or relative to the page's address. Without a fragment.
    pub url: String,
    /// Hexadecimal digits in lower case, where the page states them.
    pub sha256: Option<String>,
    pub requires_python: Option<String>,
    /// The reason, which may be empty, where the file is yanked (PEP 592).
    pub yanked: Option<String>,
    pub size: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub files: Vec<IndexFile>,
    /// The address that relative ones are relative to, where the page names it (`<base href>`); itself maybe relative.
    pub base: Option<String>,
}

#[derive(Deserialize)]
struct SimplePage {
    meta: Meta,
    files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "api-version")]
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: Hashes,
    #[serde(default)]
    requires_python: Option<String>,
    #[serde(default)]
    yanked: Option<Yanked>,
    #[serde(default)]
    size: Option<u64>,
}

/// Those of other kinds are passed over.
#[derive(Default, Deserialize)]
struct Hashes {
    #[serde(default)]
    sha256: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Yanked {
    Is(bool),
    Because(String),
}

impl Page {
    /// Reads a page of JSON.
    ///
    /// # Errors
    /// Another document, or a version of the format that this does not know.
    pub fn json(bytes: &[u8]) -> Result<Self, String> {
        let found: SimplePage =
            serde_json::from_slice(bytes).map_err(|error| format!("not a page of PEP 691: {error}"))?;
        if found.meta.version.split('.').next() != Some("1") {
            return Err(format!("version `{}` of the index's format is not supported", found.meta.version));
        }
        let files = found.files.into_iter().map(|entry| {
            let (url, fragment) = split_fragment(&entry.url);
            let stated = entry.hashes.sha256.as_deref().or_else(|| fragment.strip_prefix("sha256="));
            IndexFile {
                name: entry.filename,
                url: url.to_owned(),
                sha256: stated.and_then(digits),
                requires_python: entry.requires_python.filter(|text| !text.trim().is_empty()),
                yanked: match entry.yanked {
                    Some(Yanked::Is(true)) => Some(String::new()),
                    Some(Yanked::Because(reason)) => Some(reason),
                    _ => None,
                },
                size: entry.size,
            }
        });
        Ok(Self { files: files.collect(), base: None })
    }

    /// Reads the links of an HTML page; text that is none gives no links.
    pub fn html(text: &str) -> Self {
        let mut page = Self::default();
        let mut rest = text;
        while let Some(open) = rest.find('<') {
            rest = &rest[open + 1..];
            if let Some(comment) = rest.strip_prefix("!--") {
                rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
                continue;
            }
            let name = rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
            if !is("a") && !is("base") {
                continue;
            }
            let (attributes, after) = attributes(&rest[name.len()..]);
            rest = after;
            let Some(href) = attributes.get("href") else { continue };
            if is("base") {
                page.base.get_or_insert_with(|| href.clone());
            } else {
                page.files.extend(linked(href, &attributes));
            }
        }
        page
    }
}

fn linked(href: &str, attributes: &BTreeMap<String, String>) -> Option<IndexFile> {
    let (url, fragment) = split_fragment(href);
    // The address says the name; the link's text is for people.
    let name = decoded(url.split('?').next()?.rsplit('/').next()?);
    let sha256 = fragment.split('&').find_map(|part| part.strip_prefix("sha256="));
    let attribute = |name: &str| attributes.get(name).cloned();
    (!name.is_empty()).then(|| IndexFile {
        name,
        url: url.to_owned(),
        sha256: sha256.and_then(digits),
        requires_python: attribute("data-requires-python").filter(|text| !text.trim().is_empty()),
        yanked: attribute("data-yanked"),
        size: None,
    })
}

fn split_fragment(url: &str) -> (&str, &str) {
    url.split_once('#').unwrap_or((url, ""))
}

/// A sha256 in lower case, if it is one.
fn digits(text: &str) -> Option<String> {
    (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
}

/// Text without percent encoding; what is not UTF-8 stays as it is.
pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        let (byte, tail) = hex.filter(|_| *first == b'%').map_or((*first, tail), |byte| (byte, &tail[2..]));
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// The attributes of a tag, names in lower case, and the text after the tag.
fn attributes(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut found = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        if rest.is_empty() || rest.starts_with('>') {
            return (found, rest.strip_prefix('>').unwrap_or(rest));
        }
        let end = |c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/');
        // An equals sign may begin a name, as browsers read it; so every round takes something.
        let length = rest.char_indices().skip(1).find(|(_, c)| end(*c)).map_or(rest.len(), |(at, _)| at);
        let (name, after) = rest.split_at(length);
        let name = name.to_ascii_lowercase();
        let Some(value) = after.trim_start().strip_prefix('=') else {
            found.entry(name).or_default();
            rest = after;
            continue;
        };
        let value = value.trim_start();
        let (text, after) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let value = &value[1..];
                let end = value.find(quote).unwrap_or(value.len());
                (&value[..end], value.get(end + 1..).unwrap_or_default())
            }
            _ => value.split_at(value.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(value.len())),
        };
        found.entry(name).or_insert_with(|| unescaped(text));
        rest = after;
    }
}

/// Text without the character references that indexes write.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let reference = after.split_once(';').filter(|(name, _)| name.len() <= 8);
        match reference.and_then(|(name, after)| Some((character(name)?, after))) {
            Some((character, after)) => {
                out.push(character);
                rest = after;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out + rest
}

fn character(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let hexadecimal = number.strip_prefix(['x', 'X']);
            let code = hexadecimal.map_or_else(|| number.parse(), |digits| u32::from_str_radix(digits, 16));
            char::from_u32(code.ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";

    #[test]
    fn both_formats_say_the_same() {
        let json = format!(
            r#"{{"meta": {{"api-version": "1.3", "other": 1}}, "name": "a", "versions": ["1"], "files": [
                {{"filename": "a-1+b-py3-none-any.whl", "url": "../f/a-1%2Bb-py3-none-any.whl", "hashes": {{"sha256": "{HASH}", "md5": "0"}},
                  "requires-python": ">=3.8,<4", "yanked": "broken & bad", "core-metadata": true}},
                {{"filename": "a-2.zip", "url": "https://h/a-2.zip", "hashes": {{}}, "yanked": false}},
                {{"filename": "a-3.zip", "url": "a-3.zip", "hashes": {{}}, "yanked": true, "requires-python": null}}]}}"#
        );
        let html = format!(
            "<!DOCTYPE html><html><head><meta name=\"pypi:repository-version\" content=\"1.0\"></head><body>\
             <!-- <a href=\"hidden-1.zip\">x</a> --><abbr href='no'>\
             <A\n HREF='../f/a-1%2Bb-py3-none-any.whl#sha256={HASH}' data-requires-python=\"&gt;=3.8,&lt;4\" \
             data-yanked=\"broken &#38; b&#x61;d\" data-core-metadata>a</a><br/>\
             <a href=https://h/a-2.zip>a-2.zip</a><a href=\"a-3.zip#md5=0\" data-yanked data-requires-python=''>a</a>"
        );
        let json = Page::json(json.as_bytes()).unwrap();
        assert_eq!(json, Page::html(&html));
        let first = &json.files[0];
        assert_eq!(
            (first.name.as_str(), first.url.as_str()),
            ("a-1+b-py3-none-any.whl", "../f/a-1%2Bb-py3-none-any.whl")
        );
        assert_eq!(first.sha256, Some(HASH.to_ascii_lowercase()));
        assert_eq!(first.requires_python.as_deref(), Some(">=3.8,<4"));
        assert_eq!(first.yanked.as_deref(), Some("broken & bad"));
        assert_eq!((json.files[1].yanked.as_deref(), json.files[2].yanked.as_deref()), (None, Some("")));
    }

    #[test]
    fn a_page_may_name_its_base() {
        let page = Page::html("<base href=\"/files/\"><a href=\"a-1.zip?x=1&amp;y=%2F\">a</a><a name=x>");
        assert_eq!(page.base.as_deref(), Some("/files/"));
        assert_eq!((page.files[0].name.as_str(), page.files[0].url.as_str()), ("a-1.zip", "a-1.zip?x=1&y=%2F"));
        assert_eq!(page.files.len(), 1);
    }

    #[test]
    fn other_documents_are_refused() {
        for bad in ["", "[]", "{}", "<html>", r#"{"meta": {"api-version": "2.0"}, "files": []}"#] {
            assert!(Page::json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC{0,200}", tags in "(<a |<base|href|=|['\"<>&#;/a ]){0,80}") {
            let _ = (Page::html(&text), Page::json(text.as_bytes()));
            let _ = Page::html(&tags);
        }

        #[test]
        fn a_link_is_found_whatever_its_name(name in "[a-z&<>'\"]{1,20}") {
            let escaped = name.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
            let page = Page::html(&format!("x<a data-x=1 href=\"{escaped}\">y"));
            prop_assert_eq!(&page.files[0].name, &name);
        }
    }
}
