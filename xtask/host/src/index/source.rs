//! Sources that list files: pages of indexes, pages of links, and folders.

use super::Failure;
use super::client::{IndexClient, Location, RawPage};
use crate::http::url::Url;
use serde::Deserialize;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use xtask_model::fault::Fault;
use xtask_model::spec::lock::choice::{self, NoWheel, Python};
use xtask_model::spec::lock::indexes::Strategy;
use xtask_model::spec::lock::{Indexes, LockedPackage};
use xtask_model::spec::requirements::secret;
use xtask_model::spec::wheel::page::{IndexFile, Page, decoded};

/// A file that was chosen. Its URL is absolute, or a path of this machine, which begins with `/`; it may hold a password.
#[derive(Clone, Default)]
pub(super) struct ChosenFile {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) sha256: Option<String>,
    pub(super) yanked: Option<String>,
    pub(super) size: Option<u64>,
}

/// The kind of file that is looked for.
pub(super) enum Wanted {
    Wheel(Python),
    Archive,
}

impl Wanted {
    fn choose<'f>(
        &self,
        files: impl IntoIterator<Item = &'f IndexFile>,
        package: &LockedPackage,
    ) -> Result<&'f IndexFile, NoWheel> {
        match self {
            Self::Wheel(python) => choice::choose(files, package, python).map(|(file, _)| file),
            Self::Archive => choice::archive(files, package),
        }
    }
}

pub(super) struct WheelSources<'a> {
    client: &'a IndexClient,
    indexes: &'a Indexes,
    /// The files of all pages of links and folders, read when first needed.
    links: OnceLock<Result<Vec<IndexFile>, Failure>>,
    /// Held while a page is read: its files need several times its bytes.
    reading: Mutex<()>,
}

impl<'a> WheelSources<'a> {
    pub(super) fn new(client: &'a IndexClient, indexes: &'a Indexes) -> Self {
        Self { client, indexes, links: OnceLock::new(), reading: Mutex::default() }
    }

    pub(super) fn client(&self) -> &IndexClient {
        self.client
    }

    /// The places, without passwords.
    pub(super) fn shown(&self) -> Vec<String> {
        let all = self.indexes.in_order().into_iter().chain(self.indexes.links().iter().map(String::as_str));
        all.map(|place| secret::without_user(place).split('?').next().unwrap_or_default().to_owned()).collect()
    }

    /// The file to install of a package, or why there is none.
    pub(super) fn find(
        &self,
        package: &LockedPackage,
        wanted: &Wanted,
    ) -> Result<Result<ChosenFile, NoWheel>, Failure> {
        let links = match self.links.get_or_init(|| self.links()) {
            Ok(links) => links.as_slice(),
            Err(failure) => return Err(failure.clone()),
        };
        let strategy = self.indexes.strategy();
        let mut files: Vec<IndexFile> = links.to_vec();
        let mut why = None;
        for index in self.indexes.in_order() {
            let Some(page) = self.page(index, package)? else { continue };
            match strategy {
                Strategy::FirstIndex => {
                    files.extend(page);
                    break;
                }
                Strategy::FirstMatch => match wanted.choose(links.iter().chain(&page), package) {
                    Ok(file) => return Ok(Ok(found(file))),
                    Err(reason) => drop(why.get_or_insert(reason)),
                },
                Strategy::BestMatch => files.extend(page),
            }
        }
        Ok(wanted.choose(&files, package).map(found).map_err(|reason| why.unwrap_or(reason)))
    }

