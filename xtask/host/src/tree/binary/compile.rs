//! Cargo's compiling of the app's program on the host, and its staging in the build context.

use super::dependencies::{Place, Units};
use crate::process::{self, Command};
use crate::scratch::{self, Scratch};
use crate::terminal::Count;
use crate::tree::toolchain;
use crate::{file, terminal};
use elf::abi::SHT_GNU_VERNEED;
use elf::endian::AnyEndian;
use elf::gnu_symver::VerNeedIterator;
use elf::{ElfBytes, ParseError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use xtask_model::fault::Fault;
use xtask_model::image::key::BinaryKey;
use xtask_model::image::policy::{Binary, DottedVersion};
use xtask_model::spec::reference::Platform;

/// Result of a cargo build.
pub struct Compiled {
    pub took: Duration,
    pub units: Units,
}

/// True if the binary of this recipe is in the build context.
pub fn is_staged(place: &Place<'_>, recipe: &BinaryKey) -> bool {
    let Place { root, binary, platform, .. } = *place;
    let staged = root.join(super::staged(platform, binary));
    StagedBinary::read(&note(root, binary, platform))
        .is_some_and(|known| known.recipe == *recipe && known.is_still(&staged))
}

/// Compiles the binary for a platform and stages it in the build context.
/// `copied` are the repository's files that the image copies, which the recipe leaves out.
pub fn compile(place: &Place<'_>, recipe: &BinaryKey, copied: &BTreeSet<PathBuf>) -> Result<Compiled, Fault> {
    let Place { root, compiled, binary, platform } = *place;
    process::find("cargo", "compiling the app's binary", "install Rust: https://rustup.rs")?;
    let triple = toolchain::triple(platform)?;
    let call = building(root, binary, platform, &recipe.incremental)?;
    let call = compiled.into_iter().fold(call, |call, folder| call.env("CARGO_TARGET_DIR", folder));
    let mut call = call.args(["--message-format", "json-render-diagnostics"]);
    let how = match recipe.incremental.is_empty() {
        true => "",
        false => ", incrementally: its sources differ from the commit's",
    };
    let mut progress = terminal::Progress::begin("compiling", &format!("{} for {platform}{how}", binary.name));
    // Cargo counts its crates for terminals alone, unless it is asked to.
    call = call.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_PROGRESS_WIDTH", "160");
    let (mut executable, mut units) = (None, Units::default());
    let mut said = VecDeque::new();
    let status = call.stream(|line| match artifact(line, &binary.name) {
        Some(path) => executable = Some(path),
        None if line.starts_with('{') => units.read(line),
        None if line.is_empty() => {}
        None => {
            if let Some(count) = counted(line) {
                return progress.count(count);
            }
            progress.line(line);
            if said.len() == 30 {
                said.pop_front();
            }
            said.push_back(line.to_owned());
        }
    });
    let took = progress.end();
    let status = status?;
    if !status.success() {
        let fault = Fault::build(format!("cannot compile `{}` for {platform}", binary.name))
            .needed_by("the app image")
            .cause(said.make_contiguous().join("\n"));
        let missing_target = said
            .iter()
            .any(|line| line.contains("can't find crate for `core`") || line.contains("can't find crate for `std`"));
        return Err(if missing_target || super::is_foreign(platform) && process::found("cargo-zigbuild").is_none() {
            fault.hint(format!("`rustup target add {triple}`, and `cargo install cargo-zigbuild` for its linker; or build on that platform"))
        } else {
            fault
        });
    }
    let executable = executable.ok_or_else(|| {
        Fault::usage(format!("package `{}` has no binary `{}`", binary.package, binary.name))
            .hint("name it in `[app.binary] name`")
    })?;
    check_glibc(&executable, binary)?;
    if !binary.embeds {
        check_embedded(root, &executable, binary, copied)?;
    }
    keep(root, binary, platform, recipe, &executable)?;
    Ok(Compiled { took, units })
}

/// The call of cargo that compiles the binary for a platform, these of the repository's crates incrementally.
pub fn building(
    root: &Path,
    binary: &Binary,
    platform: &Platform,
    incremental: &BTreeSet<String>,
) -> Result<Command, Fault> {
    let foreign = super::is_foreign(platform);
    // Choices made for xtask's own compilation are not the binary's.
    let call = super::cargo(root).env_remove("CARGO_BUILD_TARGET").env_remove("RUSTFLAGS");
    // The image's key has the profile as the manifest says it.
    let profiles =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.as_encoded_bytes().starts_with(b"CARGO_PROFILE_"));
    let call = profiles.fold(call, Command::env_remove);
    let call =
        if foreign && process::found("cargo-zigbuild").is_some() { call.arg("zigbuild") } else { call.arg("build") };
    let call =
        call.args(["--locked", "--package", &binary.package, "--bin", &binary.name, "--profile", &binary.profile]);
    let call = if incremental.is_empty() {
        call.env("CARGO_INCREMENTAL", "0")
    } else {
        // Cargo gives a crate that is compiled incrementally another file name, and shares the rest: neither kind of build invalidates
        // the other, and the first incremental one compiles no crate but these. The variable would decide for all of them.
        let profile = format!("profile.{}", binary.profile);
        let call = call.env_remove("CARGO_INCREMENTAL").arg("--config").arg(format!("{profile}.incremental=false"));
        incremental.iter().fold(call, |call, package| {
            call.arg("--config").arg(format!("{profile}.package.{package}.incremental=true"))
        })
    };
    Ok(if foreign { call.args(["--target", toolchain::triple(platform)?]) } else { call })
}

