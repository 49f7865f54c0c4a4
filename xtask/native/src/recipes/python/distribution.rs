//! A wheel as it is installed: paths, scripts and `RECORD`, as uv installs it.
//!
//! Reads metadata files only; other files stay where they are in the wheel. Follows PEP 427 and 376, entry points, and PEP 610
//! for direct references. What uv skips without a word (paths that lead out, two files at one path) is an error here.

use super::record::{self, Row};
use crate::layer::item::Bytes;
use crate::wheel::{Wheel, ZipEntry};
use std::collections::{BTreeMap, BTreeSet};
use xtask_model::fault::Fault;
use xtask_model::spec::lock::LockedPackage;
use xtask_model::spec::requirements::{Version, normalised};
use xtask_model::spec::wheel::WheelName;

/// The environment that wheels are installed into.
#[derive(Clone, Copy, Debug)]
pub(super) struct EnvironmentPlace<'a> {
    /// Path of the environment in the image, `/opt/venv`.
    pub(super) home: &'a str,
    /// `python3.13`.
    pub(super) folder: &'a str,
}

impl EnvironmentPlace<'_> {
    pub(super) fn site(&self) -> String {
        format!("lib/{}/site-packages", self.folder)
    }

    /// `13` of `python3.13`.
    fn minor(&self) -> &str {
        self.folder.rsplit('.').next().unwrap_or(self.folder)
    }

    fn interpreter(&self) -> String {
        format!("{}/bin/python3", self.home)
    }

    /// Path of a source's byte code.
    pub(super) fn byte_code(&self, source: &str) -> Option<String> {
        record::byte_code(source, &format!("cpython-{}", self.folder.trim_start_matches("python").replace('.', "")))
    }
}

#[derive(Clone, Debug)]
pub(super) struct InstalledFile {
    pub(super) bytes: Bytes,
    pub(super) executable: bool,
}

/// Test suites are neither compiled nor imported, and are half of the files of a scientific set.
const TESTS: [&str; 2] = ["test", "tests"];

#[derive(Clone, Debug)]
pub(super) struct Distribution {
    pub(super) name: String,
    /// By path from the environment's folder.
    pub(super) files: BTreeMap<String, InstalledFile>,
    site: String,
    /// Folders that the wheel has as entries of their own.
    pub(super) folders: BTreeSet<String>,
    /// Rows of `RECORD`, sorted.
    pub(super) rows: Vec<Row>,
    pub(super) metadata: String,
    /// True if it has entry points other than scripts.
    pub(super) has_plugins: bool,
}

impl Distribution {
    /// Bytes of its files.
    pub(super) fn size(&self) -> u64 {
        self.files.values().map(|file| file.bytes.size()).sum()
    }

    /// Folders that it needs, from the environment's folder.
    pub(super) fn all_folders(&self) -> BTreeSet<&str> {
        let (mut found, mut last): (BTreeSet<&str>, _) = (self.folders.iter().map(String::as_str).collect(), "");
        for path in self.files.keys().chain(&self.folders) {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            if folder != last {
                last = folder;
                found.extend(parents(path));
            }
        }
        found
    }

