//! Tests that a commit must pass before CI gives its images a shared tag: a pure function of the changed paths and the policy.
//!
//! Unknown never means untested: paths that cannot be compared need every test.

use crate::image::change::Purpose;
use crate::image::policy::{DOCUMENTS, Selected};
use crate::spec::ignore::Ignore;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "tests", content = "name")]
pub enum Needed {
    /// None: the commit passed its tests before, or equals the revision that it is compared with.
    None,
    Documents,
    /// Those of one `[[ci.tests]]`, after the checks of documents.
    Selected(String),
    /// The same in the job of all tests.
    Long(String),
    All,
}

impl Needed {
    /// CI's outputs: the tests of the job that builds, or `all` where another job runs them; and the tests of that other job.
    pub fn outputs(&self) -> [(&'static str, String); 2] {
        let (tests, long) = match self {
            Self::None | Self::Documents | Self::Selected(_) => (self.to_string(), String::new()),
            Self::Long(_) | Self::All => (Self::All.to_string(), self.to_string()),
        };
        [("tests", tests), ("long-tests", long)]
    }
}

impl fmt::Display for Needed {
    /// The name for `cargo xtask ci --only`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Documents => DOCUMENTS,
            Self::Selected(name) | Self::Long(name) => name,
            Self::All => "all",
        })
    }
}

#[derive(Clone, Copy, Debug)]
pub struct VerificationFacts<'a> {
    pub purpose: Purpose,
    /// Changed paths from the policy's folder, with `..` where they are outside of it; or why they are unknown.
    pub changed: Result<&'a [String], &'a str>,
    /// Changed paths that an image is made of, which are never only documents; or why they are unknown.
    pub in_images: Result<&'a BTreeSet<String>, &'a str>,
    /// Reason why nothing shows that the tests of the revision before it passed. The tests of its own files do not make up for them.
    pub untested: Option<&'a str>,
    /// The registry tag of this commit, where it names this commit's app: CI writes it after the tests. Not asked for a change before its
    /// commit is on the default branch.
    pub tested: Option<&'a str>,
}

/// Returns the tests that are needed, and the reason.
pub fn needed(facts: &VerificationFacts<'_>, documents: &Ignore, selected: &[Selected]) -> (Needed, String) {
    if let Some(tag) = facts.tested {
        return (Needed::None, format!("the commit passed its tests before: they wrote the tag `{tag}`"));
    }
    if facts.purpose != Purpose::Change {
        return (Needed::All, "no tag in the registry shows that the commit passed its tests".to_owned());
    }
    let changed = match facts.changed {
        Ok(changed) => changed,
        Err(why) => return (Needed::All, format!("the changed files are unknown: {why}")),
    };
    if let Some(why) = facts.untested {
        return (Needed::All, why.to_owned());
    }
    let Some(example) = changed.first() else { return (Needed::None, "no file changed".to_owned()) };
    let is_named = |path: &String| documents.ignores(path.as_bytes());
    let is_document = |path: &String| is_named(path) && facts.in_images.is_ok_and(|images| !images.contains(path));
    let rest: Vec<&String> = changed.iter().filter(|path| !is_document(path)).collect();
    let Some(first) = rest.first() else {
        return (Needed::Documents, format!("only documents changed ({})", some(example, changed.len())));
    };
    let covers = |tests: &&Selected| rest.iter().all(|path| tests.paths.ignores(path.as_bytes()));
    match selected.iter().find(covers) {
        Some(tests) => {
            let why =
                format!("`[[ci.tests]]` `{}` covers every changed file ({})", tests.name, some(first, rest.len()));
            let needed = if tests.long { Needed::Long } else { Needed::Selected };
            (needed(tests.name.clone()), why)
        }
        None => {
            let other = |path: &&&String| !selected.iter().any(|tests| tests.paths.ignores(path.as_bytes()));
            let example = rest.iter().find(other).unwrap_or(first);
            let why = match facts.in_images {
                Ok(_) if is_named(example) => {
                    format!("an image is made of `{example}`, and no smaller set of tests covers it")
                }
                Err(why) if is_named(example) => format!("whether an image is made of `{example}` is unknown: {why}"),
                _ => format!("no smaller set of tests covers `{example}`"),
            };
            (Needed::All, why)
        }
    }
}

