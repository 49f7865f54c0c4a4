//! One requirement of PEP 508, as pip takes it in a file: name, extras, specifiers or a URL, marker, hashes.
//!
//! Pure. What only the local machine can resolve (a path, a checkout, an editable install) is refused with its reason,
//! because a locked build installs by hash.

use super::cursor::Cursor;
use super::lines::LineError;
use super::location::{Checkout, is_path};
use super::marker::{self, Marker};
use super::names::{distribution, normalised};
use super::secret;
use super::version::{OPERATORS, Specifier};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The distribution's name, normalised by PEP 503.
    pub name: String,
    /// Extras, normalised by PEP 503.
    pub extras: BTreeSet<String>,
    pub source: RequirementSource,
    pub marker: Option<Marker>,
    /// `sha256:…`, `sha384:…` or `sha512:…`.
    pub hashes: BTreeSet<String>,
    /// The file that names it, as it was given to the reader.
    pub file: PathBuf,
    /// The line of that file, from 1.
    pub line: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequirementSource {
    /// An index, any version that fits all of these.
    Index(BTreeSet<Specifier>),
    Url(String),
}

impl Requirement {
    pub fn meaning(&self) -> NormalRequirement {
        let (specifiers, url) = match &self.source {
            RequirementSource::Index(specifiers) => (specifiers.iter().map(Specifier::to_string).collect(), None),
            RequirementSource::Url(url) => (BTreeSet::new(), Some(url.clone())),
        };
        NormalRequirement {
            name: self.name.clone(),
            extras: self.extras.clone(),
            specifiers,
            url,
            marker: self.marker.as_ref().map(Marker::to_string),
            hashes: self.hashes.clone(),
        }
    }
}

/// A requirement without its place: texts in normal form, ready to be compared, stored and hashed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NormalRequirement {
    /// See [`Requirement::name`].
    pub name: String,
    /// See [`Requirement::extras`].
    pub extras: BTreeSet<String>,
    /// Normalised specifiers: `>=2.2`.
    pub specifiers: BTreeSet<String>,
    pub url: Option<String>,
    /// The normalised marker.
    pub marker: Option<String>,
    /// See [`Requirement::hashes`].
    pub hashes: BTreeSet<String>,
}

/// As written in a file, on one line and without hashes.
impl fmt::Display for NormalRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        f.write_str(&self.name)?;
        if !self.extras.is_empty() {
            write!(f, "[{}]", joined(&self.extras))?;
        }
        match &self.url {
            Some(url) => write!(f, " @ {url}")?,
            None => f.write_str(&joined(&self.specifiers))?,
        }
        self.marker.as_ref().map_or(Ok(()), |marker| write!(f, " ; {marker}"))
    }
}

/// Reads the part before the options of a line; file, line and hashes are left for the caller to fill in.
pub(crate) fn read(text: &str) -> Result<Requirement, LineError> {
    let mut cursor = Cursor::new(text.trim_end());
    cursor.blanks();
    let begin = cursor.at();
    if let Some(bad) = place(cursor.rest()) {
        return bad.map_err(|bad| bad.within(begin)).and_then(|()| bare_url(&mut cursor));
    }
    let name = name(&mut cursor, "the name of a distribution")?;
    cursor.blanks();
    let extras = extras(&mut cursor)?;
    cursor.blanks();
    let source = if cursor.eat("@") {
        RequirementSource::Url(url(&mut cursor)?)
    } else {
        RequirementSource::Index(specifiers(&mut cursor)?)
    };
    let marker = rest(&mut cursor, &source)?;
    Ok(Requirement { name, extras, source, marker, hashes: BTreeSet::new(), file: PathBuf::new(), line: 0 })
}

const LOCAL: &str = "a local path cannot follow `@` in a locked build: write the path of a file or project of the repository \
                     alone on the line, or an `https://` URL";

