//! The real uv against the real index, where there are such; else a line says what was skipped.

use super::install::without_pip;
use super::*;
use std::fs;
use std::sync::OnceLock;

/// The root of this repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// uv, from the PATH or from `XTASK_TEST_UV`; `None` after saying so.
fn real(test: &str) -> Option<Uv> {
    static REACHED: OnceLock<Result<Uv, String>> = OnceLock::new();
    let extra: Vec<PathBuf> = std::env::var_os("XTASK_TEST_UV").into_iter().map(PathBuf::from).collect();
    let reached = REACHED.get_or_init(|| {
        let uv = find(&root(), &extra).map_err(|fault| fault.to_string())?;
        uv.installer_lock(uv.version(), "3.12").map_err(|fault| fault.to_string())?;
        Ok(uv)
    });
    match reached {
        Ok(uv) => Some(uv.clone()),
        Err(why) if std::env::var_os("XTASK_REQUIRE_REAL").is_some() => panic!("{why}"),
        Err(why) => {
            println!("skipped: {test}: {}", why.lines().next().unwrap_or_default());
            None
        }
    }
}

fn files(path: &str) -> RequirementFiles {
    vec![path.parse().unwrap()].into()
}

struct Repository(tempfile::TempDir);

impl Repository {
    fn new(requirements: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("r.txt"), requirements).unwrap();
        Self(folder)
    }

    fn resolve(&self, uv: &Uv, upgrade: &Upgrade) -> Result<String, Fault> {
        let (requirements, lock) = (files("r.txt"), Path::new("r.lock"));
        let (root, requirements, selection) = (self.0.path(), &requirements, &Selection::default());
        let request = Request { root, requirements, selection, lock, python: "3.12", upgrade };
        let text = uv.resolve(&request)?;
        crate::file::write(&self.0.path().join(lock), &text)?;
        Ok(text)
    }

    fn asks(&self, requirements: &str) {
        fs::write(self.0.path().join("r.txt"), requirements).unwrap();
    }

    fn lock(&self) -> Lock {
        Lock::parse(Path::new("r.lock"), &fs::read_to_string(self.0.path().join("r.lock")).unwrap()).unwrap()
    }
}

#[test]
fn resolving_twice_gives_the_same_bytes() {
    let Some(uv) = real("resolving twice") else { return };
    let repository = Repository::new("# why\npython-dateutil>=2.9,<3\n-c c.txt\n");
    fs::write(repository.0.path().join("c.txt"), "six<1.17\n").unwrap();
    let first = repository.resolve(&uv, &Upgrade::Keep).unwrap();
    assert_eq!(first, repository.resolve(&uv, &Upgrade::Keep).unwrap(), "with the lock as preference");
    fs::remove_file(repository.0.path().join("r.lock")).unwrap();
    assert_eq!(first, repository.resolve(&uv, &Upgrade::Keep).unwrap(), "without it");
    assert!(first.contains("    # via\n    #   -c c.txt\n    #   python-dateutil\n"), "{first}");
    assert!(!first.contains("://") && !first.contains("--index"), "no index is named: {first}");
    let found = inputs::requirements_at(repository.0.path(), Path::new("r.txt")).unwrap();
    xtask_model::spec::lock::check(&found, "3.12", &repository.lock()).unwrap();
}

#[test]
fn pins_move_only_when_asked() {
    let Some(uv) = real("pins move") else { return };
    let repository = Repository::new("six<1.17\ntoml<0.10.2\n");
    repository.resolve(&uv, &Upgrade::Keep).unwrap();
    repository.asks("six\ntoml\n");
    let versions = |lock: &Lock| lock.packages.iter().map(|p| format!("{} {}", p.name, p.version)).collect::<Vec<_>>();
    let old = repository.lock();
    repository.resolve(&uv, &Upgrade::Keep).unwrap();
    assert_eq!(versions(&repository.lock()), ["six 1.16.0", "toml 0.10.1"]);
    assert_ne!(repository.lock().requirements, old.requirements);
    repository.resolve(&uv, &Upgrade::Only(vec!["Six".to_owned()])).unwrap();
    let changed = xtask_model::spec::lock::diff(&old.meaning(), &repository.lock().meaning());
    assert_eq!(changed.len(), 1, "{:?}", versions(&repository.lock()));
    assert!(changed[0].to_string().starts_with("six 1.16.0 -> "));
    let fault = repository.resolve(&uv, &Upgrade::Only(vec!["sixx".to_owned()])).unwrap_err();
    assert_eq!((fault.exit, fault.hints), (Exit::Usage, vec!["did you mean `six`?".to_owned()]));
    repository.resolve(&uv, &Upgrade::All).unwrap();
    assert_eq!(xtask_model::spec::lock::diff(&old.meaning(), &repository.lock().meaning()).len(), 2);
}

