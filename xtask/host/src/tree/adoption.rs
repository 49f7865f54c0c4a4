//! A repository that has no policy yet: which files it has, and where new ones are put.
//!
//! Writing is all or nothing: every file is written to a folder of its own first, then renamed. A file that exists is never replaced
//! unless the caller says so, also if it appears meanwhile, and a failure takes the files of this call away again.

use crate::process::{self, Command};
use crate::scratch::{self, Scratch};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use xtask_model::adopt::{NewFile, is_written};
use xtask_model::fault::{Exit, Fault};

/// Prefix of the folder that new files are written to.
const SCRATCH: &str = ".xtask-init-";

/// Folders that hold no sources.
const SKIPPED: [&str; 9] =
    [".git", "target", "node_modules", ".venv", "venv", "__pycache__", ".tox", ".mypy_cache", ".pytest_cache"];

/// Files beyond which a repository without git is not listed.
const MOST: usize = 200_000;

/// Facts about the repository.
#[derive(Clone, Debug)]
pub struct Survey {
    pub root: PathBuf,
    /// Regular files that git does not ignore, from the root.
    pub files: BTreeSet<String>,
    /// URL of `origin`, without user and password.
    pub remote: Option<String>,
    /// The branch that `origin` has as its default.
    pub branch: Option<String>,
}

impl Survey {
    /// Reads the repository at `root`, with or without git.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn read(root: &Path) -> Result<Self, Fault> {
        let cannot = |error: std::io::Error| Fault::usage(format!("cannot open `{}`", root.display())).cause(error);
        let root = root.canonicalize().map_err(cannot)?;
        if !root.is_dir() {
            return Err(Fault::usage(format!("`{}` is not a folder", root.display())));
        }
        let files = match listed(&root) {
            Some(files) => files,
            None => walked(&root).map_err(cannot)?,
        };
        let git = |args: &[&str]| git(&root, args).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let remote = git(&["config", "--get", "remote.origin.url"]).map(|url| browsed(&url));
        let head = git(&["symbolic-ref", "--short", "refs/remotes/origin/HEAD"]);
        let branch = head.and_then(|head| head.strip_prefix("origin/").map(str::to_owned));
        Ok(Self { root, files, remote, branch })
    }

    /// Text of a file; `None` if it is missing, not a regular file, larger than 1 MB or not UTF-8.
    pub fn text(&self, path: &str) -> Option<String> {
        let path = self.root.join(path);
        let meta = fs::symlink_metadata(&path).ok()?;
        if !meta.is_file() || meta.len() > 1_000_000 {
            return None;
        }
        fs::read_to_string(path).ok()
    }

    /// Dockerfiles, without those that an earlier call wrote; those at the top first.
    pub fn dockerfiles(&self) -> Vec<String> {
        let is_dockerfile = |path: &&String| {
            let name = path.rsplit('/').next().unwrap_or(path);
            let named = name == "Dockerfile" || name == "Containerfile" || name.starts_with("Dockerfile.");
            (named || name.ends_with(".Dockerfile") || name.ends_with(".dockerfile"))
                && !name.ends_with(".dockerignore")
        };
        let written = |path: &String| self.text(path).is_some_and(|text| is_written(&text));
        let mut found: Vec<String> =
            self.files.iter().filter(is_dockerfile).filter(|path| !written(path)).cloned().collect();
        found.sort_by_key(|path| (path.matches('/').count(), path.len(), path.clone()));
        found
    }
}

