//! The stages that have recipes, by docker and by their recipes: the same files, byte for byte.
//!
//! Real all through: a Debian root, an engine, uv and the package index that this machine uses.

mod system;

use crate::{debian_root, real_engine, real_registry};
use real_engine::{Engine, engine};
use real_registry::RealRegistry;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;
use xtask_host::index::Cache;
use xtask_host::linux;
use xtask_host::process::Command;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::publish::wheels;
use xtask_host::registry::{Client, ClientOptions};
use xtask_host::tree::secrets::Secrets;
use xtask_host::tree::uv::{self, BuildRequest, Upgrade, Uv};
use xtask_model::fault::{Exit, Fault};
use xtask_model::image::context::ContextPath;
use xtask_model::image::policy::{self, Compression, Policy};
use xtask_model::spec::lock::checked;
use xtask_model::spec::lock::sources::SourcePin;
use xtask_model::spec::lock::{Lock, LockedPackage};
use xtask_model::spec::oci::{Config, Manifest};
use xtask_model::spec::reference::{self, Digest, Platform};
use xtask_model::spec::sdist::BuildSystem;
use xtask_native::layer::item::{Bytes, Content, Item};
use xtask_native::layer::packed;
use xtask_native::layer::unpack::Unpacker;
use xtask_native::layer::{self, Codec, Limits, Reader};
use xtask_native::recipes::python::{PythonPackages, Request};
use xtask_native::recipes::source::{Kept, Sources};
use xtask_native::recipes::user::UserStage;
use xtask_native::stage::{Earlier, Part, Realise, RootFiles, Selection, TakeLayer};

/// Scripts and what they need, C and C++ extensions, headers, and a package of one file; pinned, so that the test is of us.
const REQUIREMENTS: &str = "flask==3.1.3\ngreenlet==3.5.6\ntabulate==0.10.0\nsix==1.17.0\n";

/// The stages' arguments as the Dockerfile has them.
fn arguments() -> BTreeMap<String, String> {
    [("USER_NAME", "app"), ("USER_ID", "10001"), ("GROUP_ID", "10001"), ("USER_HOME", "/home/app")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// The Debian root, made once for all runs, and its files.
struct Root {
    layout: PathBuf,
    manifest: Digest,
    config: Config,
    folder: PathBuf,
    blob: Digest,
    /// Folder into which a selection of its files is unpacked, without these folders.
    part: tempfile::TempDir,
    spoiled: Vec<&'static str>,
    /// Number of times that all its files were asked for.
    wholes: Cell<usize>,
}

impl Root {
    fn get() -> Self {
        let (recipe, folder, root) = debian_root::shared();
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("native-packages");
        std::fs::create_dir_all(&home).unwrap();
        let lock = std::fs::File::create(home.join("lock")).unwrap();
        lock.lock().unwrap();
        let (layout, platform) = (Layout::open_or_create(&folder).unwrap(), Platform::host());
        let descriptor = layout.get(&recipe.ref_name(&platform)).unwrap().unwrap();
        let manifest: Manifest = layout.read_json(&descriptor).unwrap();
        let config = layout.read_json(&manifest.config).unwrap();
        let files = home.join(format!("files-{}", &root.digest.hex()[..12]));
        if !files.exists() {
            let new = tempfile::tempdir_in(&home).unwrap().keep();
            let blob = layout.blob_path(&manifest.layers[0].digest);
            let unpack = Command::new("tar").arg("-xf").arg(blob).arg("-C").arg(&new);
            unpack.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
            std::fs::rename(new, &files).unwrap();
        }
        Self {
            layout: folder,
            manifest: root.digest,
            config,
            folder: files,
            blob: manifest.layers[0].digest,
            part: tempfile::tempdir().unwrap(),
            spoiled: Vec::new(),
            wholes: Cell::new(0),
        }
    }
}

impl RootFiles for Root {
    fn config(&self) -> &Config {
        &self.config
    }

    fn has(&self, path: &ContextPath) -> Result<bool, Fault> {
        Ok(self.folder.join(path.to_path()).is_file())
    }

    fn file(&self, path: &ContextPath) -> Result<Option<Vec<u8>>, Fault> {
        // No link of this root that is asked for leads to an absolute path.
        Ok(std::fs::read(self.folder.join(path.to_path())).ok())
    }

    fn folder(&self, which: Option<&Selection>) -> Result<PathBuf, Fault> {
        let Some(some) = which else {
            self.wholes.set(self.wholes.get() + 1);
            return Ok(self.folder.clone());
        };
        let part = self.part.path().join(some.name);
        if !part.exists() {
            let layout = Layout::open_or_create(&self.layout)?;
            let blob = std::fs::File::open(layout.blob_path(&self.blob)).unwrap();
            Unpacker::open(&part)?.only(some.has).apply(&mut Reader::open(blob, None, Limits::default())?)?;
            self.spoiled.iter().for_each(|path| std::fs::remove_dir_all(part.join(path)).unwrap());
        }
        Ok(part)
    }
}

/// A repository with this one's Dockerfiles and a lock of its own.
struct Repository {
    folder: tempfile::TempDir,
    policy: Policy,
}

/// Writes a wheel: its folder, name, version, requirements, and files as JSON. `RECORD` does not list a path that begins with `!`.
const WHEEL: &str = r#"
import base64, hashlib, json, sys, zipfile
folder, name, version, requires, files = sys.argv[1:]
stem = f"{name.replace('-', '_')}-{version}"
files, info = json.loads(files), f"{stem}.dist-info"
unlisted = {path[1:] for path in files if path.startswith("!")}
files = {path.lstrip("!"): text for path, text in files.items()}
files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
hashed = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
rows = [f"{path},sha256={hashed(text)},{len(text)}\n" for path, text in files.items() if path not in unlisted]
files[f"{info}/RECORD"] = "".join(rows) + f"{info}/RECORD,,\n"
with zipfile.ZipFile(f"{folder}/{stem}-py3-none-any.whl", "w") as wheel:
    for path, text in files.items():
        wheel.writestr(zipfile.ZipInfo(path), text)
"#;

/// A made-up wheel: name, version, requirements and files.
type Wheel<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)]);

impl Repository {
    /// One with a lock of made-up wheels, and no other place to find wheels.
    fn of_wheels(uv: &Uv, wheels: &[Wheel<'_>]) -> Self {
        let repository = Self::new(uv, "six==1.17.0\n");
        let folder = repository.folder.path().join("target/wheels");
        std::fs::create_dir_all(&folder).unwrap();
        let mut text = String::new();
        for (name, version, requires, files) in wheels {
            let files: BTreeMap<&str, &str> = files.iter().copied().collect();
            let call = Command::new("python3").args(["-c", WHEEL]).arg(&folder).args([name, version, requires]);
            call.arg(serde_json::to_string(&files).unwrap())
                .read(Exit::Build)
                .unwrap_or_else(|fault| panic!("{fault}"));
            let file = folder.join(format!("{}-{version}-py3-none-any.whl", name.replace('-', "_")));
            let digest = Digest::of(&std::fs::read(&file).unwrap());
            text += &format!("{name}=={version} --hash={digest}\n");
        }
        let base = &repository.policy.base;
        let [requirements, lock] = [&base.requirements.paths()[0], &base.lock];
        let lock = repository.folder.path().join(lock);
        let written = std::fs::read_to_string(&lock).unwrap();
        let head: String =
            written.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        let options = "--no-index\n--find-links ./target/wheels\n";
        std::fs::write(repository.folder.path().join(requirements), format!("{options}{text}")).unwrap();
        std::fs::write(&lock, head + &text).unwrap();
        repository
    }

    fn new(uv: &Uv, requirements: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("répo of a test ").tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let text = std::fs::read_to_string(from.join(policy::FILE)).unwrap();
        let policy = policy::parse(&text, &|_| true).unwrap();
        std::fs::create_dir_all(folder.path().join("dockerfiles")).unwrap();
        for entry in std::fs::read_dir(from.join("dockerfiles")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join("dockerfiles").join(entry.file_name())).unwrap();
        }
        std::fs::write(folder.path().join("requirements-enhanced.txt"), requirements).unwrap();
        let request = uv::Request {
            root: folder.path(),
            requirements: &policy.base.requirements,
            selection: &policy.base.selection,
            lock: policy.base.lock.as_ref(),
            python: "3.12",
            upgrade: &Upgrade::Keep,
        };
        let lock = uv.resolve(&request).unwrap_or_else(|fault| panic!("{fault}"));
        std::fs::write(folder.path().join(&policy.base.lock), lock).unwrap();
        // The uv that this machine has for tests is found where the repository's own would be.
        let tools = folder.path().join("target/tools/bin");
        std::fs::create_dir_all(&tools).unwrap();
        std::os::unix::fs::symlink(uv.program(), tools.join("uv")).unwrap();
        Self { folder, policy }
    }

