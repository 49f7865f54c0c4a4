//! Whole files: what counts, what does not, what is refused and how.

use super::*;
use expect_test::expect;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn read_files(files: &[(&str, &str)]) -> Result<Requirements, Fault> {
    let files: BTreeMap<&Path, &str> = files.iter().map(|(name, text)| (Path::new(*name), *text)).collect();
    let mut load = |path: &Path| {
        let text = files.get(path).map(|text| (*text).to_owned());
        text.ok_or_else(|| Fault::usage(format!("cannot read `{}`", path.display())))
    };
    read(Path::new("requirements.txt"), &mut load)
}

fn read_text(text: &str) -> Requirements {
    read_files(&[("requirements.txt", text)]).unwrap_or_else(|fault| panic!("{fault}"))
}

#[track_caller]
fn same(left: &str, right: &str) {
    let (left, right) = (read_text(left), read_text(right));
    assert_eq!(left.meaning(), right.meaning());
    assert_eq!(left.fingerprint(), right.fingerprint());
}

#[track_caller]
fn different(left: &str, right: &str) {
    assert_ne!(read_text(left).fingerprint(), read_text(right).fingerprint());
}

const HASH: &str = "--hash=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn how_it_is_written_does_not_count() {
    same("numpy>=2.2,<3", "NumPy <3, >=2.2");
    same("a\nb", "# why\r\n\r\nb # because\r\na\r\n");
    same("a==1", "\u{feff}a==1.0.0\n");
    same("a>=1", "a \\\n  >=1");
    same("a ; os_name=='x'", "a;(os_name == \"x\")");
    same("a[x,y]", "A[Y, x]");
    same("a\na", "a");
    same(
        &format!("a==1 {HASH}"),
        &format!("a==1 \\\n    {} # x", HASH.replace('=', " ").replacen("--hash ", "--hash=", 1)),
    );
    same("--index-url https://me:secret@h/simple\na", "-i https://h/simple/\na");
    same("--no-binary=a,b", "--no-binary b\n--no-binary a");
}

#[test]
fn what_is_asked_for_counts() {
    different("a", "b");
    different("a>=1", "a>=2");
    different("a>=1", "a>1");
    different("a~=1.0", "a~=1.0.0");
    different("a==1.*", "a==1.0.*");
    different("a", "a[x]");
    different("a", "a ; os_name == 'x'");
    different("a ; os_name == 'x'", "a ; os_name == 'y'");
    different("a==1", &format!("a==1 {HASH}"));
    different("a", "a @ https://h/a-1.zip");
    different("a @ https://h/a-1.zip", "a @ https://h/a-2.zip");
    different("a", "--pre\na");
    different("a", "--all-releases a\na");
    different("--all-releases a\na", "--only-final a\na");
    different("a", "--index-url https://h/simple\na");
    different("a", "--no-binary a\na");
    different("--trusted-host h\na", "a");
}

#[test]
fn constraints_and_requirements_are_two_things() {
    let files = |line: &'static str| [("requirements.txt", line), ("b.txt", "b>=1")];
    let required = read_files(&files("a\n-r b.txt")).unwrap();
    let constrained = read_files(&files("a\n-c b.txt")).unwrap();
    assert_eq!(required.names(), BTreeSet::from(["a", "b"]));
    assert_eq!(constrained.names(), BTreeSet::from(["a"]));
    assert_ne!(required.fingerprint(), constrained.fingerprint());
    assert_eq!(required.fingerprint(), read_text("b>=1\na").fingerprint());
}

#[test]
fn files_are_found_relative_to_the_one_that_names_them() {
    let found = read_files(&[
        ("requirements.txt", "-r deps/a.txt\n--requirement=./deps/../b.txt\n"),
        ("deps/a.txt", "a\n-c limits/c.txt\n-r ../b.txt"),
        ("deps/limits/c.txt", "c<2\n"),
        ("b.txt", "b"),
    ])
    .unwrap();
    let files: Vec<_> = found.files().iter().map(|file| file.display().to_string()).collect();
    assert_eq!(files, ["requirements.txt", "deps/a.txt", "deps/limits/c.txt", "b.txt"]);
    assert_eq!((found.names(), found.constraints().len()), (BTreeSet::from(["a", "b"]), 1));
    assert_eq!((found.requirements()[0].file.as_path(), found.requirements()[0].line), (Path::new("deps/a.txt"), 1));
}