/// True if the text is a place rather than a name: `Ok` for a URL to read, an error for a place that cannot be locked.
fn place(text: &str) -> Option<Result<(), LineError>> {
    let word = text.split_whitespace().next().unwrap_or_default();
    let scheme = word.split_once("://").map(|(scheme, _)| scheme).filter(|scheme| {
        scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) && !scheme.is_empty()
    });
    if let Some(scheme) = scheme.filter(|scheme| !scheme.eq_ignore_ascii_case("file")) {
        return Some(lockable(&scheme.to_ascii_lowercase(), word));
    }
    is_path(word).then(|| Err(LineError::new(0, LOCAL)))
}

/// The reason why a checkout is refused, with what to write instead.
pub(super) fn checkout(url: &str) -> String {
    let address = url.split(['#', '?']).next().unwrap_or_default();
    let reference = address.rsplit_once('@').map(|(_, reference)| reference).filter(|text| !text.contains('/'));
    let why = match reference {
        _ if Checkout::parse(url).is_some() => {
            return "an editable checkout is not a package of an image: write it without `-e`".to_owned();
        }
        Some(reference) if reference.len() != 40 => {
            format!("`{reference}` is not a commit: it can name another one tomorrow")
        }
        Some(_) => "only checkouts of git by `https`, `ssh`, `http` or `file` can be built".to_owned(),
        None => "a checkout without a commit is another one tomorrow".to_owned(),
    };
    format!(
        "{why}: name the commit, `name @ git+https://…@COMMIT` with its 40 digits (`git ls-remote URL` prints them), a release, or the \
         `https://` URL of an archive; or build the wheel once, commit it, and name its path: `pip wheel --no-deps --wheel-dir wheels …`"
    )
}

fn lockable(scheme: &str, word: &str) -> Result<(), LineError> {
    match scheme {
        "http" | "https" => Ok(()),
        _ if Checkout::parse(word).is_some() => Ok(()),
        _ if scheme.contains('+') || matches!(scheme, "git" | "ssh" | "svn" | "hg" | "bzr") => {
            Err(LineError::new(0, checkout(word)))
        }
        _ => Err(LineError::new(0, "expected an `https://` URL")),
    }
}

/// A URL without a name: the file's name has to tell it.
fn bare_url(cursor: &mut Cursor<'_>) -> Result<Requirement, LineError> {
    let at = cursor.at();
    let url = url(cursor)?;
    let (name, extras) = match (egg(&url), distribution(&url)) {
        (Some(named), _) => named,
        (None, Some((name, _))) => (name, BTreeSet::new()),
        (None, None) if url.starts_with("git+") => {
            return Err(LineError::new(
                at,
                "expected the name of a distribution before the URL, as in `name @ git+https://…`",
            ));
        }
        (None, None) => {
            let why = "expected the name of a distribution before the URL, as in `name @ https://…`";
            return Err(LineError::new(at, why));
        }
    };
    let source = RequirementSource::Url(url);
    let marker = rest(cursor, &source)?;
    let hashes = BTreeSet::new();
    Ok(Requirement { name, extras, source, marker, hashes, file: PathBuf::new(), line: 0 })
}

/// Name and extras of `#egg=name[extra]`.
fn egg(url: &str) -> Option<(String, BTreeSet<String>)> {
    let (_, fragment) = url.split_once('#')?;
    let egg = fragment.split('&').find_map(|part| part.strip_prefix("egg="))?;
    let (name, extras) = egg.split_once('[').unwrap_or((egg, ""));
    let name = normalised(name);
    let extras = extras.trim_end_matches(']').split(',').map(normalised).filter(|extra| !extra.is_empty());
    (!name.is_empty()).then(|| (name, extras.collect()))
}

/// `name[extra]`
pub(super) fn shown_name(of: &Requirement) -> String {
    let extras: Vec<&str> = of.extras.iter().map(String::as_str).collect();
    if extras.is_empty() { of.name.clone() } else { format!("{}[{}]", of.name, extras.join(",")) }
}