    fn recipe<'a>(&self, root: &'a Root, platform: &str) -> Result<PythonPackages<'a>, Fault> {
        self.recipe_with(root, platform, Sources::default())
    }

    fn recipe_with<'a>(
        &self,
        root: &'a Root,
        platform: &str,
        sources: Sources<'a>,
    ) -> Result<PythonPackages<'a>, Fault> {
        let request = Request {
            root: self.folder.path(),
            policy: &self.policy,
            platform: &platform.parse().unwrap(),
            args: &arguments(),
            work: &self.folder.path().join("target/native"),
        };
        PythonPackages::new(&request, sources, root)
    }
}

/// uv in the pinned version, from the PATH or from `XTASK_TEST_UV`; else it is installed.
fn pinned_uv() -> Uv {
    let extra: Vec<PathBuf> = std::env::var_os("XTASK_TEST_UV").into_iter().map(PathBuf::from).collect();
    let pin =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../dockerfiles/installer.lock")).unwrap();
    let found = uv::find(Path::new(env!("CARGO_TARGET_TMPDIR")), &extra);
    match found {
        Ok(uv) if pin.contains(&format!("uv=={} ", uv.version())) => uv,
        _ => {
            let folder = tempfile::tempdir().unwrap().keep();
            std::fs::create_dir_all(folder.join("dockerfiles")).unwrap();
            std::fs::write(folder.join(uv::INSTALLER_LOCK), pin).unwrap();
            uv::install(&folder).unwrap_or_else(|fault| panic!("{fault}"))
        }
    }
}

/// Entry at a path, whoever put it there.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    kind: char,
    mode: u32,
    owner: (u64, u64),
    content: String,
}

fn described(item: &Item) -> (String, Found) {
    let read = |bytes: &Bytes| {
        let read = packed::contents(bytes).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(read.len() as u64, bytes.size(), "{}", item.path);
        read
    };
    let (kind, mode, content) = match &item.content {
        Content::Dir => ('d', item.mode, String::new()),
        Content::File(bytes) => ('f', item.mode, Digest::of(&read(bytes)).to_string()),
        Content::Symlink(target) => ('l', 0o777, String::from_utf8(target.clone()).unwrap()),
    };
    (item.path.to_string(), Found { kind, mode, owner: (item.uid.into(), item.gid.into()), content })
}

/// Entries that docker built, below these paths.
fn built(engine: &Engine, repository: &Repository, root: &Root, below: &[&str]) -> BTreeMap<String, Found> {
    let wanted = ["ca", "index-url", "extra-index-url", "netrc"].map(str::to_owned).into();
    let secrets = Secrets::collect(&wanted, None).unwrap();
    let tar = repository.folder.path().join("target/base.tar");
    let image = "example.invalid/native-packages/root";
    let mut call = engine.command(&["buildx", "build", "--progress=plain", "--network=host", "--provenance=false"]);
    for (id, file) in secrets.files() {
        call = call.arg("--secret").arg(format!("id={id},src={}", file.display()));
    }
    for proxy in Secrets::proxies() {
        call = call.arg("--build-arg").arg(proxy);
    }
    let call = call
        .arg("--file")
        .arg(repository.folder.path().join(repository.policy.base.dockerfile.as_str()))
        .arg("--build-arg")
        .arg(format!("ROOT_IMAGE={image}"))
        .arg("--build-context")
        .arg(format!("{image}=oci-layout://{}@{}", root.layout.display(), root.manifest))
        .arg("--output")
        .arg(format!("type=tar,dest={}", tar.display()))
        .arg(repository.folder.path());
    let began = Instant::now();
    call.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
    println!("docker: {:.1} s", began.elapsed().as_secs_f64());
    let mut found = BTreeMap::new();
    let mut archive = tar::Archive::new(std::io::BufReader::new(std::fs::File::open(&tar).unwrap()));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned();
        if !below.iter().any(|below| path.strip_prefix(below).is_some_and(|r| r.is_empty() || r.starts_with('/'))) {
            continue;
        }
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode().unwrap() & 0o7777);
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        if path.starts_with("opt/venv/") {
            // The native engine gives everything this time.
            assert_eq!(header.mtime().unwrap(), xtask_native::layer::TIME, "{path}");
        }
        let (kind, mode, content) = if kind.is_dir() {
            ('d', mode, String::new())
        } else if kind.is_symlink() {
            ('l', 0o777, entry.link_name().unwrap().unwrap().to_str().unwrap().to_owned())
        } else {
            assert!(kind.is_file(), "{path} is a {kind:?}");
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            ('f', mode, Digest::of(&bytes).to_string())
        };
        found.insert(path, Found { kind, mode, owner, content });
    }
    found
}

#[track_caller]
fn same(ours: &BTreeMap<String, Found>, docker: &BTreeMap<String, Found>) {
    let paths: BTreeSet<&String> = ours.keys().chain(docker.keys()).collect();
    let differing: Vec<String> = paths
        .into_iter()
        .filter(|path| ours.get(*path) != docker.get(*path))
        .map(|path| format!("{path}\n  ours:   {:?}\n  docker: {:?}", ours.get(path), docker.get(path)))
        .collect();
    assert!(
        differing.is_empty(),
        "{} differences\n{}",
        differing.len(),
        differing[..differing.len().min(20)].join("\n")
    );
    assert!(!ours.is_empty());
}

/// Parts, when all checks have passed.
fn checked(recipe: &dyn Realise, wanted: &[usize]) -> Result<Vec<Vec<Item>>, Fault> {
    let made = recipe.produce(wanted)?;
    recipe.finish().map(|()| made)
}

fn all(recipe: &dyn Realise) -> Vec<Vec<Item>> {
    let wanted: Vec<usize> = (0..recipe.parts().len()).collect();
    let began = Instant::now();
    let made = checked(recipe, &wanted).unwrap_or_else(|fault| panic!("{fault}"));
    println!("{} parts: {:.1} s", wanted.len(), began.elapsed().as_secs_f64());
    for (part, items) in recipe.parts().iter().zip(&made) {
        assert!(items.is_sorted_by(|one, two| one.path < two.path), "{}", part.name);
        for item in items {
            assert!(
                item.path == part.under || item.path.below(&part.under).is_some(),
                "{} in {}",
                item.path,
                part.name
            );
        }
    }
    made
}

