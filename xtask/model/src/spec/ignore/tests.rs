//! The documented rules and those of BuildKit's matcher, one line each, and the laws.

use super::*;
use proptest::prelude::*;

#[track_caller]
fn ignored(lines: &str, path: &str) {
    assert!(Ignore::parse(".dockerignore", lines.as_bytes()).unwrap().ignores(path.as_bytes()), "`{path}` stays");
}

#[track_caller]
fn kept(lines: &str, path: &str) {
    assert!(!Ignore::parse(".dockerignore", lines.as_bytes()).unwrap().ignores(path.as_bytes()), "`{path}` goes");
}

#[track_caller]
fn refused(lines: &str, why: &str) {
    let fault = Ignore::parse(".dockerignore", lines.as_bytes()).unwrap_err().to_string();
    assert!(fault.contains(why), "{fault}");
}

#[test]
fn patterns_are_anchored_at_the_root() {
    ignored("foo", "foo");
    ignored("/foo", "foo");
    ignored("./foo", "foo");
    ignored("foo/", "foo");
    ignored("a/../foo", "foo");
    ignored("foo//bar", "foo/bar");
    kept("foo", "a/foo");
    kept("foo", "foobar");
    kept("foo", "fo");
    kept("*.py", "a/b.py");
    kept("/", "foo");
    kept(".", "foo");
    kept("../foo", "foo");
}

#[test]
fn a_folder_brings_all_below_it() {
    ignored("dir", "dir/file");
    ignored("dir", "dir/a/b/c");
    ignored("dir/", "dir/file");
    ignored("*", "a/b");
    ignored("*/sub", "a/sub/x");
    ignored("**/dir", "dir/file");
    ignored("**/dir", "a/dir/file");
    kept("dir/*", "dir");
    ignored("dir/*", "dir/a/b");
    kept("dir/**", "dir");
    ignored("dir/**", "dir/a/b");
}

#[test]
fn single_wildcards_stay_in_their_folder() {
    ignored("*.txt", "a.txt");
    ignored("*", ".hidden");
    ignored(".*", ".foo");
    kept(".*", "foo");
    ignored("a*/b", "abc/b");
    kept("a*/b", "a/c/b");
    ignored("a*b*c*d*e*/f", "axbxcxdxexxx/f");
    kept("a*b*c*d*e*/f", "axbxcxdxexxx/fff");
    ignored("a*b?c*x", "abxbbxdbxebxczzx");
    kept("a*b?c*x", "abxbbxdbxebxczzy");
    ignored("a?b", "a☺b");
    kept("a???b", "a☺b");
    kept("a?b", "a/b");
    kept("a*b", "a/b");
    kept("abc?def", "abcdef");
    ignored("*x", "xxx");
    kept("*??", "é");
}

#[test]
fn double_stars_cross_folders() {
    for pattern in ["**", "**/", "**/**", "**/*", "***"] {
        ignored(pattern, "file");
        ignored(pattern, "dir/file");
    }
    ignored("**/file", "file");
    ignored("**/file", "a/b/file");
    kept("**/.foo", "bar.foo");
    ignored("**file", "a/xfile");
    kept("**/file", "a/xfile");
    ignored("**/file*.txt*", "a/b/file.txt");
    ignored("**/**/*.txt", "file.txt");
    kept("**/**/*.txt2", "a/b/file.txt");
    ignored("a**/*.txt", "a/b/c/file.txt");
    ignored("a**", "abc/d");
    ignored("a/**/b", "a/b");
    ignored("a/**/b", "a/x/y/b");
    kept("a/**/b", "a/xb");
    ignored("a/*.txt**", "a/file.txt");
    ignored("**/dir2/**", "dir/dir2/dir3/file");
    ignored("**/dir2/*", "dir/dir2/file");
    kept("abc/**", "abcd");
    ignored("**/__pycache__", "src/pkg/__pycache__/m.pyc");
}

