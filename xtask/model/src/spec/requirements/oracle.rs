//! pip itself as the judge of our reader: the same texts through both must mean the same.

use super::*;
use serde_json::{Value, json};
use std::process::Command;

/// Logical lines, names, extras and specifiers as pip's own modules read them.
const LINES: &str = r#"
import json, re, sys
from pip._internal.req.req_file import preprocess
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name
from pip._vendor.packaging.version import Version

def specifier(s):
    if s.operator == "===":
        return "===" + s.version.lower()
    if s.version.endswith(".*"):
        return s.operator + str(Version(s.version[:-2])) + ".*"
    v = Version(s.version)
    if s.operator == "~=":
        return "~=" + str(v)
    release = ".".join(map(str, v.release))
    short = re.sub(r"(\.0)+$", "", release)
    return s.operator + str(v).replace(release, short, 1)

with open(sys.argv[1], encoding="utf-8-sig", newline="") as file:
    for number, line in preprocess(file.read()):
        r = Requirement(line.split(" --")[0])
        name, extras = canonicalize_name(r.name), sorted(canonicalize_name(e) for e in r.extras)
        print(json.dumps([number, name, extras, sorted(set(map(specifier, r.specifier))), r.url, r.marker is not None]))
"#;

/// Script that says which version fits which specifier, and how versions are ordered.
const VERSIONS: &str = r#"
import json, sys
from pip._vendor.packaging.specifiers import Specifier
from pip._vendor.packaging.version import Version
versions, specifiers = json.loads(sys.argv[1]), json.loads(sys.argv[2])
print(json.dumps([[Specifier(s).contains(v, prereleases=True) for v in versions] for s in specifiers]))
print(json.dumps([[(Version(a) > Version(b)) - (Version(a) < Version(b)) for b in versions] for a in versions]))
print(json.dumps([str(Version(v)) for v in versions]))
"#;

/// pip's results line by line; `None`, with a message, if there is no pip.
pub(super) fn ask(script: &str, args: &[&str]) -> Option<Vec<Value>> {
    #[allow(clippy::disallowed_methods, reason = "a test asks pip itself; this crate runs nothing")]
    let output = Command::new("python3").args(["-c", script]).args(args).output();
    let said = match &output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout),
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("No module named 'pip") => {
            panic!("{}", String::from_utf8_lossy(&output.stderr))
        }
        Ok(_) | Err(_) => {
            assert!(std::env::var_os("XTASK_REQUIRE_REAL").is_none(), "python3 with pip is missing");
            println!("skipped: python3 with pip is missing");
            return None;
        }
    };
    Some(said.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn pip_reads_the_same_from_the_same_file() {
    let hash = "--hash=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let text = format!(
        "\u{feff}# first\r\nNumPy <3, >=2.2 # why\r\n\r\nFoo_.-Bar\\\n==1.0.0\nscipy \\\n  >=1.15 \\\n  ,<2\n  # note\n\
         a (>=1.0, !=1.5.*)\nb[Y, x_Z]~=2.0 ; python_version < '3.13'\nc;os_name=='x'\nd===Odd\ne==1.0 \\\n    {hash} \\\n    {hash}\n\
         # via a \\\nf @ https://h/f-1.0.tar.gz#sha256=0 # end\ng @ https://h/g.zip ; os_name == \"x\"\nh==1!2.0-RC1+L-1\n\
         i \\\n  # cut here\nj>=1\nk[]\n\tl\t>=\t1\nm==1.0.*,>=1.0.0,>=1 \\"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.txt");
    std::fs::write(&path, &text).unwrap();
    let Some(theirs) = ask(LINES, &[&path.display().to_string()]) else { return };
    let ours = read(Path::new("r.txt"), &mut |_| Ok(text.clone())).unwrap_or_else(|fault| panic!("{fault}"));
    let ours: Vec<Value> = ours
        .requirements()
        .iter()
        .map(|one| {
            let NormalRequirement { name, extras, specifiers, url, marker, .. } = one.meaning();
            json!([one.line, name, extras, specifiers, url, marker.is_some()])
        })
        .collect();
    assert_eq!(theirs.len(), 16);
    assert_eq!(ours, theirs);
}

#[test]
fn pip_judges_versions_alike() {
    let versions = [
        "1",
        "1.0",
        "1.0.0",
        "1.0.1",
        "1.0a1",
        "1.0.dev1",
        "1.0rc1.dev2",
        "1.0.post1",
        "1.0.post1.dev3",
        "1.0+local",
        "1.0+local.2",
        "1.1",
        "1.1rc1",
        "1.10",
        "2",
        "2.0rc1",
        "2.0.post2",
        "1!1.0",
        "0.9",
        "1.0-1",
        "v1.4.5",
        "1.4.5.9",
        "1.4.6",
        "01.02",
    ];
    // Left out are cases in which pip's own releases differ: `1.0a1` of `<1.0.post1`, `1.0+x` of `>1.0a1`, `==1.0rc1.*`.
    let specifiers = [
        "==1",
        "==1.0+local",
        "==1.0.*",
        "==1.*",
        "!=1.0",
        "!=1.0.*",
        ">=1.0",
        ">=1.0rc1",
        "<=1.0",
        "<1.0",
        "<1.0rc1",
        ">1.0",
        ">1.0.post1",
        "~=1.0",
        "~=1.4.5",
        "~=1.4.5.0",
        "~=1.0rc1",
        "==1!1.*",
        "<2",
        ">0.9",
        "~=1.0.post1",
    ];
    let args = [serde_json::to_string(&versions).unwrap(), serde_json::to_string(&specifiers).unwrap()];
    let Some(theirs) = ask(VERSIONS, &[&args[0], &args[1]]) else { return };
    let parsed: Vec<Version> = versions.iter().map(|text| text.parse().unwrap()).collect();
    for (row, text) in specifiers.iter().enumerate() {
        let operator = version::OPERATORS.into_iter().find(|operator| text.starts_with(operator)).unwrap();
        let specifier = Specifier::new(operator, &text[operator.len()..]).unwrap();
        for (column, version) in parsed.iter().enumerate() {
            assert_eq!(json!(specifier.contains(version)), theirs[0][row][column], "{version} {text}");
        }
    }
    let order: Vec<Vec<i8>> = parsed.iter().map(|a| parsed.iter().map(|b| a.cmp(b) as i8).collect()).collect();
    assert_eq!(json!(order), theirs[1]);
    assert_eq!(json!(parsed.iter().map(Version::to_string).collect::<Vec<_>>()), theirs[2]);
}