fn tree(parts: &[Vec<Item>]) -> BTreeMap<String, Found> {
    let mut tree = BTreeMap::new();
    for item in parts.iter().flatten() {
        let (path, found) = described(item);
        // The later part is what an image has.
        tree.insert(path, found);
    }
    tree
}

#[test]
fn recipes_make_what_docker_makes() {
    let Some(engine) = engine() else { return };
    let (root, uv) = (Root::get(), pinned_uv());
    let repository = Repository::new(&uv, REQUIREMENTS);
    let recipe = repository.recipe(&root, &Platform::host().to_string()).unwrap_or_else(|fault| panic!("{fault}"));
    let names: Vec<&str> = recipe.parts().iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names[..2], ["flask 3.1.3", "greenlet 3.5.6"], "{names:?}");
    assert_eq!(names.last(), Some(&"environment of Python 3.13"));
    let made = all(&recipe);
    let packages = tree(&made);
    let site = "opt/venv/lib/python3.13/site-packages";
    for path in [
        "opt/venv/bin/flask",
        "opt/venv/include/site/python3.13/greenlet/greenlet.h",
        &format!("{site}/__pycache__/six.cpython-313.pyc"),
        &format!("{site}/flask-3.1.3.dist-info/RECORD"),
        &format!("{site}/markupsafe/_speedups.cpython-313-x86_64-linux-gnu.so"),
    ] {
        assert!(packages.contains_key(path), "{path}");
    }
    let user = UserStage::new(&arguments(), &root).unwrap_or_else(|fault| panic!("{fault}"));
    let mut ours = packages;
    ours.extend(tree(&all(&user)));
    // The stage's folder is root's; the base gives it to the user as it copies.
    ours.get_mut("home/app").unwrap().owner = (10001, 10001);
    let below = ["opt/venv", "etc/passwd", "etc/group", "home/app", "app"];
    same(&ours, &built(engine, &repository, &root, &below));

    // One part alone is the part of the whole, and nothing of its recipe is of the others.
    let index = recipe.parts().iter().position(|part| part.name.starts_with("greenlet")).unwrap();
    let alone = recipe.produce(&[index]).unwrap_or_else(|fault| panic!("{fault}"));
    same(&tree(&alone), &tree(&made[index..=index]));
    let other = Repository::new(&uv, "greenlet==3.5.6\n");
    let other = other.recipe(&root, &Platform::host().to_string()).unwrap();
    assert_eq!(other.parts()[0], recipe.parts()[index]);
    let last = made.len() - 1;
    assert_ne!(other.parts()[1].recipe, recipe.parts()[last].recipe, "other packages have to be checked together");
    let other = other.produce(&[1, 0]).unwrap();
    same(&tree(&other[..1]), &tree(&made[last..]));
    same(&tree(&other[1..]), &tree(&made[index..=index]));
    assert_eq!(root.wholes.get(), 0, "Python's part of the root is enough");

    // Where it is not, all of the root is taken, and the same comes out.
    for spoiled in ["usr/lib/python3.13/json", "usr/lib/x86_64-linux-gnu"] {
        let root = Root { spoiled: vec![spoiled], ..Root::get() };
        let recipe = repository.recipe(&root, &Platform::host().to_string()).unwrap();
        let flask = checked(&recipe, &(0..last).collect::<Vec<_>>()).unwrap_or_else(|fault| panic!("{fault}"));
        same(&tree(&flask), &tree(&made[..last]));
        assert!(root.wholes.get() > 0, "{spoiled}");
    }
}

/// Wheels with data at the top, and a namespace that each declares in its own words.
const SHARING: &str = "isort==5.11.2\npyrate-limiter==2.9.0\nbackports.weakref==1.0.post1\nconfigparser==4.0.2\n";

#[test]
fn both_engines_use_the_same_file_of_wheels_that_share_a_path() {
    let Some(engine) = engine() else { return };
    let (root, uv) = (Root::get(), pinned_uv());
    let repository = Repository::new(&uv, SHARING);
    let recipe = repository.recipe(&root, &Platform::host().to_string()).unwrap_or_else(|fault| panic!("{fault}"));
    let made = all(&recipe);
    let site = "opt/venv/lib/python3.13/site-packages";
    let last = tree(&made[made.len() - 1..]);
    for path in ["LICENSE", "backports/__init__.py", "backports/__pycache__/__init__.cpython-313.pyc"] {
        let path = format!("{site}/{path}");
        let of = |name: &str| {
            let index = recipe.parts().iter().position(|part| part.name.starts_with(name)).unwrap();
            tree(&made[index..=index]).remove(&path).unwrap()
        };
        let (first, second) =
            if path.ends_with("LICENSE") { ("isort", "pyrate-limiter") } else { ("backports-weakref", "configparser") };
        assert_ne!(of(first), of(second), "each part has its own {path}");
        assert_eq!(last[&path], of(second), "the last in the order of the lock has {path}");
    }
    same(&tree(&made), &built(engine, &repository, &root, &["opt/venv"]));
}

const PANDAS: Wheel<'_> =
    ("our-pandas", "1", "Requires-Dist: our-pytz\n", &[("our_pandas/__init__.py", "from our_pytz import utc\n")]);
const PYTZ: Wheel<'_> = ("our-pytz", "1", "", &[("our_pytz/__init__.py", "utc = 1\n")]);
const PYTZ_WITHOUT_UTC: Wheel<'_> = ("our-pytz", "2", "", &[("our_pytz/__init__.py", "pass\n")]);
const NUMPY: Wheel<'_> = ("our-numpy", "1", "", &[("our_numpy/__init__.py", "real = True\n")]);
const SILENT_CARRIER: Wheel<'_> = ("carrier", "1", "", &[("carrier.py", ""), ("!our_numpy/__init__.py", "")]);
const CARRIER: Wheel<'_> = ("carrier", "1", "", &[("carrier.py", ""), ("our_numpy/__init__.py", "")]);

#[test]
fn a_warm_build_imports_packages_of_known_layers() {
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    let platform = Platform::host().to_string();
    let good = Repository::of_wheels(&uv, &[PANDAS, PYTZ]);
    let good = good.recipe(&root, &platform).unwrap_or_else(|fault| panic!("{fault}"));
    all(&good);
    let broken = Repository::of_wheels(&uv, &[PANDAS, PYTZ_WITHOUT_UTC]);
    let broken = broken.recipe(&root, &platform).unwrap();
    let [pandas, pytz, environment] = [0, 1, 2];
    assert_eq!(broken.parts()[pandas], good.parts()[pandas], "its layer is known");
    // Of the changed package, of one that is lost from the registry, and where every package's layer is known.
    for wanted in [&[pytz, environment][..], &[pandas], &[environment]] {
        let fault = checked(&broken, wanted).unwrap_err();
        assert!(
            fault.causes[0].starts_with("our-pandas 1: cannot import our_pandas: cannot import name 'utc'"),
            "{fault}"
        );
    }
    // What is known about packages on one root says nothing about another.
    let mut other = Root::get();
    other.config.rootfs.diff_ids.push(Digest::of(b"another layer"));
    let other = Repository::of_wheels(&uv, &[PANDAS, PYTZ]).recipe(&other, &platform).unwrap().parts().to_vec();
    assert_eq!(other[..2], good.parts()[..2]);
    assert_ne!(other[environment].recipe, good.parts()[environment].recipe);
}

