//! Other builders: docker's and buildah's command lines for base and app, as a person would type them.
//!
//! They get the compiled binary for free, and xtask does not run on their side.

mod one_file;

use super::harness::{Harness, Seeds, copy_file};
use super::subject::{Before, Peer, Start, What};
use super::{buildah, rewrite};
use crate::plain;
use crate::sample::{Sample, call};
use crate::workspace::Workspace;
use std::fs;
use std::path::Path;
use xtask_host::docker::{Build, BuildCache, Built, Output};
use xtask_host::terminal;
use xtask_host::tree::secrets::Secrets;
use xtask_host::tree::{binary, facts};
use xtask_model::fault::Fault;
use xtask_model::image::policy::{Compression, ImageKind, Registry, RelPath};
use xtask_model::spec::reference::{Digest, Platform};

const BEFORE: &str = "before-plain";

/// Builds and pushes; measures only the command lines.
pub(super) fn build(harness: &mut Harness, peer: Peer, what: What, start: Start) -> Result<Sample, Fault> {
    if peer == Peer::Buildah {
        // First: without buildah no preparation is needed.
        buildah::command(&harness.workspace)?;
    }
    if matches!(peer, Peer::OneFile | Peer::OneFileCached) {
        return one_file::build(harness, peer, start);
    }
    prepare(harness)?;
    let names: &[&str] = if start == Start::Nothing { &[] } else { &["base", "app"] };
    let seeds = Seeds { from: harness.prefix(BEFORE)?, names: names.iter().map(|name| (*name).to_owned()).collect() };
    let to = harness.namespace(peer.name(), start, &seeds)?;
    if start != Start::Warm {
        match peer {
            Peer::Docker | Peer::DockerCached | Peer::DockerByPip | Peer::OneFile | Peer::OneFileCached => {
                harness.workspace.forget_builds()?;
            }
            Peer::Buildah => drop(harness.workspace.empty_private_folder(buildah::FOLDER)?),
        }
    }
    place_binary(harness)?;
    let before = harness.before.as_ref().expect("made above");
    let realise = |order: &Build, ignore: &RelPath| realise(harness, peer, order, ignore, start);
    rustix::fs::sync();
    let mut seconds = 0.0;
    let mut base = before.base.to_string();
    if matches!(what, What::BaseAndApp | What::Base) {
        let (order, ignore) = base_order(harness, peer, before, &to)?;
        let (took, name) = realise(&order, &ignore)?;
        seconds += took;
        base = name;
    }
    if what != What::Base {
        let (order, ignore) = app_order(harness, peer, base, &to)?;
        seconds += realise(&order, &ignore)?.0;
    }
    Ok(Sample { seconds, ..Sample::default() })
}

/// The app on the base before the change, with plain docker, for docker's own store.
pub(super) fn stored_app(harness: &mut Harness) -> Result<Build, Fault> {
    prepare(harness)?;
    place_binary(harness)?;
    let before = harness.before.as_ref().expect("made above");
    let (order, _) = app_order(harness, Peer::Docker, before.base.to_string(), &harness.prefix("stored")?)?;
    Ok(Build { outputs: vec![Output::Store], ..order })
}

/// The app of the unchanged tree with this compression, by its name in the registry.
pub(super) fn app(harness: &mut Harness, compression: Compression) -> Result<String, Fault> {
    prepare(harness)?;
    terminal::step("readying", &format!("the app with {} by plain docker", compression.as_str()));
    let to = harness.prefix(&format!("plain-{}", compression.as_str()))?;
    place_binary(harness)?;
    let before = harness.before.as_ref().expect("made above");
    let build = |order: Build| {
        let order = Build { compression, ..order };
        let digest = harness.workspace.docker()?.build(&order, "the same with plain docker")?.digest;
        Ok(on(&order, digest))
    };
    let base = build(base_order(harness, Peer::Docker, before, &to)?.0)?;
    build(app_order(harness, Peer::Docker, base, &to)?.0)
}

fn prepare(harness: &mut Harness) -> Result<(), Fault> {
    if harness.before.is_none() {
        let before = before(harness)?;
        harness.before = Some(before);
    }
    Ok(())
}

