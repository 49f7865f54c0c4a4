//! The Debian root: operating system and Python from Debian packages, for use without a registry of Python images.
//!
//! The same package versions give the same bytes; mirror, proxy, certificates and names of the host have no effect.

mod contents;

use crate::container::subprocess;
use contents::RootContents;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use xtask_host::docker::debian::{self, AptSource, Archive, Host};
use xtask_host::linux;
use xtask_host::process::{self, Command};
use xtask_host::registry::layout::Layout;
use xtask_host::scratch::{self, Scratch};
use xtask_host::terminal;
use xtask_model::fault::{Exit, Fault};
use xtask_model::quantity;
use xtask_model::spec::oci::{Config, Descriptor, Execution, History, Manifest, RootFs, media_type};
use xtask_model::spec::reference::{Digest, Platform};

/// Label with the packages, a JSON object from name to version; `explain` compares it.
pub const PACKAGES_LABEL: &str = "dev.xtask.root.packages";
/// Label with the [`Recipe`] as JSON.
pub(crate) const RECIPE_LABEL: &str = "dev.xtask.root.recipe";

/// 2026-01-01T00:00:00Z: the latest time of any file in a root, for reproducible bytes.
const EPOCH: u64 = 1_767_225_600;
const EPOCH_TEXT: &str = "2026-01-01T00:00:00Z";
/// zlib's default: 20 MB smaller than the fastest, for less than a second.
const GZIP_LEVEL: u32 = 6;

/// Name prefix of installation folders, and that of earlier versions.
const SCRATCH: &str = "root-";
const OLD_SCRATCH: &str = "mmdebstrap.";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Debian's release name, `trixie`.
    pub suite: String,
    /// Packages in addition to the essential ones; dependencies are added.
    pub packages: Vec<String>,
    /// Python's major and minor version, which the suite must have.
    pub python: String,
}

impl Default for Recipe {
    /// Debian 13 with Python 3.13, certificates and time zones.
    fn default() -> Self {
        Self {
            suite: "trixie".to_owned(),
            packages: ["ca-certificates", "python3", "python3-venv", "tzdata"].map(str::to_owned).to_vec(),
            python: "3.13".to_owned(),
        }
    }
}

impl Recipe {
    /// Digest of everything that determines the contents, except the package versions in the archive.
    pub fn fingerprint(&self) -> Digest {
        let packages: std::collections::BTreeSet<&String> = self.packages.iter().collect();
        let key = serde_json::json!({
            "schema": 1,
            "contents": contents::VERSION,
            "suite": self.suite,
            "packages": packages,
            "python": self.python,
            "epoch": EPOCH,
        });
        Digest::of(key.to_string().as_bytes())
    }