#[test]
fn a_wheel_with_a_file_of_a_known_package_is_rejected() {
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    for carrier in [CARRIER, SILENT_CARRIER] {
        let repository = Repository::of_wheels(&uv, &[carrier, NUMPY]);
        let recipe = repository.recipe(&root, &Platform::host().to_string()).unwrap();
        for wanted in [&[0, 2][..], &[1], &[2]] {
            let fault = recipe.produce(wanted).unwrap_err();
            assert_eq!(fault.what, "`carrier` and `our-numpy` have different files at `our_numpy/__init__.py`");
            assert_eq!(fault.exit, Exit::Usage);
        }
    }
}

/// Layers of a recipe's parts that an earlier build published, and its note.
struct Published {
    note: Vec<u8>,
    layers: BTreeMap<Digest, (Vec<u8>, Digest)>,
    /// Recipes of the layers that were read.
    read: Mutex<BTreeSet<Digest>>,
}

impl Published {
    fn of(recipe: &PythonPackages<'_>) -> Self {
        let made = all(recipe);
        let last = made.len() - 1;
        assert_eq!(recipe.checked(last), Some(checked::VERSION));
        let written = |(part, items): (&Part, &Vec<Item>)| {
            let mut bytes = Vec::new();
            let written = layer::write(items, Codec::new(Compression::Gzip), 1, &mut bytes).unwrap();
            (part.recipe, (bytes, written.diff_id))
        };
        let layers = recipe.parts().iter().zip(&made).map(written).collect();
        Self { note: recipe.note(last).unwrap(), layers, read: Mutex::default() }
    }

    /// Builds what has changed since; returns the image's last part and its note.
    fn then(&self, recipe: &PythonPackages<'_>) -> Result<(BTreeMap<String, Found>, Vec<u8>), Fault> {
        self.read.lock().unwrap().clear();
        let parts = recipe.parts().iter().enumerate();
        let wanted: Vec<usize> =
            parts.filter(|(_, part)| !self.layers.contains_key(&part.recipe)).map(|(index, _)| index).collect();
        recipe.prepare(&wanted, Some(self))?;
        let last = recipe.parts().len() - 1;
        let environment = recipe.items(last)?;
        recipe.finish()?;
        assert_eq!(recipe.checked(last), Some(checked::VERSION));
        Ok((tree(&[environment]), recipe.note(last).unwrap()))
    }

    /// Names of the parts whose layers were read.
    fn read<'r>(&self, recipe: &'r PythonPackages<'_>) -> Vec<&'r str> {
        let read = self.read.lock().unwrap();
        recipe.parts().iter().filter(|part| read.contains(&part.recipe)).map(|part| part.name.as_str()).collect()
    }
}

impl Earlier for Published {
    fn name(&self) -> String {
        "an earlier base".to_owned()
    }

    fn note(&self, checks: u32) -> Option<Vec<u8>> {
        (checks == checked::VERSION).then(|| self.note.clone())
    }

    fn size(&self, recipe: &Digest) -> Option<u64> {
        self.layers.get(recipe).map(|(bytes, _)| bytes.len() as u64)
    }

    fn read(&self, recipe: &Digest, take: &mut TakeLayer<'_>) -> Result<(), Fault> {
        self.read.lock().unwrap().insert(*recipe);
        let (bytes, diff_id) = &self.layers[recipe];
        take(&mut Reader::open(&bytes[..], Some(diff_id), Limits::default())?)
    }
}

#[test]
fn memory_does_not_grow_with_the_files_of_a_base() {
    const WHEELS: usize = 40;
    const FILES: usize = 1000;
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    let platform = Platform::host().to_string();
    let build = |wheels: usize, files: usize| {
        let names: Vec<String> = (0..wheels).map(|number| format!("many{number:03}")).collect();
        let files: Vec<Vec<String>> = names
            .iter()
            .map(|name| (0..files).map(|file| format!("{name}/include/a/folder/of/headers/{file:08}.h")).collect())
            .collect();
        let init: Vec<String> = names.iter().map(|name| format!("{name}/__init__.py")).collect();
        let listed: Vec<Vec<(&str, &str)>> = init
            .iter()
            .zip(&files)
            .map(|(init, files)| std::iter::once(init).chain(files).map(|path| (path.as_str(), "")).collect())
            .collect();
        let made: Vec<Wheel<'_>> =
            names.iter().zip(&listed).map(|(name, files)| (&**name, "1", "", &**files)).collect();
        let repository = Repository::of_wheels(&uv, &made);
        let recipe = repository.recipe(&root, &platform).unwrap_or_else(|fault| panic!("{fault}"));
        let before = linux::peak_memory().unwrap();
        let parts: Vec<usize> = (0..recipe.parts().len()).collect();
        recipe.prepare(&parts, None).unwrap_or_else(|fault| panic!("{fault}"));
        let mut entries = 0;
        for part in parts {
            let (items, note) = (recipe.items(part).unwrap(), recipe.note(part));
            entries += items.len();
            layer::write_with_note(&items, note.as_deref(), Codec::new(Compression::Gzip), 1, std::io::sink()).unwrap();
        }
        recipe.finish().unwrap_or_else(|fault| panic!("{fault}"));
        (entries, linux::peak_memory().unwrap() - before)
    };
    build(2, 10);
    let (entries, grown) = build(WHEELS, FILES);
    assert!(entries > WHEELS * FILES, "{entries}");
    println!("{entries} entries: {} KB", grown / 1000);
    assert!(grown < 600 * entries as u64, "the peak grew by {grown} bytes for {entries} entries");
}

const PYTZ_WITH_UTC: Wheel<'_> = ("our-pytz", "3", "", &[("our_pytz/__init__.py", "utc = 3\n")]);
const NEWER_NUMPY: Wheel<'_> = ("our-numpy", "2", "", &[("our_numpy/__init__.py", "real = 2\n")]);
const SINGLE: Wheel<'_> = ("single", "1", "", &[("single.py", "")]);
const HIDING: Wheel<'_> = ("other", "1", "", &[("single/__init__.py", "")]);

#[test]
fn a_change_imports_what_it_reaches_and_fetches_nothing_else() {
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    let platform = Platform::host().to_string();
    let repository = |wheels: &[Wheel<'_>], without: &[Wheel<'_>]| {
        let made = Repository::of_wheels(&uv, wheels);
        for (name, version, ..) in without {
            let file = format!("target/wheels/{}-{version}-py3-none-any.whl", name.replace('-', "_"));
            std::fs::remove_file(made.folder.path().join(file)).unwrap();
        }
        made
    };
    let recipe =
        |repository: &Repository| repository.recipe(&root, &platform).unwrap_or_else(|fault| panic!("{fault}"));
    let first = repository(&[PANDAS, PYTZ, NUMPY, SINGLE], &[]);
    let published = Published::of(&recipe(&first));

    // Who uses what has changed is imported, from its layer: no index has its wheel.
    let broken = repository(&[PANDAS, PYTZ_WITHOUT_UTC, NUMPY, SINGLE], &[PANDAS, NUMPY, SINGLE]);
    let fault = published.then(&recipe(&broken)).unwrap_err();
    assert!(fault.causes[0].contains("our-pandas 1: cannot import our_pandas"), "{fault}");
    let good = repository(&[PANDAS, PYTZ_WITH_UTC, NUMPY, SINGLE], &[PANDAS, NUMPY, SINGLE]);
    let good = recipe(&good);
    let (environment, note) = published.then(&good).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(published.read(&good), ["our-pandas 1"]);
    // Just what a build from nothing has.
    let whole = repository(&[PANDAS, PYTZ_WITH_UTC, NUMPY, SINGLE], &[]);
    let whole = recipe(&whole);
    let made = all(&whole);
    same(&environment, &tree(&made[made.len() - 1..]));
    assert_eq!(note, whole.note(made.len() - 1).unwrap());
    // Nothing uses numpy; a package that hides another one's module is found by the names of its files.
    let newer = repository(&[PANDAS, PYTZ, NEWER_NUMPY, SINGLE], &[PANDAS, PYTZ, SINGLE]);
    let newer = recipe(&newer);
    published.then(&newer).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(published.read(&newer), <[&str; 0]>::default());
    let hidden = repository(&[PANDAS, PYTZ, NUMPY, SINGLE, HIDING], &[PANDAS, PYTZ, NUMPY, SINGLE]);
    let fault = published.then(&recipe(&hidden)).unwrap_err();
    assert_eq!(fault.what, "`single/__init__.py` of `other` hides `single.py` of `single`");
    let carried = repository(&[PANDAS, PYTZ, NUMPY, SINGLE, CARRIER], &[PANDAS, PYTZ, SINGLE]);
    let fault = published.then(&recipe(&carried)).unwrap_err();
    assert!(fault.what.ends_with("have different files at `our_numpy/__init__.py`"), "{fault}");
}