    /// Installs a wheel.
    ///
    /// # Errors
    /// A wheel that is damaged, does not follow the specification, or is not of this package.
    pub(super) fn new(wheel: &Wheel, package: &LockedPackage, place: &EnvironmentPlace<'_>) -> Result<Self, Fault> {
        let info = info(wheel, package)?;
        let text = |name: &str| {
            let found = wheel.get(&format!("{info}/{name}")).filter(|entry| !entry.folder);
            let bytes = found.map(|entry| wheel.read(entry)).transpose()?;
            let text = bytes
                .map(|bytes| String::from_utf8(bytes).map_err(|_| wheel.invalid(&format!("`{name}` is not UTF-8"))));
            text.transpose()
        };
        let needed = |name: &str| text(name)?.ok_or_else(|| wheel.invalid(&format!("it has no `{info}/{name}`")));
        version(&needed("WHEEL")?).map_err(|why| wheel.invalid(&why))?;
        let listed = needed("RECORD")?;
        let listed = record::parse(&listed).map_err(|why| wheel.invalid(&format!("`RECORD`: {why}")))?;
        let metadata = needed("METADATA")?;
        check_metadata(&metadata, wheel, package).map_err(|why| wheel.invalid(&why))?;
        let entry_points_text = text("entry_points.txt")?.unwrap_or_default();
        let EntryPoints { scripts, has_others } =
            entry_points(&entry_points_text, place.minor()).map_err(|why| wheel.invalid(&why))?;
        let mut install = Install {
            wheel,
            place,
            data: format!("{}.data", info.strip_suffix(".dist-info").unwrap_or(&info)),
            headers: format!("include/site/{}/{}", place.folder, package.name),
            scripts: &scripts,
            spelled: BTreeMap::new(),
            out: Self {
                name: package.name.clone(),
                site: place.site(),
                files: BTreeMap::new(),
                folders: BTreeSet::new(),
                rows: Vec::new(),
                metadata,
                has_plugins: has_others,
            },
        };
        // Of several rows of a path the first counts, however it is spelled.
        let mut rows: BTreeMap<String, &Row> = BTreeMap::new();
        for row in &listed {
            if let Some(path) = record::canonical(&row.path) {
                rows.entry(path).or_insert(row);
            }
        }
        let record = format!("{info}/RECORD");
        for entry in wheel.entries() {
            let listed = rows.get(&entry.name).copied();
            if entry.name == record {
                install.list(entry, &record, listed);
            } else {
                install.entry(entry, listed)?;
            }
        }
        for (name, target) in &scripts {
            let (path, script) = (format!("bin/{name}"), launcher(&place.interpreter(), target).into_bytes());
            install.out.rows.push(install.row(&path, &script));
            install.add(&path, InstalledFile { bytes: Bytes::Here(script.into()), executable: true })?;
        }
        let own = |name: &str| format!("{}/{info}/{name}", place.site());
        install.write(&own("INSTALLER"), b"uv".to_vec());
        install.write(&own("REQUESTED"), Vec::new());
        if let Some(url) = &package.url {
            let document = serde_json::json!({ "url": url, "archive_info": {} });
            // In the order of PEP 610's examples, as uv writes it.
            let url = document["url"].to_string();
            let document = format!(r#"{{"url":{url},"archive_info":{{}}}}"#);
            install.write(&own("direct_url.json"), document.into_bytes());
        }
        install.check_places()?;
        let Install { mut out, spelled, .. } = install;
        out.rows.sort();
        let text = if spelled.is_empty() {
            record::print(&out.rows)
        } else {
            let spell = |row: &Row| Row { path: spelled.get(&row.path).unwrap_or(&row.path).clone(), ..row.clone() };
            let mut rows: Vec<Row> = out.rows.iter().map(spell).collect();
            rows.sort();
            record::print(&rows)
        };
        let text = Bytes::Here(text.into_bytes().into());
        out.files.insert(own("RECORD"), InstalledFile { bytes: text, executable: false });
        Ok(out)
    }
}

impl Distribution {
    /// The installed `RECORD`.
    pub(super) fn record(&self) -> &[u8] {
        let is_record = |path: &str| path.ends_with(".dist-info/RECORD") && path.starts_with(&self.site);
        let found = self.files.iter().find(|(path, _)| is_record(path));
        match found.map(|(_, file)| &file.bytes) {
            Some(Bytes::Here(bytes)) => bytes,
            _ => &[],
        }
    }

    /// Path of an installed file in `RECORD`.
    pub(super) fn row(&self, path: &str) -> String {
        relative(&self.site, path)
    }
}

struct Install<'a> {
    wheel: &'a Wheel,
    place: &'a EnvironmentPlace<'a>,
    /// Name of the wheel's folder for files outside site-packages.
    data: String,
    headers: String,
    scripts: &'a BTreeMap<String, ObjectReference>,
    /// Paths that the wheel's `RECORD` has in another spelling, which is kept.
    spelled: BTreeMap<String, String>,
    out: Distribution,
}

