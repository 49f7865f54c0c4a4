//! The kinds of lines that requirement files have, and pip as the judge of them: what pip reads is read here too, or refused
//! with what to write instead.

use super::oracle::ask;
use super::*;

/// Each line with the reason for which it is refused here; read where there is none. `HASH` and `COMMIT` are replaced by digits.
const KINDS: &[(&str, &str)] = &[
    // Names and versions.
    ("shop", ""),
    ("Shop", ""),
    ("shop-web", ""),
    ("shop_web", ""),
    ("shop.web", ""),
    ("shop2", ""),
    ("2shop", ""),
    ("  shop  ", ""),
    ("\tshop", ""),
    ("shop==1", ""),
    ("shop==1.0", ""),
    ("shop == 1.0", ""),
    ("shop ==1.0", ""),
    ("shop== 1.0", ""),
    ("shop===1.0", ""),
    ("shop===1.0-custom", ""),
    ("shop~=1.4", ""),
    ("shop~=1.4.5", ""),
    ("shop>=1", ""),
    ("shop>1", ""),
    ("shop<=1", ""),
    ("shop<1", ""),
    ("shop!=1", ""),
    ("shop==1.*", ""),
    ("shop!=1.*", ""),
    ("shop>=1,<2", ""),
    ("shop>=1, <2", ""),
    ("shop >= 1 , < 2", ""),
    ("shop>=1,<2,!=1.5", ""),
    ("shop>=1,", ""),
    ("shop (>=1)", ""),
    ("shop(>=1,<2)", ""),
    ("shop==1!2.0", ""),
    ("shop==1.0a1", ""),
    ("shop==1.0rc1", ""),
    ("shop==1.0.dev3", ""),
    ("shop==1.0.post1", ""),
    ("shop==1.0-1", ""),
    ("shop==v1.0", ""),
    ("shop==1.0+cu121", ""),
    ("shop==1.0+ubuntu.1", ""),
    ("shop==2024.1.15", ""),
    ("shop==1.0.0-alpha", ""),
    ("shop==1.0.0.beta2", ""),
    ("shop>=2.0dev", ""),
    ("shop<=2.0rc", ""),
    // Extras.
    ("shop[web]", ""),
    ("shop[web,db]", ""),
    ("shop[web, db]", ""),
    ("shop [web]", ""),
    ("shop[web]==1.0", ""),
    ("shop[web] >= 1.0", ""),
    ("shop[Web_x.y]", ""),
    ("shop[]", ""),
    ("shop[web]>=1,<2", ""),
    // Comments and lines.
    ("# nothing", ""),
    ("", ""),
    ("   ", ""),
    ("shop # why", ""),
    ("shop==1.0 # via -r base.in", ""),
    ("shop==1.0  # noqa", ""),
    ("shop\\\n==1.0", ""),
    ("shop \\\n  >=1 \\\n  ,<2", ""),
    ("shop==1.0 \\\n    --hash=sha256:HASH", ""),
    ("shop==1.0 \\\n    --hash=sha256:HASH \\\n    --hash=sha256:HASH", ""),
    ("shop \\\n# between\nother", ""),
    ("shop==1.0 \\", ""),
    ("shop\r\nother\r\n", ""),
    ("shop # ends \\\nother", "remove the backslash"),
    // Markers.
    ("shop; python_version < '3.12'", ""),
    ("shop ; python_version<'3.12'", ""),
    ("shop;python_version>=\"3.8\"", ""),
    ("shop==1.0; python_version >= '3.8' and python_version < '4.0'", ""),
    ("shop==1.0 ; sys_platform == 'win32'", ""),
    ("shop==1.0 ; sys.platform == 'win32'", ""),
    ("shop ; os_name == 'nt'", ""),
    ("shop ; os.name == 'nt'", ""),
    ("shop ; platform_system == 'Linux'", ""),
    ("shop ; platform_machine == 'x86_64'", ""),
    ("shop ; platform.machine == 'x86_64'", ""),
    ("shop ; platform_machine in 'x86_64 aarch64'", ""),
    ("shop ; platform_python_implementation == 'CPython'", ""),
    ("shop ; platform.python_implementation != 'PyPy'", ""),
    ("shop ; python_implementation == 'CPython'", ""),
    ("shop ; implementation_name == 'cpython'", ""),
    ("shop ; python_full_version >= '3.7.1'", ""),
    ("shop ; platform_release >= '20'", ""),
    ("shop ; 'linux' in sys_platform", ""),
    ("shop ; python_version not in '2.7, 3.5'", ""),
    ("shop ; (python_version < '3') or (sys_platform == 'darwin')", ""),
    ("shop ; extra == 'web'", ""),
    ("shop[web] ; python_version < '3.12'", ""),
    ("shop>=1,<2 ; python_version < '3.12' # why", ""),
    ("shop==1.0 ; python_version < '3.12' --hash=sha256:HASH", ""),
    // Hashes and other options behind a requirement.
    ("shop==1.0 --hash=sha256:HASH", ""),
    ("shop==1.0 --hash sha256:HASH", ""),
    ("shop==1.0 --hash=sha256:HASH --hash=sha256:HASH", ""),
    ("shop==1.0 --hash=sha384:HASH384", ""),
    ("shop==1.0 --hash=sha512:HASH512", ""),
    ("shop==1.0 --config-settings x=y", ""),
    ("shop==1.0 -C x=y", ""),
    ("shop==1.0 --global-option=build_ext", "remove it"),
    ("shop==1.0 --no-binary :all:", ""),
    ("shop==1.0 --no-binary=shop", ""),
    ("shop==1.0 --only-binary :all:", ""),
    ("shop==1.0 --pre", ""),
    ("shop==1.0 --index-url https://h/simple", ""),
    ("shop==1.0 --extra-index-url https://h/simple", ""),
    ("shop==1.0 -f https://h/links", ""),
    ("shop==1.0 --prefer-binary", ""),
    ("shop==1.0 --trusted-host h", ""),
    // URLs.
    ("shop @ https://h/shop-1.0-py3-none-any.whl", ""),
    ("shop@https://h/shop-1.0-py3-none-any.whl", ""),
    ("shop @ http://h/shop-1.0.tar.gz", ""),
    ("shop[web] @ https://h/shop-1.0.zip", ""),
    ("shop @ https://h/shop-1.0.zip ; python_version < '3.12'", ""),
    ("shop @ https://h/shop-1.0.zip#sha256=HASH", ""),
    ("shop @ https://h/shop-1.0.zip --hash=sha256:HASH", ""),
    ("shop @ https://user:word@h/shop-1.0.zip", ""),
    ("shop @ https://${TOKEN}@h/shop-1.0.zip", ""),
    ("shop @ https://h/archive/main.zip", ""),
    ("shop @ https://h/archive/refs/tags/v1.0.tar.gz#subdirectory=python", ""),
    ("https://h/shop-1.0-py3-none-any.whl", ""),
    ("https://h/shop-1.0+cpu-cp312-cp312-linux_x86_64.whl", ""),
    ("https://h/shop-1.0%2Bcpu-cp312-cp312-linux_x86_64.whl", ""),
    ("https://h/shop-1.0.tar.gz", ""),
    ("https://h/shop-1.0-py3-none-any.whl ; python_version < '3.12'", ""),
    ("https://h/shop-1.0-py3-none-any.whl --hash=sha256:HASH", ""),
    ("https://h/shop-1.0-py3-none-any.whl#sha256=HASH", ""),
    ("https://h/archive/main.zip#egg=shop", ""),
    ("https://h/archive/main.zip#egg=shop[web]", ""),
    ("https://h/archive/main.zip#egg=shop&subdirectory=python", ""),
    ("https://h/archive/main.zip", "`name @ https://…`"),
    ("ftp://h/shop-1.0.zip", "`https://` URL"),
    // Checkouts.
    ("git+https://h/shop.git", "build the wheel"),
    ("git+https://h/shop.git@main", "`main` is not a commit"),
    ("git+https://h/shop.git@v1.0#egg=shop", "`v1.0` is not a commit"),
    ("git+https://h/shop.git@COMMIT", "`name @ git+https://…`"),
    ("git+https://h/shop.git@COMMIT#egg=shop&subdirectory=python", ""),
    ("git+ssh://git@h/shop.git", "without a commit"),
    ("git+ssh://git@h/shop.git@COMMIT", "`name @ git+https://…`"),
    ("shop @ git+ssh://git@h/shop.git@COMMIT", ""),
    ("git+git://h/shop.git", "without a commit"),
    ("git+http://h/shop.git#egg=shop", "without a commit"),
    ("git+file:///srv/shop.git", "without a commit"),
    ("shop @ git+https://h/shop.git", "without a commit"),
    ("shop @ git+https://h/shop.git@COMMIT", ""),
    ("shop[web] @ git+https://h/shop.git@COMMIT#subdirectory=python", ""),
    ("shop @ git+https://${TOKEN}@h/shop.git@COMMIT ; python_version < '3.12'", ""),
    ("hg+https://h/shop", "without a commit"),
    ("svn+https://h/shop", "without a commit"),
    ("bzr+https://h/shop", "without a commit"),
    ("-e git+https://h/shop.git#egg=shop", "without a commit"),
    ("-e git+https://h/shop.git@COMMIT#egg=shop", "without `-e`"),
    ("--editable=git+https://h/shop.git@main#egg=shop", "`main` is not a commit"),
    // Paths.
    ("-e .", ""),
    ("--editable .", ""),
    ("--editable=.", ""),
    ("-e ./libs/a", ""),
    ("-e libs/a", ""),
    ("-e .[web]", ""),
    ("-e .[web,db]", ""),
    ("-e file:libs/a#egg=a", ""),
    (".", ""),
    (".[web]", ""),
    ("./libs/a", ""),
    ("libs/a", ""),
    ("./libs/a[web]", ""),
    ("./wheels/a-1.0-py3-none-any.whl", ""),
    ("wheels/a-1.0-py3-none-any.whl", ""),
    ("wheels/a-1.0-py3-none-any.whl ; python_version < '3.12'", ""),
    ("wheels/a-1.0-py3-none-any.whl --hash=sha256:HASH", ""),
    ("file:wheels/a-1.0-py3-none-any.whl", ""),
    ("./wheels/a-1.0.tar.gz", ""),
    ("../elsewhere", "copy it into the repository"),
    ("/srv/shop", "copy it into the repository"),
    ("file:///srv/a-1.0-py3-none-any.whl", "copy it into the repository"),
    ("a @ file:///srv/a-1.0-py3-none-any.whl", "write the path of a file or project of the repository"),
    // Options on lines of their own.
    ("-r other.txt", ""),
    ("-rother.txt", ""),
    ("--requirement other.txt", ""),
    ("--requirement=other.txt", ""),
    ("-r 'other.txt'", ""),
    ("-r ./other.txt", ""),
    ("-c constraints.txt", ""),
    ("--constraint=constraints.txt", ""),
    ("-c other.txt # why", ""),
    ("-c https://h/constraints.txt", ""),
    ("-r https://h/other.txt", "download it into the repository"),
    ("-i https://h/simple", ""),
    ("--index-url https://h/simple", ""),
    ("--index-url=https://h/simple/", ""),
    ("--pypi-url https://h/simple", ""),
    ("--extra-index-url https://h/simple", ""),
    ("--extra-index-url=https://${USER}:${TOKEN}@h/simple", ""),
    ("--no-index", ""),
    ("-f https://h/links", ""),
    ("-f ./wheels", ""),
    ("--find-links=https://h/links.html", ""),
    ("--no-binary :all:", ""),
    ("--no-binary=shop,other", ""),
    ("--no-binary :none:", ""),
    ("--only-binary=:all:", ""),
    ("--only-binary shop", ""),
    ("--prefer-binary", ""),
    ("--require-hashes", ""),
    ("--pre", ""),
    ("--trusted-host h", ""),
    ("--trusted-host h:8080", ""),
    ("--use-feature=fast-deps", ""),
    ("--no-index --find-links wheels", ""),
    ("-i https://h/simple --trusted-host h", ""),
    ("--all-releases shop", ""),
    ("--only-final=:all:", ""),
    ("--no-require-hashes", ""),
    ("--extra-index https://h/simple", ""),
    ("--index https://h/simple", ""),
    ("--find=https://h/links", ""),
    ("--trusted h", ""),
    ("-ihttps://h/simple", ""),
    ("-fhttps://h/links", ""),
    ("-e.", ""),
    ("-r other.txt -c constraints.txt", ""),
    ("--no-binary=:all: --only-binary=shop", ""),
    ("--pre # why", ""),
    // What else the documentation of pip has.
    ("# -*- coding: utf-8 -*-\nshop", ""),
    ("\u{feff}shop", ""),
    ("docopt == 0.6.1 # comment\n", ""),
    ("requests [security] >= 2.8.1, == 2.8.* ; python_version < \"2.7\"", ""),
    ("shop--hash=sha256:HASH", "`==`, not `=`"),
    ("shop --hash=sha256:HASH", ""),
    ("shop@ https://h/shop-1.0.zip ;python_version<'3'", ""),
    ("shop @ https://h/shop-1.0.zip#sha256=HASH ; python_version<'3'", ""),
    ("shop @ https://h/shop-1.0.zip#egg=shop", ""),
    ("https://h/shop-1.0-1-py3-none-any.whl", ""),
    ("https://h/shop-1.0-py2.py3-none-any.whl#egg=shop", ""),
    ("https://h/shop-1.0.tar.bz2#egg=shop", ""),
    ("https://h/shop-1.0.tgz#egg=shop", ""),
    ("git+https://user@h/shop.git@COMMIT#egg=shop", ""),
    ("git+https://h/shop.git@COMMIT#egg=shop[web]", ""),
    ("git+https://h/shop.git@COMMIT#egg=shop ; python_version<'3'", ""),
    ("a @ file:libs/a", "write the path of a file or project of the repository"),
    ("./wheels/a-1.0-py3-none-any.whl[web]", ""),
    ("wheels/*.whl", "name each file"),
    ("-e '.[web]'", ""),
    ("-e .[web] --config-settings x=y", ""),
    ("libs/a --config-settings x=y", ""),
    ("-e ./libs/a ; python_version > '3'", "cannot have a marker"),
    ("./libs/a ; python_version > '3'", "cannot have a marker"),
    ("-r ${FILE}", "cannot come from the environment"),
    ("shop==${VERSION}", "a version"),
    ("--index-url https://${USER}@h/simple", ""),
    // Versions and markers of PEP 440 and PEP 508.
    ("shop==1.0c1", ""),
    ("shop==1.0pre1", ""),
    ("shop==1.0rev2", ""),
    ("shop==01.02", ""),
    ("shop===foobar", ""),
    ("shop<1.0a", ""),
    ("shop~=1", "two"),
    ("shop>=1.0.*", "`.*`"),
    ("shop ; python_version ~= '3.8'", ""),
    ("shop ; python_version === '3.8'", ""),
    ("shop ; python_version == '3.*'", ""),
    ("shop ; platform_version != 'x'", ""),
    ("shop ; implementation_version >= '3'", ""),
    ("shop ; extra == 'web' and python_version < '3'", ""),
    ("shop ; sys_platform != \"win32\" and (python_version > '3' or os_name == 'posix')", ""),
    ("shop ; 'x86' in platform_machine or 'arm' not in platform_machine", ""),
    // What pip refuses.
    ("shop=1.0", "`==`, not `=`"),
    ("shop 1.0", "a specifier"),
    ("shop>=", "a version after `>=`"),
    ("shop==1.0 other", "`,` and a specifier"),
    ("shop[web", "`,` or `]`"),
    ("shop ; python_version < 3", "a quoted text"),
    ("shop ; pyton_version < '3'", "did you mean `python_version`"),
    ("-shop", "not an option"),
    ("--index-ulr https://h", "did you mean `--index-url`"),
    ("--install-option=x", "not an option"),
    ("shop==1.0 --install-option=x", "not an option"),
    ("!shop", "the name of a distribution"),
    ("shop==1.0 --hash=md5:00", "expected a hash like `sha256:`"),
    ("<<<<<<< HEAD", "the name of a distribution"),
    ("pip install shop", "a specifier"),
];

