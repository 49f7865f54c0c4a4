//! Databases of vulnerabilities in the OSV format: files, a mirror, or the service.
//!
//! A record that cannot be read makes the database damaged: a scan that passes over one would say that all is well.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xtask_host::advisories::{self, Server};
use xtask_host::signing::PublicKey;
use xtask_host::{process, terminal};
use xtask_model::fault::Fault;
use xtask_model::spec::reference::Digest;
use xtask_model::supply::osv::{self, OsvRecord, WantedPackage};
use xtask_model::supply::scan::spellings;
use xtask_native::wheel::Wheel;

/// Archives of a mirror are read again after this time.
const FRESH: Duration = Duration::from_secs(12 * 3600);

/// Questions of one request; the service takes a thousand.
const AT_ONCE: usize = 500;

/// Pages for the same questions.
const PAGES: usize = 50;

#[derive(Debug)]
pub(super) struct Database {
    /// As it was written.
    name: String,
    place: Place,
    key: Option<PublicKey>,
}

#[derive(Debug)]
enum Place {
    /// A file, or a folder with files.
    Files(PathBuf),
    /// `URL/ECOSYSTEM/all.zip`, kept in a folder.
    Mirror(PathBuf),
    /// The questions of the OSV service.
    Service,
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Database {
    pub(super) fn new(root: &Path, name: &str, key: Option<PublicKey>) -> Result<Self, Fault> {
        if name.contains("://") {
            advisories::check_address(name)?;
        }
        let place = match name.contains("://") {
            false => Place::Files(root.join(name)),
            true if name.trim_end_matches('/').ends_with("/v1") => Place::Service,
            true => Place::Mirror(root.join("target/osv").join(&Digest::of(name.as_bytes()).hex()[..12])),
        };
        if key.is_some() && matches!(place, Place::Service) {
            return Err(Fault::usage("`public-key` has no effect with a service: it has no archives")
                .hint("remove it from the `scan` step of `images.toml`"));
        }
        Ok(Self { name: name.to_owned(), place, key })
    }

    /// Checks before a build that there is something to look in.
    pub(super) fn check(&self) -> Result<(), Fault> {
        match &self.place {
            Place::Files(path) if !path.exists() => Err(Fault::usage(format!("there is no database `{}`", self.name))
                .hint("`database` of the `scan` step names a folder or a file of OSV records, or a URL")),
            Place::Files(_) | Place::Mirror(_) | Place::Service => Ok(()),
        }
    }

    /// The records that may be about some of these packages.
    pub(super) fn records(&self, wanted: &[WantedPackage], offline: bool) -> Result<Vec<OsvRecord>, Fault> {
        let mut reader = Reader {
            database: self,
            names: wanted.iter().flat_map(|one| spellings(&one.name)).collect(),
            found: BTreeMap::new(),
        };
        match &self.place {
            Place::Files(path) => {
                self.check()?;
                let files = files(path)?;
                if files.is_empty() {
                    return Err(Fault::usage(format!("the database `{}` has no `.zip` and no `.json`", self.name))
                        .hint(
                            "get one, for example: https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip",
                        ));
                }
                files.iter().try_for_each(|file| reader.file(file))?;
            }
            Place::Mirror(folder) => {
                let ecosystems: BTreeSet<String> = wanted.iter().map(|one| one.ecosystem.name()).collect();
                for ecosystem in ecosystems {
                    let file = self.mirrored(folder, &ecosystem, offline)?;
                    // What came damaged is not kept.
                    reader.file(&file).inspect_err(|_| drop(std::fs::remove_file(&file)))?;
                }
            }
            Place::Service if offline => {
                return Err(Fault::usage(format!("`{}` must be asked, and `--offline` uses no network", self.name))
                    .hint("name a folder or an archive on this machine: `--database WHERE`"));
            }
            Place::Service => self.ask(wanted, &mut reader)?,
        }
        Ok(reader.found.into_values().collect())
    }

    /// The archive of an ecosystem, as new as the network allows.
    fn mirrored(&self, folder: &Path, ecosystem: &str, offline: bool) -> Result<PathBuf, Fault> {
        let file = folder.join(format!("{}.zip", ecosystem.replace(':', "-")));
        let path = format!("{ecosystem}/all.zip");
        let stale = |why: &str| terminal::warn(&format!("{why}: using `{}` as it was read before", file.display()));
        if offline {
            if !file.is_file() {
                return Err(Fault::usage(format!("`{}/{path}` is not on this machine", self.name))
                    .hint("run this once without `--offline`"));
            }
            return Ok(file);
        }
        let server = Server::new(&self.name)?;
        let brought = server.download(&path, &file, FRESH).and_then(|found| match (found, &self.key) {
            (false, _) => Err(Fault::network(format!("`{}` has no `{path}`", self.name))
                .hint("a mirror has the layout of OSV's own archives: `ECOSYSTEM/all.zip`")),
            (true, None) => Ok(()),
            (true, Some(_)) => {
                let signature = signature_of(&file);
                let made = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
                let fresh = if made(&signature) >= made(&file) { FRESH } else { Duration::ZERO };
                server.download(&format!("{path}.sig"), &signature, fresh).map(drop)
            }
        });
        match brought {
            Err(fault) if fault.unreachable && file.is_file() => stale(&fault.what),
            other => other?,
        }
        Ok(file)
    }

    /// Asks the service which records are about the packages, and reads those.
    fn ask(&self, wanted: &[WantedPackage], reader: &mut Reader<'_>) -> Result<(), Fault> {
        let server = Server::new(&self.name)?;
        let damaged = |why: String| Fault::network(format!("the answer of `{}` cannot be read", self.name)).cause(why);
        let question = |one: &WantedPackage| json!({"package": {"ecosystem": one.ecosystem.name(), "name": one.name}, "version": one.version});
        let mut open: Vec<Value> = wanted.iter().collect::<BTreeSet<_>>().into_iter().map(question).collect();
        let mut ids = BTreeSet::new();
        for _ in 0..PAGES {
            let mut next = Vec::new();
            for questions in open.chunks(AT_ONCE) {
                let body = json!({"queries": questions}).to_string();
                let none = || damaged("it has no `querybatch`".to_owned());
                let answer = server.post("querybatch", body.as_bytes())?.ok_or_else(none)?;
                let answer: Value = serde_json::from_slice(&answer).map_err(|error| damaged(error.to_string()))?;
                let results = answer["results"].as_array().filter(|results| results.len() == questions.len());
                let results = results.ok_or_else(|| damaged("it does not answer each question".to_owned()))?;
                for (question, result) in questions.iter().zip(results) {
                    let found = result["vulns"].as_array().into_iter().flatten();
                    ids.extend(found.filter_map(|one| one["id"].as_str().map(str::to_owned)));
                    if let Some(page) = result["next_page_token"].as_str() {
                        let mut question = question.clone();
                        question["page_token"] = json!(page);
                        next.push(question);
                    }
                }
            }
            open = next;
            if open.is_empty() {
                break;
            }
        }
        if !open.is_empty() {
            return Err(damaged("it has too many pages".to_owned()));
        }
        for id in ids {
            let good = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
            let document = if good { server.get(&format!("vulns/{id}"))? } else { None };
            let document = document.ok_or_else(|| damaged(format!("it names `{id}` and does not have it")))?;
            reader.document(&id, &document)?;
        }
        Ok(())
    }
}

/// Archives and records below a path, sorted.
fn files(path: &Path) -> Result<Vec<PathBuf>, Fault> {
    let cannot =
        |error: std::io::Error| Fault::usage(format!("cannot read the database `{}`", path.display())).cause(error);
    let (mut found, mut open) = (Vec::new(), vec![path.to_owned()]);
    while let Some(next) = open.pop() {
        if next.is_dir() {
            for entry in std::fs::read_dir(&next).map_err(cannot)? {
                open.push(entry.map_err(cannot)?.path());
            }
        } else if next == path || next.extension().is_some_and(|end| end == "zip" || end == "json") {
            found.push(next);
        }
    }
    found.sort();
    Ok(found)
}

fn signature_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

struct Reader<'a> {
    database: &'a Database,
    names: BTreeSet<String>,
    found: BTreeMap<String, OsvRecord>,
}