impl Install<'_> {
    fn entry(&mut self, entry: &ZipEntry, listed: Option<&Row>) -> Result<(), Fault> {
        let data = entry.name.strip_prefix(&self.data).and_then(|rest| rest.strip_prefix('/'));
        let Some(rest) = data else {
            // The folder itself is not installed.
            return if entry.name == self.data {
                Ok(())
            } else {
                self.put(entry, &format!("{}/{}", self.out.site, entry.name), listed)
            };
        };
        let (scheme, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let base = match scheme {
            "purelib" | "platlib" => &*self.out.site,
            "headers" => &*self.headers,
            "data" => "",
            "scripts" if entry.folder && rest.is_empty() => return Ok(()),
            "scripts" if entry.folder || rest.contains('/') => {
                return Err(self.wheel.invalid(&format!("`{}` is not directly in the folder of scripts", entry.name)));
            }
            "scripts" => return self.script(entry, rest, listed),
            _ => return Err(self.wheel.invalid(&format!("`{}` has no known place", entry.name))),
        };
        if rest.is_empty() {
            return if entry.folder {
                Ok(())
            } else {
                Err(self.wheel.invalid(&format!("`{}` is not a folder", entry.name)))
            };
        }
        let path = if base.is_empty() { rest.to_owned() } else { format!("{base}/{rest}") };
        self.put(entry, &path, listed)
    }

    fn put(&mut self, entry: &ZipEntry, path: &str, listed: Option<&Row>) -> Result<(), Fault> {
        if entry.folder {
            self.out.folders.insert(path.to_owned());
            return Ok(());
        }
        self.list(entry, &relative(&self.out.site, path), listed);
        let file = InstalledFile { bytes: Bytes::Packed(self.wheel.packed(entry)), executable: entry.executable };
        self.add(path, file)
    }

    /// Adds the row of a file of the wheel. One that is not listed has no hash, and signatures of `RECORD` have no row then.
    fn list(&mut self, entry: &ZipEntry, path: &str, listed: Option<&Row>) {
        let Some(row) = listed else {
            if !entry.name.ends_with(".dist-info/RECORD.jws") && !entry.name.ends_with(".dist-info/RECORD.p7s") {
                self.out.rows.push(Row { path: path.to_owned(), hash: String::new(), size: entry.size.to_string() });
            }
            return;
        };
        if row.path != path && entry.name == path {
            self.spelled.insert(path.to_owned(), row.path.clone());
        }
        self.out.rows.push(Row { path: path.to_owned(), ..row.clone() });
    }

    /// A script of the wheel: always executable; a first line that begins with `#!python` becomes the environment's Python.
    fn script(&mut self, entry: &ZipEntry, name: &str, listed: Option<&Row>) -> Result<(), Fault> {
        // An entry point of this name is installed in its place.
        let stem = [".exe", "-script.py", ".pya"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        if self.scripts.contains_key(stem) {
            self.list(entry, &entry.name, listed);
            return Ok(());
        }
        let path = format!("bin/{name}");
        // Some are programs of many megabytes.
        if !self.wheel.starts_with(entry, b"#!python")? {
            let executable = ZipEntry { executable: true, ..entry.clone() };
            return self.put(&executable, &path, listed);
        }
        let bytes = self.wheel.read(entry)?;
        let rest = bytes.iter().position(|byte| *byte == b'\n').map_or(&[][..], |at| &bytes[at + 1..]);
        let bytes = [format!("#!{}\n", self.place.interpreter()).as_bytes(), rest].concat();
        self.out.rows.push(self.row(&path, &bytes));
        self.add(&path, InstalledFile { bytes: Bytes::Here(bytes.into()), executable: true })
    }

    fn add(&mut self, path: &str, file: InstalledFile) -> Result<(), Fault> {
        // The environment has these itself, above all packages.
        let python = format!("bin/{}", self.place.folder);
        if ["pyvenv.cfg", "bin/python", "bin/python3", &python].contains(&path) {
            return Err(self.wheel.invalid(&format!("it has a file for `{path}`, which is the environment's own")));
        }
        match self.out.files.insert(path.to_owned(), file) {
            Some(_) => Err(self.wheel.invalid(&format!("it has two files for `{path}`"))),
            None => Ok(()),
        }
    }

    /// Rejects a file where another path needs a folder, and names that are one path on some file system.
    fn check_places(&self) -> Result<(), Fault> {
        let files = &self.out.files;
        for path in files.keys().chain(&self.out.folders) {
            if let Some(file) = parents(path).find(|parent| files.contains_key(*parent)) {
                return Err(self.wheel.invalid(&format!("it has a file for `{file}`, and `{path}` below it")));
            }
        }
        if let Some(path) = self.out.folders.iter().find(|folder| files.contains_key(*folder)) {
            return Err(self.wheel.invalid(&format!("it has a file and a folder for `{path}`")));
        }
        // As within the archive.
        let mut folded: BTreeMap<String, &String> = BTreeMap::new();
        for path in files.keys() {
            if let Some(other) = folded.insert(path.to_lowercase(), path) {
                return Err(self
                    .wheel
                    .invalid(&format!("it has files for `{other}` and `{path}`, which differ only by case")));
            }
        }
        Ok(())
    }

    /// A file that the installer writes, instead of one of the wheel: only below the folder of the metadata.
    fn write(&mut self, path: &str, bytes: Vec<u8>) {
        self.out.rows.push(self.row(path, &bytes));
        self.out.files.insert(path.to_owned(), InstalledFile { bytes: Bytes::Here(bytes.into()), executable: false });
    }

    fn row(&self, path: &str, bytes: &[u8]) -> Row {
        Row { path: relative(&self.out.site, path), hash: record::hash(bytes), size: bytes.len().to_string() }
    }
}

/// Name of the wheel's one folder with metadata.
fn info(wheel: &Wheel, package: &LockedPackage) -> Result<String, Fault> {
    let tops: BTreeSet<&str> =
        wheel.entries().iter().filter_map(|entry| entry.name.split_once('/')).map(|(top, _)| top).collect();
    let found: Vec<&str> = tops.into_iter().filter(|top| top.ends_with(".dist-info")).collect();
    let [info] = found[..] else {
        return Err(wheel.invalid(&format!("it has {} folders named `*.dist-info`, not one", found.len())));
    };
    let stem = info.strip_suffix(".dist-info").unwrap_or(info);
    let name = stem.split_once('-').map_or(stem, |(name, _)| name);
    if normalised(name) != package.name {
        return Err(wheel.invalid(&format!("it has the metadata `{info}`, but `{}` is locked", package.name)));
    }
    Ok(info.to_owned())
}

/// Compares what the metadata states with the lock.
fn check_metadata(metadata: &str, wheel: &Wheel, package: &LockedPackage) -> Result<(), String> {
    let field = |name: &str| {
        let mut head = metadata.lines().take_while(|line| !line.is_empty()).skip_while(|line| {
            !line.split_once(':').is_some_and(|(field, _)| field.trim_end().eq_ignore_ascii_case(name))
        });
        let first = head.next()?.split_once(':')?.1;
        // An indented line continues the one before.
        let more = head.take_while(|line| line.starts_with([' ', '\t']));
        let value = std::iter::once(first).chain(more).map(str::trim).collect::<Vec<_>>().join(" ");
        Some(value.trim().to_owned())
    };
    let needed = |name: &str| field(name).ok_or_else(|| format!("its `METADATA` has no `{name}`"));
    let (name, stated) = (needed("Name")?, needed("Version")?);
    if normalised(&name) != package.name {
        return Err(format!("its `METADATA` has the name `{name}`, but `{}` is locked", package.name));
    }
    let version: Version = stated.parse()?;
    // That of a checkout is not known from the lock, and may be from the wheel's name.
    let locked = package.version.parse().ok();
    let Some(wanted) = locked.or_else(|| Some(wheel.name().parse::<WheelName>().ok()?.version)) else { return Ok(()) };
    let public = |version: &Version| {
        let text = version.to_string();
        text.split('+').next().and_then(|text| text.parse::<Version>().ok())
    };
    // One of the two may be without its local part, as in pins of `==`.
    if version == wanted || Some(&version) == public(&wanted).as_ref() || public(&version).as_ref() == Some(&wanted) {
        return Ok(());
    }
    Err(format!("its `METADATA` has the version `{stated}`, but {wanted} is locked"))
}

/// Rejects a version of the wheel format that is not known.
fn version(wheel: &str) -> Result<(), String> {
    let stated = wheel.lines().find_map(|line| line.strip_prefix("Wheel-Version:")).map(str::trim);
    match stated.map(|version| version.split('.').next().unwrap_or(version)) {
        Some("1") => Ok(()),
        Some(_) => Err(format!("it has the format version {}, not 1", stated.unwrap_or_default())),
        None => Err("`WHEEL` has no `Wheel-Version`".to_owned()),
    }
}

/// Object that a launcher calls: `attribute` of `module`, at most up to the first dot imported.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ObjectReference {
    module: String,
    attribute: String,
}

