//! The policy of this repository, and invalid policies.

use super::*;
use expect_test::{Expect, expect};

const GOOD: &str = include_str!("../../../../../images.toml");

#[track_caller]
fn refuses(text: &str, expected: Expect) {
    let fault = parse(text, &|path| path.as_str() != "dockerfiles/Missing").unwrap_err();
    assert_eq!(fault.exit, crate::fault::Exit::Usage);
    expected.assert_eq(&fault.what);
}

#[test]
fn this_repositorys_policy_holds() {
    let policy = parse(GOOD, &|_| true).unwrap();
    assert_eq!(policy.project.registry.repository(&policy.base.repository).to_string(), "ghcr.io/acme/autoscaler-base");
    assert_eq!(policy.base.tag_length, 12);
    assert_eq!(policy.steps.len(), 2);
    let stages = [("packages", Recipe::PythonPackages), ("user", Recipe::User)];
    assert_eq!(policy.base.stages, stages.map(|(name, recipe)| (name.to_owned(), recipe)).into());
}

#[test]
fn a_fallback_with_an_older_python_than_the_root_is_refused() {
    let newer = GOOD.replace("python = \"3.12\"", "python = \"3.14\"");
    let fault = parse(&newer, &|_| true).unwrap_err();
    assert!(fault.what.contains("`root.debian.python` 3.13 is older than `root.python` 3.14"), "{}", fault.what);
    // What is not written counts as much: the suite says it.
    let fault = parse(&newer.replace("python = \"3.13\"\n", ""), &|_| true).unwrap_err();
    assert!(fault.what.contains("Debian trixie, the fallback, has Python 3.13: older"), "{}", fault.what);
    let older = GOOD.replace("python = \"3.13\"\n", "").replace("trixie", "bookworm");
    let fault = parse(&older, &|_| true).unwrap_err();
    assert!(fault.what.contains("Debian bookworm, the fallback, has Python 3.11: older"), "{}", fault.what);
    let both = parse(GOOD, &|_| true).unwrap().root.pythons();
    assert_eq!(both, BTreeSet::from(["3.12".to_owned(), "3.13".to_owned()]));
}

#[test]
fn tables_of_a_list_are_written_one_by_one() {
    let rest = GOOD.split("\n[[step]]").next().unwrap();
    for list in ["[]", "[{ name = \"size\" }]", "[1]", "[[1]]", "1"] {
        let fault = parse(&format!("step = {list}\n{rest}"), &|_| true).unwrap_err();
        assert!(fault.what.contains("`step` is written `[[step]]`, once for each"), "{list}: {fault}");
    }
}

#[test]
fn a_stage_has_a_recipe_that_exists() {
    let text = GOOD.replace("user = \"user\"", "Extra = \"python-package\"\nuser = \"none\"");
    let fault = parse(&text, &|_| true).unwrap_err();
    for expected in [
        "`base.stages`: `Extra` is the name of no stage",
        "hint: write `extra`",
        "`base.stages.Extra` is `python-package`, not one of `python-packages`, `system-packages`, `user`",
        "hint: did you mean `python-packages`?",
        "`base.stages.user` is `none`, not one of `python-packages`, `system-packages`, `user`",
    ] {
        assert!(fault.what.contains(expected), "{expected}\n{}", fault.what);
    }
    let without = GOOD.replace("[base.stages]\npackages = \"python-packages\"\nuser = \"user\"\n", "");
    assert!(parse(&without, &|_| true).unwrap().base.stages.is_empty());
}

#[test]
fn debian_packages_are_names() {
    let with = |args: &str| {
        let stages = "user = \"user\"\nsystem = \"system-packages\"\n";
        let text =
            GOOD.replace("user = \"user\"\n", stages).replace("[base.stages]", &format!("{args}\n[base.stages]"));
        parse(&text, &|_| true)
    };
    let names = |args: &str| {
        with(&format!("[base.args]\nSYSTEM_PACKAGES = \"{args}\"")).map(|policy| policy.base.system_packages())
    };
    let found = names("libpq5  nginx=1.* g++").unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(found.unwrap(), ["libpq5", "nginx=1.*", "g++"]);
    for wrong in ["-o", "libpq5-", "a;b", ""] {
        assert!(names(&format!("{wrong} ")).is_err(), "{wrong}");
    }
    assert!(parse(GOOD, &|_| true).unwrap().base.system_packages().is_none());
}