/// Stages a program in the build context as what this recipe gives: a build of the recipe then takes it and starts no compiler.
pub fn keep(
    root: &Path,
    binary: &Binary,
    platform: &Platform,
    recipe: &BinaryKey,
    executable: &Path,
) -> Result<(), Fault> {
    let staged = root.join(super::staged(platform, binary));
    stage(executable, &staged)?;
    if let Some(known) = StagedBinary::of(recipe, &staged) {
        file::write(&note(root, binary, platform), &serde_json::to_string(&known).expect("a note is JSON"))?;
    }
    Ok(())
}

fn note(root: &Path, binary: &Binary, platform: &Platform) -> PathBuf {
    root.join("target/images").join(format!("{}-{}.staged.json", binary.name, platform.dashed()))
}

/// Record of a staged binary, which saves a call of cargo.
#[derive(Serialize, Deserialize)]
struct StagedBinary {
    recipe: BinaryKey,
    size: u64,
    /// Nanoseconds since 1970.
    modified: u128,
}

impl StagedBinary {
    fn read(note: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(note).ok()?).ok()
    }

    fn of(recipe: &BinaryKey, staged: &Path) -> Option<Self> {
        let (size, modified) = Self::seen(staged)?;
        Some(Self { recipe: recipe.clone(), size, modified })
    }

    /// True if the file is the one that the note was written about.
    fn is_still(&self, staged: &Path) -> bool {
        Self::seen(staged) == Some((self.size, self.modified))
    }

    fn seen(staged: &Path) -> Option<(u64, u128)> {
        let metadata = fs::metadata(staged).ok()?;
        let modified = metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some((metadata.len(), modified.as_nanos()))
    }
}

/// Refuses a binary that was compiled from a file which the image copies: the recipe leaves such files out, so an edit of one
/// would find the old binary.
fn check_embedded(root: &Path, executable: &Path, binary: &Binary, copied: &BTreeSet<PathBuf>) -> Result<(), Fault> {
    let Ok(list) = fs::read_to_string(executable.with_extension("d")) else { return Ok(()) };
    let read = dependencies(&list);
    let embedded = read.iter().filter_map(|path| path.strip_prefix(root).ok()).find(|path| copied.contains(*path));
    match embedded {
        None => Ok(()),
        Some(path) => Err(Fault::usage(format!(
            "`{}` is compiled into `{}` and also copied into the image",
            path.display(),
            binary.name
        ))
        .needed_by("the app's fingerprint: a file that is copied does not count for the binary")
        .hint("count such files for both: `embeds = true` in `[app.binary]` of `images.toml`")),
    }
}