/// pip's verdict on each line: true where its parser and its reader of requirements take it. A folder has what lines name.
const VERDICTS: &str = r#"
import json, logging, os, sys, tempfile
from pip._internal.network.session import PipSession
from pip._internal.req import req_file
from pip._internal.req.constructors import install_req_from_parsed_requirement
logging.disable(logging.CRITICAL)
os.chdir(tempfile.mkdtemp())
for folder in ("wheels", "libs/a"):
    os.makedirs(folder)
for folder in (".", "libs/a"):
    open(folder + "/pyproject.toml", "w").write("[project]\nname = 'a'\nversion = '1'\n")
for name in ("wheels/a-1.0-py3-none-any.whl", "wheels/a-1.0.tar.gz", "other.txt", "constraints.txt"):
    open(name, "w").close()
known = req_file.get_file_content
def content(url, session):
    return (url, "") if url.startswith("https:") else known(url, session)
req_file.get_file_content = content
for line in json.loads(sys.argv[1]):
    with open("requirements.txt", "w", newline="") as file:
        file.write(line)
    try:
        for found in req_file.parse_requirements("requirements.txt", session=PipSession()):
            install_req_from_parsed_requirement(found)
        print("true")
    except BaseException:
        print("false")
"#;

fn written(line: &str) -> String {
    let line = line.replace("HASH384", &"0".repeat(96)).replace("HASH512", &"0".repeat(128));
    line.replace("HASH", &"0".repeat(64)).replace("COMMIT", &"0a".repeat(20))
}