/// The policy with other lines in place of its requirements and lock.
fn inputs(lines: &str) -> Result<Policy, Fault> {
    let own = "requirements = \"requirements-enhanced.txt\"\nlock = \"requirements-enhanced.lock\"\n";
    parse(&GOOD.replace(own, &format!("{lines}\n")), &|path| path.as_str() != "apps/web/pyproject.toml")
}

#[test]
fn requirements_are_files_a_project_or_the_lock_of_another_tool() {
    let base = |lines: &str| inputs(lines).unwrap_or_else(|fault| panic!("{lines}: {fault}")).base;
    let several = base("requirements = [\"a.txt\", \"deps/b.txt\"]");
    assert_eq!(several.requirements.to_string(), "`a.txt`, `deps/b.txt`");
    assert_eq!((several.format(), several.installed_lock()), (Format::Pip, several.lock.clone()));
    let project = base("requirements = \"pyproject.toml\"\ngroups = [\"Web_x\"]\nextras = [\"db\"]");
    assert_eq!(project.selection.groups, BTreeSet::from(["web-x".to_owned()]));
    let uv = base("lock = \"uv.lock\"\nmembers = [\"api\"]\ngroups = [\"web\"]");
    assert_eq!((uv.format(), uv.installed_lock().as_str()), (Format::Uv, TRANSLATED));
    assert_eq!(uv.requirements.to_string(), "`pyproject.toml`");
    let alone = base("lock = \"apps/web/pylock.prod.toml\"");
    assert_eq!((alone.format(), alone.requirements.paths()), (Format::Pylock, &[][..]));
    assert_eq!(base("lock = \"Pipfile.lock\"\ngroups = [\"develop\"]").requirements.to_string(), "`Pipfile`");
}