const PYTZ_WITH_PANDAS: Wheel<'_> =
    ("our-pytz", "4", "", &[("our_pytz/__init__.py", "utc = 4\n"), ("our_pandas/__init__.py", PANDAS.3[0].1)]);

#[test]
fn what_a_change_affects_is_read_before_the_new_wheels_have_come() {
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    let platform = Platform::host().to_string();
    let first = Repository::of_wheels(&uv, &[PANDAS, PYTZ, NUMPY]);
    let published = Published::of(&first.recipe(&root, &platform).unwrap());
    // The new wheel never comes.
    let next = Repository::of_wheels(&uv, &[PANDAS, PYTZ_WITH_UTC, NUMPY]);
    std::fs::remove_file(next.folder.path().join("target/wheels/our_pytz-3-py3-none-any.whl")).unwrap();
    let recipe = next.recipe(&root, &platform).unwrap();
    published.then(&recipe).unwrap_err();
    assert_eq!(published.read(&recipe), ["our-pandas 1"]);
    // It has a file of what was read: that package is fetched too, and nothing is listed twice.
    let next = Repository::of_wheels(&uv, &[PANDAS, PYTZ_WITH_PANDAS, NUMPY]);
    let recipe = next.recipe(&root, &platform).unwrap();
    let (environment, note) = published.then(&recipe).unwrap_or_else(|fault| panic!("{fault}"));
    let whole = next.recipe(&root, &platform).unwrap();
    let made = all(&whole);
    same(&environment, &tree(&made[made.len() - 1..]));
    assert_eq!(note, whole.note(made.len() - 1).unwrap());
}

#[test]
fn a_doubtful_record_counts_for_nothing() {
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    let platform = Platform::host().to_string();
    let first = Repository::of_wheels(&uv, &[PANDAS, PYTZ]);
    let published = Published::of(&first.recipe(&root, &platform).unwrap());
    let next = Repository::of_wheels(&uv, &[PANDAS, PYTZ_WITH_UTC]);
    let recipe = next.recipe(&root, &platform).unwrap();
    let (_, note) = published.then(&recipe).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(published.read(&recipe), ["our-pandas 1"]);
    // Another root, another version of the check, and no record at all: nothing is read, and the wheels are imported.
    let mut other = Root::get();
    other.config.rootfs.diff_ids.push(Digest::of(b"another layer"));
    let on_other = next.recipe(&other, &platform).unwrap();
    published.then(&on_other).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(published.read(&on_other), <[&str; 0]>::default());
    let newer = String::from_utf8(published.note.clone()).unwrap();
    let newer = newer.replacen(&format!("\"version\":{}", checked::VERSION), "\"version\":0", 1).into_bytes();
    assert_ne!(newer, published.note);
    for doubtful in [newer, b"{}".to_vec()] {
        let doubtful = Published { note: doubtful, layers: published.layers.clone(), read: Mutex::default() };
        let recipe = next.recipe(&root, &platform).unwrap();
        assert_eq!(doubtful.then(&recipe).unwrap_or_else(|fault| panic!("{fault}")).1, note);
        assert_eq!(doubtful.read(&recipe), <[&str; 0]>::default());
    }
    // A layer that is not what it was.
    let mut damaged =
        Published { note: published.note.clone(), layers: published.layers.clone(), read: Mutex::default() };
    damaged.layers.values_mut().for_each(|(_, diff_id)| *diff_id = Digest::of(b"other"));
    let recipe = next.recipe(&root, &platform).unwrap();
    assert_eq!(damaged.then(&recipe).unwrap_or_else(|fault| panic!("{fault}")).1, note);
    assert_eq!(damaged.read(&recipe), ["our-pandas 1"]);
}