    pub fn ref_name(&self, platform: &Platform) -> String {
        format!("root/{}:{}-{}", self.suite, &self.fingerprint().hex()[..12], platform.dashed())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub digest: Digest,
    /// Full version, `3.13.5`.
    pub python: String,
    /// Package names with versions, sorted.
    pub packages: Vec<(String, String)>,
}

/// The root of this recipe in a layout, if any.
pub fn find(recipe: &Recipe, layout: &Layout, platform: &Platform) -> Result<Option<Root>, Fault> {
    let Some(descriptor) = layout.get(&recipe.ref_name(platform))? else { return Ok(None) };
    let manifest: Manifest = layout.read_json(&descriptor)?;
    let config: Config = layout.read_json(&manifest.config)?;
    let Some(packages) = packages(&config) else { return Ok(None) };
    Ok(python_version(&packages).map(|python| Root { digest: descriptor.digest, python, packages }))
}

/// Python's full version from the label of a Debian root; `None` for other images.
pub fn python(config: &Config) -> Option<String> {
    python_version(&packages(config)?)
}

fn packages(config: &Config) -> Option<Vec<(String, String)>> {
    let text = config.config.labels.get(PACKAGES_LABEL)?;
    Some(serde_json::from_str::<BTreeMap<String, String>>(text).ok()?.into_iter().collect())
}

/// Builds the root and stores it in the layout as [`Recipe::ref_name`]. Temporary files are below `target`, and mmdebstrap if the
/// host has none.
pub fn build(recipe: &Recipe, target: &Path, layout: &Layout, platform: &Platform) -> Result<Root, Fault> {
    if *platform != Platform::host() {
        return Err(Fault::usage(format!("cannot build a Debian root for `{platform}` on `{}`", Platform::host()))
            .cause("the packages' scripts must run on the processor that they are for")
            .hint("build it on a machine of that kind, or use a root image from a registry"));
    }
    linux::require("a Debian root")?;
    let work = work(target);
    fs::create_dir_all(&work).map_err(|error| cannot_write(&work, &error))?;
    let rights = subprocess::Isolation::find()?;
    sweep(target, || Ok(rights));
    let scratch = Scratch::new_in(&work, SCRATCH).map_err(|error| cannot_write(&work, &error))?;
    let tar = scratch.path().join("root.tar");
    let installed = install(recipe, target, scratch.path(), &tar, rights);
    if installed.is_err() {
        // An interrupted installation may leave files of other users, which dropping the value cannot remove.
        let _ = rights.remove(scratch.path());
    }
    installed?;
    let (layer, diff_id, contents) = store(&tar, layout)?;
    let python = python_version(&contents.packages).unwrap_or_default();
    if !python.starts_with(&format!("{}.", recipe.python)) {
        let has = if python.is_empty() { "has none".to_owned() } else { format!("has {python}") };
        return Err(Fault::usage(format!("cannot build a root with Python {}", recipe.python))
            .cause(format!("Debian {} {has}", recipe.suite))
            .hint("change `python` or `suite` in `images.toml`"));
    }
    let image = image(recipe, platform, &contents, diff_id)?;
    let config = layout.put_json(media_type::CONFIG, &image)?;
    let manifest = layout.put_json(media_type::MANIFEST, &Manifest::new(config, vec![layer.clone()]))?;
    layout.set(&recipe.ref_name(platform), &manifest.clone().with_platform(platform))?;
    let (files, gzip) = (quantity::bytes(contents.bytes), quantity::bytes(layer.size));
    terminal::step("root", &format!("Debian {} with Python {python}: {files}, {gzip} compressed", recipe.suite));
    Ok(Root { digest: manifest.digest, python, packages: contents.packages })
}

fn work(target: &Path) -> PathBuf {
    target.join("root")
}

/// Removes killed installations below `target`. Calls `rights` if one has files that the current user cannot remove.
pub fn sweep(target: &Path, rights: impl Fn() -> Result<subprocess::Isolation, Fault>) {
    // The kernel lists mounts by real path.
    let Ok(work) = fs::canonicalize(work(target)) else { return };
    scratch::sweep(&work, &[SCRATCH, OLD_SCRATCH], |path| {
        // Never removes through a mount, which could be the host's `/proc` or `/dev`.
        linux::unmount_under(path).map_err(io::Error::other)?;
        if !path.is_dir() {
            return fs::remove_file(path);
        }
        fs::remove_dir_all(path).or_else(|_| rights().map_err(io::Error::other)?.remove(path))
    });
}

/// Runs mmdebstrap, which writes the installed packages as one tar file.
fn install(
    recipe: &Recipe,
    target: &Path,
    scratch: &Path,
    tar: &Path,
    rights: subprocess::Isolation,
) -> Result<(), Fault> {
    let source = AptSource::of_host()?;
    let (program, path) = mmdebstrap(target)?;
    // Apt's sandbox user must reach the installation in this folder.
    fs::set_permissions(scratch, Permissions::from_mode(0o711)).map_err(|error| cannot_write(scratch, &error))?;
    let acquire = scratch.join("apt.conf");
    // Apt's `Dir` is the new root, which has no credentials for mirrors.
    let netrc = "Dir::Etc::netrc \"/etc/apt/auth.conf\";\nDir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n";
    debian::write_private(&acquire, &format!("{}{netrc}Acquire::Languages \"none\";\n", source.acquire))?;
    // An ordinary user is root inside the namespace.
    let call = Command::new(program)
        .args(["--mode=root", "--variant=essential", "--format=tar"])
        .arg(format!("--include={}", recipe.packages.join(",")))
        .arg(format!("--keyring={}", source.keyring.display()))
        .arg(format!("--aptopt={}", acquire.display()))
        .arg(&recipe.suite)
        .arg(tar)
        .args(source.lines(&recipe.suite))
        .env("PATH", path)
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        // Dpkg need not wait for the disk: the folder is removed, and its tar file is read at once. The others are dpkg's defaults.
        .env("DPKG_FORCE", "security-mac,downgrade,unsafe-io")
        .env("LC_ALL", "C.UTF-8")
        .env("TMPDIR", scratch);
    // Its mounts and processes end with it, and it ends with xtask.
    let call = rights.isolated(call)?;
    let mut progress =
        terminal::Progress::begin("root", &format!("installing Debian {}; takes up to half a minute", recipe.suite));
    let mut said = Vec::new();
    let status = call.stream(|line| {
        progress.line(line.trim_start_matches("I: "));
        said.push(line.to_owned());
    });
    progress.end();
    let status = status?;
    if status.success() { Ok(()) } else { Err(not_installed(&call, status, &said)) }
}

fn not_installed(call: &Command, status: std::process::ExitStatus, said: &[String]) -> Fault {
    let errors: Vec<&str> = said
        .iter()
        .map(String::as_str)
        .filter(|line| ["E:", "Err:", "W:", "dpkg: error"].iter().any(|start| line.starts_with(start)))
        .collect();
    let text = errors.join("\n");
    let exit = if ["Failed to fetch", "Could not resolve", "Unable to connect"].iter().any(|word| text.contains(word)) {
        Exit::Network
    } else {
        Exit::Build
    };
    let last = said.last().map_or("no output", String::as_str);
    let fault =
        call.failed(exit, status).needed_by("the Debian root").cause(if text.is_empty() { last } else { &text });
    if exit == Exit::Network {
        fault.hint("check whether `apt-get update` works on this host: its mirror and proxy are used")
    } else {
        fault.hint("run it again with `-v` to see every line")
    }
}

/// mmdebstrap and a PATH with its helper programs: from the host, else from the host release's package, unpacked below `target`.
fn mmdebstrap(target: &Path) -> Result<(PathBuf, String), Fault> {
    let path = std::env::var("PATH").unwrap_or_default();
    if let Some(program) = process::found("mmdebstrap") {
        return Ok((program, path));
    }
    process::find("perl", "mmdebstrap", "install it: `apt-get install perl`")?;
    let work = work(target);
    let folder = work.join("mmdebstrap");
    let program = folder.join("usr/bin/mmdebstrap");
    if !program.is_file() {
        let host = Host::read()?;
        let archive = Archive::open(&debian::cache(target), &host.suite)?;
        // All or nothing: a partial copy would fail later with a misleading error.
        let scratch = Scratch::new_in(&work, SCRATCH).map_err(|error| cannot_write(&work, &error))?;
        let new = scratch.path().join("mmdebstrap");
        debian::unpack(&archive.fetch(&["mmdebstrap"])?, &new)?;
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&new, &folder).map_err(|error| cannot_write(&folder, &error))?;
    }
    Ok((program, format!("{}:{path}", folder.join("usr/bin").display())))
}