fn name(cursor: &mut Cursor<'_>, what: &str) -> Result<String, LineError> {
    let at = cursor.at();
    let text = cursor.take(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if text.is_empty() {
        return Err(LineError::new(at, format!("expected {what}")));
    }
    if let Some(odd) = [0, text.len() - 1].into_iter().find(|index| !text.as_bytes()[*index].is_ascii_alphanumeric()) {
        return Err(LineError::new(at + odd, format!("expected {what}, which begins and ends with a letter or digit")));
    }
    Ok(normalised(text))
}

fn extras(cursor: &mut Cursor<'_>) -> Result<BTreeSet<String>, LineError> {
    let mut extras = BTreeSet::new();
    if !cursor.eat("[") {
        return Ok(extras);
    }
    cursor.blanks();
    if cursor.eat("]") {
        return Ok(extras);
    }
    loop {
        cursor.blanks();
        extras.insert(name(cursor, "the name of an extra")?);
        cursor.blanks();
        if cursor.eat("]") {
            return Ok(extras);
        }
        if !cursor.eat(",") {
            return Err(cursor.expected("`,` or `]` after an extra"));
        }
    }
}

fn url(cursor: &mut Cursor<'_>) -> Result<String, LineError> {
    cursor.blanks();
    let at = cursor.at();
    let text = cursor.take(|c| !c.is_whitespace());
    match place(text) {
        Some(Ok(())) => {}
        Some(Err(bad)) => return Err(bad.within(at)),
        None => return Err(LineError::new(at, "expected an `https://` URL after `@`")),
    }
    let host = text.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    if host.is_empty() && !text.starts_with("git+file:") {
        return Err(LineError::new(at, "expected a host after `://`"));
    }
    Ok(secret::without_user(text))
}

fn specifiers(cursor: &mut Cursor<'_>) -> Result<BTreeSet<Specifier>, LineError> {
    let open = cursor.eat("(");
    let mut specifiers = BTreeSet::new();
    loop {
        cursor.blanks();
        let Some(operator) = OPERATORS.into_iter().find(|operator| cursor.eat(operator)) else { break };
        specifiers.insert(specifier(cursor, operator)?);
        cursor.blanks();
        if !cursor.eat(",") {
            break;
        }
    }
    cursor.blanks();
    if open && !cursor.eat(")") {
        return Err(cursor.expected("`,` or `)` after a version"));
    }
    Ok(specifiers)
}

fn specifier(cursor: &mut Cursor<'_>, operator: &'static str) -> Result<Specifier, LineError> {
    cursor.blanks();
    let at = cursor.at();
    let text = if operator == "===" {
        cursor.take(|c| !c.is_whitespace() && !matches!(c, ';' | ')' | ','))
    } else {
        cursor.take(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '*' | '+' | '!' | '-' | '_'))
    };
    if cursor.rest().starts_with("${") {
        return Err(cursor.bad("a version from the environment cannot be locked: write it here"));
    }
    if text.is_empty() {
        return Err(LineError::new(at, format!("expected a version after `{operator}`")));
    }
    Specifier::new(operator, text).map_err(|why| LineError::new(at, why))
}