/// Entries that uv installs, as the image has them: with the image's Python and its version in paths. Rows of scripts are left out: their
/// hashes are of other first lines.
fn by_uv(uv: &Uv, repository: &Repository) -> BTreeMap<String, Found> {
    let folder = tempfile::tempdir().unwrap();
    let lock = repository.folder.path().join(&repository.policy.base.lock);
    let indexes = uv::indexes(
        repository.folder.path(),
        &xtask_host::tree::inputs::requirements_at(
            repository.folder.path(),
            repository.policy.base.requirements.paths()[0].as_ref(),
        )
        .unwrap(),
    )
    .unwrap();
    let python = Command::new("python3")
        .args(["-c", "import sys; print('%s python%d.%d' % (sys.executable, *sys.version_info[:2]))"]);
    let python = python.read(Exit::Missing).unwrap();
    let (program, version) = python.trim().split_once(' ').unwrap();
    let mut call =
        uv.installing(&indexes).args(["pip", "install", "--quiet", "--no-deps", "--no-build", "--require-hashes"]);
    call = call.args(["--python-platform", "x86_64-manylinux_2_36", "--python-version", "3.13", "--python", program]);
    if indexes.no_index() {
        call = call.arg("--no-index");
    }
    call = call.args(["--link-mode", "copy"]).arg("--prefix").arg(folder.path()).arg("-r").arg(&lock);
    call.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
    let mut found = BTreeMap::new();
    let list =
        Command::new("find").arg(folder.path()).args(["-type", "f", "-printf", "%P\n"]).read(Exit::Build).unwrap();
    for path in list.lines().filter(|path| *path != ".lock" && !path.ends_with("/uv_cache.json")) {
        let file = folder.path().join(path);
        let mut bytes = std::fs::read(&file).unwrap();
        if path.starts_with("bin/") && bytes.starts_with(format!("#!{program}\n").as_bytes()) {
            bytes.splice(2..2 + program.len(), *b"/opt/venv/bin/python3");
        }
        if path.ends_with(".dist-info/RECORD") {
            bytes = rows(&String::from_utf8(bytes).unwrap().replace(version, "python3.13"));
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
        let path = format!("opt/venv/{}", path.replace(version, "python3.13"));
        found.insert(path, Found { kind: 'f', mode, owner: (0, 0), content: Digest::of(&bytes).to_string() });
    }
    found
}

fn rows(record: &str) -> Vec<u8> {
    let kept = |line: &&str| !line.starts_with("../../../bin/") && !line.contains("/uv_cache.json,");
    let mut lines: Vec<&str> = record.lines().filter(kept).collect();
    lines.sort_unstable();
    lines.join("\n").into_bytes()
}

/// The recipe's packages, in the form of [`by_uv`].
fn by_recipe(made: &[Vec<Item>]) -> BTreeMap<String, Found> {
    let mut found = tree(made);
    for item in made.iter().flatten().filter(|item| item.path.to_string().ends_with(".dist-info/RECORD")) {
        let Content::File(bytes) = &item.content else { panic!("{}", item.path) };
        let record = String::from_utf8(packed::contents(bytes).unwrap()).unwrap();
        found.get_mut(&item.path.to_string()).unwrap().content = Digest::of(&rows(&record)).to_string();
    }
    let own = |path: &str| path.contains("/bin/python") || path.ends_with("/pyvenv.cfg") || path.ends_with(".pyc");
    found.retain(|path, found| found.kind == 'f' && !own(path));
    found
}

#[test]
fn the_packages_of_this_repository_are_those_that_uv_installs() {
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    let repository = Repository::new(&uv, "six==1.17.0\n");
    for name in ["requirements-enhanced.txt", "requirements-enhanced.lock"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(name);
        std::fs::copy(from, repository.folder.path().join(name)).unwrap();
    }
    let recipe = repository.recipe(&root, "linux/amd64").unwrap_or_else(|fault| panic!("{fault}"));
    same(&by_recipe(&all(&recipe)), &by_uv(&uv, &repository));
}

#[test]
fn made_up_wheels_are_installed_as_uv_does() {
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    let odd: Wheel<'_> = (
        "odd-one",
        "1.0",
        "",
        &[
            ("odd_one/__init__.py", "def main(): pass\nclass A:\n    b = main\n"),
            ("!odd_one/unlisted.txt", "1"),
            ("odd.pth", "import sys\n"),
            ("space/inner/__init__.py", ""),
            ("odd_one/tests/__init__.py", "raise SystemExit\n"),
            ("__pycache__/odd.cpython-313.txt", ""),
            ("odd_one-1.0.data/scripts/tool", "#!python\nprint(1)\n"),
            ("odd_one-1.0.data/scripts/toolw", "#!pythonw -E\nprint(1)\n"),
            ("!odd_one-1.0.data/scripts/shell", "#!/bin/sh\n"),
            ("odd_one-1.0.data/scripts/odd", "#!python\nreplaced\n"),
            ("odd_one-1.0.data/data/share/doc/odd.txt", "doc"),
            ("!odd_one-1.0.data/data/bin/prog", "#!python\n"),
            ("odd_one-1.0.data/data/lib/python3.13/site-packages/odd_data.py", ""),
            ("odd_one-1.0.data/headers/odd.h", ""),
            ("odd_one-1.0.data/headers/sub/odd.h", ""),
            ("odd_one-1.0.data/purelib/odd_pure.py", ""),
            ("odd_one-1.0.data/platlib/odd_plat/__init__.py", ""),
            ("odd_one-1.0.dist-info/INSTALLER", "other"),
            ("odd_one-1.0.dist-info/REQUESTED", "other"),
            ("odd_one-1.0.dist-info/RECORD.jws", "{}"),
            ("odd_one-1.0.dist-info/licenses/LICENSE", "MIT"),
            (
                "odd_one-1.0.dist-info/entry_points.txt",
                "; comment\n[console_scripts]\nodd = odd_one:main\nOdd.Two-x = odd_one:A.b [extra]\nspaced  =  odd_one : main \n\
                 both=odd_one:main\n[gui_scripts]\nboth=odd_one:A.b\n[other]\nx = y\n",
            ),
        ],
    );
    let space: Wheel<'_> = ("other", "1", "", &[("space/other/__init__.py", ""), ("other.py", "")]);
    let repository = Repository::of_wheels(&uv, &[odd, space]);
    let recipe = repository.recipe(&root, "linux/amd64").unwrap_or_else(|fault| panic!("{fault}"));
    let ours = by_recipe(&all(&recipe));
    let uv = by_uv(&uv, &repository);
    // uv's host interpreter has another folder of this name.
    let moved = |files: BTreeMap<String, Found>| -> BTreeMap<String, Found> {
        files.into_iter().filter(|(path, _)| !path.ends_with("/odd_data.py") && !path.ends_with("/RECORD")).collect()
    };
    same(&moved(ours), &moved(uv));
}

/// uv installs every file of a wheel and lists each in the installed `RECORD`: that is what makes it owned.
#[test]
fn a_file_that_no_record_lists_belongs_to_its_wheel() {
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    let silent: Wheel<'_> =
        ("silent", "1", "", &[("silent/__init__.py", "from silent import inner\n"), ("!silent/inner.py", "")]);
    let repository = Repository::of_wheels(&uv, &[silent, NUMPY]);
    let recipe = repository.recipe(&root, &Platform::host().to_string()).unwrap();
    let made = all(&recipe);
    let part = recipe.parts().iter().position(|part| part.name.starts_with("silent")).unwrap();
    let files = tree(&made[part..=part]);
    let site = "opt/venv/lib/python3.13/site-packages";
    assert!(files.contains_key(&format!("{site}/silent/inner.py")), "{:?}", files.keys());
    let record = made[part].iter().find(|item| item.path.to_string().ends_with("dist-info/RECORD")).unwrap();
    let Content::File(Bytes::Here(text)) = &record.content else { panic!("{}", record.path) };
    assert!(String::from_utf8_lossy(text).contains("silent/inner.py,"), "{}", String::from_utf8_lossy(text));
}

#[test]
fn another_architecture_needs_no_emulation() {
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    let (platform, machine) = match Platform::host().architecture.as_str() {
        "arm64" => ("linux/amd64", 62),
        _ => ("linux/arm64", 183),
    };
    let repository = Repository::new(&uv, "markupsafe==3.0.4\n");
    let ours = repository.recipe(&root, &Platform::host().to_string()).unwrap();
    let recipe = repository.recipe(&root, platform).unwrap();
    assert_ne!(ours.parts()[0].recipe, recipe.parts()[0].recipe);
    let made = all(&recipe);
    let library = made[0].iter().find(|item| item.path.to_string().ends_with(".so")).unwrap();
    let Content::File(bytes) = &library.content else { panic!("{}", library.path) };
    let bytes = packed::contents(bytes).unwrap();
    assert_eq!(u16::from_le_bytes([bytes[18], bytes[19]]), machine, "{}", library.path);
}

#[test]
fn a_package_without_a_wheel_is_named() {
    if engine().is_none() {
        return;
    }
    let (root, uv) = (Root::get(), pinned_uv());
    let repository = Repository::new(&uv, "docopt==0.6.2\nsix==1.17.0\n");
    let recipe = repository.recipe(&root, &Platform::host().to_string()).unwrap();
    let fault = recipe.produce(&[0, 1, 2]).unwrap_err();
    assert_eq!(fault.exit, Exit::Usage);
    assert!(fault.what.starts_with("docopt 0.6.2 has no wheel for linux/"), "{fault}");
    assert!(fault.hints[0].contains("cargo xtask lock"), "{fault}");
}