/// Filters the tar file into a gzip layer of the layout.
fn store(tar: &Path, layout: &Layout) -> Result<(Descriptor, Digest, RootContents), Fault> {
    let mut progress = terminal::Progress::begin("root", "compressing");
    progress.line("compressing");
    let from = File::open(tar).map_err(|error| cannot_write(tar, &error))?;
    let mut blob = layout.writer()?;
    let mut diff = sha2::Sha256::new();
    let copied = {
        // Level and library determine the bytes; the header has no name and no time.
        let gzip = flate2::GzBuilder::new().mtime(0).operating_system(255);
        let mut gzip = gzip.write(BufWriter::new(&mut blob), flate2::Compression::new(GZIP_LEVEL));
        let links = [("usr/local/bin/python", "/usr/bin/python3")];
        let both = EqualBlocks { hash: &mut diff, gzip: &mut gzip, block: Vec::with_capacity(BLOCK) };
        let contents = contents::copy(BufReader::with_capacity(1 << 17, from), both, EPOCH, &links);
        contents.and_then(|contents| gzip.finish()?.flush().map(|()| contents))
    };
    let contents = copied.map_err(|error| Fault::build("cannot create a layer of the Debian root").cause(error))?;
    let (digest, size) = blob.finish(None)?;
    progress.end();
    Ok((Descriptor::new(media_type::LAYER_GZIP, digest, size), Digest::from_bytes(diff.finalize().into()), contents))
}

/// Bytes that are compressed at once.
const BLOCK: usize = 1 << 17;

/// Hashes and compresses in blocks of one size. Compressed bytes depend on how the input is cut, and entries that are left out, such as
/// the host's `resolv.conf`, move the others in the tar file.
struct EqualBlocks<'a, W> {
    hash: &'a mut sha2::Sha256,
    gzip: W,
    block: Vec<u8>,
}

impl<W: Write> EqualBlocks<'_, W> {
    fn end_block(&mut self) -> io::Result<()> {
        self.hash.update(&self.block);
        self.gzip.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

impl<W: Write> Write for EqualBlocks<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK {
            self.end_block()?;
        }
        Ok(taken)
    }

    /// Called once, at the end.
    fn flush(&mut self) -> io::Result<()> {
        self.end_block()?;
        self.gzip.flush()
    }
}

