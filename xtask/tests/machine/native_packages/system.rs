//! Debian packages by apt in docker, and by their recipe: the same files, modes, owners and database.

use super::debian_root;
use super::real_engine::{Engine, engine};
use super::{Found, all, same, tree};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use xtask_host::docker::debian::{self, AptRoot, OwnSources, packages};
use xtask_host::process::Command;
use xtask_host::registry::layout::Layout;
use xtask_host::registry::{Client, ClientOptions};
use xtask_host::tree::secrets::Secrets;
use xtask_model::fault::Exit;
use xtask_model::image::context::ContextPath;
use xtask_model::spec::debian::architecture;
use xtask_model::spec::lock::images::{SystemPackages as Pins, installed};
use xtask_model::spec::reference::{Digest, Platform};
use xtask_native::files::ImageFiles;
use xtask_native::image::{Image, Place};
use xtask_native::recipes::system::SystemPackages;
use xtask_native::stage::{Realise as _, RootFiles as _};
use xtask_native::store::Store;

const SUITE: &str = "trixie";

/// The shared Debian root, read as a build does.
struct World {
    folder: tempfile::TempDir,
    client: Client,
    store: Store,
    image: Image,
    layout: PathBuf,
    cache: PathBuf,
}

impl World {
    fn new() -> Self {
        let (_, layout, root) = debian_root::shared();
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new(ClientOptions::default());
        let store = Store::open(&folder.path().join("store"), 1_000_000_000).unwrap();
        let place = Place::Layout(Layout::open_or_create(&layout).unwrap());
        let image = Image::open(&client, place, root.digest, &Platform::host()).unwrap();
        let target = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target"));
        Self { folder, client, store, image, layout, cache: debian::cache(&target) }
    }

    fn files(&self) -> ImageFiles<'_> {
        ImageFiles::new(&self.client, &self.store, &self.image, "root", self.folder.path())
    }

    fn pins(&self, names: &[&str]) -> Pins {
        let status = self.files().file(&ContextPath::new("var/lib/dpkg/status")).unwrap().unwrap();
        let status = String::from_utf8(status).unwrap();
        let architecture = architecture(&Platform::host()).unwrap();
        let root = AptRoot { suite: SUITE, architecture, status: &status, own: &OwnSources::default() };
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let packages = packages::resolve(&self.cache, &root, &names).unwrap_or_else(|fault| panic!("{fault}"));
        Pins { installed: installed(&status), packages }
    }
}

/// Entries of a tar file, links as they are written.
fn entries(file: &Path, found: &mut BTreeMap<String, Found>) {
    let file = std::fs::File::open(file).unwrap();
    let mut magic = [0; 2];
    (&file).read_exact(&mut magic).unwrap();
    std::io::Seek::rewind(&mut &file).unwrap();
    let reader: Box<dyn std::io::Read> = match magic {
        [0x1f, 0x8b] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        _ => Box::new(std::io::BufReader::new(file)),
    };
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().trim_start_matches("./").trim_end_matches('/').to_owned();
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode().unwrap() & 0o7777);
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        let link = entry.link_name().unwrap().map(|link| link.to_str().unwrap().trim_start_matches("./").to_owned());
        let one = if kind.is_dir() {
            Found { kind: 'd', mode, owner, content: String::new() }
        } else if kind.is_symlink() {
            Found { kind: 'l', mode: 0o777, owner, content: link.unwrap() }
        } else if kind.is_hard_link() {
            let Found { kind, mode, owner, content } = &found[&link.unwrap()];
            Found { kind: *kind, mode: *mode, owner: *owner, content: content.clone() }
        } else {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            Found { kind: 'f', mode, owner, content: Digest::of(&bytes).to_string() }
        };
        found.insert(path, one);
    }
}

/// Entries of the reference stage, built by docker.
fn built(engine: &Engine, world: &World, pins: &Pins) -> (BTreeMap<String, Found>, PathBuf) {
    let stages = Path::new(env!("CARGO_MANIFEST_DIR")).join("native/src/recipes/Dockerfile.stages");
    let stages = std::fs::read_to_string(stages).unwrap();
    let stage = stages.split_once("FROM scratch AS system-packages\n").unwrap().1.split("\nFROM ").next().unwrap();
    let context = world.folder.path().join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), format!("ARG ROOT_IMAGE\nFROM ${{ROOT_IMAGE}}\n{stage}")).unwrap();
    let secrets = Secrets::collect(&["ca", "apt-sources"].map(str::to_owned).into(), Some(SUITE)).unwrap();
    let image = "example.invalid/system-packages/root";
    let tar = world.folder.path().join("docker.tar");
    let mut call: Command =
        engine.command(&["buildx", "build", "--progress=plain", "--network=host", "--provenance=false"]);
    for (id, file) in secrets.files() {
        call = call.arg("--secret").arg(format!("id={id},src={}", file.display()));
    }
    for proxy in Secrets::proxies() {
        call = call.arg("--build-arg").arg(proxy);
    }
    let names: Vec<String> = pins.packages.iter().map(|pin| format!("{}={}", pin.name, pin.version)).collect();
    call.arg("--build-arg")
        .arg(format!("ROOT_IMAGE={image}"))
        .arg("--build-arg")
        .arg(format!("SYSTEM_PACKAGES={}", names.join(" ")))
        .arg("--build-context")
        .arg(format!("{image}=oci-layout://{}@{}", world.layout.display(), world.image.digest))
        .arg("--output")
        .arg(format!("type=tar,dest={}", tar.display()))
        .arg(&context)
        .read(Exit::Build)
        .unwrap_or_else(|fault| panic!("{fault}"));
    let mut found = BTreeMap::new();
    entries(&tar, &mut found);
    (found, tar)
}