#[test]
fn a_missing_file_names_the_one_that_wanted_it() {
    let fault = read_files(&[("requirements.txt", "-r gone.txt")]).unwrap_err();
    assert_eq!(fault.needed_by.as_deref(), Some("`requirements.txt`"));
}

#[test]
fn every_bad_line_is_reported_at_its_place() {
    let fault = read_files(&[
        ("requirements.txt", "numpy>=2\r\nscipy=>1\n\t -r more.txt\npandas \\\n   >=x \\\n --hash=sha256:00\n-e ..\n"),
        ("more.txt", "# fine\n--index-ulr x\né @ x\nloop\n-r requirements.txt"),
    ])
    .unwrap_err();
    assert_eq!(fault.exit, crate::fault::Exit::Usage);
    expect![[r#"
        cannot read 6 lines of the requirements

        requirements.txt:2:6: expected `==`, not `=`
            scipy=>1
                 ^

        more.txt:2:1: `--index-ulr` is not an option of requirement files; did you mean `--index-url`?
            --index-ulr x
            ^

        more.txt:3:1: expected the name of a distribution
            é @ x
            ^

        more.txt:5:4: this file names itself: `requirements.txt` -> `more.txt` -> `requirements.txt`
            -r requirements.txt
               ^

        requirements.txt:5:6: `x` is not a version of PEP 440, like `1.2.3` or `2.0rc1`
               >=x \
                 ^

        requirements.txt:7:4: this path is outside of the repository: publish the distribution, or copy it into the repository
            -e ..
               ^
          needed by: `requirements.txt`"#]]
    .assert_eq(&fault.to_string());
}

#[track_caller]
fn refused(text: &str, why: &str) {
    let fault = read_files(&[("requirements.txt", text)]).unwrap_err().to_string();
    assert!(fault.contains(why), "{fault}");
}

#[test]
fn what_a_locked_build_cannot_use_is_refused_with_its_reason() {
    refused("-e git+https://h/x", ":1:1: a checkout without a commit");
    refused("a @ ./dist/a.whl", ":1:5: a local path");
    refused("a @ git+https://h/a", ":1:5: a checkout without a commit");
    refused("-r https://h/r.txt", ":1:4: a file from the network");
    refused("-r ${DIR}/r.txt", ":1:4: the name of a file");
    refused("a --global-option=x", ":1:3: `--global-option` is for builds with `setup.py`");
    refused("--hash=sha256:00", ":1:1: expected a requirement before `--hash`");
    refused("a --hash=sha256:00", ":1:10: expected 64 hex digits");
    refused("a # x \\\nb", ":1:3: a comment that ends in a backslash");
    let constraint = [("requirements.txt", "-c c.txt"), ("c.txt", "a[x]")];
    assert!(read_files(&constraint).unwrap_err().to_string().contains("c.txt:1:2: a constraint cannot have extras"));
}

#[test]
fn what_pip_ignores_is_noted() {
    let found = read_files(&[("requirements.txt", "a==1 --no-binary :all:\nb -C x=y")]).unwrap();
    assert_eq!(found.names(), BTreeSet::from(["a", "b"]));
    assert!(found.notes()[0].starts_with("requirements.txt:1: `--no-binary` has no effect"), "{:?}", found.notes());
    assert_eq!(found.notes().len(), 2);
}

#[test]
fn paths_of_the_repository_are_projects_or_files() {
    let text = "-e .\n./libs/a[x,Y_z]\n-e file:libs/b#egg=b\n./wheels/c-1.0-py3-none-any.whl ; os_name == 'x'\n";
    let found = read_files(&[("requirements.txt", text)]).unwrap();
    let projects: Vec<String> =
        found.projects().iter().map(|one| format!("{} {} {:?}", one.place, one.folder.display(), one.extras)).collect();
    assert_eq!(
        projects,
        ["requirements.txt:1  {}", "requirements.txt:2 libs/a {\"x\", \"y-z\"}", "requirements.txt:3 libs/b {}"]
    );
    assert_eq!(found.requirements()[0].meaning().to_string(), "c==1 ; os_name == 'x'");
    assert_eq!(format!("{:?}", found.locations()), "[Links wheels]");
}

#[test]
fn constraints_of_the_network_count_by_their_address() {
    let read = |text: &str| read_files(&[("requirements.txt", text)]).unwrap();
    let found = read("a\n-c https://u:p@h/constraints-3.12.txt\n");
    assert_eq!(found.meaning().remote_constraints, BTreeSet::from(["https://h/constraints-3.12.txt".to_owned()]));
    assert_ne!(found.fingerprint(), read("a\n-c https://h/constraints-3.13.txt\n").fingerprint());
    assert!(
        !serde_json::to_string(&read("a").meaning()).unwrap().contains("remote"),
        "old locks keep their fingerprint"
    );
}

#[test]
fn files_outside_of_the_repository_are_not_read() {
    for place in ["/dev/zero", "/etc/passwd", "../secret.txt", "a/../../secret.txt", "..", "."] {
        for option in ["-r", "-c"] {
            refused(&format!("{option} {place}"), ":1:4: this path is outside of the repository");
        }
    }
    let deep = [("requirements.txt", "-r a/b.txt"), ("a/b.txt", "-r ../c.txt"), ("c.txt", "c")];
    assert_eq!(read_files(&deep).unwrap().names(), BTreeSet::from(["c"]));
}

#[track_caller]
fn limited(files: &[(&str, &str)], limit: &str) {
    let begun = std::time::Instant::now();
    let fault = read_files(files).unwrap_err();
    assert!(fault.what.ends_with(&format!("exceeds a limit of requirement files: at most {limit}")), "{fault}");
    assert!(begun.elapsed().as_secs() < 20, "it takes no longer than reading does");
}

#[test]
fn every_limit_names_itself() {
    limited(&[("requirements.txt", &"-r a.txt\n".repeat(5_000)), ("a.txt", "a")], "1000 lines with `-r` or `-c`");
    limited(&[("requirements.txt", &"a\n".repeat(100_001))], "100000 lines in all files together");
    limited(&[("requirements.txt", &format!("#{}", "x".repeat(17 << 20)))], "16777216 bytes in all files together");
    limited(&[("requirements.txt", &format!("a @ {}", "https://".repeat(70_000)))], "524288 bytes in one line");
    let indexes: String = (0..101).map(|number| format!("--extra-index-url https://h/{number}\n")).collect();
    limited(&[("requirements.txt", &indexes)], "100 indexes and pages of links");
    let names: Vec<String> = (0..40).map(|number| format!("{number}.txt")).collect();
    let texts: Vec<String> = names.iter().skip(1).map(|name| format!("-r {name}")).collect();
    let mut chain: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    chain.push(("requirements.txt", "-r 0.txt"));
    limited(&chain, "32 files that name each other");
}

#[test]
fn thousands_of_bad_lines_take_no_longer_than_good_ones() {
    let begun = std::time::Instant::now();
    let fault = read_files(&[("requirements.txt", &"a=1\n".repeat(50_000))]).unwrap_err();
    assert!(fault.what.starts_with("cannot read 50 lines of the requirements"), "{fault}");
    // One line of URLs, in which each `://` once was looked for up to its end.
    let _ = read_files(&[("requirements.txt", &format!("-i {}", "x://".repeat(100_000)))]);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn a_password_is_never_shown() {
    for line in [
        "--index-url https://u:secret@h/ --oops",
        "--index-url https://u:secret@h/ oops",
        "--pre=https://u:secret@h/",
        "a @ https://u:secret@h/a.whl oops",
        "https://u:secret@h/",
        "--oops=https://u:secret@h/",
        "a @ ftp://u:secret@h/",
    ] {
        let fault = read_files(&[("requirements.txt", line)]).unwrap_err().to_string();
        assert!(!fault.contains("secret"), "{fault}");
        assert!(fault.contains("***"), "{fault}");
    }
    let meaning =
        serde_json::to_string(&read_text("--find-links https://u:secret@h/\na @ https://u:secret@h/a-1.zip").meaning());
    assert!(!meaning.unwrap().contains("secret"));
}

#[test]
fn the_encoding_is_golden() {
    let read = read_text(&format!(
        "--extra-index-url https://h/x\nNumPy[B,a]<3,>=2.2; os_name=='x' {HASH}\nz @ https://h/z-1.zip"
    ));
    expect![[r#"{"schema":1,"requirements":[{"name":"numpy","extras":["a","b"],"specifiers":["<3",">=2.2"],"url":null,"marker":"os_name == 'x'","hashes":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},{"name":"z","extras":[],"specifiers":[],"url":"https://h/z-1.zip","marker":null,"hashes":[]}],"constraints":[],"options":{"extra_index_urls":["https://h/x"]}}"#]]
        .assert_eq(&serde_json::to_string(&read.meaning()).unwrap());
    expect!["sha256:856b331c8b467db8ff3566fc5cfc185d6a37c28b02006f91f428fec3b54bf5b9"]
        .assert_eq(&read.fingerprint().to_string());
    let back: RequirementsMeaning = serde_json::from_str(&serde_json::to_string(&read.meaning()).unwrap()).unwrap();
    assert_eq!(back, read.meaning());
}

fn line() -> impl Strategy<Value = String> {
    ("[a-d]{1,2}", "(|\\[x\\]|\\[x,y\\])", 0..4u8, 0..4u8, "(|  ; os_name == 'posix'|;extra=='z')", any::<bool>())
        .prop_map(|(name, extras, low, high, marker, hash)| {
            format!("{name}{extras}>={low},<1{high}{marker}{}", if hash { format!(" {HASH}") } else { String::new() })
        })
}

/// The same requirement in other letters, quotes and blanks.
fn disguised(line: &str) -> String {
    let (requirement, rest) = line.split_once(';').unwrap_or((line, ""));
    let (requirement, hash) = requirement.split_once(" --").unwrap_or((requirement, ""));
    let rest = if hash.is_empty() { rest.replace('\'', "\"") } else { format!(" --{hash}") };
    let middle = if line.contains(';') { ";" } else { "" };
    format!("{} {middle}{}", requirement.to_uppercase().replace(',', " , "), rest.replace("==", " \\\n =="))
}

proptest! {
    #[test]
    fn order_comments_and_blank_lines_do_not_count(
        (lines, shuffled) in prop::collection::vec(line(), 1..8).prop_flat_map(|l| (Just(l.clone()), Just(l).prop_shuffle())),
        noise in prop::collection::vec("(|  |[ \t]?# [ -\\[\\]-~é]{0,9})", 8),
    ) {
        let noisy: Vec<String> =
            shuffled.iter().zip(&noise).map(|(line, noise)| format!("{noise}\n  {} # x{noise}", disguised(line))).collect();
        prop_assert_eq!(read_text(&noisy.join("\n")).fingerprint(), read_text(&lines.join("\n")).fingerprint());
    }

    #[test]
    fn any_change_of_a_line_counts(lines in prop::collection::vec(line(), 1..6), which in any::<prop::sample::Index>(), how in 0..4u8) {
        let before = read_text(&lines.join("\n"));
        let mut after = lines.clone();
        let line = which.get(&lines);
        after.retain(|other| other != line);
        after.push(match how {
            0 => line.replace(",<1", ",<2"),
            1 => line.replace(">=", "[w]>=").replace("][", ","),
            2 if line.contains(HASH) => line.replace("e3b0", "e3b1"),
            2 => format!("{line} {}", HASH.replace("e3b0", "e3b1")),
            _ if line.contains(';') => line.replace("=='z'", "!='z'").replace("== 'posix'", "!= 'posix'"),
            _ => line.replacen(HASH, "", 1) + " ; python_version >= '3'",
        });
        prop_assert_ne!(read_text(&after.join("\n")).fingerprint(), before.fingerprint());
    }

    #[test]
    fn no_text_ends_the_reader(text in "[ a-c\\[\\]<>=;0-9.\\\\\n\r#'\"@:/-]{0,80}") {
        let _ = read_files(&[("requirements.txt", &text)]);
    }
}