/// Contents of `entry_points.txt`.
#[derive(Debug)]
struct EntryPoints {
    /// Console and GUI scripts by name; of two with one name, the GUI script.
    scripts: BTreeMap<String, ObjectReference>,
    /// True if it has a group of others than scripts.
    has_others: bool,
}

/// Reads `entry_points.txt` as Python's `configparser` does, with `=` between names and values.
fn entry_points(text: &str, minor: &str) -> Result<EntryPoints, String> {
    let wrong = |line: &str| format!("`entry_points.txt` has the invalid line `{}`", line.escape_debug());
    let mut sections: BTreeMap<&str, Vec<(&str, String)>> = BTreeMap::new();
    let (mut section, mut indent, mut continues) = (None, 0, false);
    for raw in text.split(['\n', '\r']) {
        let line = raw.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let own = raw.len() - raw.trim_start().len();
        if continues && own > indent {
            // More of the value before.
            let options = section.and_then(|name| sections.get_mut(name));
            if let Some((_, value)) = options.and_then(|options| options.last_mut()) {
                value.push('\n');
                value.push_str(line);
            }
            continue;
        }
        indent = own;
        // What follows the bracket does not count.
        let header = line.strip_prefix('[').and_then(|rest| Some(&rest[..rest.rfind(']')?]));
        if let Some(name) = header.filter(|name| !name.is_empty()) {
            if sections.insert(name, Vec::new()).is_some() {
                return Err(format!("`entry_points.txt` has the section `{}` twice", name.escape_debug()));
            }
            (section, continues) = (Some(name), false);
            continue;
        }
        let options = section.and_then(|name| sections.get_mut(name)).ok_or_else(|| wrong(line))?;
        let (name, value) = line.split_once('=').ok_or_else(|| wrong(line))?;
        let name = name.trim_end();
        if options.iter().any(|(other, _)| *other == name) {
            return Err(format!("`entry_points.txt` has `{name}` twice"));
        }
        options.push((name, value.trim_start().to_owned()));
        continues = true;
    }
    let has_others = sections.keys().any(|section| !SCRIPTS.contains(section));
    let mut out = EntryPoints { scripts: BTreeMap::new(), has_others };
    for (number, section) in SCRIPTS.into_iter().enumerate() {
        let mut scripts = BTreeMap::new();
        for (name, value) in sections.get(section).into_iter().flatten() {
            let invalid = || wrong(&format!("{name} = {value}"));
            let target = value.split_once('[').map_or(&**value, |(target, _)| target).trim_end();
            let (module, attribute) = target.split_once(':').ok_or_else(invalid)?;
            let (module, attribute) = (module.trim(), attribute.trim());
            let dotted = |text: &str| {
                text.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
            };
            let is_path = matches!(*name, "" | "." | "..") || name.contains(['/', '\\', '\0']);
            if is_path || !dotted(module) || !dotted(attribute) {
                return Err(invalid());
            }
            let target = ObjectReference { module: module.to_owned(), attribute: attribute.to_owned() };
            scripts.insert((*name).to_owned(), target);
        }
        if number == 0 {
            own_pip(&mut scripts, minor);
        }
        out.scripts.append(&mut scripts);
    }
    Ok(out)
}

