//! Triggers of dpkg: who is interested in which files and names, deb-triggers(5).
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

/// The interests that `/var/lib/dpkg/triggers` records, in order: a file or name, and a package as it is written there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interests(Vec<(String, String)>);

/// Contents of a package's file `triggers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// Files or names, with whether the package that activates them waits.
    pub interests: Vec<(String, bool)>,
    /// Names that it activates when it is installed.
    pub activates: Vec<String>,
}

impl Directives {
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
            let Some((kind, name)) = line.split_once(char::is_whitespace) else { continue };
            let name = name.trim().to_owned();
            match kind {
                "interest" | "interest-await" => found.interests.push((name, true)),
                "interest-noawait" => found.interests.push((name, false)),
                _ if kind.starts_with("activate") => found.activates.push(name),
                _ => {}
            }
        }
        found
    }
}

impl Interests {
    /// Adds the lines of the file `File`: `/usr/share/fonts fontconfig/noawait`.
    pub fn read_files(&mut self, text: &str) {
        let pairs = text.lines().filter_map(|line| line.rsplit_once(' '));
        self.0.extend(pairs.map(|(path, package)| (path.to_owned(), package.to_owned())));
    }

    /// Adds the packages of a named trigger.
    pub fn read_name(&mut self, name: &str, text: &str) {
        self.0.extend(text.lines().map(|package| (name.to_owned(), package.to_owned())));
    }

    /// Adds those of a package, which has the name of its files in `info`.
    pub fn add(&mut self, package: &str, directives: &Directives) {
        for (name, waits) in &directives.interests {
            let suffix = if *waits { "" } else { "/noawait" };
            self.0.push((name.clone(), format!("{package}{suffix}")));
        }
    }

    /// The packages that are called because of these files and names, each with the triggers.
    pub fn activated(&self, paths: &[String], names: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (trigger, package) in &self.0 {
            let below =
                |path: &String| path.strip_prefix(trigger.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/'));
            let is_file = trigger.starts_with('/');
            if (is_file && paths.iter().any(below)) || names.contains(trigger) {
                let package = package.split('/').next().unwrap_or_default();
                found.entry(package.to_owned()).or_default().insert(trigger.clone());
            }
        }
        found
    }

    /// The files of `/var/lib/dpkg/triggers`, by name.
    pub fn files(&self) -> BTreeMap<String, String> {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for (trigger, package) in &self.0 {
            let (name, line) = match trigger.starts_with('/') {
                true => ("File", format!("{trigger} {package}\n")),
                false => (trigger.as_str(), format!("{package}\n")),
            };
            files.entry(name.to_owned()).or_default().push_str(&line);
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_names_activate_who_is_interested() {
        let mut all = Interests::default();
        all.read_files("/usr/share/fonts fontconfig/noawait\n");
        all.read_name("ldconfig", "libc-bin/noawait\n");
        let own =
            Directives::parse("# made\ninterest-noawait /usr/lib/modules\ninterest mine\nactivate-noawait ldconfig\n");
        all.add("pkg", &own);
        let paths = ["/usr/share/fonts/a.ttf", "/usr/share/fontsx", "/usr/lib"].map(str::to_owned);
        let called = all.activated(&paths, &own.activates.into_iter().collect());
        let called: Vec<(&str, Vec<&str>)> =
            called.iter().map(|(who, why)| (who.as_str(), why.iter().map(String::as_str).collect())).collect();
        assert_eq!(called, [("fontconfig", vec!["/usr/share/fonts"]), ("libc-bin", vec!["ldconfig"])]);
        let files = all.files();
        assert_eq!(files["File"], "/usr/share/fonts fontconfig/noawait\n/usr/lib/modules pkg/noawait\n");
        assert_eq!((files["mine"].as_str(), files["ldconfig"].as_str()), ("pkg\n", "libc-bin/noawait\n"));
    }
}