/// The files that cargo's list names as read: `target: one two`, with a backslash before a blank in a name.
fn dependencies(list: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in list.lines() {
        let Some((_, files)) = line.split_once(": ") else { continue };
        let mut name = String::new();
        let mut letters = files.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => name.extend(letters.next()),
                ' ' => found.push(PathBuf::from(std::mem::take(&mut name))),
                letter => name.push(letter),
            }
        }
        found.push(PathBuf::from(name));
    }
    found
}

fn artifact(line: &str, name: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct ArtifactMessage {
        reason: String,
        executable: Option<PathBuf>,
        target: Option<ArtifactTarget>,
    }
    #[derive(Deserialize)]
    struct ArtifactTarget {
        name: String,
    }
    let message: ArtifactMessage = serde_json::from_str(line.strip_prefix('{').map(|_| line)?).ok()?;
    let ours = message.reason == "compiler-artifact" && message.target?.name == name;
    message.executable.filter(|_| ours)
}

/// The numbers in a line of cargo's progress: `Building [==>  ] 12/314: syn, regex`.
fn counted(line: &str) -> Option<Count<'_>> {
    let (_, rest) = line.split_once("Building [")?.1.split_once("] ")?;
    let (numbers, current) = rest.split_once(':').unwrap_or((rest, ""));
    let (done, total) = numbers.trim().split_once('/')?;
    Some(Count { done: done.parse().ok()?, total: total.parse().ok()?, what: "crates", current: current.trim() })
}

/// Prefix of the temporary folders for copying a binary.
const SCRATCH: &str = ".staging-";

const EXECUTABLE: u32 = 0o755;

/// Copies by way of a new file and a rename, so that a build never reads half a binary; leaves an equal one alone. The image's file is
/// executable for everybody, whatever the umask of who compiled it.
fn stage(from: &Path, to: &Path) -> Result<(), Fault> {
    let cannot = |error: std::io::Error| Fault::build(format!("cannot stage `{}`", to.display())).cause(error);
    let folder = to.parent().expect("a staged binary has a folder");
    fs::create_dir_all(folder).map_err(cannot)?;
    // By content: an older program of the same size may come back, from an incremental build or by an edit that is undone.
    if let (Ok(new), Ok(old)) = (fs::metadata(from), fs::metadata(to))
        && new.len() == old.len()
        && old.permissions().mode() & 0o777 == EXECUTABLE
        && fs::read(from).map_err(cannot)? == fs::read(to).map_err(cannot)?
    {
        return Ok(());
    }
    scratch::sweep(folder, &[SCRATCH], scratch::remove);
    let scratch = Scratch::new_in(folder, SCRATCH).map_err(cannot)?;
    let new = scratch.path().join("binary");
    fs::copy(from, &new).map_err(cannot)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(EXECUTABLE)).map_err(cannot)?;
    fs::rename(&new, to).map_err(cannot)
}

/// Refuses a binary that asks for a newer glibc than the root has.
fn check_glibc(executable: &Path, binary: &Binary) -> Result<(), Fault> {
    let Some(limit) = &binary.glibc else { return Ok(()) };
    let bytes = fs::read(executable).map_err(|error| file::cannot_read(executable, error))?;
    let newest = newest_glibc(&bytes).map_err(|error| file::cannot_read(executable, error))?;
    match newest {
        Some(newest) if newest > *limit => Err(Fault::build(format!("`{}` needs glibc {newest}, but the root has {limit}", binary.name))
            .needed_by("the app image")
            .cause("it was linked on a newer system than the image's")
            .hint("compile on the root's system, or for a static target; `[app.binary] glibc` in `images.toml` says what the root has")),
        _ => Ok(()),
    }
}