fn before(harness: &mut Harness) -> Result<Before, Fault> {
    terminal::step("readying", "base and app with plain docker");
    let (workspace, root) = (&harness.workspace, &harness.root);
    let parsed = facts::parse(&workspace.tree, ImageKind::Base, &workspace.tree.policy.base.args)?;
    let secrets = Secrets::collect(&parsed.secrets, root.suite())?;
    let from = root.published(workspace, &harness.before_native()?)?;
    let to = harness.prefix(BEFORE)?;
    workspace.rewind()?;
    place_binary(harness)?;
    let unknown = from.clone();
    let mut before = Before { secrets, root: from, base: unknown };
    // Fills the cache of those who use one.
    let (order, _) = base_order(harness, Peer::DockerCached, &before, &to)?;
    let digest = workspace.docker()?.build(&order, "the base with plain docker")?.digest;
    before.base = to.repository("base").digest(digest);
    let (order, _) = app_order(harness, Peer::DockerCached, before.base.to_string(), &to)?;
    workspace.docker()?.build(&order, "the app with plain docker")?;
    harness.edit_again()?;
    Ok(before)
}

fn base_order(harness: &Harness, peer: Peer, before: &Before, to: &Registry) -> Result<(Build, RelPath), Fault> {
    let policy = &harness.workspace.tree.policy.base;
    let mut args = policy.args.clone();
    args.insert("ROOT_IMAGE".to_owned(), before.root.to_string());
    let (dockerfile, ignore) = dockerfile(harness, peer, &policy.dockerfile)?;
    let name = format!("{}:bench", to.repository("base"));
    let order = plain::order(&harness.workspace, dockerfile, args, &before.secrets, name)?;
    Ok((Build { cache: cache(harness, peer, "base")?, ..order }, ignore))
}

fn app_order(harness: &Harness, peer: Peer, base: String, to: &Registry) -> Result<(Build, RelPath), Fault> {
    let policy = &harness.workspace.tree.policy.app;
    let mut args = policy.args.clone();
    args.insert("BASE_IMAGE".to_owned(), base);
    if let Some(binary) = &policy.binary {
        args.insert("BINARY".to_owned(), binary::staged(&Platform::host(), binary).to_string());
    }
    let cache = cache(harness, peer, "app")?;
    // pip is only used for the base.
    let peer = if peer == Peer::DockerByPip { Peer::Docker } else { peer };
    let (dockerfile, ignore) = dockerfile(harness, peer, &policy.dockerfile)?;
    let name = format!("{}:bench", to.repository("app"));
    let order = plain::order(&harness.workspace, dockerfile, args, &Secrets::none(), name)?;
    Ok((Build { cache, ..order }, ignore))
}

fn cache(harness: &Harness, peer: Peer, image: &str) -> Result<Option<BuildCache>, Fault> {
    if peer == Peer::DockerCached { cache_of(harness, image, harness.before.is_none()).map(Some) } else { Ok(None) }
}

/// The build cache in the registry. Each run reads the one from before the change: releases of a package alternate, and the result of
/// an earlier run would be this one's.
pub(super) fn cache_of(harness: &Harness, image: &str, is_before: bool) -> Result<BuildCache, Fault> {
    let from = format!("{}:{image}", harness.prefix("cache")?.repository("cache"));
    let to = if is_before { from.clone() } else { format!("{from}-{}", harness.number) };
    Ok(BuildCache { from, to })
}

fn dockerfile(harness: &Harness, peer: Peer, path: &RelPath) -> Result<(RelPath, RelPath), Fault> {
    let text = harness.workspace.tree.files.text(path.as_ref())?;
    let text = match peer {
        Peer::Docker | Peer::DockerCached | Peer::OneFile | Peer::OneFileCached => {
            return Ok((path.clone(), ignore_file(path)));
        }
        Peer::DockerByPip => rewrite::by_pip(path.as_str(), &text)?,
        Peer::Buildah => rewrite::without_link(&text),
    };
    write_dockerfile(&harness.workspace, peer, path, &text)
}

/// Writes a builder's text of a Dockerfile, with what the original ignores. Returns both paths.
pub(super) fn write_dockerfile(
    workspace: &Workspace,
    peer: Peer,
    path: &RelPath,
    text: &str,
) -> Result<(RelPath, RelPath), Fault> {
    let rewritten = relative(&format!("target/compare/Dockerfile.{}", peer.name()));
    let root = &workspace.tree.root;
    let file = root.join(&rewritten);
    let cannot = |error: std::io::Error| Fault::build(format!("cannot write `{}`", file.display())).cause(error);
    fs::create_dir_all(root.join("target/compare")).map_err(cannot)?;
    fs::write(&file, text).map_err(cannot)?;
    fs::copy(root.join(ignore_file(path)), root.join(ignore_file(&rewritten))).map_err(cannot)?;
    let ignore = ignore_file(&rewritten);
    Ok((rewritten, ignore))
}

fn ignore_file(path: &RelPath) -> RelPath {
    relative(&format!("{path}.dockerignore"))
}

fn relative(path: &str) -> RelPath {
    path.parse().expect("made of a checked path or a constant")
}