#[test]
fn options_of_the_file_reach_uv() {
    let Some(uv) = real("options of the file") else { return };
    let repository = Repository::new("--pre\n--only-binary six\nsix==1.16.0\n");
    repository.resolve(&uv, &Upgrade::Keep).unwrap();
    assert!(repository.lock().only_binary.contains("six"));
}

#[test]
fn conflicting_requirements_are_reported_in_uvs_words() {
    let Some(uv) = real("requirements that exclude each other") else { return };
    let fault = Repository::new("six>=99\n").resolve(&uv, &Upgrade::Keep).unwrap_err();
    assert_eq!(fault.exit, Exit::Usage, "{fault}");
    assert!(fault.causes[0].contains("No solution found") && fault.causes[0].contains("six>=99"), "{fault}");
}

#[test]
fn a_missing_index_is_a_network_fault() {
    let Some(uv) = real("a missing index") else { return };
    // Bound and let go at once: nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let repository = Repository::new(&format!("--index-url http://me:word@127.0.0.1:{port}/simple\nsix\n"));
    let found = inputs::requirements_at(repository.0.path(), Path::new("r.txt")).unwrap();
    let call = uv.compile(found.options(), "3.12").arg("r.txt").current_dir(repository.0.path());
    let fault = run(&call.env("UV_HTTP_RETRIES", "0"), "r.txt").unwrap_err();
    assert_eq!((fault.exit, fault.what.as_str()), (Exit::Network, "cannot reach the package index"));
    assert!(!fault.to_string().contains("word"), "{fault}");
}

#[test]
fn a_password_written_out_is_not_locked() {
    let request = Request {
        root: Path::new("."),
        requirements: &files("r.txt"),
        selection: &Selection::default(),
        lock: Path::new("r.lock"),
        python: "3.12",
        upgrade: &Upgrade::Keep,
    };
    let fault = no_password("# fine\na @ https://u:word@h/a-1.zip \\\n", &request).unwrap_err().to_string();
    assert!(fault.contains("***") && !fault.contains("word@"), "{fault}");
    no_password("a @ https://${U}:${T}@h/a-1.zip", &request).unwrap();
}

#[test]
fn bad_requirements_never_reach_uv() {
    let uv = Uv { program: "/does/not/exist".into(), version: "0".to_owned() };
    let fault = Repository::new("six=1\n").resolve(&uv, &Upgrade::Keep).unwrap_err();
    assert!(fault.to_string().contains("r.txt:1:4: expected `==`, not `=`"), "{fault}");
}

#[track_caller]
fn hides(file: &str, text: &str, key: Option<&str>) {
    let repository = Repository::new("six\n");
    fs::write(repository.0.path().join(file), text).unwrap();
    let found = no_hidden_choices(repository.0.path(), &[]).err().map(|fault| fault.what);
    assert_eq!(found, key.map(|key| format!("`{key}` in `{file}` would change the lock but not its fingerprint")));
}

#[test]
fn only_the_requirements_choose_versions() {
    hides("pyproject.toml", "[tool.uv]\nconstraint-dependencies = ['six<1.17']\n", Some("constraint-dependencies"));
    hides("pyproject.toml", "[tool.uv.pip]\nresolution = 'lowest'\n", Some("resolution"));
    hides("uv.toml", "prerelease = 'allow'\n", Some("prerelease"));
    hides("pyproject.toml", "[tool.poetry]\nresolution = 'lowest'\n", None);
    hides("uv.toml", "no-cache = true\n", None);
    hides("uv.toml", "[broken", None);
}

#[test]
fn the_installer_is_locked_with_hashes() {
    let Some(uv) = real("the installer") else { return };
    let text = uv.installer_lock(uv.version(), "3.12").unwrap();
    assert!(
        text.contains(&format!("\nuv=={} \\\n", uv.version())) && text.matches("--hash=sha256:").count() > 10,
        "{text}"
    );
    assert!(!text.contains("://") && !text.contains("# via"), "{text}");
    assert_eq!(uv.installer_lock("1.x", "3.12").unwrap_err().exit, Exit::Usage);
}

