//! Names of distributions (PEP 503), and what a file name says: name and version.

use super::version::Version;

/// A distribution name by PEP 503: lowercase, every run of `-`, `_` and `.` one dash.
pub fn normalised(name: &str) -> String {
    let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    parts.join("-").to_ascii_lowercase()
}

/// Name and version, as the file name of a wheel or source archive tells them.
pub fn distribution(url: &str) -> Option<(String, String)> {
    let file = url.split(['?', '#']).next()?.rsplit('/').next()?.replace("%2B", "+");
    if let Some(stem) = file.strip_suffix(".whl") {
        let mut parts = stem.split('-');
        let (name, version, tags) = (parts.next()?, parts.next()?, parts.count());
        return (tags == 3 || tags == 4).then(|| (normalised(name), version.to_owned()));
    }
    let stem = [".tar.gz", ".zip", ".tar.bz2", ".tgz"].iter().find_map(|end| file.strip_suffix(end))?;
    let (name, version) = stem.rsplit_once('-')?;
    version.parse::<Version>().ok()?;
    (!name.is_empty()).then(|| (normalised(name), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_their_distribution() {
        for (url, wanted) in [
            ("https://h/Foo_bar-1.0+x-py3-none-any.whl", Some(("foo-bar", "1.0+x"))),
            ("https://h/foo-1.0%2Bcpu-1-py3-none-any.whl?x=y#z", Some(("foo", "1.0+cpu"))),
            ("https://h/a-b-1.0.zip", Some(("a-b", "1.0"))),
            ("https://h/a.whl", None),
            ("https://h/main.zip", None),
            ("https://h/a-main.zip", None),
        ] {
            let found = distribution(url);
            assert_eq!(found.as_ref().map(|(name, version)| (name.as_str(), version.as_str())), wanted, "{url}");
        }
    }
}