/// Seconds, and the reference for an image that is built on it.
fn realise(
    harness: &Harness,
    peer: Peer,
    order: &Build,
    ignore: &RelPath,
    start: Start,
) -> Result<(f64, String), Fault> {
    if peer != Peer::Buildah {
        let built = harness.workspace.docker()?.build(order, "the same with plain docker")?;
        if start != Start::Warm && peer != Peer::DockerCached {
            check_cold(&built)?;
        }
        return Ok((built.took.as_secs_f64(), on(order, built.digest)));
    }
    let command = buildah::command(&harness.workspace)?;
    let built = call(&command.clone().args(buildah::build(order, ignore, start)))?;
    let pushed = call(&command.args(buildah::push(order)))?;
    // The tag is available locally; a digest would have to be pulled.
    Ok((built.seconds + pushed.seconds, order.names[0].clone()))
}

pub(super) fn check_cold(built: &Built) -> Result<(), Fault> {
    match built.steps.cached {
        0 => Ok(()),
        cached => {
            Err(Fault::build("a cold build found cached steps")
                .cause(format!("{cached} steps came from docker's cache")))
        }
    }
}

fn on(order: &Build, digest: Digest) -> String {
    let name = order.names[0].rsplit_once(':').map_or(order.names[0].as_str(), |(repository, _)| repository);
    format!("{name}@{digest}")
}

/// Copies the program to where the app's Dockerfile expects it. An existing one stays: xtask would stage a new file again.
fn place_binary(harness: &Harness) -> Result<(), Fault> {
    let Some(binary) = &harness.workspace.tree.policy.app.binary else { return Ok(()) };
    let staged = harness.workspace.tree.root.join(binary::staged(&Platform::host(), binary));
    replace(&staged, &harness.program())
}

/// Makes a file a copy of another one, unless it is.
fn replace(file: &Path, from: &Path) -> Result<(), Fault> {
    let cannot = |error| Fault::build(format!("cannot write `{}`", file.display())).cause(error);
    let bytes = fs::read(from).map_err(cannot)?;
    if fs::read(file).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    fs::create_dir_all(file.parent().expect("a file has a folder")).map_err(cannot)?;
    copy_file(from, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn shown(args: &[std::ffi::OsString]) -> String {
        args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    fn order() -> Build {
        Build {
            context: PathBuf::from("/tree"),
            root: PathBuf::from("/tree"),
            dockerfile: relative("target/compare/Dockerfile.buildah"),
            target: None,
            platform: Platform::host(),
            args: BTreeMap::from([("BASE_IMAGE".to_owned(), "127.0.0.1:5/base:bench".to_owned())]),
            inherited_args: vec!["HTTPS_PROXY"],
            contexts: BTreeMap::new(),
            labels: BTreeMap::new(),
            secrets: BTreeMap::from([("ca", PathBuf::from("/ca.crt"))]),
            names: vec!["127.0.0.1:5/app:bench".to_owned()],
            outputs: vec![Output::Push],
            compression: Compression::Zstd,
            source_date_epoch: None,
            builder: None,
            host_network: true,
            no_cache: false,
            cache: None,
            by_hand: true,
        }
    }

    #[test]
    fn buildah_gets_the_same_options_as_docker() {
        let line = shown(&buildah::build(&order(), &relative("x.dockerignore"), Start::Cold));
        assert_eq!(
            line,
            "build --isolation=chroot --tls-verify=false --format=oci --pull=false --layers=false \
             --file=/tree/target/compare/Dockerfile.buildah --ignorefile=/tree/x.dockerignore \
             --build-arg BASE_IMAGE=127.0.0.1:5/base:bench --build-arg HTTPS_PROXY --secret=id=ca,src=/ca.crt \
             --tag=127.0.0.1:5/app:bench /tree"
        );
        assert!(shown(&buildah::build(&order(), &relative("x"), Start::Warm)).contains("--layers=true"));
        assert_eq!(
            shown(&buildah::push(&order())),
            "push --tls-verify=false --compression-format=zstd 127.0.0.1:5/app:bench"
        );
    }

    #[test]
    fn an_existing_program_stays_the_same_file() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "deep/to"].map(|name| folder.path().join(name));
        let written = |path: &Path| {
            let found = fs::metadata(path).unwrap();
            (found.ino(), found.mtime(), found.mtime_nsec())
        };
        fs::write(&from, "one").unwrap();
        replace(&to, &from).unwrap();
        let first = written(&to);
        replace(&to, &from).unwrap();
        assert_eq!(written(&to), first);
        fs::write(&from, "two").unwrap();
        replace(&to, &from).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
    }

    #[test]
    fn the_next_image_refers_to_it_by_digest() {
        let digest = Digest::of(b"");
        assert_eq!(on(&order(), digest), format!("127.0.0.1:5/app@{digest}"));
    }
}