#[test]
fn classes_and_escapes() {
    ignored("ab[c]", "abc");
    ignored("ab[b-d]", "abc");
    kept("ab[e-g]", "abc");
    kept("ab[^b-d]", "abc");
    ignored("ab[^e-g]", "abc");
    ignored("a[!x]", "a!");
    kept("a[!x]", "ab");
    ignored("[a-ζ]*", "α");
    kept("*[a-ζ]", "A");
    ignored("a[^b]c", "a/c");
    ignored(r"[\]a]", "]");
    ignored(r"[x\-]", "-");
    kept(r"[\-x]", "a");
    ignored(r"a\*b", "a*b");
    kept(r"a\*b", "ab");
    ignored(r"a\\", r"a\");
    ignored("]", "]");
    ignored(r"\#x", "#x");
    ignored(r"\!x", "!x");
}

#[test]
fn other_characters_are_themselves() {
    ignored("{a,b}", "{a,b}");
    kept("{a,b}", "a");
    ignored("a(b)c/def", "a(b)c/def");
    ignored("a.|)$(}+{bc", "a.|)$(}+{bc");
    kept("abc.def", "abcZdef");
    ignored("a^b", "a^b");
    kept("a^b*", "a^bc");
    ignored("dist/*.whl", "dist/p-2.4.0rc3.dev36+g08-py3.whl");
    ignored("a b", "a b");
}

#[test]
fn exceptions_take_back() {
    kept("*\n!src", "src");
    kept("*\n!src", "src/a.py");
    kept("*\n!src/", "src/a.py");
    kept("*\n! src", "src/a.py");
    kept("*\n!/src", "src/a.py");
    ignored("*\n!src\nsrc/secret", "src/secret");
    ignored("*\n!src\n**/*.pyc", "src/a.pyc");
    kept("docs\n!docs/README.md", "docs/README.md");
    ignored("docs\n!docs/README.md", "docs/other.md");
    kept("docs/*\n!docs/README.md", "docs/README.md");
    ignored("!fileutils.go\n*.go", "fileutils.go");
    kept("*.md\n!README*.md", "README-secret.md");
    ignored("*.md\n!README*.md\nREADME-secret.md", "README-secret.md");
    ignored("*.md\nREADME-secret.md\n!OTHER.md", "README-secret.md");
    ignored("**\n!util/docker/web\nutil/docker/web/foo", "util/docker/web/foo");
    kept("**\n!util/docker/web", "util/docker/web/foo");
    kept("*\n!a/b/c", "a/b/c");
    ignored("*\n!a/b/c", "a/b");
    // The walker never asked `!a` about `a`, so it has no effect below: not "the last match wins".
    ignored("a/b\n!a", "a/b");
}

#[test]
fn lines() {
    kept("# foo", "foo");
    kept("#foo\n", "#foo");
    ignored("  foo  \r\n\r\n", "foo");
    ignored(" #foo", "#foo");
    ignored("\u{feff}foo", "foo");
    kept("", "foo");
    refused("a\n!", ".dockerignore:2:1: `!` needs a pattern");
    for bad in ["[", "[^", "[^bc", "a[", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]"] {
        refused(bad, "class");
    }
    refused(r"a\", "escape");
    refused(r"\d", "cannot be escaped");
    refused("[[:alpha:]]", "named character class");
}

#[test]
fn names_that_are_not_utf8_have_a_verdict() {
    let ignore = Ignore::parse(".dockerignore", b"*.bin").unwrap();
    assert!(ignore.ignores(b"\xff\xfe.bin"));
    assert!(!ignore.ignores(b"\xff\xfe.txt"));
    assert!(Ignore::parse(".dockerignore", b"?").unwrap().ignores(b"\xff"));
}

fn pattern() -> impl Strategy<Value = String> {
    "!?[ab]?(\\*\\*/|\\*|\\?|/|\\[ab\\]|a|b|\\.){1,4}"
}

fn path() -> impl Strategy<Value = String> {
    "[abc.]{1,2}(/[abc.]{1,2}){0,3}"
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<Vec<u8>>(), path in any::<Vec<u8>>()) {
        if let Ok(ignore) = Ignore::parse("x", &text) {
            ignore.ignores(&path);
            ignore.may_reinclude_below(&path);
        }
    }

    #[test]
    fn any_pattern_like_text_is_read_or_refused(text in "[]\\[!*?^\\\\/ab\n-]{0,20}", path in path()) {
        if let Ok(ignore) = Ignore::parse("x", text.as_bytes()) {
            ignore.ignores(path.as_bytes());
        }
    }

    /// Pruning is safe: where nothing can be taken back below a folder, nothing is.
    #[test]
    fn nothing_is_taken_back_where_none_was_foreseen(lines in prop::collection::vec(pattern(), 1..5), path in path()) {
        let Ok(ignore) = Ignore::parse("x", lines.join("\n").as_bytes()) else { return Ok(()) };
        let Some((folder, _)) = path.rsplit_once('/') else { return Ok(()) };
        if ignore.ignores(folder.as_bytes()) && !ignore.may_reinclude_below(folder.as_bytes()) {
            prop_assert!(ignore.ignores(path.as_bytes()));
        }
    }

    /// Selecting is foreseen too: what matches is below a folder that may hold it.
    #[test]
    fn a_match_is_foreseen(line in pattern(), path in path()) {
        let Ok(ignore) = Ignore::parse("x", line.as_bytes()) else { return Ok(()) };
        let Some((folder, _)) = path.rsplit_once('/') else { return Ok(()) };
        if ignore.ignores(path.as_bytes()) {
            prop_assert!(ignore.ignores(folder.as_bytes()) || ignore.may_match_below(folder.as_bytes()));
        }
    }

    /// Every path that is ignored below a folder has a name that the rules foresee.
    #[test]
    fn a_name_is_foreseen(lines in prop::collection::vec(pattern(), 1..5), path in path()) {
        let Ok(ignore) = Ignore::parse("x", lines.join("\n").as_bytes()) else { return Ok(()) };
        let Some((folder, below)) = path.split_once('/') else { return Ok(()) };
        let Some(rules) = ignore.names_below(folder.as_bytes()) else { return Ok(()) };
        let is_met = |name: &str| rules.iter().any(|rule| match rule {
            NameRule::Equals(text) => name.as_bytes() == text,
            NameRule::EndsWith(text) => name.as_bytes().ends_with(text),
        });
        prop_assert!(!ignore.ignores(path.as_bytes()) || below.split('/').any(is_met), "{:?}", rules);
    }

    /// The same where only some folders are let in.
    #[test]
    fn a_name_is_foreseen_in_a_folder_that_was_let_in(lines in prop::collection::vec(pattern(), 0..4), path in path()) {
        let Some((folder, _)) = path.rsplit_once('/') else { return Ok(()) };
        let lines = format!("*\n!{folder}\n{}", lines.join("\n"));
        let Ok(ignore) = Ignore::parse("x", lines.as_bytes()) else { return Ok(()) };
        let Some(rules) = ignore.names_below(folder.as_bytes()) else { return Ok(()) };
        let name = path.rsplit('/').next().unwrap_or_default().as_bytes();
        let is_met = rules.iter().any(|rule| match rule {
            NameRule::Equals(text) => name == text,
            NameRule::EndsWith(text) => name.ends_with(text),
        });
        prop_assert!(!ignore.ignores(path.as_bytes()) || is_met, "{:?}", rules);
    }

    /// A last line that names a path exactly decides.
    #[test]
    fn the_last_line_decides(lines in prop::collection::vec(pattern(), 0..4), name in "[abc]{1,3}") {
        let Ok(_) = Ignore::parse("x", lines.join("\n").as_bytes()) else { return Ok(()) };
        let with = |last: String| Ignore::parse("x", format!("{}\n{last}", lines.join("\n")).as_bytes()).unwrap();
        prop_assert!(with(name.clone()).ignores(name.as_bytes()));
        let back = format!("!{name}");
        prop_assert!(!with(back).ignores(name.as_bytes()));
    }
}