/// Sections of console scripts and of GUI scripts.
const SCRIPTS: [&str; 2] = ["console_scripts", "gui_scripts"];

/// pip's wheel may have `pip3.11`, of the Python that it was built with: installers write one for their own.
fn own_pip(scripts: &mut BTreeMap<String, ObjectReference>, minor: &str) {
    let is_numbered = |name: &str| name.strip_prefix("pip3.").is_some_and(|minor| minor.parse::<u8>().is_ok());
    scripts.retain(|name, _| !is_numbered(name));
    if let Some(pip) = scripts.get("pip3").cloned() {
        scripts.insert(format!("pip3.{minor}"), pip);
    }
}

/// The script that starts an entry point, as uv writes it.
fn launcher(interpreter: &str, ObjectReference { module, attribute }: &ObjectReference) -> String {
    let import = attribute.split('.').next().unwrap_or(attribute);
    format!(
        "#!{interpreter}\n# -*- coding: utf-8 -*-\nimport sys\nfrom {module} import {import}\n\
         if __name__ == \"__main__\":\n    if sys.argv[0].endswith(\"-script.pyw\"):\n        sys.argv[0] = sys.argv[0][:-11]\n    \
         elif sys.argv[0].endswith(\".exe\"):\n        sys.argv[0] = sys.argv[0][:-4]\n    sys.exit({attribute}())\n"
    )
}

/// Path of an installed file from site-packages, as `RECORD` has it.
fn relative(site: &str, path: &str) -> String {
    let (site, path): (Vec<&str>, Vec<&str>) = (site.split('/').collect(), path.split('/').collect());
    let common = site.iter().zip(&path[..path.len() - 1]).take_while(|(one, two)| one == two).count();
    let up = std::iter::repeat_n("..", site.len() - common);
    up.chain(path[common..].iter().copied()).collect::<Vec<_>>().join("/")
}

/// The folders that a path is below.
pub(super) fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// True for a file of a test suite.
pub(super) fn is_test(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(folders, _)| folders.split('/').any(|part| TESTS.contains(&part)))
}

#[cfg(test)]
mod tests;