    /// The files of a project on an index, maybe those of the package's version alone; `None` where the index does not have it.
    fn page(&self, index: &str, package: &LockedPackage) -> Result<Option<Vec<IndexFile>>, Failure> {
        let project = &package.name;
        if let Some(folder) = folder(index) {
            let page = folder.join(project).join("index.html");
            return Ok(std::fs::read_to_string(&page).ok().map(|text| local_page(&page, &text)));
        }
        let page = Location::parse(index).and_then(|index| index.page(project)).ok_or_else(|| unsupported(index))?;
        let Some(raw) = self.client.page(&page, &|file| may_be_of(file, package))? else { return Ok(None) };
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(read(&raw)?))
    }

    fn links(&self) -> Result<Vec<IndexFile>, Failure> {
        let mut found = Vec::new();
        for link in self.indexes.links() {
            if let Some(folder) = folder(link) {
                found.extend(local(&folder)?);
                continue;
            }
            let location = Location::parse(link).ok_or_else(|| unsupported(link))?;
            let page = self.client.page(&location, &|_| true)?.ok_or_else(|| {
                Fault::network(format!("cannot read the page of links `{}`", location.url)).cause("it does not exist")
            })?;
            found.extend(read(&page)?);
        }
        Ok(found)
    }
}

fn unsupported(place: &str) -> Failure {
    let scheme = place.split_once("://").map_or("a relative path", |(scheme, _)| scheme);
    Failure::Unsupported(format!("a place of packages has an address of another kind ({scheme})"))
}

/// A folder of this machine.
fn folder(place: &str) -> Option<PathBuf> {
    match place.strip_prefix("file://") {
        Some(path) => Some(PathBuf::from(decoded(path))),
        None => place.starts_with('/').then(|| PathBuf::from(place)),
    }
}

/// The files in a folder, or the links of a local page.
fn local(place: &Path) -> Result<Vec<IndexFile>, Fault> {
    let cannot = |error| Fault::usage(format!("cannot read the packages in `{}`", place.display())).cause(error);
    if place.is_file() {
        return Ok(local_page(place, &std::fs::read_to_string(place).map_err(cannot)?));
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(place).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let (Some(name), Some(url)) = (path.file_name().and_then(|name| name.to_str()), path.to_str()) else {
            continue;
        };
        found.push(IndexFile { name: name.to_owned(), url: url.to_owned(), ..IndexFile::default() });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn local_page(page: &Path, text: &str) -> Vec<IndexFile> {
    let folder = page.parent().unwrap_or(Path::new("/"));
    let mut files = Page::html(text).files;
    for file in &mut files {
        if let Some(path) = file.url.strip_prefix("file://") {
            file.url = decoded(path);
        } else if !file.url.contains("://") {
            file.url = folder.join(decoded(&file.url)).to_string_lossy().into_owned();
        }
    }
    files
}

/// False for the object of a file that has another version of the package.
fn may_be_of(object: &[u8], package: &LockedPackage) -> bool {
    #[derive(Deserialize)]
    struct NamedFile<'a> {
        #[serde(borrow)]
        filename: Cow<'a, str>,
    }
    serde_json::from_slice::<NamedFile<'_>>(object).map_or(true, |file| choice::is_of(&file.filename, package))
}

/// The files of a page that came, with absolute addresses.
fn read(raw: &RawPage) -> Result<Vec<IndexFile>, Fault> {
    let cannot = |why: String| Fault::network(format!("cannot read the package index `{}`", raw.url)).cause(why);
    let page = match raw.media_type.as_str() {
        "application/vnd.pypi.simple.v1+json" => Page::json(&raw.bytes).map_err(cannot)?,
        "application/vnd.pypi.simple.v1+html" | "text/html" => Page::html(&String::from_utf8_lossy(&raw.bytes)),
        other => return Err(cannot(format!("its answer is of the type `{}`", super::printable(other)))),
    };
    let base = page.base.as_deref().and_then(|base| raw.url.join(base)).unwrap_or_else(|| raw.url.clone());
    Ok(page.files.into_iter().filter_map(|file| absolute(&base, file)).collect())
}

fn absolute(base: &Url, mut file: IndexFile) -> Option<IndexFile> {
    // An address with a user name stays as it is.
    if Location::parse(&file.url).is_none() {
        file.url = base.join(&file.url)?.wire();
    }
    Some(file)
}

fn found(file: &IndexFile) -> ChosenFile {
    let IndexFile { name, url, sha256, yanked, size, .. } = file.clone();
    ChosenFile { name, url, sha256, yanked, size }
}