fn some(path: &str, count: usize) -> String {
    if count > 1 { format!("`{path}` and {} more", count - 1) } else { format!("`{path}`") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::policy::DEFAULT_DOCUMENTS;

    fn ignore(patterns: &[&str]) -> Ignore {
        Ignore::from_patterns(patterns.iter().copied()).unwrap()
    }

    #[track_caller]
    fn check(purpose: Purpose, changed: Result<&[&str], &str>, tested: Option<&str>, expected: &str, reason: &str) {
        let changed = changed.map(|paths| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
        let in_images = BTreeSet::from(["page.md".to_owned(), "templates/page.md".to_owned()]);
        let in_images = Ok(&in_images);
        let changed = changed.as_deref().map_err(|why| *why);
        let facts = VerificationFacts { purpose, changed, in_images, untested: None, tested };
        let pages = |name: &str, path: &str| Selected {
            name: name.to_owned(),
            paths: ignore(&[path]),
            run: vec!["true".to_owned()],
            long: false,
        };
        let selected = [pages("pages", "templates"), pages("worker", "forecaster/**")];
        let (needed, why) = needed(&facts, &ignore(&DEFAULT_DOCUMENTS), &selected);
        assert_eq!((needed.to_string().as_str(), why.as_str()), (expected, reason));
    }

    #[test]
    fn a_change_needs_the_smallest_set_of_tests_that_covers_all_its_files() {
        let change = |changed: &[&str], expected: &str, reason: &str| {
            check(Purpose::Change, Ok(changed), None, expected, reason);
        };
        change(&[], "none", "no file changed");
        change(&["README.md"], "documents", "only documents changed (`README.md`)");
        change(&["a/b.md", "docs/x.svg"], "documents", "only documents changed (`a/b.md` and 1 more)");
        change(
            &["README.md", "templates/a.html"],
            "pages",
            "`[[ci.tests]]` `pages` covers every changed file (`templates/a.html`)",
        );
        change(
            &["forecaster/a/b.py"],
            "worker",
            "`[[ci.tests]]` `worker` covers every changed file (`forecaster/a/b.py`)",
        );
        change(&["templates/a.html", "src/x.rs"], "all", "no smaller set of tests covers `src/x.rs`");
        change(&["templates/a.html", "forecaster/b.py"], "all", "no smaller set of tests covers `templates/a.html`");
        // A name that only documents have makes no document of what an image is made of.
        let made = "an image is made of `page.md`, and no smaller set of tests covers it";
        change(&["page.md"], "all", made);
        change(&["README.md", "page.md"], "all", made);
        change(
            &["README.md", "templates/page.md"],
            "pages",
            "`[[ci.tests]]` `pages` covers every changed file (`templates/page.md`)",
        );
        change(&["templates/a.html", "page.md"], "all", made);
        change(&["README.mdx"], "all", "no smaller set of tests covers `README.mdx`");
        change(&["../other/templates/a"], "all", "no smaller set of tests covers `../other/templates/a`");
    }

    #[test]
    fn long_tests_run_in_the_job_of_all_tests() {
        let needed = |path: &str| {
            let long = |name: &str, paths: &[&str]| Selected {
                name: name.to_owned(),
                paths: ignore(paths),
                run: vec!["true".to_owned()],
                long: name != "pages",
            };
            let payload = long("payload", &["operator", "!operator/**/Cargo.toml"]);
            let selected = [long("pages", &["operator/templates"]), payload, long("tool", &["tool"])];
            let changed = [path.to_owned()];
            let (purpose, in_images) = (Purpose::Change, &BTreeSet::new());
            let facts = VerificationFacts {
                purpose,
                changed: Ok(&changed),
                in_images: Ok(in_images),
                untested: None,
                tested: None,
            };
            super::needed(&facts, &ignore(&DEFAULT_DOCUMENTS), &selected).0.outputs().map(|(_, value)| value)
        };
        for (path, tests, long) in [
            ("operator/templates/a.html", "pages", ""),
            ("operator/show/src/page.rs", "all", "payload"),
            ("operator/show/Cargo.toml", "all", "all"),
            ("operator/Cargo.toml", "all", "all"),
            ("tool/src/main.rs", "all", "tool"),
            ("Cargo.lock", "all", "all"),
            ("operator/README.md", "documents", ""),
        ] {
            assert_eq!(needed(path), [tests, long], "{path}");
        }
    }

    #[test]
    fn what_is_unknown_needs_every_test() {
        check(
            Purpose::Change,
            Err("the clone is shallow"),
            None,
            "all",
            "the changed files are unknown: the clone is shallow",
        );
    }

    #[test]
    fn documents_of_unknown_use_need_every_test() {
        let changed = ["README.md".to_owned()];
        let facts = VerificationFacts {
            purpose: Purpose::Change,
            changed: Ok(&changed),
            in_images: Err("the clone is shallow"),
            untested: None,
            tested: None,
        };
        let (needed, why) = needed(&facts, &ignore(&DEFAULT_DOCUMENTS), &[]);
        assert_eq!(needed, Needed::All);
        assert_eq!(why, "whether an image is made of `README.md` is unknown: the clone is shallow");
    }

    #[test]
    fn a_change_of_untested_files_needs_every_test() {
        for changed in [&[][..], &["README.md".to_owned()]] {
            let untested = Some("no tag shows that the tests of `0123456789ab` passed");
            let (purpose, in_images) = (Purpose::Change, Ok(&BTreeSet::new()));
            let facts = VerificationFacts { purpose, changed: Ok(changed), in_images, untested, tested: None };
            let (needed, why) = needed(&facts, &ignore(&DEFAULT_DOCUMENTS), &[]);
            assert_eq!((needed, Some(why.as_str())), (Needed::All, untested));
        }
    }

    #[test]
    fn a_release_needs_no_tests_only_where_the_registry_shows_that_they_passed() {
        // A merge queue has tested the commit.
        let (tag, passed) = ("0123456789ab", "the commit passed its tests before: they wrote the tag `0123456789ab`");
        check(Purpose::Change, Ok(&["src/x.rs"]), Some(tag), "none", passed);
        for purpose in [Purpose::Release, Purpose::Schedule, Purpose::Manual] {
            let tag = Some("0123456789ab");
            check(
                purpose,
                Err("x"),
                tag,
                "none",
                "the commit passed its tests before: they wrote the tag `0123456789ab`",
            );
            let untested = "no tag in the registry shows that the commit passed its tests";
            check(purpose, Ok(&[]), None, "all", untested);
            check(purpose, Ok(&["README.md"]), None, "all", untested);
        }
    }
}