#[test]
fn names_below_a_folder_that_was_let_in_are_those_of_later_lines() {
    let names = |lines: &str, folder: &str| {
        Ignore::parse("x", lines.as_bytes()).unwrap().names_below(folder.as_bytes()).map(|rules| rules.len())
    };
    assert_eq!(names("*\n!a", "a"), Some(0));
    assert_eq!(names("*\n!a\n!b", "a/c"), Some(0));
    assert_eq!(names("*\n!a\n**/x\n**/*.y\nb/z", "a"), Some(2));
    assert_eq!(names("**/x\n*\n!a", "a"), Some(0), "the second line takes the name back");
    assert_eq!(names("*\n!a\na/b/*", "a/b"), None, "any name");
    assert_eq!(names("*\n!a/b", "a"), None, "the folder is ignored");
    assert_eq!(names("!a\n*", "a"), None);
}

#[test]
fn a_name_begins_a_part_after_folders_of_their_own_only() {
    let rule = |line: &str| Ignore::parse("x", line.as_bytes()).unwrap().names_below(b"a").unwrap();
    assert_eq!(rule("**/?/**/b"), [NameRule::Equals(b"b".to_vec())]);
    assert_eq!(rule("**/?**/b"), [NameRule::EndsWith(b"b".to_vec())], "it matches `a/ab`");
    ignored("**/?**/b", "a/ab");
}

#[test]
fn a_hundred_thousand_patterns_are_refused_at_once() {
    let began = std::time::Instant::now();
    let fault = Ignore::parse(".dockerignore", "folder/*.x\n".repeat(100_000).as_bytes()).unwrap_err();
    assert_eq!(fault.what, "`.dockerignore` has more than 5000 patterns");
    assert!(fault.causes[0].contains("the limit is 5000"), "{fault}");
    let fault = Ignore::parse(".dockerignore", "a".repeat(5000).as_bytes()).unwrap_err();
    assert_eq!(fault.what, ".dockerignore:1:1: the pattern has 5000 bytes");
    assert!(began.elapsed().as_secs() < 20);
    assert!(Ignore::parse(".dockerignore", "# comment\n".repeat(100_000).as_bytes()).is_ok(), "comments do not count");
    assert!(Ignore::parse(".dockerignore", "folder/*.x\n".repeat(5000).as_bytes()).is_ok());
}