impl Reader<'_> {
    fn damaged(&self, file: &str, why: &str) -> Fault {
        Fault::usage(format!("the database `{}` is damaged", self.database.name)).cause(format!("`{file}`: {why}"))
    }

    fn file(&mut self, path: &Path) -> Result<(), Fault> {
        let name = path.display().to_string();
        let is_archive = path.extension().is_some_and(|end| end == "zip");
        if let Some(key) = &self.database.key {
            if !is_archive {
                return Err(self.damaged(&name, "it has no signature: with `public-key` only archives count"));
            }
            let bytes = std::fs::read(path).map_err(|error| self.damaged(&name, &error.to_string()))?;
            let signature = std::fs::read_to_string(signature_of(path))
                .map_err(|error| self.damaged(&name, &format!("its signature `.sig` cannot be read: {error}")))?;
            if !key.verifies(&bytes, &signature) {
                return Err(self.damaged(&name, "its signature is not by the key of the `scan` step"));
            }
        }
        if !is_archive {
            let bytes = std::fs::read(path).map_err(|error| self.damaged(&name, &error.to_string()))?;
            return self.document(&name, &bytes);
        }
        let archive = Wheel::open(path, &name).map_err(|fault| self.damaged(&name, &fault.causes.join(": ")))?;
        let records = |entry: &xtask_native::wheel::ZipEntry| entry.name.ends_with(".json");
        let mut failed = None;
        let read = archive.read_each(&records, &mut |entry, bytes| {
            process::interrupted()?;
            self.document(&format!("{name}: {}", entry.name), bytes).inspect_err(|fault| failed = Some(fault.clone()))
        });
        match (read, failed) {
            (Err(_), Some(fault)) => Err(fault),
            (Err(fault), None) if fault.causes.is_empty() => Err(fault),
            (Err(fault), None) => Err(self.damaged(&name, &fault.causes.join(": "))),
            (Ok(()), _) => Ok(()),
        }
    }

    /// Reads a record, or a list of them, if it may be about a wanted package.
    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        let text = std::str::from_utf8(bytes).map_err(|error| self.damaged(name, &error.to_string()))?;
        let is_wanted = |one: &str| self.names.contains(one) || self.names.contains(&spellings(one)[1]);
        let wrong = |error: serde_json::Error| error.to_string();
        let is_whole = text.trim_end().ends_with(['}', ']']);
        if is_whole && !osv::names(text).any(is_wanted) {
            return Ok(());
        }
        let records: Result<Vec<OsvRecord>, String> = match text.trim_start().starts_with('[') {
            true => serde_json::from_str(text).map_err(wrong),
            false => serde_json::from_str(text).map(|record| vec![record]).map_err(wrong),
        };
        for record in records.map_err(|why| self.damaged(name, &why))? {
            if record.id.is_empty() {
                return Err(self.damaged(name, "it is not an OSV record: it has no `id`"));
            }
            self.found.entry(record.id.clone()).or_insert(record);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Mutex;
    use xtask_model::spec::versions::Ecosystem;

    fn record(id: &str, package: &str) -> String {
        json!({"id": id, "affected": [{"package": {"ecosystem": "PyPI", "name": package}, "versions": ["1.0"]}]})
            .to_string()
    }

    /// A zip whose files are not compressed.
    fn zip(files: &[(&str, &str)]) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        for (name, text) in files {
            let mut crc = flate2::Crc::new();
            crc.update(text.as_bytes());
            let (size, at) = (u32::try_from(text.len()).unwrap(), u32::try_from(out.len()).unwrap());
            let mut common = Vec::new();
            for number in [20_u16, 0, 0, 0, 0] {
                common.extend(number.to_le_bytes());
            }
            for number in [crc.sum(), size, size] {
                common.extend(number.to_le_bytes());
            }
            common.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            common.extend([0, 0]);
            out.extend(0x0403_4b50_u32.to_le_bytes());
            out.extend(&common);
            out.extend(name.as_bytes());
            out.extend(text.as_bytes());
            directory.extend(0x0201_4b50_u32.to_le_bytes());
            directory.extend(20_u16.to_le_bytes());
            directory.extend(&common);
            directory.extend([0; 10]);
            directory.extend(at.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let (count, at) = (u16::try_from(files.len()).unwrap(), u32::try_from(out.len()).unwrap());
        let size = u32::try_from(directory.len()).unwrap();
        out.extend(directory);
        out.extend(0x0605_4b50_u32.to_le_bytes());
        out.extend([0; 4]);
        out.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
        out.extend([size.to_le_bytes(), at.to_le_bytes()].concat());
        out.extend([0; 2]);
        out
    }

    fn wanted() -> Vec<WantedPackage> {
        vec![WantedPackage { ecosystem: Ecosystem::Pypi, name: "some-name".to_owned(), version: "1.0".to_owned() }]
    }

    fn ids(found: Result<Vec<OsvRecord>, Fault>) -> Vec<String> {
        found.unwrap_or_else(|fault| panic!("{fault}")).into_iter().map(|record| record.id).collect()
    }

    #[test]
    fn a_folder_has_records_and_archives() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = root.path().join("osv").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        let database = Database::new(root.path(), "osv", None).unwrap();
        let read = || database.records(&wanted(), true);
        assert!(read().unwrap_err().what.contains("there is no database"));
        write("README.md", b"not a record");
        assert!(read().unwrap_err().what.contains("has no `.zip`"));
        write("own/A-1.json", record("A-1", "Some.Name").as_bytes());
        write("own/list.json", format!("[{}, {}]", record("A-2", "other"), record("A-3", "some-name")).as_bytes());
        let archive = [("B-1.json", record("B-1", "some_name")), ("B-2.json", record("B-2", "other"))];
        let archive = zip(&archive.each_ref().map(|(name, text)| (*name, text.as_str())));
        write("PyPI/all.zip", &archive);
        // The list was read for one of its records.
        assert_eq!(ids(read()), ["A-1", "A-2", "A-3", "B-1"]);
        // A record that is cut, and an archive with a changed byte, are no reason to say that all is well.
        write("own/A-1.json", &record("A-1", "Some.Name").as_bytes()[..50]);
        assert!(read().unwrap_err().to_string().contains("A-1.json"));
        write("own/A-1.json", b"{}");
        let mut changed = archive.clone();
        let at = archive.windows(5).position(|bytes| bytes == b"other").unwrap();
        changed[at] = b'x';
        write("PyPI/all.zip", &changed);
        let fault = read().unwrap_err().to_string();
        assert!(fault.contains("is damaged") && fault.contains("checksum"), "{fault}");
    }

    /// Answers requests by path until dropped requests end; remembers what was asked.
    fn server(answers: &[(&str, Vec<u8>)], count: usize, ask: impl FnOnce(&str)) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..count {
                    let mut stream = BufReader::new(listener.accept().unwrap().0);
                    let (mut line, mut length) = (String::new(), 0);
                    stream.read_line(&mut line).unwrap();
                    let path = line.split(' ').nth(1).unwrap().to_owned();
                    loop {
                        line.clear();
                        stream.read_line(&mut line).unwrap();
                        if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                            length = said.trim().parse().unwrap();
                        }
                        if line == "\r\n" {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    stream.read_exact(&mut body).unwrap();
                    let key = if body.windows(10).any(|part| part == b"page_token") {
                        format!("{path}#2")
                    } else {
                        path.clone()
                    };
                    let found = answers.iter().find(|(known, _)| *known == key);
                    let (status, answer) = found.map_or(("404 Not Found", &b""[..]), |(_, answer)| ("200 OK", answer));
                    let head =
                        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", answer.len());
                    stream.get_mut().write_all(&[head.as_bytes(), answer].concat()).unwrap();
                    asked.lock().unwrap().push(key);
                }
            });
            ask(&address);
        });
        asked.into_inner().unwrap()
    }

    #[test]
    fn a_mirror_is_read_once_and_then_without_a_network() {
        let root = tempfile::tempdir().unwrap();
        let archive = zip(&[("B-1.json", &record("B-1", "some-name"))]);
        let asked = server(&[("/osv/PyPI/all.zip", archive)], 1, |address| {
            let database = Database::new(root.path(), &format!("{address}/osv"), None).unwrap();
            assert!(database.records(&wanted(), true).unwrap_err().to_string().contains("without `--offline`"));
            for offline in [false, false, true] {
                assert_eq!(ids(database.records(&wanted(), offline)), ["B-1"]);
            }
        });
        assert_eq!(asked, ["/osv/PyPI/all.zip"]);
        let secret = Database::new(root.path(), "https://user:secret@example.com/osv", None);
        let said = secret.unwrap_err().to_string();
        assert!(said.contains("without a user name") && !said.contains("secret"), "{said}");
        server(&[], 1, |address| {
            let database = Database::new(root.path(), address, None).unwrap();
            assert!(database.records(&wanted(), false).unwrap_err().what.contains("has no `PyPI/all.zip`"));
        });
    }

    #[test]
    fn a_service_is_asked_page_by_page() {
        let root = tempfile::tempdir().unwrap();
        let answers = [
            ("/v1/querybatch", br#"{"results": [{"vulns": [{"id": "A-1"}], "next_page_token": "more"}]}"#.to_vec()),
            ("/v1/querybatch#2", br#"{"results": [{"vulns": [{"id": "A-2"}]}]}"#.to_vec()),
            ("/v1/vulns/A-1", record("A-1", "some-name").into_bytes()),
            ("/v1/vulns/A-2", record("A-2", "some-name").into_bytes()),
        ];
        let asked = server(&answers, 4, |address| {
            let database = Database::new(root.path(), &format!("{address}/v1"), None).unwrap();
            assert!(database.records(&wanted(), true).unwrap_err().to_string().contains("--offline"));
            assert_eq!(ids(database.records(&wanted(), false)), ["A-1", "A-2"]);
        });
        assert_eq!(asked, answers.map(|(path, _)| path));
        // An answer to another question, and a name that leads elsewhere.
        for wrong in [r#"{"results": []}"#, r#"{"results": [{"vulns": [{"id": "../x"}]}]}"#] {
            server(&[("/v1/querybatch", wrong.as_bytes().to_vec())], 1, |address| {
                let database = Database::new(root.path(), &format!("{address}/v1"), None).unwrap();
                assert!(database.records(&wanted(), false).unwrap_err().what.contains("cannot be read"));
            });
        }
    }
}