fn ours(line: &str) -> Result<Requirements, String> {
    let mut load =
        |path: &Path| Ok(if path == Path::new("requirements.txt") { line.to_owned() } else { String::new() });
    read(Path::new("requirements.txt"), &mut load).map_err(|fault| fault.to_string())
}

#[test]
fn every_kind_of_line_is_read_or_refused_with_what_to_write_instead() {
    let wrong: Vec<String> = KINDS
        .iter()
        .filter_map(|(line, why)| match (ours(&written(line)), why.is_empty()) {
            (Ok(_), true) => None,
            (Ok(_), false) => Some(format!("`{line}` is read")),
            (Err(said), _) => (why.is_empty() || !said.contains(why)).then(|| format!("`{line}`: {said}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(KINDS.len() > 250);
}

#[test]
fn pip_reads_what_is_read_here() {
    let lines: Vec<String> = KINDS.iter().map(|(line, _)| written(line)).collect();
    let Some(theirs) = ask(VERDICTS, &[&serde_json::to_string(&lines).unwrap()]) else { return };
    assert_eq!(theirs.len(), KINDS.len());
    // The refusals of pip are refusals here: nothing is read that pip would not install.
    let differ: Vec<&str> = KINDS
        .iter()
        .zip(&theirs)
        .filter(|((_, why), theirs)| why.is_empty() && **theirs == serde_json::json!(false))
        .map(|((line, _), _)| *line)
        .collect();
    assert!(differ.iter().all(|line| NEWER.contains(line)), "read here and refused by pip: {differ:?}");
}

/// Lines that some versions of pip refuse and others read.
const NEWER: &[&str] = &["shop>=1,", "--all-releases shop", "--only-final=:all:", "--no-require-hashes"];