/// Returns false for paths in which the engines may differ: caches, logs, and state of debconf and apt.
fn is_compared(path: &str) -> bool {
    let below = |folder: &str| path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    // Mount points and the device files of the engine's own container.
    ![
        "var/cache",
        "var/log",
        "var/lib/apt",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "etc/resolv.conf",
        "etc/hosts",
        "etc/hostname",
    ]
    .into_iter()
    .any(below)
        && ![
            "etc/ld.so.cache",
            "etc/apt/sources.list.d/build.sources",
            "var/lib/dpkg/lock",
            "var/lib/dpkg/lock-frontend",
        ]
        .contains(&path)
        && !path.starts_with("var/lib/dpkg/triggers/Unincorp")
        && !path.starts_with("var/lib/dpkg/triggers/Lock")
        && !path.ends_with("-old")
        && !path.is_empty()
}

#[test]
fn system_packages_are_those_of_apt() {
    let Some(engine) = engine() else { return };
    let world = World::new();
    let pins = world.pins(&["libpq5", "libmagic1t64", "netcat-openbsd", "less", "libglib2.0-0t64"]);
    let (files, work) = (world.files(), world.folder.path().join("work"));
    let recipe = SystemPackages::new(&files, (SUITE, &pins), (&world.cache, &work));
    let made = all(&recipe);
    let mut ours = BTreeMap::new();
    for (layer, _) in world.image.layers() {
        let layout = Layout::open_or_create(&world.layout).unwrap();
        entries(&layout.blob_path(&layer.digest), &mut ours);
    }
    // In docker dpkg takes folders that the root lacks from the lists of the root's own packages.
    let is_list = |path: &String| path.starts_with("var/lib/dpkg/info/") && path.ends_with(".list");
    let lists: Vec<String> = ours.keys().filter(|path| is_list(path)).cloned().collect();
    ours.extend(tree(&made));
    let (mut docker, tar) = built(engine, &world, &pins);
    ours.retain(|path, _| is_compared(path) && !lists.contains(path));
    docker.retain(|path, _| is_compared(path) && !lists.contains(path));
    for path in ["var/lib/dpkg/info/libpq5:amd64.list", "etc/alternatives/nc", "usr/bin/pager"] {
        assert!(ours.contains_key(path), "{path}");
    }
    same(&ours, &docker);
    // The linker finds the same libraries.
    let cache = |tar: &Path| {
        let folder = tempfile::tempdir().unwrap();
        let unpack = Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(folder.path()).arg("etc/ld.so.cache");
        unpack.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
        let list = Command::new("/sbin/ldconfig").args(["-p", "-C"]).arg(folder.path().join("etc/ld.so.cache"));
        let text = list.read(Exit::Build).unwrap_or_else(|fault| panic!("{fault}"));
        // The first line names the file.
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let own = recipe.layer().unwrap();
    let libraries = cache(&own);
    assert!(libraries.iter().any(|line| line.contains("libpq.so.5 ")), "{libraries:?}");
    assert_eq!(libraries, cache(&tar));
    assert_eq!(recipe.produce(&[0]).unwrap(), made);
}

#[test]
fn a_package_whose_script_has_to_run_is_refused() {
    let world = World::new();
    let pins = world.pins(&["fontconfig-config"]);
    let (files, work) = (world.files(), world.folder.path().join("work"));
    let recipe = SystemPackages::new(&files, (SUITE, &pins), (&world.cache, &work));
    let fault = recipe.produce(&[0]).unwrap_err();
    assert_eq!(fault.exit, Exit::Usage);
    assert_eq!(fault.what, "the native engine cannot install the Debian package `fontconfig-config`");
    assert!(fault.causes[0].contains("`postinst` has to run: line 5: "), "{fault}");
    assert!(fault.hints[0].contains("--engine docker"), "{fault}");
    // Pins of another root.
    let other = Pins { installed: Digest::of(b"another root"), ..pins };
    let recipe = SystemPackages::new(&files, (SUITE, &other), (&world.cache, &work));
    assert!(recipe.produce(&[0]).unwrap_err().what.contains("another root"));
}