#[test]
fn inputs_without_effect_are_refused() {
    for (lines, expected) in [
        ("requirements = \"a.txt\"\nlock = \"uv.lock\"", "`base.requirements` has no effect"),
        ("requirements = \"uv.lock\"", "`uv.lock` is a lock\n  hint: name it with `lock = \"uv.lock\"`"),
        ("requirements = []", "`base.requirements` is an empty list"),
        ("requirements = [\"a.txt\", \"a.txt\"]", "`base.requirements` has `a.txt` twice"),
        ("requirements = [\"a.txt\", 1]", "`base.requirements` holds a integer"),
        ("requirements = [\"../a.txt\"]", "outside the repository"),
        (
            "requirements = [\"a.txt\"]\ngroups = [\"web\"]",
            "`base.groups` has no effect: requirement files have no groups",
        ),
        ("lock = \"Pipfile.lock\"\nextras = [\"web\"]", "`base.extras` has no effect"),
        ("lock = \"poetry.lock\"\nmembers = [\"web\"]", "`base.members` has no effect"),
    ] {
        let fault = inputs(lines).unwrap_err();
        assert!(fault.what.contains(expected), "{lines}: {}", fault.what);
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = r#"
[project]
name = ""
registery = "ghcr.io/acme"
platforms = ["linux/amd64", "linux/x86"]

[root]
image = "docker.io/Library/python:3.12"
python = "3"

[base]
dockerfile = "../Dockerfile"
requirements = "dockerfiles/Missing"

[app]
dockerfile = "/etc/passwd"
enhanced = "dockerfiles/Missing"
"#;
    refuses(
        text,
        expect![[r#"
            `images.toml` is invalid: 10 problems
            images.toml:2:1: `project.registry` is missing
            images.toml:3:8: `project.name` is empty
              hint: write a value, or remove the key
            images.toml:4:1: unknown key `registery` in `[project]`
              hint: did you mean `registry`?
            images.toml:5:29: `project.platforms`: `linux/x86` is not a platform like `linux/amd64` or `linux/arm64`
            images.toml:8:9: `root.image`: `Library` cannot be part of a repository name (repository names are lowercase)
            images.toml:9:10: `root.python` is `3`, not a version like `3.12`
            images.toml:12:14: `base.dockerfile`: path `../Dockerfile` is outside the repository (it holds `..`)
            images.toml:13:16: `dockerfiles/Missing` is not a file of the repository
              hint: create it, or name another file with `requirements`
            images.toml:16:14: `app.dockerfile`: path `/etc/passwd` is outside the repository (it is absolute)
            images.toml:17:12: `dockerfiles/Missing` is not a file of the repository
              hint: create it, or name another file with `enhanced`"#]],
    );
}

#[test]
fn platforms_are_empty_only_if_none_is_listed() {
    let with = |platforms: &str| GOOD.replace("platforms = [\"linux/amd64\"]", &format!("platforms = {platforms}"));
    refuses(
        &with("[\"linux/amd46\"]"),
        expect![[r#"
            `images.toml` is invalid
            images.toml:9:14: `project.platforms`: `linux/amd46` is not a platform like `linux/amd64` or `linux/arm64`"#]],
    );
    refuses(
        &with("[]"),
        expect![[r#"
            `images.toml` is invalid
            images.toml:4:1: `project.platforms` is empty
              hint: write `platforms = ["linux/amd64"]`"#]],
    );
}

#[test]
fn invalid_toml_is_reported_with_its_place() {
    refuses(
        "[project\nname = 1",
        expect![[r#"
            `images.toml` is invalid
            images.toml:1:9: unclosed table, expected `]`"#]],
    );
}

#[test]
fn an_empty_policy_names_what_is_missing() {
    refuses(
        "",
        expect![[r#"
            `images.toml` is invalid: 2 problems
            images.toml:1:1: `[project]` is missing
            images.toml:1:1: `[root]` is missing"#]],
    );
}

const LEAST: &str = "[project]\nname = \"shop\"\nregistry = \"ghcr.io/acme\"\n[root]\nimage = \"python:3.12-slim\"\npython = \"3.12\"\n";

#[test]
fn sections_whose_every_key_has_a_default_may_be_left_out() {
    let without = parse(LEAST, &|_| true).unwrap();
    let empty = parse(&format!("{LEAST}[base]\n[app]\n"), &|_| true).unwrap();
    assert_eq!(format!("{without:?}"), format!("{empty:?}"));
    assert_eq!(without.base.repository, "shop-base");
    let fault = parse(LEAST, &|path| path.as_str() != "dockerfiles/Dockerfile.base").unwrap_err();
    assert!(fault.what.contains("images.toml:1:1: `dockerfiles/Dockerfile.base` is not a file"), "{fault}");
}

#[test]
fn compression_is_one_word_or_one_for_each_engine() {
    use Compression::{Gzip, Zstd};
    for (written, docker, native, key) in [
        ("", Gzip, Gzip, "gzip"),
        ("compression = \"zstd\"", Zstd, Zstd, "zstd"),
        ("compression = { docker = \"zstd\", native = \"gzip\" }", Zstd, Gzip, "zstd by docker, gzip by native"),
        ("compression = { docker = \"zstd\", native = \"zstd\" }", Zstd, Zstd, "zstd"),
        ("compression = { docker = \"zstd\" }", Zstd, Gzip, "zstd by docker, gzip by native"),
    ] {
        let compression = parse(&format!("{LEAST}[base]\n{written}\n"), &|_| true).unwrap().base.compression;
        assert_eq!((compression.docker, compression.native), (docker, native), "{written}");
        assert_eq!(compression.to_string(), key, "{written}");
    }
    for (written, problem) in [
        ("\"zst\"", "`base.compression` is `zst`, not one of `gzip`, `zstd`"),
        ("{ podman = \"zstd\" }", "unknown key `podman` in `[base.compression]`"),
        ("{ native = \"lz4\" }", "`base.compression.native` is `lz4`, not one of `gzip`, `zstd`"),
        ("1", "`base.compression` is a integer, not a text"),
    ] {
        let fault = parse(&format!("{LEAST}[base]\ncompression = {written}\n"), &|_| true).unwrap_err();
        assert!(fault.what.contains(problem), "{written}: {fault}");
    }
}

#[test]
fn a_key_without_effect_is_refused() {
    for (text, problem) in [
        ("[root.debian]\nsuite = \"trixie\"", "`[root.debian]` has no effect without `root.fallback`"),
        ("[[step]]\nname = \"s\"\nuses = \"smoke\"\nmax = \"1 MB\"", "`step.max` has no effect"),
        ("[[step]]\nname = \"s\"\nrun = [\"x\"]\nmax = \"1 MB\"", "unknown key `max`"),
        ("[app.binary]\npackage = \"x\"\nrust-image = \"rust:1\"", "`app.binary.rust-image` has no effect"),
    ] {
        let fault = parse(&format!("{LEAST}{text}\n"), &|_| true).unwrap_err();
        assert!(fault.what.contains(problem), "{text}: {fault}");
    }
}

/// A policy with an empty table of this name, besides the least one.
fn with_table(table: &keys::Table, line: &str) -> String {
    let header = match table.name {
        "" => return format!("{line}\n{LEAST}"),
        "project" | "root" => {
            return LEAST.replace(&format!("[{}]\n", table.name), &format!("[{}]\n{line}\n", table.name));
        }
        _ => table.header(),
    };
    format!("{LEAST}{header}\n{line}\n")
}

#[test]
fn an_unknown_key_is_reported_with_the_described_keys_of_every_table() {
    for table in keys::TABLES {
        let fault = parse(&with_table(table, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx = 1"), &|_| true).unwrap_err();
        let known = fault.what.lines().skip_while(|line| !line.contains("unknown key `xxx")).nth(1);
        let known = known.unwrap_or_else(|| panic!("{}: {fault}", table.name)).trim();
        let names: Vec<String> = table.keys.iter().map(|key| format!("`{}`", key.name)).collect();
        assert_eq!(known, format!("hint: known here: {}", names.join(", ")), "[{}]", table.name);
    }
}

#[test]
fn every_key_has_a_meaning_and_every_table_of_a_key_is_described() {
    for table in keys::TABLES {
        assert!(table.meaning.ends_with('.'), "[{}]", table.name);
        for key in table.keys {
            let name = format!("{}.{}", table.name, key.name);
            assert!(key.meaning.len() > 3 && !key.meaning.ends_with('.'), "{name}: {}", key.meaning);
            if matches!(key.kind, keys::ValueKind::Table | keys::ValueKind::Tables | keys::ValueKind::ForEach(_)) {
                let described = keys::table(name.trim_start_matches('.')).name;
                assert!(name.ends_with(described), "{name}");
            }
        }
    }
}

/// A default that is written changes nothing: the table and the parser agree.
#[test]
fn described_defaults_are_those_of_the_parser() {
    let with = |table: &str, key: &str, value: &str| match table {
        "smoke.serve" => format!("{LEAST}[smoke.serve]\nurl = \"http://a/\"\ncontains = \"a\"\n{key} = {value}\n"),
        "app.binary" => format!("{LEAST}[app.binary]\npackage = \"a\"\n{key} = {value}\n"),
        "step" => format!("{LEAST}[[step]]\nname = \"a\"\nuses = \"smoke\"\n{key} = {value}\n"),
        "ci.tests" => {
            format!("{LEAST}[[ci.tests]]\nname = \"a\"\npaths = [\"a\"]\nrun = [\"a\"]\n{key} = {value}\n")
        }
        "root.debian" => {
            let root = LEAST.replace("[root]\n", "[root]\nfallback = \"debian\"\n");
            format!("{root}[root.debian]\npackages = []\n{key} = {value}\n")
        }
        "base.compression" => format!("{LEAST}[base]\ncompression = {{ {key} = {value} }}\n"),
        _ => with_table(keys::table(table), &format!("{key} = {value}")),
    };
    let parsed = |text: &str| format!("{:?}", parse(text, &|_| true).unwrap_or_else(|fault| panic!("{text}\n{fault}")));
    for table in keys::TABLES {
        for key in table.keys {
            let value = match key.default {
                keys::Default::Text(text) => format!("\"{text}\""),
                keys::Default::Number(number) => number.to_string(),
                keys::Default::Toml(value) => value.to_owned(),
                keys::Default::Required | keys::Default::None | keys::Default::Derived(_) => continue,
            };
            let written = with(table.name, key.name, &value);
            let without = written.replace(&format!("{} = {value}", key.name), "");
            assert_ne!(written, without);
            assert_eq!(parsed(&written), parsed(&without), "[{}] {}", table.name, key.name);
        }
    }
}

#[test]
fn steps_are_checked() {
    let text = GOOD.to_owned()
        + r#"
[[step]]
name = "a b"
run = []
[[step]]
name = "x"
uses = "smok"
after = "pushed"
images = ["apps"]
[[step]]
name = "other"
uses = "size-budget"
"#;
    refuses(
        &text,
        expect![[r#"
            `images.toml` is invalid: 6 problems
            images.toml:120:1: `step.run` names no program
              hint: write a list: `run = ["program", "argument"]`
            images.toml:121:8: `step.name` `a b` holds more than letters, digits, `.`, `_` and `-`
            images.toml:125:8: `smok` is not a plugin
              hint: did you mean `smoke`?
            images.toml:126:9: `step.after` is `pushed`, not one of `build`, `push`
            images.toml:127:11: `step.images` holds `apps`, not `base`, `app` or `enhanced`
              hint: did you mean `app`?
            images.toml:130:8: a `size-budget` step needs `max`
              hint: `max`: largest compressed size, for example `max = "400 MB"`"#]],
    );
}

#[test]
fn the_settings_of_plugins_are_checked_with_everything_else() {
    let bad = |text: &str, expected: &[&str]| {
        let fault = parse(&format!("{LEAST}{text}\n"), &|path| path.as_str() != "no.pub").unwrap_err();
        for problem in expected {
            assert!(fault.what.contains(problem), "{text}: {problem}\n{fault}");
        }
    };
    bad(
        "[[step]]\nname = \"a\"\nuses = \"sbom\"\nformats = [\"spdx\", \"swid\"]\nafter = \"push\"\n[[step]]\nname = \"b\"\nuses = \"sign\"",
        &[
            "3 problems",
            "`step.formats` holds `swid`, not one of `spdx`, `cyclonedx`, `spdx3`",
            "`sbom` attaches to the image, which is done before a tag moves",
            "a `sign` step needs `public-key`",
        ],
    );
    bad("[[step]]\nname = \"b\"\nuses = \"sign\"\npublic-key = \"no.pub\"", &["there is no file `no.pub`"]);
    bad("[[step]]\nname = \"b\"\nuses = \"sign\"\npublic-key = \"../k\"", &["outside the repository"]);
    bad("[[step]]\nname = \"b\"\nuses = \"sign\"\ncosign = \"keyless\"", &["needs `identity`", "needs `issuer`"]);
    bad(
        "[[step]]\nname = \"b\"\nuses = \"sign\"\npublic-kye = \"k\"",
        &["`step.public-kye` has no effect", "did you mean `public-key`?"],
    );
    bad("[[step]]\nname = \"s\"\nuses = \"size-budget\"\nmax = \"big\"", &["`step.max` `big` is not a size", "400 MB"]);
    bad(
        "[[step]]\nname = \"s\"\nuses = \"smoke\"\nneeds = [\"t\"]",
        &["`step.needs` names `t`, which is no other step"],
    );
    let two = "[[step]]\nname = \"a\"\nuses = \"smoke\"\nneeds = [\"b\"]\n[[step]]\nname = \"b\"\nrun = [\"x\"]";
    bad(two, &["the steps `a`, `b` wait for each other"]);
}

#[test]
fn steps_wait_for_what_they_read() {
    let text = "[[step]]\nname = \"smoke\"\nuses = \"smoke\"\n[[step]]\nname = \"facts\"\nuses = \"provenance\"\n\
                [[step]]\nname = \"list\"\nuses = \"sbom\"\n[[step]]\nname = \"own\"\nuses = \"package:licences\"\ndeny = [\"GPL\"]\n\
                [[step]]\nname = \"free\"\nrun = [\"x\"]\nneeds = []\n[[step]]\nname = \"sign\"\nuses = \"sign\"\npublic-key = \"k\"\n";
    let policy = parse(&format!("{LEAST}{text}"), &|_| true).unwrap_or_else(|fault| panic!("{fault}"));
    let due: Vec<&Step> = policy.steps.iter().collect();
    let waits: Vec<(&str, Vec<&str>)> = due.iter().map(|step| (step.name.as_str(), step.waits_for(&due))).collect();
    let expected: [(&str, &[&str]); 6] = [
        ("smoke", &[]),
        ("facts", &["list"]),
        ("list", &[]),
        ("own", &["smoke", "facts", "list"]),
        ("free", &[]),
        ("sign", &["smoke", "facts", "list", "own", "free"]),
    ];
    assert_eq!(waits, expected.map(|(name, waits)| (name, waits.to_vec())));
    let Action::Package(name, settings) = &policy.steps[3].action else { panic!("{:?}", policy.steps[3]) };
    assert_eq!((name.as_str(), settings.texts("deny")), ("licences", Some(vec!["GPL"])));
    assert!(settings.place("deny").unwrap().starts_with("images.toml:"));
}

#[test]
fn a_secret_is_not_a_build_argument() {
    let text = GOOD.replace("[app.binary]", "args = { NPM_TOKEN = \"x\" }\n[app.binary]");
    let fault = parse(&text, &|_| true).unwrap_err();
    assert!(fault.what.contains("build argument `NPM_TOKEN` looks like a secret"), "{fault}");
}

#[test]
fn sizes() {
    for (text, bytes) in
        [("900 MB", Some(900_000_000)), ("1.5GB", Some(1_500_000_000)), ("12", None), ("-1 MB", None), ("1 MiB", None)]
    {
        assert_eq!(size(text), bytes, "{text}");
    }
}

#[test]
fn registries() {
    for (text, good) in [
        ("ghcr.io/acme", true),
        ("127.0.0.1:5000", true),
        ("localhost", true),
        ("acme", false),
        ("ghcr.io/", true),
        ("ghcr.io/A", false),
    ] {
        assert_eq!(text.parse::<Registry>().is_ok(), good, "{text}");
    }
}

#[test]
fn upgrades_have_a_cooldown_and_a_schedule() {
    let read = |cooldown: &str, updates: &str| {
        let text = GOOD.replace("cooldown = 7\n", cooldown).replace("updates = \"41 4 * * 3\"\n", updates);
        parse(&text, &|_| true).map(|policy| (policy.cooldown, policy.ci.updates))
    };
    assert_eq!(read("cooldown = 30\n", "updates = \"1 2 * * 3\"\n").unwrap(), (30, Some("1 2 * * 3".to_owned())));
    assert_eq!(read("", "").unwrap(), (0, None));
    let said = read("cooldown = 366\n", "updates = \"weekly\"\n").unwrap_err().to_string();
    for problem in ["`lock.cooldown` is not", "`ci.updates` is `weekly`, not the five fields of cron"] {
        assert!(said.contains(problem), "{said}");
    }
    assert!(read("cooldwon = 7\n", "").unwrap_err().to_string().contains("did you mean `cooldown`?"));
}

#[test]
fn ci_has_defaults_and_its_own_problems() {
    let ci = parse(GOOD, &|_| true).unwrap().ci;
    assert_eq!((ci.runners.len(), ci.schedule.as_str(), ci.timeout_minutes), (0, "17 4 * * 1", 60));
    for (text, share) in [("shadow = 0.05", Some(0.05)), ("shadow = 1", Some(1.0)), ("shadow = 0", None), ("", None)] {
        let policy = GOOD.replace("shadow = 0.05\n", &format!("{text}\n"));
        assert_eq!(parse(&policy, &|_| true).unwrap().ci.shadow, share, "{text}");
    }
    for share in ["1.1", "-0.1", "nan", "\"all\""] {
        let policy = GOOD.replace("shadow = 0.05\n", &format!("shadow = {share}\n"));
        let fault = parse(&policy, &|_| true).unwrap_err();
        assert!(fault.to_string().contains("`ci.shadow` is not a number from 0 to 1"), "{fault}");
    }
    let gate = |factor: &str| GOOD.replace("gate-factor = 2\n", factor);
    for (text, factor) in [("gate-factor = 2\n", Some(2.0)), ("gate-factor = 1.5\n", Some(1.5)), ("", None)] {
        assert_eq!(parse(&gate(text), &|_| true).unwrap().ci.gate_factor, factor);
    }
    assert!(ci.laptops.is_empty());
    let keys = |text: &str, keys: &str| text.replace("[ci]\n", &format!("[ci]\n{keys}"));
    let laptops = parse(&keys(GOOD, "laptops = [\"macos\"]\n"), &|_| true).unwrap().ci.laptops;
    assert_eq!(laptops, BTreeSet::from([Laptop::MacOs]));
    let wrong = "laptops = [\"windows\"]\nschedule = \"weekly\"\ntimeout-minutes = 0\nrunners = { \"linux/arm64\" = \"a b\", x = \"y\" }\n";
    let fault = parse(&keys(&gate("gate-factor = 0.5\n"), wrong), &|_| true).unwrap_err();
    for expected in [
        "`ci.schedule` is `weekly`, not the five fields of cron",
        "`ci.timeout-minutes` is not a whole number from 1 to 360",
        "`ci.gate-factor` is not a number of at least 1",
        "`ci.laptops`: `windows` is not `macos`",
        "`ci.runners`: `linux/arm64` is not among the platforms",
        "`ci.runners`: `a b` is not a runner label",
        "`ci.runners`: `x` is not a platform",
    ] {
        assert!(fault.what.contains(expected), "{expected}\n{}", fault.what);
    }
}

#[test]
fn tests_of_small_changes_are_checked() {
    let ci = parse(GOOD, &|_| true).unwrap().ci;
    assert_eq!(ci.tests.iter().map(|tests| tests.name.as_str()).collect::<Vec<_>>(), ["pages", "payload", "xtask"]);
    assert!(ci.documents.ignores(b"docs/guide.md") && !ci.documents.ignores(b"src/main.rs"));
    let line = GOOD.lines().find(|line| line.starts_with("documents = ")).unwrap();
    let own = GOOD.replace(line, "documents = [\"**/*.txt\"]");
    let own = parse(&own, &|_| true).unwrap().ci.documents;
    assert!(own.ignores(b"a/b.txt") && !own.ignores(b"README.md"));
    let wrong = GOOD.to_owned()
        + "[[ci.tests]]\nname = \"pages\"\npaths = [\"x\"]\nrun = [\"true\"]\n\
           [[ci.tests]]\nname = \"all\"\nrun = []\n[[ci.tests]]\nname = \"b c\"\npaths = [\"[\"]\nrun = [\"true\"]\n";
    let fault =
        parse(&wrong.replace("engine = \"native\"\n# The operator", "engine = \"auto\"\n# The operator"), &|_| true)
            .unwrap_err();
    for expected in [
        "`ci.engine` is `auto`, not one of `docker`, `native`",
        "there are two `[[ci.tests]]` named `pages`",
        "`ci.tests.name` is `all`",
        "`ci.tests.paths` is missing",
        "`ci.tests.run` names no program",
        "`ci.tests.name` is `b c`",
        "`[`: ",
    ] {
        assert!(fault.what.contains(expected), "{expected}\n{}", fault.what);
    }
}

#[test]
fn branch_names() {
    for good in ["main", "release/1.x", "a+b", "Ä-b"] {
        assert!(is_branch_name(good), "{good}");
    }
    for bad in ["", "-a", "a b", "a..b", "/a", "a/", "a.lock", "${{x}}", "it's", "a*", "a\nb", ".a"] {
        assert!(!is_branch_name(bad), "{bad}");
    }
}

const APPS: &str = "[bases.cpu]\nlock = \"cpu.lock\"\n[bases.cuda]\nlock = \"cuda.lock\"\nrepository = \"gpu\"\n\
                    [[app]]\nname = \"web\"\nbase = \"cpu\"\n[app.smoke]\nuser = 7\n\
                    [[app]]\nname = \"worker\"\nbase = \"cuda\"\nargs = { A = \"1\" }\n\
                    [[app]]\nname = \"admin\"\nbase = \"cpu\"\nrepository = \"console\"\n[smoke]\nuser = 8\n";

fn all(text: &str) -> Result<Vec<Policy>, Fault> {
    parse_all(&format!("{LEAST}{text}"), &|_| true, &[])
}

#[test]
fn several_apps_on_named_bases_are_a_policy_each() {
    let policies = all(&format!("[base]\nepoch = 3\ntag-length = 9\n{APPS}").replace("gpu\"\n", "gpu\"\nepoch = 4\n"));
    let policies = policies.unwrap_or_else(|fault| panic!("{fault}"));
    let shown = policies.iter().map(|policy| {
        let (base, app) = (&policy.base, &policy.app);
        let names = (base.name.as_deref().unwrap_or(""), app.name.as_deref().unwrap_or(""));
        (names, base.repository.as_str(), app.repository.as_str(), base.epoch, policy.smoke.user)
    });
    let expected = [
        (("cpu", "web"), "shop-cpu-base", "shop-web", 3, Some(7)),
        (("cuda", "worker"), "gpu", "shop-worker", 4, Some(8)),
        (("cpu", "admin"), "shop-cpu-base", "console", 3, Some(8)),
    ];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
    assert!(policies.iter().all(|policy| policy.base.tag_length == 9), "what `[base]` says is for all");
    assert_eq!(policies[1].app.args.len(), 1);
    let one = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        one(policies.clone(), &names).map(|policy| policy.app.name.unwrap()).map_err(|fault| fault.what)
    };
    assert_eq!(one(&["worker"]).unwrap(), "worker");
    assert!(one(&[]).unwrap_err().contains("has several: `web`, `worker`, `admin`"));
    assert_eq!(one(&["web", "wbe"]).unwrap_err(), "`images.toml` has no app `wbe`");
}

#[test]
fn several_apps_on_one_base_need_no_name_for_it() {
    let policies = all("[[app]]\nname = \"web\"\n[[app]]\nname = \"worker\"\n").unwrap();
    assert!(policies.iter().all(|policy| policy.base.name.is_none() && policy.base.repository == "shop-base"));
    let named = all("[bases.one]\n[[app]]\nname = \"web\"\n").unwrap();
    assert_eq!((named[0].base.name.as_deref(), named[0].base.repository.as_str()), (Some("one"), "shop-one-base"));
    // One app without a name is as it always was.
    let old = one(all("[base]\n[app]\n").unwrap(), &[]).unwrap();
    assert_eq!((&old.base.name, &old.app.name, old.app.repository.as_str()), (&None, &None, "shop"));
    assert!(one(all("").unwrap(), &["web".to_owned()]).unwrap_err().causes[0].contains("has no name"));
}

#[test]
fn the_context_of_an_app_is_a_folder_of_the_repository() {
    let context = |text: &str| all(&format!("[app]\ncontext = \"{text}\"\n")).map(|all| all[0].app.context.clone());
    assert_eq!(context("./services//api/").unwrap().unwrap().as_str(), "services/api");
    for whole in [".", "./"] {
        assert_eq!(context(whole).unwrap(), None);
    }
    for (wrong, why) in
        [("../x", "outside the repository"), ("/x", "outside the repository"), ("target/x", "is in `target`")]
    {
        let fault = context(wrong).unwrap_err();
        assert!(fault.what.contains(why), "{fault}");
    }
    let fault = all("[app]\ncontext = \"a\"\n[app.binary]\npackage = \"x\"\n").unwrap_err();
    assert!(fault.what.contains("`app.binary` is outside of `app.context`"), "{fault}");
}

#[test]
fn what_does_not_fit_together_is_reported_together() {
    #[track_caller]
    fn wrong(text: &str, expected: &[&str]) {
        let fault = all(text).unwrap_err();
        for expected in expected {
            assert!(fault.what.contains(expected), "{expected}\n{fault}");
        }
        assert_eq!(fault.what.matches("images.toml:").count(), expected.len(), "{fault}");
    }
    let other = APPS.replace("base = \"cuda\"", "base = \"cdua\"").replace("name = \"admin\"", "name = \"web\"");
    wrong(&other, &["there is no base `cdua`", "there are two apps named `web`", "no app is on the base `cuda`"]);
    wrong(&APPS.replace("base = \"cuda\"\n", ""), &["`app.base` is missing", "no app is on the base `cuda`"]);
    wrong(
        &APPS.replace("\"console\"", "\"shop-web\"").replace("\"gpu\"", "\"shop-root\""),
        &["the app `admin` and the app `web` share the repository", "the base `cuda` and the root share"],
    );
    wrong(&APPS.replace("\"web\"", "\"Web\""), &["`app`: `Web` is not a name"]);
    wrong(&APPS.replace("name = \"web\"\n", ""), &["`app.name` is missing"]);
    wrong("[bases.cpu]\n[app]\n", &["`[bases.NAME]` has no effect"]);
    wrong("[app]\nname = \"web\"\n[app.smoke]\nuser = 1\n", &["`app.name` has no effect", "`app.smoke` has no effect"]);
    wrong("[base]\nepcoh = 1\n[bases.a]\nepcho = 1\n[[app]]\nname = \"x\"\n", &["`epcoh`", "`epcho`"]);
    wrong("[smoke]\n[[app]]\nname = \"x\"\n[app.smoke]\nuser = 1\n", &["`[smoke]` has no effect"]);
    wrong(
        &APPS.replace("cuda.lock", "cpu.lock").replace("repository = \"gpu\"", "requirements = \"gpu.txt\""),
        &["the bases `cpu` and `cuda` have one lock, `cpu.lock`, for different packages"],
    );
    let binary =
        |package: &str, profile: &str| format!("[app.binary]\npackage = \"{package}\"\nprofile = \"{profile}\"\n");
    let two = |first: &str, second: &str| format!("[[app]]\nname = \"a\"\n{first}[[app]]\nname = \"b\"\n{second}");
    wrong(&two(&binary("x", "release"), &binary("x", "dev")), &["two apps have different programs named `x`"]);
    assert!(all(&two(&binary("x", "dev"), &binary("x", "dev"))).is_ok());
    // A lock of another tool serves several bases, each with its extras.
    let variants = "[base]\nlock = \"uv.lock\"\n[bases.cpu]\nextras = [\"cpu\"]\n[bases.cuda]\nextras = [\"cu12x\"]\n";
    let apps = "[[app]]\nname = \"a\"\nbase = \"cpu\"\n[[app]]\nname = \"b\"\nbase = \"cuda\"\n";
    let policies = all(&format!("{variants}{apps}")).unwrap();
    assert_eq!(policies[1].base.selection.extras, BTreeSet::from(["cu12x".to_owned()]));
}