#[test]
fn uv_is_fetched_where_there_is_none() {
    if real("uv is fetched").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let locked = fs::read_to_string(root().join(INSTALLER_LOCK)).unwrap();
    fs::create_dir(folder.path().join("dockerfiles")).unwrap();
    fs::write(folder.path().join(INSTALLER_LOCK), &locked).unwrap();
    let uv = install(folder.path()).unwrap();
    assert_eq!(uv.program(), folder.path().join("target/tools/bin/uv"));
    assert!(locked.contains(&format!("\nuv=={} \\\n", uv.version())), "the locked version, by its hash");
    assert_eq!(uv, install(folder.path()).unwrap(), "twice is not an error");
    assert_eq!(find(folder.path(), &[folder.path().join("target/tools/bin")]).unwrap(), uv);
}

#[test]
fn a_python_without_pip_and_venv_is_a_missing_tool() {
    let pip = Fault::network("`python3 -m` failed").cause("/usr/bin/python3: No module named pip");
    let venv = Fault::missing("`python3 -m` failed").cause("ensurepip is not available");
    let fault = without_pip(&pip, &venv);
    assert_eq!((fault.exit, fault.causes.len()), (Exit::Missing, 2));
    assert_eq!(without_pip(&Fault::network("x").cause("Could not fetch"), &venv).exit, Exit::Network);
}

#[test]
fn another_program_is_not_taken_for_uv() {
    let fault = Uv::at("/bin/true".into()).unwrap_err();
    assert_eq!((fault.exit, fault.what.as_str()), (Exit::Missing, "`/bin/true` is not uv"));
}

#[track_caller]
fn judge(said: &str, exit: Exit) {
    assert_eq!(classified(said).0, exit);
}

#[test]
fn uvs_words_are_judged() {
    judge("error: No solution found when resolving dependencies", Exit::Usage);
    judge("error: Request failed after 3 retries\n  cause: Failed to fetch: http://h/simple/six/", Exit::Network);
    judge("cause: invalid peer certificate: UnknownIssuer", Exit::Network);
    judge("HTTP status client error (401 Unauthorized)", Exit::Network);
    judge("error: No interpreter found for Python 3.12", Exit::Missing);
    judge("error: something else", Exit::Usage);
}

#[test]
fn the_committed_lock_satisfies_the_committed_requirements() {
    let root = root();
    let found = inputs::requirements_at(&root, Path::new("requirements-enhanced.txt")).unwrap();
    let text = fs::read_to_string(root.join("requirements-enhanced.lock")).unwrap();
    let lock = Lock::parse(Path::new("requirements-enhanced.lock"), &text).unwrap();
    xtask_model::spec::lock::check(&found, "3.12", &lock).unwrap();
    assert!(!text.contains("://"), "no index is named");
}

#[test]
fn pips_own_options_and_encodings_reach_uv_as_it_reads_them() {
    let Some(uv) = real("options that only pip reads") else { return };
    let repository = Repository::new("");
    let text = "--all-releases :all:\n--only-final six\n-c deep/c.txt\nsix\n";
    let bytes: Vec<u8> = std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    fs::write(repository.0.path().join("r.txt"), bytes).unwrap();
    fs::create_dir(repository.0.path().join("deep")).unwrap();
    fs::write(repository.0.path().join("deep/c.txt"), "six<1.17\n").unwrap();
    let lock = repository.resolve(&uv, &Upgrade::Keep).unwrap();
    assert!(lock.contains("\nsix==1.16.0 ") && lock.contains("#   -c deep/c.txt\n    #   -r r.txt\n"), "{lock}");
}

#[test]
fn only_regular_files_of_the_repository_are_read() {
    let repository = Repository::new("-r link.txt\n");
    let refused = |why: &str| {
        let fault = inputs::requirements_at(repository.0.path(), Path::new("r.txt")).unwrap_err();
        assert_eq!(fault.causes, [why], "{fault}");
    };
    refused("no such file");
    for (target, why) in [
        ("/dev/zero", "it is outside of the repository"),
        ("/etc/passwd", "it is outside of the repository"),
        ("pipe", "it is not a regular file"),
        (".", "it is not a regular file"),
        ("large", "it has more than 16777216 bytes"),
    ] {
        let link = repository.0.path().join("link.txt");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).unwrap();
        let pipe = repository.0.path().join("pipe");
        if target == "pipe" {
            assert!(Command::new("mkfifo").arg(&pipe).read(Exit::Missing).is_ok());
        }
        if target == "large" {
            fs::File::create(repository.0.path().join("large")).unwrap().set_len(1 << 40).unwrap();
        }
        refused(why);
    }
}
