//! Files that an installation of packages adds to a root, with dpkg's database, alternatives and the cache of the dynamic linker.
//!
//! Reads the root, and writes nothing.

use super::archive::{self, PackageContents};
use super::may_have;
use crate::assembly::{BaseFiles as _, Stat};
use crate::files::ImageFiles;
use crate::layer::item::{self, Bytes, Content, Item};
use crate::layer::{Entry, EntryKind, packed};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use xtask_host::docker::debian::OwnSources;
use xtask_host::terminal;
use xtask_model::fault::Fault;
use xtask_model::image::context::{ContextPath, FileKind};
use xtask_model::spec::debian::alternatives::LinkGroup;
use xtask_model::spec::debian::cache::{LinkerCache, soname};
use xtask_model::spec::debian::filter::Filters;
use xtask_model::spec::debian::script::{self, Effect, Refused, Seen, World};
use xtask_model::spec::debian::status;
use xtask_model::spec::debian::triggers::{Directives, Interests};
use xtask_model::spec::debian::{self, Package, Paragraph};

const STATUS: &str = "var/lib/dpkg/status";
const INFO: &str = "var/lib/dpkg/info";
const TRIGGERS: &str = "var/lib/dpkg/triggers";
const ALTERNATIVES: &str = "var/lib/dpkg/alternatives";
const CACHE: &str = "etc/ld.so.cache";
/// Limit on links in a row, as in Linux.
const LINKS: usize = 40;

/// A command that is left out: package, command and reason.
type PassedOver = (String, String, &'static str);

pub(super) struct Installation<'a> {
    root: &'a ImageFiles<'a>,
    /// Files of the root's databases.
    known: BTreeMap<ContextPath, Vec<u8>>,
    /// Archive that the root takes packages from.
    sources: OwnSources,
    filters: Filters,
    /// Diversions of the root's packages: from, to.
    diverted: BTreeMap<String, String>,
    items: BTreeMap<ContextPath, Item>,
    packages: Vec<Package>,
}

/// Files of the root that are read at once.
fn is_database(path: &ContextPath) -> bool {
    let path = path.to_string();
    let below = |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    if OwnSources::has(&path) {
        return true;
    }
    let files = [STATUS, CACHE, "etc/dpkg/dpkg.cfg", "var/lib/dpkg/diversions", "var/lib/dpkg/statoverride"];
    files.contains(&path.as_str())
        || ["etc/dpkg/dpkg.cfg.d", TRIGGERS, ALTERNATIVES].into_iter().any(below)
        || below(INFO) && path.ends_with(".postinst")
}

fn unsupported(package: &str, why: String) -> Fault {
    Fault::usage(format!("the native engine cannot install the Debian package `{package}`")).cause(why).hint(
        "build this base with docker: `--engine docker`, or `engine = \"docker\"` in `[project]` of `images.toml`",
    )
}

impl<'a> Installation<'a> {
    pub(super) fn new(root: &'a ImageFiles<'a>) -> Result<Self, Fault> {
        let known = root.files(&is_database)?;
        let mut made = Self {
            root,
            known,
            sources: OwnSources::default(),
            filters: Filters::default(),
            diverted: BTreeMap::new(),
            items: BTreeMap::new(),
            packages: Vec::new(),
        };
        // dpkg reads the folder before the file.
        let parts = made.known.keys().filter(|path| path.to_string().starts_with("etc/dpkg/dpkg.cfg.d/"));
        let mut parts: Vec<String> = parts.map(ToString::to_string).collect();
        parts.push("etc/dpkg/dpkg.cfg".to_owned());
        for part in parts {
            let text = made.known_text(&part);
            made.filters.read(&text);
        }
        for (path, bytes) in made.known.iter().map(|(path, bytes)| (path.to_string(), bytes)) {
            if OwnSources::has(&path) {
                made.sources.read(&path, bytes);
            }
        }
        let diversions = made.known_text("var/lib/dpkg/diversions");
        let lines: Vec<&str> = diversions.lines().collect();
        made.diverted = lines.chunks_exact(3).map(|three| (three[0].to_owned(), three[1].to_owned())).collect();
        Ok(made)
    }