/// The newest `GLIBC_x.y` among an ELF file's needed symbol versions; none for a static program.
fn newest_glibc(bytes: &[u8]) -> Result<Option<DottedVersion>, ParseError> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes)?;
    let Some(sections) = file.section_headers() else { return Ok(None) };
    let Some(needed) = sections.iter().find(|section| section.sh_type == SHT_GNU_VERNEED) else { return Ok(None) };
    let names = file.section_data_as_strtab(&sections.get(needed.sh_link as usize)?)?;
    let (data, _) = file.section_data(&needed)?;
    let header = &file.ehdr;
    let mut newest = None;
    for (_, versions) in VerNeedIterator::new(header.endianness, header.class, u64::from(needed.sh_info), 0, data) {
        for version in versions {
            let name = String::from_utf8_lossy(names.get_raw(version.vna_name as usize)?).into_owned();
            if let Some(version) = name.strip_prefix("GLIBC_").and_then(|text| text.parse::<DottedVersion>().ok()) {
                newest = newest.max(Some(version));
            }
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary() -> Binary {
        Binary {
            package: "app".to_owned(),
            name: "app".to_owned(),
            profile: "release".to_owned(),
            glibc: None,
            rust_image: None,
            embeds: false,
            dependencies: xtask_model::image::policy::Dependencies::Off,
        }
    }

    #[test]
    fn what_is_compiled_in_and_copied_too_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let executable = folder.path().join("target/app");
        fs::create_dir_all(executable.parent().unwrap()).unwrap();
        let at = folder.path().display();
        fs::write(executable.with_extension("d"), format!("{at}/target/app: {at}/src/main.rs {at}/a\\ b.html\n"))
            .unwrap();
        let copied = |name: &str| BTreeSet::from([PathBuf::from(name)]);
        let check = |copied| check_embedded(folder.path(), &executable, &binary(), &copied);
        check(copied("other.html")).unwrap();
        let fault = check(copied("a b.html")).unwrap_err();
        assert!(fault.what.starts_with("`a b.html` is compiled into `app`"), "{fault}");
    }

    #[test]
    fn an_older_program_of_the_same_size_is_staged() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("app"), folder.path().join("image/app"));
        fs::write(&from, "full").unwrap();
        let made = fs::metadata(&from).unwrap().modified().unwrap();
        fs::write(&from, "part").unwrap();
        stage(&from, &to).unwrap();
        fs::write(&from, "full").unwrap();
        fs::File::open(&from).unwrap().set_modified(made).unwrap();
        stage(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"full");
    }

    #[test]
    fn a_staged_binary_is_known_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app");
        fs::write(&file, "one").unwrap();
        let recipe = BinaryKey {
            name: "app/app".to_owned(),
            profile: "release".to_owned(),
            toolchain: "1".to_owned(),
            crates: xtask_model::spec::reference::Digest::of(b""),
            sources: xtask_model::spec::reference::Digest::of(b""),
            incremental: BTreeSet::new(),
        };
        let staged = StagedBinary::of(&recipe, &file).unwrap();
        assert!(staged.is_still(&file));
        fs::write(&file, "other").unwrap();
        assert!(!staged.is_still(&file));
    }

    #[test]
    fn glibc_versions_are_read_from_a_real_program() {
        let newest = newest_glibc(&fs::read(std::env::current_exe().unwrap()).unwrap()).unwrap().unwrap();
        assert!(newest > "2.2".parse().unwrap() && newest < "3".parse().unwrap(), "{newest}");
        let old = Binary { glibc: Some("2.3".parse().unwrap()), ..binary() };
        let fault = check_glibc(&std::env::current_exe().unwrap(), &old).unwrap_err();
        assert!(fault.what.contains("the root has 2.3"), "{fault}");
        assert!(newest_glibc(b"#!/bin/sh").is_err());
    }

    #[test]
    fn cargo_counts_its_crates() {
        let numbers = |line: &str| counted(line).map(|count| (count.done, count.total, count.current.to_owned()));
        let line = "    Building [=======>         ] 120/314: syn, regex-automata";
        assert_eq!(numbers(line), Some((120, 314, "syn, regex-automata".to_owned())));
        assert_eq!(numbers("    Building [====>  ] 3/5"), Some((3, 5, String::new())));
        for other in ["   Compiling syn v2.0.1", "error: [Building [x", "    Building [===>] x/y: a"] {
            assert_eq!(numbers(other), None, "{other}");
        }
    }

    #[test]
    fn cargo_reports_the_executable() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"app"},"executable":"/t/app"}"#;
        assert_eq!(artifact(line, "app"), Some("/t/app".into()));
        assert_eq!(artifact(line, "lib"), None);
        assert_eq!(artifact("   Compiling app", "app"), None);
    }
}