fn image(recipe: &Recipe, platform: &Platform, contents: &RootContents, diff_id: Digest) -> Result<Config, Fault> {
    let json = |value: serde_json::Result<String>| {
        value.map_err(|error| Fault::build("cannot describe the Debian root").cause(error))
    };
    let packages: BTreeMap<&str, &str> = contents.packages.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let labels = BTreeMap::from([
        (PACKAGES_LABEL.to_owned(), json(serde_json::to_string(&packages))?),
        (RECIPE_LABEL.to_owned(), json(serde_json::to_string(recipe))?),
    ]);
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Ok(Config {
        created: Some(EPOCH_TEXT.to_owned()),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        config: Execution {
            env: vec![path.to_owned(), "LANG=C.UTF-8".to_owned()],
            cmd: Some(vec!["python3".to_owned()]),
            labels,
            ..Execution::default()
        },
        rootfs: RootFs::new(vec![diff_id]),
        history: vec![History {
            created: Some(EPOCH_TEXT.to_owned()),
            created_by: Some(format!("debian {} {}", recipe.suite, recipe.packages.join(" "))),
            ..History::default()
        }],
        other: BTreeMap::new(),
    })
}

/// `3.13.5` of the package `python3.13-minimal`, version `3.13.5-2+deb13u1`.
fn python_version(packages: &[(String, String)]) -> Option<String> {
    let minor = |name: &str| name.strip_prefix("python3.")?.strip_suffix("-minimal")?.parse::<u32>().ok();
    let (_, version) = packages.iter().filter(|(name, _)| minor(name).is_some()).max_by_key(|(name, _)| minor(name))?;
    Some(version.split(['-', '+', '~']).next()?.to_owned())
}

fn cannot_write(path: &Path, error: &io::Error) -> Fault {
    Fault::build(format!("cannot write `{}`", path.display())).cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_depends_on_the_meaning_only() {
        let recipe = Recipe::default();
        let mut other = recipe.clone();
        other.packages.reverse();
        assert_eq!(other.fingerprint(), recipe.fingerprint());
        other.packages.push("libgomp1".to_owned());
        assert_ne!(other.fingerprint(), recipe.fingerprint());
        let bookworm = Recipe { suite: "bookworm".to_owned(), ..recipe.clone() };
        assert_ne!(bookworm.fingerprint(), recipe.fingerprint());
        let name = recipe.ref_name(&"linux/arm64".parse().unwrap());
        assert!(name.starts_with("root/trixie:") && name.ends_with("-linux-arm64"), "{name}");
    }

    #[track_caller]
    fn python(packages: &[(&str, &str)], expected: Option<&str>) {
        let packages: Vec<_> = packages.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(python_version(&packages).as_deref(), expected);
    }

    #[test]
    fn the_python_version_comes_from_its_package() {
        python(&[("python3.13-minimal", "3.13.5-2+deb13u1"), ("python3-minimal", "3.13.5-1")], Some("3.13.5"));
        python(&[("python3.9-minimal", "3.9.2-1"), ("python3.11-minimal", "3.11.2-6+deb12u6")], Some("3.11.2"));
        python(&[("perl-base", "5")], None);
    }

    /// The layer of a root with a file that is left out.
    fn layer(left_out: usize) -> (Descriptor, Digest) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        let program: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n.wrapping_mul(n) / 7 % 1_000).to_le_bytes()).collect();
        let files: [(&str, &[u8]); 3] =
            [("etc/hosts", b"127.0.0.1"), ("etc/resolv.conf", &vec![b'x'; left_out]), ("usr/bin/program", &program)];
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            builder.append_data(&mut header, path, bytes).unwrap();
        }
        builder.into_inner().unwrap();
        let layout = Layout::open_or_create(&folder.path().join("images")).unwrap();
        let (descriptor, diff_id, _) = store(&path, &layout).unwrap();
        (descriptor, diff_id)
    }

    #[test]
    fn files_of_the_host_that_are_left_out_change_no_byte() {
        let expected = layer(0);
        for left_out in [1, 600, 5_000, 100_000, 131_072] {
            assert_eq!(layer(left_out), expected, "{left_out}");
        }
    }

    #[test]
    fn another_processor_is_rejected_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(&folder.path().join("images")).unwrap();
        let fault = build(&Recipe::default(), folder.path(), &layout, &"linux/s390x".parse().unwrap()).unwrap_err();
        assert_eq!(fault.exit, Exit::Usage);
        assert!(fault.causes[0].contains("scripts"), "{fault}");
    }
}