/// Writes a source archive: its folder, name, version, build requirements, the body of `build_wheel` and whether the backend is the
/// archive's own. The body has a list of files, `module`, and may do as it likes.
const SDIST: &str = r#"
import io, json, sys, tarfile
folder, name, version, requires, body, own = sys.argv[1:]
backend = f"""
import os, socket, zipfile
def build_wheel(directory, settings=None, metadata=None):
    module = "x = 1"
    {body}
    info, stem = "{name}-{version}.dist-info", "{name}-{version}-py3-none-any.whl"
    files = {{"{name}.py": module, f"{{info}}/METADATA": "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n",
             f"{{info}}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}}
    files[f"{{info}}/RECORD"] = "".join(f"{{path}},,\\n" for path in [*files, f"{{info}}/RECORD"])
    with zipfile.ZipFile(os.path.join(directory, stem), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return stem
"""
project = f"[build-system]\nrequires = {requires}\nbuild-backend = 'made_up'\n" + ("backend-path = ['.']\n" if own == "own" else "")
files = {"pyproject.toml": project, "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n"}
files["made_up.py" if own == "own" else "unused.py"] = backend
with tarfile.open(f"{folder}/{name}-{version}.tar.gz", "w:gz") as made:
    for path, text in files.items():
        entry = tarfile.TarInfo(f"{name}-{version}/{path}")
        entry.size = len(text.encode())
        made.addfile(entry, io.BytesIO(text.encode()))
"#;

/// A repository with one package, that has a source archive alone, and what `images.lock` says of it.
fn of_source(uv: &Uv, body: &str, build: &[LockedPackage], own: bool) -> (Repository, SourcePin) {
    let repository = Repository::of_wheels(uv, &[]);
    let folder = repository.folder.path().join("target/wheels");
    let (owned, requires) = (if own { "own" } else { "" }, if own { "[]" } else { "['made-up-backend']" });
    let call = Command::new("python3").args(["-c", SDIST]).arg(&folder).args(["pure", "1.0", requires, body, owned]);
    call.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
    let digest = Digest::of(&std::fs::read(folder.join("pure-1.0.tar.gz")).unwrap());
    let base = &repository.policy.base;
    let [requirements, path] =
        [&base.requirements.paths()[0], &base.lock].map(|path| repository.folder.path().join(path));
    let line = format!("pure==1.0 --hash={digest}\n");
    std::fs::write(requirements, format!("--no-index\n--find-links ./target/wheels\n{line}")).unwrap();
    let text = std::fs::read_to_string(&path).unwrap() + &line;
    let mut lock = Lock::parse(Path::new("a.lock"), &text).unwrap();
    for platform in ["linux/amd64", "linux/arm64"] {
        lock.records.add_missing_wheel(&lock.packages[0], &format!("{platform} 3.13"));
    }
    std::fs::write(&path, lock.records.written(&text, &lock.packages)).unwrap();
    let (name, version, from) = ("pure".to_owned(), "1.0".to_owned(), digest.to_string());
    (repository, SourcePin { name, version, from, build: build.to_vec() })
}

/// The module of the package, or why it was not made.
fn module(repository: &Repository, root: &Root, sources: &Sources<'_>) -> Result<String, Fault> {
    module_for(repository, root, sources, &Platform::host().to_string())
}

fn module_for(repository: &Repository, root: &Root, sources: &Sources<'_>, platform: &str) -> Result<String, Fault> {
    let recipe = repository.recipe_with(root, platform, sources.clone())?;
    let made = checked(&recipe, &[0, 1])?;
    let item = made[0].iter().find(|item| item.path.to_string().ends_with("/pure.py")).unwrap();
    let Content::File(bytes) = &item.content else { panic!("{}", item.path) };
    Ok(String::from_utf8(packed::contents(bytes)?).unwrap())
}

#[test]
fn a_package_without_a_wheel_is_built_once_and_kept() {
    let (Some(registry), Some(_)) = (RealRegistry::start(false), engine()) else { return };
    let (root, uv, folder) = (Root::get(), pinned_uv(), tempfile::tempdir().unwrap());
    let client = Client::new(ClientOptions::default());
    let repository: reference::Repository = format!("{}/base", registry.address).parse().unwrap();
    let (ours, pin) = of_source(&uv, "module = f'x = {os.urandom(8)!r}'", &[], true);
    let machine = |name: &str, kept: Option<bool>| Sources {
        pins: vec![pin.clone()],
        root: Some(root.manifest),
        others: Vec::new(),
        suite: None,
        kept: kept.map(|push| Kept { client: &client, repository: &repository, push }),
        cache: Cache::at(folder.path().join(name)),
    };
    let built = module(&ours, &root, &machine("first", Some(true))).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(built.starts_with("x = b'"), "{built}");
    // The same machine, another one with the registry, and one that has neither.
    assert_eq!(module(&ours, &root, &machine("first", None)).unwrap(), built);
    assert_eq!(module(&ours, &root, &machine("second", Some(false))).unwrap(), built);
    assert_eq!(module(&ours, &root, &machine("second", None)).unwrap(), built, "it is in the cache now");
    assert_ne!(module(&ours, &root, &machine("third", None)).unwrap(), built, "it is built");
    let tags = client.tags(&repository).unwrap().present().unwrap();
    assert_eq!(tags.iter().filter(|tag| wheels::is(tag)).count(), 1, "{tags:?}");
    // A wheel for every platform is used on one whose root does not run here.
    let other = if Platform::host().architecture == "arm64" { "linux/amd64" } else { "linux/arm64" };
    let foreign = Sources { root: Some(Digest::of(b"another root")), ..machine("fifth", Some(false)) };
    let fault = module_for(&ours, &root, &foreign, other).unwrap_err();
    assert!(fault.what.contains(&format!("cannot be built for {other} on this machine")), "{fault}");
    let foreign = Sources { others: vec![(Platform::host(), root.manifest)], ..foreign };
    assert_eq!(module_for(&ours, &root, &foreign, other).unwrap(), built);
    // Another artifact under the tag is not taken.
    let tag = tags[0].clone();
    let found = client.manifest(&repository, tag.clone()).unwrap().present().unwrap();
    let text = String::from_utf8(found.bytes).unwrap().replace("pure-1.0-py3", "else-1.0-py3");
    client.put_manifest(&repository, tag, &found.media_type, text.as_bytes()).unwrap();
    let fault = module(&ours, &root, &machine("fourth", Some(false))).unwrap_err();
    assert!(fault.causes[0].contains("`else-1.0-py3-none-any.whl` is not pure 1.0"), "{fault}");
    // Another source is another package.
    let (edited, other) = of_source(&uv, "module = 'x = 2'", &[], true);
    let sources = Sources { pins: vec![other], ..machine("first", Some(false)) };
    assert_eq!(module(&edited, &root, &sources).unwrap(), "x = 2");
}

