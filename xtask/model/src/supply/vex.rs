//! Statements of OpenVEX 0.2: that a vulnerability does not affect an image, and why.
//!
//! A statement may end: `"expires": "2026-12-31"`, which is of this program and ignored by others.

use crate::time::Timestamp;
use serde::Deserialize;

#[derive(Deserialize)]
struct OpenVex {
    #[serde(rename = "@context")]
    context: String,
    statements: Vec<Raw>,
}

#[derive(Deserialize)]
struct Raw {
    vulnerability: Name,
    #[serde(default)]
    products: Vec<RawProduct>,
    status: String,
    justification: Option<String>,
    impact_statement: Option<String>,
    action_statement: Option<String>,
    expires: Option<String>,
}

/// Version 0.0.1 has the name alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Object {
        name: String,
        #[serde(default)]
        aliases: Vec<String>,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawProduct {
    Text(String),
    Object {
        #[serde(rename = "@id")]
        id: String,
        #[serde(default)]
        subcomponents: Vec<RawProduct>,
    },
}

impl RawProduct {
    fn product(self) -> Product {
        match self {
            Self::Text(id) => Product { id, parts: Vec::new() },
            Self::Object { id, subcomponents } => {
                Product { id, parts: subcomponents.into_iter().map(|part| part.product().id).collect() }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Product {
    /// Package URL of a component or of an image.
    id: String,
    /// Package URLs of components of the image.
    parts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    NotAffected,
    Affected,
    Fixed,
    UnderInvestigation,
}

/// A statement about a vulnerability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Path of the document.
    pub file: String,
    /// Names of the vulnerability.
    pub names: Vec<String>,
    pub status: Status,
    /// Reason, in the words of the document.
    pub reason: String,
    /// From when on it does not count.
    pub expires: Option<Timestamp>,
    products: Vec<Product>,
}

/// Reads a document.
///
/// # Errors
/// It is not OpenVEX, or a statement lacks what the specification requires.
pub fn read(file: &str, bytes: &[u8]) -> Result<Vec<Statement>, String> {
    let document: OpenVex = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if !document.context.starts_with("https://openvex.dev/ns") {
        return Err(format!("its `@context` is `{}`, not OpenVEX's", document.context));
    }
    document.statements.into_iter().map(|raw| statement(file, raw)).collect()
}

fn statement(file: &str, raw: Raw) -> Result<Statement, String> {
    let names = match raw.vulnerability {
        Name::Text(name) => vec![name],
        Name::Object { name, aliases } => [vec![name], aliases].concat(),
    };
    let wrong = |why: &str| Err(format!("the statement on `{}` {why}", names[0]));
    let status = match raw.status.as_str() {
        "not_affected" => Status::NotAffected,
        "affected" => Status::Affected,
        "fixed" => Status::Fixed,
        "under_investigation" => Status::UnderInvestigation,
        other => return wrong(&format!("has the unknown status `{other}`")),
    };
    let reason = [raw.justification, raw.impact_statement, raw.action_statement].into_iter().flatten();
    let reason = reason.collect::<Vec<_>>().join(": ").replace('_', " ");
    if status == Status::NotAffected && reason.is_empty() {
        return wrong("has neither `justification` nor `impact_statement`");
    }
    if raw.products.is_empty() {
        return wrong("has no `products`");
    }
    let expires = match raw.expires {
        None => None,
        // The whole last day counts.
        Some(text) => match text.parse().or_else(|_| format!("{text}T23:59:59Z").parse()) {
            Ok(time) => Some(time),
            Err(_) => return wrong(&format!("has `expires` `{text}`, which is not a date like `2026-12-31`")),
        },
    };
    let products = raw.products.into_iter().map(RawProduct::product).collect();
    Ok(Statement { file: file.to_owned(), names, status, reason, expires, products })
}

impl Statement {
    /// True if it says that the vulnerability is none in this image.
    pub fn dismisses(&self) -> bool {
        matches!(self.status, Status::NotAffected | Status::Fixed)
    }

    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires < now)
    }

    /// True if it is about one of these vulnerabilities in a component of an image, both named by package URL.
    pub fn is_about(&self, names: &[&str], component: &str, image: &str) -> bool {
        let product = |product: &Product| {
            let parts = || product.parts.is_empty() || product.parts.iter().any(|part| covers(part, component));
            covers(&product.id, component) || (covers(&product.id, image) && parts())
        };
        self.names.iter().any(|name| names.contains(&name.as_str())) && self.products.iter().any(product)
    }
}

/// True if a package URL names another one: without a version every version, without qualifiers all of them.
fn covers(wanted: &str, purl: &str) -> bool {
    let split = |text: &str| {
        let (text, qualifiers) = text.split_once('?').unwrap_or((text, ""));
        let (name, version) = text.split_once('@').unwrap_or((text, ""));
        (name.to_owned(), version.replace("%3A", ":"), qualifiers.to_owned())
    };
    let ((name, version, qualifiers), (other, other_version, other_qualifiers)) = (split(wanted), split(purl));
    let has = |qualifier: &str| qualifier.is_empty() || other_qualifiers.split('&').any(|one| one == qualifier);
    name == other && (version.is_empty() || version == other_version) && qualifiers.split('&').all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBC: &str = "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13";
    const IMAGE: &str = "pkg:oci/app@sha256:ab?arch=amd64&repository_url=ghcr.io%2Facme%2Fapp";

    fn document(statement: &str) -> Result<Vec<Statement>, String> {
        let text = format!(r#"{{"@context": "https://openvex.dev/ns/v0.2.0", "statements": [{{{statement}}}]}}"#);
        read("vex.json", text.as_bytes())
    }

    fn about(products: &str) -> Statement {
        let text = format!(
            r#""vulnerability": {{"name": "CVE-1"}}, "products": [{products}], "status": "not_affected", "justification": "component_not_present""#
        );
        document(&text).unwrap().remove(0)
    }

    #[test]
    fn a_statement_is_about_a_component_or_an_image() {
        for (products, is) in [
            (r#""pkg:deb/debian/libc6""#, true),
            (r#"{"@id": "pkg:deb/debian/libc6@2.41-12"}"#, true),
            (r#"{"@id": "pkg:deb/debian/libc6?arch=amd64"}"#, true),
            (r#"{"@id": "pkg:deb/debian/libc6?arch=arm64"}"#, false),
            (r#"{"@id": "pkg:deb/debian/libc6@2.40"}"#, false),
            (r#"{"@id": "pkg:oci/app"}"#, true),
            (r#"{"@id": "pkg:oci/other"}"#, false),
            (r#"{"@id": "pkg:oci/app", "subcomponents": [{"@id": "pkg:deb/debian/libc6"}]}"#, true),
            (r#"{"@id": "pkg:oci/app", "subcomponents": [{"@id": "pkg:pypi/scipy"}]}"#, false),
        ] {
            let statement = about(products);
            assert_eq!(statement.is_about(&["DEBIAN-1", "CVE-1"], LIBC, IMAGE), is, "{products}");
            assert!(!statement.is_about(&["CVE-2"], LIBC, IMAGE));
            assert_eq!(statement.reason, "component not present");
        }
    }

    #[test]
    fn a_statement_ends_after_its_last_day() {
        let text =
            r#""vulnerability": "CVE-1", "products": ["pkg:oci/app"], "status": "fixed", "expires": "2026-12-31""#;
        let statement = document(text).unwrap().remove(0);
        assert!(!statement.is_over("2026-12-31T12:00:00Z".parse().unwrap()));
        assert!(statement.is_over("2027-01-01T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn what_the_specification_requires_is_required() {
        let rest = r#""vulnerability": "CVE-1", "products": ["pkg:oci/app"]"#;
        for (statement, why) in [
            (format!(r#"{rest}, "status": "not_affected""#), "neither `justification`"),
            (format!(r#"{rest}, "status": "fine""#), "unknown status `fine`"),
            (format!(r#"{rest}, "status": "fixed", "expires": "soon""#), "not a date"),
            (r#""vulnerability": "CVE-1", "status": "fixed""#.to_owned(), "no `products`"),
        ] {
            let error = document(&statement).unwrap_err();
            assert!(error.contains(why) && error.contains("CVE-1"), "{error}");
        }
        assert!(read("a", b"{}").is_err());
        assert!(read("a", br#"{"@context": "other", "statements": []}"#).unwrap_err().contains("not OpenVEX's"));
    }
}