fn rest(cursor: &mut Cursor<'_>, source: &RequirementSource) -> Result<Option<Marker>, LineError> {
    cursor.blanks();
    if cursor.is_done() {
        return Ok(None);
    }
    if cursor.eat(";") {
        return marker::read(cursor).map(Some);
    }
    let rest = cursor.rest();
    Err(match source {
        RequirementSource::Url(_) => cursor.expected("` ; ` and a marker, or the end of the line, after the URL"),
        RequirementSource::Index(_) if rest.starts_with('=') => cursor.expected("`==`, not `=`"),
        RequirementSource::Index(specifiers) if specifiers.is_empty() => {
            cursor.expected("a specifier like `>=1.0`, `[extra]`, `@ https://…`, `; marker` or the end of the line")
        }
        RequirementSource::Index(_) => cursor.expected("`,` and a specifier, `; marker` or the end of the line"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, normal: &str) {
        let entry = read(text).unwrap_or_else(|bad| panic!("{}: {}", bad.at, bad.why)).meaning();
        assert_eq!(entry.to_string(), normal);
        assert_eq!(read(normal).unwrap().meaning(), entry, "what is printed reads back");
    }

    #[test]
    fn requirements_have_one_form() {
        check("numpy", "numpy");
        check("NumPy <3, >=2.2", "numpy<3,>=2.2");
        check("numpy>=2.2,<3", "numpy<3,>=2.2");
        check("numpy (>=2.2, <3.0)", "numpy<3,>=2.2");
        check("  Foo_.-Bar == 1.0.*  ", "foo-bar==1.0.*");
        check("uvicorn [Standard , http_2]>=0.30", "uvicorn[http-2,standard]>=0.30");
        check("a[] ~=1.0", "a~=1.0");
        check("a>=1,", "a>=1");
        check("a===Foo-1 ; os_name=='x'", "a===foo-1 ; os_name == 'x'");
        check("a;python_version<'3.13'", "a ; python_version < '3.13'");
        check("a @ https://h/a-1.0.tar.gz", "a @ https://h/a-1.0.tar.gz");
        check("a[x]@https://h/a.zip#sha256=00 ; extra=='y'", "a[x] @ https://h/a.zip#sha256=00 ; extra == 'y'");
        check("a @ https://user:word@h/${PLACE}/a.whl", "a @ https://h/${PLACE}/a.whl");
        check(
            "https://h/d/NumPy-2.2.0-cp312-cp312-linux_x86_64.whl",
            "numpy @ https://h/d/NumPy-2.2.0-cp312-cp312-linux_x86_64.whl",
        );
        check("https://h/foo_bar-1.0.tar.gz", "foo-bar @ https://h/foo_bar-1.0.tar.gz");
    }

    #[track_caller]
    fn refused(text: &str, at: usize, why: &str) {
        let bad = read(text).unwrap_err();
        assert!(bad.why.contains(why), "{}", bad.why);
        assert_eq!(bad.at, at);
    }

    #[test]
    fn bad_requirements_say_where_and_what_was_expected() {
        refused("numpy>=", 7, "expected a version after `>=`");
        refused("numpy=2", 5, "expected `==`, not `=`");
        refused("numpy 2", 6, "expected a specifier");
        refused("numpy>=2 <3", 9, "`,` and a specifier");
        refused("numpy>=x", 7, "`x` is not a version");
        refused("numpy>=2.*", 7, "is only allowed with");
        refused("numpy==${V}", 7, "from the environment");
        refused("numpy[a", 7, "`,` or `]`");
        refused("numpy[,a]", 6, "name of an extra");
        refused("numpy (>=1", 10, "`)` after a version");
        refused("numpy-", 5, "begins and ends");
        refused("numpy ; ", 7, "a variable");
        refused("numpy @", 7, "URL after `@`");
        refused("numpy @ https:///x", 8, "expected a host");
        refused("numpy @ https://h/a.whl x", 24, "after the URL");
        refused("!", 0, "name of a distribution");
        refused("https://h/", 0, "name @ https");
        refused("https://h/main.zip", 0, "name @ https");
    }

    #[test]
    fn what_cannot_be_locked_says_why() {
        refused("a @ file:///x.whl", 4, "a local path");
        refused("a @ ./x.whl", 4, "a local path");
        refused("git+https://h/a", 0, "without a commit");
        refused("a @ git+ssh://git@h/a@v1", 4, "`v1` is not a commit");
        let commit = "0a".repeat(20);
        check(&format!("A @ git+https://u:p@h/a@{commit}#egg=a"), &format!("a @ git+https://h/a@{commit}#egg=a"));
        refused(&format!("a @ hg+https://h/a@{commit}"), 4, "only checkouts of git");
        refused("a @ ftp://h/a", 4, "`https://` URL");
    }

    proptest! {
        #[test]
        fn no_text_ends_the_reader(text in "\\PC{0,40}") {
            let _ = read(&text);
        }

        #[test]
        fn near_misses_end_in_a_place_inside_the_line(text in "[a-c\\[\\],>=<1-3.; '@:/()-]{0,30}") {
            if let Err(bad) = read(&text) {
                prop_assert!(bad.at <= text.len());
                prop_assert!(text.is_char_boundary(bad.at));
            }
        }
    }
}