fn git(root: &Path, args: &[&str]) -> Option<String> {
    let program = process::found("git")?;
    let command = Command::new(program).args([
        "--no-optional-locks",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.quotePath=false",
        "-C",
    ]);
    let output = command.arg(root).args(args).env("GIT_OPTIONAL_LOCKS", "0").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The files that git knows or would add; `None` outside git.
fn listed(root: &Path) -> Option<BTreeSet<String>> {
    let text =
        git(root, &["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", "--", "."])?;
    let files = text.split('\0').filter(|path| !path.is_empty() && !path.starts_with("target/"));
    let exists = |path: &&str| fs::symlink_metadata(root.join(path)).is_ok_and(|meta| !meta.is_dir());
    Some(files.filter(exists).filter(|path| !path.starts_with(SCRATCH)).map(str::to_owned).collect())
}

fn walked(root: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        // A folder below that cannot be read has nothing that an image could copy.
        let entries = match fs::read_dir(root.join(&folder)) {
            Err(error) if folder.as_os_str().is_empty() => return Err(error),
            Err(_) => continue,
            Ok(entries) => entries,
        };
        for entry in entries.flatten() {
            let (name, path) = (entry.file_name(), folder.join(entry.file_name()));
            let Some(name) = name.to_str() else { continue };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !SKIPPED.contains(&name) && !name.starts_with(SCRATCH) => open.push(path),
                Ok(kind) if !kind.is_dir() && found.len() < MOST => {
                    found.insert(path.to_string_lossy().into_owned());
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// The page of a remote: `git@host:a/b.git` and `https://user@host/a/b.git` are `https://host/a/b`.
fn browsed(url: &str) -> String {
    let plain = url.trim_end_matches('/').trim_end_matches(".git");
    let rest = match plain.split_once("://") {
        Some(("https" | "http" | "ssh" | "git", rest)) => rest.to_owned(),
        Some(_) => return plain.to_owned(),
        None => match plain.split_once(':') {
            Some((host, path)) if !host.contains('/') => format!("{host}/{path}"),
            _ => return plain.to_owned(),
        },
    };
    let rest = rest
        .split_once('@')
        .map_or(rest.as_str(), |(user, host)| if user.contains('/') { rest.as_str() } else { host });
    format!("https://{rest}")
}

/// A new file compared with the one that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    New,
    Unchanged,
    /// Another text.
    Differs(String),
}

/// Compares a new file with what is at its place.
///
/// # Errors
/// A place outside the repository, or one that is not a file.
pub fn state(root: &Path, file: &NewFile) -> Result<FileState, Fault> {
    let refuse = |why: &str| Err(Fault::usage(format!("cannot write `{}`", file.path)).cause(why));
    let relative = Path::new(&file.path);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return refuse("it is outside the repository");
    }
    for folder in relative.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
        match fs::symlink_metadata(root.join(folder)) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return refuse(&format!("`{}` is not a folder", folder.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return refuse(&error.to_string()),
        }
    }
    let path = root.join(relative);
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(FileState::New),
        Err(error) => refuse(&error.to_string()),
        Ok(meta) if meta.is_file() => match fs::read(&path) {
            Ok(bytes) if bytes == file.text.as_bytes() => Ok(FileState::Unchanged),
            Ok(bytes) => Ok(FileState::Differs(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) => refuse(&error.to_string()),
        },
        Ok(_) => refuse("it exists and is not a file"),
    }
}

/// Writes all files, or none. `replaced` are the files that may be replaced; any other that exists by now is a fault.
///
/// # Errors
/// A folder that cannot be written, an interruption, a file that appeared meanwhile.
pub fn place(root: &Path, files: &[&NewFile], replaced: &BTreeSet<&str>) -> Result<(), Fault> {
    let cannot = |path: &Path, error: std::io::Error| {
        Fault::usage(format!("cannot write `{}`", path.display())).cause(error).cause("nothing was changed")
    };
    scratch::sweep(root, &[SCRATCH], scratch::remove);
    let staged = Scratch::new_in(root, SCRATCH).map_err(|error| cannot(root, error))?;
    for (index, file) in files.iter().enumerate() {
        let path = staged.path().join(index.to_string());
        fs::write(&path, &file.text).map_err(|error| cannot(&root.join(&file.path), error))?;
    }
    let mut done = Placed { root, staged: staged.path(), made: Vec::new(), kept: Vec::new(), folders: Vec::new() };
    for (index, file) in files.iter().enumerate() {
        let step = process::interrupted().and_then(|()| {
            done.put(index, file, replaced.contains(file.path.as_str()))
                .map_err(|error| cannot(&root.join(&file.path), error))
        });
        if let Err(fault) = step {
            done.undo();
            return Err(if fault.exit == Exit::Interrupted { fault.cause("nothing was changed") } else { fault });
        }
    }
    Ok(())
}

/// The files that are in place, to take them away again.
struct Placed<'a> {
    root: &'a Path,
    staged: &'a Path,
    made: Vec<PathBuf>,
    /// Copies of replaced files, with their places.
    kept: Vec<(PathBuf, PathBuf)>,
    folders: Vec<PathBuf>,
}

impl Placed<'_> {
    fn put(&mut self, index: usize, file: &NewFile, replaces: bool) -> std::io::Result<()> {
        let (new, path) = (self.staged.join(index.to_string()), self.root.join(&file.path));
        let missing: Vec<PathBuf> =
            path.ancestors().skip(1).take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
        for folder in missing.into_iter().rev() {
            fs::create_dir(&folder)?;
            self.folders.push(folder);
        }
        if replaces && path.exists() {
            let old = self.staged.join(format!("{index}-old"));
            fs::hard_link(&path, &old).or_else(|_| fs::copy(&path, &old).map(drop))?;
            fs::set_permissions(&new, fs::metadata(&path)?.permissions())?;
            fs::rename(&new, &path)?;
            self.kept.push((old, path));
            return Ok(());
        }
        // A link fails where a file exists; a rename would replace it.
        match fs::hard_link(&new, &path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) => {}
            // A file system without links.
            Err(_) => {
                let mut out = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
                std::io::copy(&mut fs::File::open(&new)?, &mut out)?;
            }
        }
        self.made.push(path);
        Ok(())
    }

    fn undo(&self) {
        for path in &self.made {
            let _ = fs::remove_file(path);
        }
        for (old, path) in &self.kept {
            let _ = fs::rename(old, path);
        }
        for folder in self.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn file(path: &str, text: &str) -> NewFile {
        NewFile { path: path.to_owned(), text: text.to_owned() }
    }

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> = walked(root).unwrap().into_iter().collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_placed_all_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let (one, two) = (file("a/b/one", "1"), file("two", "2"));
        place(root, &[&one, &two], &BTreeSet::new()).unwrap();
        assert_eq!(names(root), ["a/b/one", "two"]);
        assert_eq!(state(root, &one).unwrap(), FileState::Unchanged);
        // `two` exists: `new/three` goes away again, with its folder.
        let (three, other) = (file("new/three", "3"), file("two", "another"));
        let fault = place(root, &[&three, &other], &BTreeSet::new()).unwrap_err();
        assert!(fault.to_string().contains("nothing was changed"), "{fault}");
        assert_eq!((names(root), root.join("new").exists()), (vec!["a/b/one".to_owned(), "two".to_owned()], false));
        assert_eq!(fs::read_to_string(root.join("two")).unwrap(), "2");
        assert_eq!(state(root, &other).unwrap(), FileState::Differs("2".to_owned()));
        // Replaced where the caller says so; its mode stays.
        fs::set_permissions(root.join("two"), fs::Permissions::from_mode(0o755)).unwrap();
        place(root, &[&other], &BTreeSet::from(["two"])).unwrap();
        assert_eq!(fs::read_to_string(root.join("two")).unwrap(), "another");
        assert_eq!(fs::metadata(root.join("two")).unwrap().permissions().mode() & 0o777, 0o755);
        // A failure brings a replaced file back.
        let fault = place(root, &[&file("two", "lost"), &one], &BTreeSet::from(["two"])).unwrap_err();
        assert!(fault.what.contains("a/b/one"), "{fault}");
        assert_eq!(fs::read_to_string(root.join("two")).unwrap(), "another");
        assert_eq!(fs::read_dir(root).unwrap().count(), 2, "no folder of a call remains");
    }

    #[test]
    fn nothing_is_written_outside_the_repository() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("dockerfiles")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
        for path in ["dockerfiles/a", "../a", "/a", "link"] {
            assert!(state(&root, &file(path, "")).is_err(), "{path}");
        }
    }

    #[test]
    fn a_killed_call_is_swept_and_its_files_do_not_belong_to_the_repository() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join(".xtask-init-dead")).unwrap();
        fs::write(root.join(".xtask-init-dead/0"), "x").unwrap();
        fs::write(root.join("app.py"), "x").unwrap();
        assert_eq!(Survey::read(root).unwrap().files, BTreeSet::from(["app.py".to_owned()]));
        place(root, &[&file("a", "")], &BTreeSet::new()).unwrap();
        assert!(!root.join(".xtask-init-dead").exists());
    }

    #[test]
    fn remotes_are_pages() {
        for (url, page) in [
            ("git@github.com:acme/app.git", "https://github.com/acme/app"),
            ("https://user:secret@example.com/a/b.git", "https://example.com/a/b"),
            ("ssh://git@example.com/a/b", "https://example.com/a/b"),
            ("https://github.com/acme/app/", "https://github.com/acme/app"),
            ("/srv/git/app.git", "/srv/git/app"),
        ] {
            assert_eq!(browsed(url), page);
        }
    }
}