#[test]
fn a_build_has_its_pinned_requirements_and_gives_the_same_bytes() {
    let Some(_) = engine() else { return };
    let (root, uv, folder) = (Root::get(), pinned_uv(), tempfile::tempdir().unwrap());
    let body =
        "import shutil, subprocess; module = 'x = ' + repr(subprocess.check_output(['made-up', 'x'], text=True))";
    let (plain, _) = of_source(&uv, body, &[], true);
    let sdist = plain.folder.path().join("target/wheels/pure-1.0.tar.gz");
    let text = Command::new("tar").args(["-xOf"]).arg(sdist).arg("pure-1.0/made_up.py").read(Exit::Build).unwrap();
    let files: &[(&str, &str)] = &[
        ("made_up.py", &text),
        ("made_up_tool.py", "import sys\ndef main(): print('tool', sys.argv[1])\n"),
        ("made_up_backend-1.0.dist-info/entry_points.txt", "[console_scripts]\nmade-up = made_up_tool:main\n"),
    ];
    let backends = Repository::of_wheels(&uv, &[("made-up-backend", "1.0", "", files)]);
    let lock = std::fs::read_to_string(backends.folder.path().join(&backends.policy.base.lock)).unwrap();
    let build = Lock::parse(Path::new("a.lock"), &lock).unwrap().packages;
    let (ours, pin) = of_source(&uv, "", &build, false);
    let wheel = "target/wheels/made_up_backend-1.0-py3-none-any.whl";
    std::fs::copy(backends.folder.path().join(wheel), ours.folder.path().join(wheel)).unwrap();
    let made: Vec<Vec<u8>> = ["one", "two"]
        .map(|name| {
            let cache = folder.path().join(name);
            let (root_digest, pins) = (Some(root.manifest), vec![pin.clone()]);
            let sources = Sources { pins, root: root_digest, cache: Cache::at(&cache), ..Sources::default() };
            let found = module(&ours, &root, &sources).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(found, "x = 'tool x\\n'");
            let files = std::fs::read_dir(cache.join("wheels")).unwrap().map(|entry| entry.unwrap().path());
            std::fs::read(files.last().unwrap()).unwrap()
        })
        .into();
    assert_eq!(made[0], made[1], "two builds of one source");
}

#[test]
fn a_failed_build_says_why() {
    let Some(_) = engine() else { return };
    let (root, uv, folder) = (Root::get(), pinned_uv(), tempfile::tempdir().unwrap());
    // Only the host has this port.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("('127.0.0.1', {})", listener.local_addr().unwrap().port());
    for (body, cause, hint) in [
        ("raise SystemExit('made up: no')", "made up: no", "output"),
        (&*format!("socket.create_connection({address})"), "Connection refused", "a build has no network"),
        ("open('/proc/1/root/etc/shadow-of-the-host')", "No such file", "output"),
    ] {
        let (ours, pin) = of_source(&uv, body, &[], true);
        let cache = Cache::at(folder.path());
        let sources = Sources { pins: vec![pin], root: Some(root.manifest), cache, ..Sources::default() };
        let fault = module(&ours, &root, &sources).unwrap_err();
        assert_eq!((fault.exit, fault.what.as_str()), (Exit::Build, "cannot build pure 1.0 from source"));
        assert!(fault.causes.iter().any(|line| line.contains(cause)), "{fault}");
        assert!(fault.hints[0].contains(hint), "{fault}");
    }
}

#[test]
fn setuptools_builds_a_package_of_the_index() {
    let Some(_) = engine() else { return };
    let (root, uv, folder) = (Root::get(), pinned_uv(), tempfile::tempdir().unwrap());
    let repository = Repository::new(&uv, "docopt==0.6.2\n");
    let path = repository.folder.path().join(&repository.policy.base.lock);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lock = Lock::parse(Path::new("a.lock"), &text).unwrap();
    lock.records.add_missing_wheel(&lock.packages[0], &format!("{} 3.13", Platform::host()));
    std::fs::write(&path, lock.records.written(&text, &lock.packages)).unwrap();
    let requires = BuildSystem::of(None).unwrap().requires;
    let found =
        xtask_host::tree::inputs::requirements_at(repository.folder.path(), "requirements-enhanced.txt".as_ref())
            .unwrap();
    let indexes = uv::indexes(repository.folder.path(), &found).unwrap();
    let request = BuildRequest {
        requires: &requires,
        indexes: &indexes,
        python: "3.12",
        before: &[],
        cooldown: None,
        needed_by: "docopt",
    };
    let build = uv.build_requirements(&request).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(build.iter().any(|package| package.name == "setuptools"), "{build:?}");
    assert_eq!(uv.build_requirements(&BuildRequest { before: &build, ..request }).unwrap(), build);
    let package = &lock.packages[0];
    let pin = SourcePin {
        name: package.name.clone(),
        version: package.version.clone(),
        from: package.hashes.first().unwrap().clone(),
        build,
    };
    let cache = Cache::at(folder.path());
    let sources = Sources { pins: vec![pin], root: Some(root.manifest), cache, ..Sources::default() };
    let recipe = repository.recipe_with(&root, &Platform::host().to_string(), sources).unwrap();
    let made = checked(&recipe, &[0, 1]).unwrap_or_else(|fault| panic!("{fault}"));
    let names: Vec<String> = made[0].iter().map(|item| item.path.to_string()).collect();
    assert!(names.iter().any(|name| name.ends_with("site-packages/docopt.py")), "{names:?}");
}

/// A folder's byte code by path.
fn byte_code(folder: &Path, below: &Path, found: &mut BTreeMap<PathBuf, Digest>) {
    for entry in std::fs::read_dir(folder.join(below)).unwrap() {
        let path = below.join(entry.unwrap().file_name());
        if folder.join(&path).is_dir() {
            byte_code(folder, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "pyc") {
            found.insert(path.clone(), Digest::of(&std::fs::read(folder.join(path)).unwrap()));
        }
    }
}

/// Compiles a distribution of many small modules that share names with each other and with the library, as the entry at one
/// path, under conditions of a machine; the others are present only sometimes.
fn compiled(python: &[&str], others: bool, variables: &[(&str, &str)]) -> BTreeMap<PathBuf, Digest> {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let mut record = String::new();
    for number in 0..60 {
        let inner = number % 7;
        let text = format!(
            "import os\ndef test_it(value={number}.5):\n    class Inner{inner}:\n        kind = {{'http', 'https', 'n{inner}'}}\n\
             \x20       def open(self): return 'a.b' in ('n{inner}', b'x', 'TestIt.<locals>.Inner{inner}')\n    return Inner{inner}\n"
        );
        write(&format!("ours/m{number}.py"), &text);
        record += &format!("ours/m{number}.py,,\n");
        if others {
            write(&format!("a{number}.py"), &text.replace("kind", "sort"));
        }
    }
    write("ours/broken.py", "def (:\n");
    write("ours/tests/test_m.py", "x = 1\n");
    write("ours/test/test_m.py", "x = 1\n");
    record += "ours/broken.py,,\nours/tests/test_m.py,,\nours/test/test_m.py,,\n";
    write("ours-1.dist-info/RECORD", &record);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dockerfiles/compile.py");
    let call = Command::new(python[0]).args(&python[1..]).args(["-S"]).arg(script).arg(folder.path()).arg("/there");
    let call = variables.iter().fold(call, |call, (name, value)| call.env(name, value));
    call.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
    let mut found = BTreeMap::new();
    byte_code(&folder.path().join("ours"), Path::new(""), &mut found);
    found
}

#[test]
fn byte_code_is_a_function_of_the_source() {
    let python = std::env::var("AUTOSCALER_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let version =
        Command::new(&python).args(["-c", "import sys; print(sys.version_info >= (3, 11))"]).read(Exit::Missing);
    if version.as_deref() != Ok("True") {
        assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "cannot run: no Python 3.11");
        println!("skipped: no Python 3.11");
        return;
    }
    let whole = compiled(&[&python], true, &[]);
    assert_eq!(whole.len(), 60, "what does not parse and what is in `test` or `tests` is passed over");
    assert_eq!(compiled(&[&python], true, &[("PYTHONHASHSEED", "1")]), whole);
    assert_eq!(
        compiled(&[&python, "-I"], false, &[("PYTHONHASHSEED", "2"), ("LC_ALL", "C"), ("TZ", "Asia/Tokyo")]),
        whole
    );
    // One processor: another order, and never two at a time.
    assert_eq!(compiled(&["taskset", "-c", "0", &python], true, &[]), whole);
}