    pub(super) fn sources(&self) -> &OwnSources {
        &self.sources
    }

    /// dpkg's status of the root.
    pub(super) fn status(&self) -> String {
        self.known_text(STATUS)
    }

    fn known_text(&self, path: &str) -> String {
        self.known
            .get(&ContextPath::new(path))
            .map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// Metadata of a path; links are not followed.
    fn lookup(&self, path: &ContextPath) -> Result<Option<Stat>, Fault> {
        match self.items.get(path) {
            Some(item) => Ok(Some(Stat::from(item))),
            None => self.root.lookup(path),
        }
    }

    fn resolve(&self, path: &ContextPath) -> Result<ContextPath, Fault> {
        let link = |path: &ContextPath| Ok(self.lookup(path)?.and_then(|stat| stat.link));
        let looped =
            |_: &ContextPath| Fault::build(format!("cannot follow `/{path}` in the root: its links form a loop"));
        item::resolve(path.as_bytes(), LINKS, &link, &looped)
    }

    /// Path of an entry in the image: the links in its folders are those of the root, `/lib` mostly.
    fn place(&self, path: &ContextPath) -> Result<ContextPath, Fault> {
        let Some(name) = path.parts().next_back() else { return Ok(ContextPath::default()) };
        Ok(self.resolve(&path.parent().unwrap_or_default())?.join(name))
    }

    /// Adds the files of a package.
    pub(super) fn unpack(&mut self, contents: &mut PackageContents, name: &str, file: &Path) -> Result<(), Fault> {
        let mut members = archive::control(file)?;
        let control = members.remove("control").unwrap_or_default();
        let control = Paragraph::parse(&String::from_utf8_lossy(&control));
        let mut package = Package { control, members, ..Package::default() };
        let has = status::installed(&self.status());
        if let Some(old) =
            has.iter().find(|old| old.name == package.name() && old.architecture == package.architecture())
        {
            let why = format!("the root has version {}, which {} would replace", old.version, package.version());
            return Err(unsupported(name, why).hint("or use a newer root: `cargo xtask lock` pins the current one"));
        }
        archive::entries(file, contents, |entry, file| self.put(&mut package, entry, file))?;
        self.packages.push(package);
        Ok(())
    }

    fn put(&mut self, package: &mut Package, entry: Entry, file: Option<(Bytes, String)>) -> Result<(), Fault> {
        let shown = if entry.path.as_bytes().is_empty() { "/.".to_owned() } else { format!("/{}", entry.path) };
        package.list.push(shown.clone());
        if let Some((_, sum)) = &file {
            package.sums.insert(shown.clone(), sum.clone());
        }
        let is_file = !matches!(entry.kind, EntryKind::Dir | EntryKind::Symlink(_));
        if entry.path.as_bytes().is_empty() || self.filters.leaves_out(&shown, is_file) {
            return Ok(());
        }
        let refuse = |why: String| Err(unsupported(package.name(), why));
        if !may_have(&entry.path) {
            return refuse(format!("it has `{shown}`, where no package of Debian has files"));
        }
        let path =
            self.diverted.get(&shown).map_or(entry.path.clone(), |to| ContextPath::new(to.trim_start_matches('/')));
        let path = self.place(&path)?;
        let before = self.lookup(&path)?;
        let content = match (entry.kind, file) {
            (EntryKind::Dir, _) => match before {
                Some(stat) if stat.is_folder() => return Ok(()),
                // A link to a folder stays.
                Some(stat) if stat.link.is_some() => return Ok(()),
                Some(_) => return refuse(format!("`{shown}` is a file in the root")),
                None => Content::Dir,
            },
            (EntryKind::Symlink(_), _) if before.as_ref().is_some_and(Stat::is_folder) => return Ok(()),
            (EntryKind::Symlink(target), _) => Content::Symlink(target),
            (EntryKind::File(_), Some((bytes, _))) => Content::File(bytes),
            (EntryKind::HardLink(target), _) => {
                let target = self.place(&target)?;
                match self.items.get(&target).map(|item| item.content.clone()) {
                    Some(content @ Content::File(_)) => content,
                    _ => return refuse(format!("`{shown}` is a hard link to a missing file")),
                }
            }
            _ => return refuse(format!("`{shown}` is a device or a pipe")),
        };
        let overridden = format!(" {shown}");
        if self.known_text("var/lib/dpkg/statoverride").lines().any(|line| line.ends_with(&overridden)) {
            return refuse(format!("the root overrides the owner or mode of `{shown}`"));
        }
        let item = Item { path: path.clone(), mode: entry.mode, uid: entry.uid, gid: entry.gid, content };
        self.items.insert(path, item);
        Ok(())
    }

    /// All items, sorted, with the folders above them, and the commands of scripts that are left out.
    pub(super) fn finish(mut self) -> Result<(Vec<Item>, Vec<PassedOver>), Fault> {
        let (effects, passed_over) = self.effects()?;
        self.database()?;
        self.apply(effects)?;
        let parents: BTreeSet<ContextPath> = self.items.keys().flat_map(ContextPath::folders).collect();
        for path in parents.into_iter().filter(|path| !path.as_bytes().is_empty()) {
            if self.items.contains_key(&path) {
                continue;
            }
            let stat = self.root.lookup(&path)?.filter(Stat::is_folder);
            let (mode, uid, gid) = stat.map_or((0o755, 0, 0), |stat| (stat.mode, stat.uid, stat.gid));
            self.items.insert(path.clone(), Item { path, mode, uid, gid, content: Content::Dir });
        }
        Ok((self.items.into_values().collect(), passed_over))
    }

    fn write(&mut self, path: &str, mode: u32, bytes: Vec<u8>) -> Result<(), Fault> {
        let path = self.place(&ContextPath::new(path))?;
        let content = Content::File(Bytes::Here(bytes.into()));
        self.items.insert(path.clone(), Item { path, mode, uid: 0, gid: 0, content });
        Ok(())
    }

    fn database(&mut self) -> Result<(), Fault> {
        let status = debian::merged(&self.status(), &self.packages);
        self.write(STATUS, 0o644, status.into_bytes())?;
        let info: Vec<_> = self.packages.iter().flat_map(Package::info).collect();
        for (name, (mode, bytes)) in info {
            self.write(&format!("{INFO}/{name}"), mode, bytes)?;
        }
        for (name, text) in self.interests().files() {
            let path = format!("{TRIGGERS}/{name}");
            if self.known_text(&path) != text {
                self.write(&path, 0o644, text.into_bytes())?;
            }
        }
        Ok(())
    }

    fn interests(&self) -> Interests {
        let mut interests = Interests::default();
        for (path, text) in &self.known {
            let (path, text) = (path.to_string(), String::from_utf8_lossy(text));
            match path.strip_prefix(&format!("{TRIGGERS}/")) {
                Some("File") => interests.read_files(&text),
                Some(name) if !matches!(name, "Lock" | "Unincorp") => interests.read_name(name, &text),
                _ => {}
            }
        }
        for package in &self.packages {
            interests.add(&package.stem(), &Directives::parse(&package.member("triggers").unwrap_or_default()));
        }
        interests
    }

    /// Effects of the scripts: those of the packages, and those of the root that are called because of them.
    fn effects(&self) -> Result<(BTreeSet<Effect>, Vec<PassedOver>), Fault> {
        let mut run =
            ScriptRuns { installation: self, effects: BTreeSet::new(), passed_over: Vec::new(), refused: Vec::new() };
        let (mut paths, mut names) = (Vec::new(), BTreeSet::new());
        for package in &self.packages {
            for (script, args) in [("preinst", &["install"][..]), ("postinst", &["configure", ""])] {
                if let Some(text) = package.member(script) {
                    run.script(package.name(), script, &text, args);
                }
            }
            paths.extend(package.list.iter().cloned());
            names.extend(Directives::parse(&package.member("triggers").unwrap_or_default()).activates);
        }
        let own: BTreeSet<String> = self.packages.iter().map(Package::stem).collect();
        for (package, triggers) in self.interests().activated(&paths, &names) {
            if own.contains(&package) {
                continue;
            }
            if triggers.iter().all(|trigger| trigger == "ldconfig") {
                run.effects.insert(Effect::LinkerCache);
                continue;
            }
            let triggers: Vec<&str> = triggers.iter().map(String::as_str).collect();
            let stem = format!("{INFO}/{package}");
            let is_its = |path: &str| path == format!("{stem}.postinst") || path.starts_with(&format!("{stem}:"));
            match self.known.iter().find(|(path, _)| is_its(&path.to_string())) {
                Some((_, text)) => {
                    let text = String::from_utf8_lossy(text);
                    run.script(&package, "postinst", &text, &["triggered", &triggers.join(" ")]);
                }
                None => run.refused.push((package, "it is called because of new files, and has no script".to_owned())),
            }
        }
        let mut refused = run.refused.into_iter();
        let Some((package, why)) = refused.next() else { return Ok((run.effects, run.passed_over)) };
        let mut fault = unsupported(&package, why);
        fault.causes.extend(refused.map(|(package, why)| format!("`{package}`: {why}")));
        Err(fault)
    }

    fn apply(&mut self, effects: BTreeSet<Effect>) -> Result<(), Fault> {
        let (mut groups, mut linker): (BTreeMap<String, LinkGroup>, bool) = (BTreeMap::new(), false);
        for effect in effects {
            match effect {
                Effect::Alternative(args) => {
                    let invalid =
                        || Fault::build(format!("cannot read `update-alternatives --install {}`", args.join(" ")));
                    let name = LinkGroup::name_in(&args).ok_or_else(invalid)?.to_owned();
                    let known = LinkGroup::parse(&name, &self.known_text(&format!("{ALTERNATIVES}/{name}")));
                    let before = groups.remove(&name).or(known);
                    groups.insert(name, LinkGroup::install(before, &args).ok_or_else(invalid)?);
                }
                Effect::File(path) => self.write(path.trim_start_matches('/'), 0o644, Vec::new())?,
                Effect::Folder(path) => {
                    let path = self.resolve(&ContextPath::new(path.trim_start_matches('/')))?;
                    let item = Item { path: path.clone(), mode: 0o755, uid: 0, gid: 0, content: Content::Dir };
                    self.items.entry(path).or_insert(item);
                }
                Effect::Link(path, target) => self.link(&path, &target)?,
                Effect::LinkerCache => linker = true,
                Effect::PassedOver(..) => {}
            }
        }
        for (name, group) in groups {
            self.write(&format!("{ALTERNATIVES}/{name}"), 0o644, group.text().into_bytes())?;
            for (path, target) in group.links(&|path| matches!(self.seen(path), Ok(Some(_)))) {
                self.link(&path, &target)?;
            }
        }
        if linker { self.linker_cache() } else { Ok(()) }
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), Fault> {
        let path = self.place(&ContextPath::new(path.trim_start_matches('/')))?;
        let content = Content::Symlink(target.as_bytes().to_vec());
        self.items.insert(path.clone(), Item { path, mode: 0o777, uid: 0, gid: 0, content });
        Ok(())
    }

    /// State of a path, links followed.
    fn seen(&self, path: &str) -> Result<Option<Seen>, Fault> {
        // Every engine mounts it.
        if path == "/etc/hosts" {
            return Ok(Some(Seen::File { executable: false }));
        }
        let at = self.resolve(&ContextPath::new(path.trim_start_matches('/')))?;
        Ok(self.lookup(&at)?.map(|stat| match stat.kind {
            FileKind::Dir | FileKind::Tree => Seen::Folder,
            _ => Seen::File { executable: stat.mode & 0o111 != 0 },
        }))
    }

    /// Adds the libraries of the packages, in the folders where the linker of the root looks.
    fn linker_cache(&mut self) -> Result<(), Fault> {
        let Some(mut cache) = self.known.get(&ContextPath::new(CACHE)).and_then(|bytes| LinkerCache::parse(bytes))
        else {
            return Ok(());
        };
        let mut folders = BTreeMap::new();
        for folder in cache.folders() {
            let at = self.resolve(&ContextPath::new(folder.trim_start_matches('/')))?;
            folders.entry(at).or_insert(folder);
        }
        let mut found = BTreeSet::new();
        for (path, item) in &self.items {
            let (Some(name), Some(parent)) = (path.parts().next_back(), path.parent()) else { continue };
            let name = String::from_utf8_lossy(name).into_owned();
            let Some(folder) = folders.get(&parent) else { continue };
            if !(name.starts_with("lib") || name.starts_with("ld-")) || !name.contains(".so") {
                continue;
            }
            let name = match &item.content {
                Content::Dir => continue,
                Content::Symlink(_) => Some(name),
                Content::File(bytes) => soname(&packed::contents(bytes)?),
            };
            // The linker finds a name by its file alone.
            let exists = |name: &String| self.lookup(&parent.join(name.as_bytes())).map(|stat| stat.is_some());
            if let Some(name) = name
                && exists(&name)?
            {
                found.insert((name.clone(), format!("{folder}/{name}")));
            }
        }
        cache.add(&found.into_iter().collect::<Vec<_>>());
        self.write(CACHE, 0o644, cache.bytes())
    }
}

/// Scripts, followed one after the other.
struct ScriptRuns<'a, 'b> {
    installation: &'b Installation<'a>,
    effects: BTreeSet<Effect>,
    passed_over: Vec<PassedOver>,
    /// Package and reason.
    refused: Vec<(String, String)>,
}

impl ScriptRuns<'_, '_> {
    fn script(&mut self, package: &str, name: &str, text: &str, args: &[&str]) {
        let own = self.installation;
        let at = |path: &str| ContextPath::new(path.trim_start_matches('/'));
        let is_link = |path: &str| {
            let stat = own.place(&at(path)).and_then(|path| own.lookup(&path));
            stat.is_ok_and(|stat| stat.is_some_and(|stat| stat.link.is_some()))
        };
        let root = status::installed(&own.status());
        let is_installed = |name: &str| {
            let name = name.split(':').next().unwrap_or_default();
            root.iter().any(|one| one.name == name) || own.packages.iter().any(|one| one.name() == name)
        };
        // What cannot be read counts as present: the script is refused then.
        let has_files = |path: &str| {
            let folder = own.resolve(&at(path));
            let below = |folder: &ContextPath| own.items.keys().any(|path| path.below(folder).is_some());
            folder.and_then(|folder| Ok(below(&folder) || own.root.any_below(&folder)?)).unwrap_or(true)
        };
        let world = World {
            seen: &|path| own.seen(path).ok().flatten(),
            is_link: &is_link,
            has_files: &has_files,
            is_installed: &is_installed,
            package,
        };
        match script::effects(text, args, &world) {
            Ok(effects) => {
                terminal::detail(&format!("the script `{name}` of the Debian package `{package}` need not run"));
                for effect in effects {
                    match effect {
                        Effect::PassedOver(command, why) => self.passed_over.push((package.to_owned(), command, why)),
                        effect => drop(self.effects.insert(effect)),
                    }
                }
            }
            Err(Refused { line, why }) => {
                self.refused.push((package.to_owned(), format!("its script `{name}` has to run: line {line}: {why}")));
            }
        }
    }
}
