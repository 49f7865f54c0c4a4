//! Challenges of a `WWW-Authenticate` header (RFC 9110 section 11.6.1; the token specification of distribution).
//!
//! Pure. Schemes that are not known are passed over.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Challenge {
    /// A token of the server at `realm`, for `service`; `scope` is what this one request would have needed.
    Bearer {
        realm: String,
        service: Option<String>,
        scopes: Vec<String>,
    },
    Basic,
}

/// The challenge to answer among the header's values: a token before a password; `None` where neither is offered.
pub(in crate::registry) fn choose<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for (scheme, mut params) in values.into_iter().flat_map(parse) {
        match scheme.as_str() {
            "bearer" => {
                if let Some(realm) = params.remove("realm") {
                    let scopes = params.remove("scope").unwrap_or_default();
                    let scopes = scopes.split_whitespace().map(str::to_owned).collect();
                    return Some(Challenge::Bearer { realm, service: params.remove("service"), scopes });
                }
            }
            "basic" => basic = Some(Challenge::Basic),
            _ => {}
        }
    }
    basic
}

type Params = BTreeMap<String, String>;

/// Every challenge of one header value: lowercase scheme and parameters.
fn parse(value: &str) -> Vec<(String, Params)> {
    let mut found: Vec<(String, Params)> = Vec::new();
    let mut rest = value.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let word_end = rest.find([' ', '\t', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        let after = after.trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), found.last_mut()) {
            (Some(after), Some((_, params))) => {
                let (text, after) = parameter(after.trim_start_matches([' ', '\t']));
                params.insert(word.to_ascii_lowercase(), text);
                rest = after;
            }
            // A parameter before any scheme means nothing.
            (Some(after), None) => rest = parameter(after).1,
            (None, _) => {
                found.push((word.to_ascii_lowercase(), Params::new()));
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    found
}

/// A parameter's value, quoted or not, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scopes: &[&str]) -> Challenge {
        let scopes = scopes.iter().map(|s| (*s).to_owned()).collect();
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned), scopes }
    }

    #[track_caller]
    fn check(values: &[&str], wanted: Option<Challenge>) {
        assert_eq!(choose(values.iter().copied()), wanted);
    }

    #[test]
    fn bearer_with_everything() {
        check(
            &[
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push repository:c:pull""#,
            ],
            Some(bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                &["repository:a/b:pull,push", "repository:c:pull"],
            )),
        );
    }

    #[test]
    fn odd_but_legal_spellings() {
        check(&[r#"bearer realm = "a\"b", Service=x"#], Some(bearer("a\"b", Some("x"), &[])));
        check(&[r#"Basic realm="x, Bearer y", Bearer realm="z""#], Some(bearer("z", None, &[])));
        check(&["Negotiate", "BASIC realm=x"], Some(Challenge::Basic));
        check(&["Basic"], Some(Challenge::Basic));
    }

    #[test]
    fn nothing_to_answer() {
        check(&[], None);
        check(&["Negotiate abc==", "Bearer service=\"no realm\"", "", ",,"], None);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_fall_over(text in "[ -~\"\\\\,=é]{0,60}") {
            choose([text.as_str()]);
        }

        #[test]
        fn a_quoted_realm_comes_back(realm in "[ -~]{1,40}") {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{quoted}\"");
            prop_assert_eq!(choose([header.as_str()]), Some(bearer(&realm, None, &[])));
        }
    }
}
