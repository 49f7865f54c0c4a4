//! Byte code from a pipe: sources go to Pythons that run the repository's `compile.py`, and byte code comes back. No file is written.
//!
//! The bytes equal those that the script makes of a folder, as under docker: which sources share a process shows in them, so
//! [`together`] divides the sources as the script does.

use super::interpreter::Interpreter;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use xtask_host::process;
use xtask_model::fault::{Exit, Fault};

/// Sources of one distribution that share a process: `TOGETHER` of the script.
pub(super) const TOGETHER: usize = 48;

/// Folders whose sources get no byte code: `LEFT_OUT` of the script.
const LEFT_OUT: [&str; 3] = ["__pycache__", "test", "tests"];

/// True if the file at this path below `site-packages` is a source that gets byte code.
pub(super) fn is_source(path: &str) -> bool {
    let mut parts = path.split('/').rev();
    parts.next().is_some_and(|name| name.ends_with(".py")) && !parts.any(|folder| LEFT_OUT.contains(&folder))
}

/// The sources of one distribution, sorted by path, as they share processes. A source that no distribution lists is on its own.
pub(super) fn together<T>(sources: Vec<T>) -> Vec<Vec<T>> {
    let mut chunks: Vec<Vec<T>> = Vec::new();
    for source in sources {
        match chunks.last_mut() {
            Some(last) if last.len() < TOGETHER => last.push(source),
            _ => chunks.push(vec![source]),
        }
    }
    chunks
}

/// A Python with the script.
#[derive(Clone, Copy)]
pub(super) struct CompileScript<'a> {
    pub(super) interpreter: &'a Interpreter,
    /// `compile.py`.
    pub(super) script: &'a Path,
    /// The path of `site-packages` in the image, as tracebacks show it.
    pub(super) site: &'a str,
}

/// A source: its path below `site-packages`, and its text.
pub(super) type PythonSource<'s> = (&'s str, Vec<u8>);

/// Callback for the byte code of a source; `None` where it is not Python.
pub(super) type Done<'a, T> = dyn Fn(&T, Option<Vec<u8>>) -> Result<(), Fault> + Sync + 'a;

impl CompileScript<'_> {
    /// Compiles sources on all cores, a chunk at a time in the order of the chunks: put the largest first. `read` is asked for a source when
    /// its turn comes, and `done` gets its byte code, `None` where it is not Python; both are called by several threads.
    ///
    /// # Errors
    /// A Python that cannot be run or that ends early, and whatever `read` and `done` say.
    pub(super) fn compile<T: Sync>(
        &self,
        chunks: &[Vec<T>],
        read: &(dyn for<'t> Fn(&'t T) -> Result<PythonSource<'t>, Fault> + Sync),
        done: &Done<'_, T>,
    ) -> Result<(), Fault> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let first = Mutex::new(None);
        let worker = || {
            let mut worker = Worker::default();
            while let Some(chunk) =
                chunks.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !stop.load(Ordering::Relaxed))
            {
                if let Err(fault) = self.compile_one(&mut worker, chunk, read, done) {
                    stop.store(true, Ordering::Relaxed);
                    first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..cores.min(chunks.len()) {
                scope.spawn(worker);
            }
        });
        process::interrupted()?;
        first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Compiles the sources of one chunk in the Python of this worker.
    pub(super) fn compile_one<T>(
        &self,
        worker: &mut Worker,
        chunk: &[T],
        read: &(dyn for<'t> Fn(&'t T) -> Result<PythonSource<'t>, Fault> + Sync),
        done: &Done<'_, T>,
    ) -> Result<(), Fault> {
        self.started(worker)?.compile(chunk, read, done)
    }

    fn started<'p>(&self, Worker(python): &'p mut Worker) -> Result<&'p mut Python, Fault> {
        if let Some(python) = python {
            return Ok(python);
        }
        let cannot = |error| Fault::build("cannot make a temporary file").cause(error);
        let said = tempfile::tempfile().map_err(cannot)?;
        let call = self.interpreter.command().arg("-S").arg(self.script).arg("--pipe").arg(self.site);
        let process = call.start_piped_with(said.try_clone().map_err(cannot)?.into())?;
        Ok(python.insert(Python { process, said }))
    }
}

/// A Python that is started when it is first needed; ends with the value.
#[derive(Default)]
pub(super) struct Worker(Option<Python>);

/// A Python that answers.
struct Python {
    process: process::PipedProcess,
    /// File that holds its stderr.
    said: std::fs::File,
}

impl Python {
    /// Has sources compiled together. One at a time is in memory here.
    fn compile<T>(
        &mut self,
        chunk: &[T],
        read: &(dyn for<'t> Fn(&'t T) -> Result<PythonSource<'t>, Fault> + Sync),
        done: &Done<'_, T>,
    ) -> Result<(), Fault> {
        let sent = number(chunk.len()).and_then(|count| self.process.say(&count));
        sent.map_err(|error| self.failed(&error))?;
        for source in chunk {
            let (path, text) = read(source)?;
            self.send(path, &text).map_err(|error| self.failed(&error))?;
        }
        for source in chunk {
            let code = self.answer().map_err(|error| self.failed(&error))?;
            done(source, code)?;
        }
        Ok(())
    }

    fn send(&mut self, path: &str, text: &[u8]) -> std::io::Result<()> {
        let head = [&number(path.len())?[..], &number(text.len())?, path.as_bytes()].concat();
        self.process.say(&head)?;
        self.process.say(text)
    }

    fn answer(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let answers = self.process.answers();
        let mut length = [0; 4];
        answers.read_exact(&mut length)?;
        let mut code = vec![0; u32::from_le_bytes(length) as usize];
        answers.read_exact(&mut code)?;
        Ok((!code.is_empty()).then_some(code))
    }

    fn failed(&mut self, error: &std::io::Error) -> Fault {
        if let Err(interrupted) = process::interrupted() {
            return interrupted;
        }
        let mut said = String::new();
        let _ = self.said.rewind().and_then(|()| self.said.read_to_string(&mut said));
        let cause = if said.trim().is_empty() { error.to_string() } else { said.trim().to_owned() };
        Fault::new(Exit::Build, "`compile.py` failed")
            .cause(cause)
            .needed_by("the packages' byte code")
            .hint("use the `compile.py` of this version of xtask, next to the Dockerfile")
    }
}

fn number(length: usize) -> std::io::Result<[u8; 4]> {
    let number = u32::try_from(length).map(u32::to_le_bytes);
    number.map_err(|_| std::io::Error::other("a source is longer than 4 GiB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::PathBuf;

    fn script() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dockerfiles/compile.py")
    }

    /// A Python that the script runs with; none, and a line, where this machine has none.
    fn python() -> Option<Interpreter> {
        let found = Interpreter::of_host("python3")
            .filter(|python| python.version.split('.').nth(1).is_some_and(|minor| minor.parse::<u32>().unwrap() >= 11));
        if found.is_none() {
            let why = "no Python 3.11 on the PATH";
            assert!(std::env::var("XTASK_REQUIRE_REAL").as_deref() != Ok("1"), "{why}");
            println!("skipped: {why}");
        }
        found
    }

    fn files(folder: &Path, below: &str, found: &mut BTreeMap<String, Vec<u8>>, wanted: &dyn Fn(&str) -> bool) {
        for entry in std::fs::read_dir(folder.join(below)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            if folder.join(&path).is_dir() {
                files(folder, &path, found, wanted);
            } else if wanted(&path) {
                found.insert(path.clone(), std::fs::read(folder.join(&path)).unwrap());
            }
        }
    }

    /// `a/__pycache__/b.cpython-313.pyc` of `a/b.py`.
    fn cached(path: &str, tag: &str) -> String {
        let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
        let slash = if folder.is_empty() { "" } else { "/" };
        format!("{folder}{slash}__pycache__/{}.{tag}.pyc", name.trim_end_matches(".py"))
    }

    #[test]
    fn byte_code_from_a_pipe_equals_that_in_a_folder() {
        let Some(interpreter) = python() else { return };
        let folder = tempfile::tempdir().unwrap();
        let mut sources = BTreeMap::new();
        // Two distributions, one of them real and large, and a file that none lists.
        let place =
            interpreter.command().args(["-c", "import json; print(json.__file__.rsplit('/', 2)[0])"]).read(Exit::Build);
        let library = PathBuf::from(place.unwrap());
        for package in ["asyncio", "unittest", "importlib", "lib2to3", "encodings"] {
            if library.join(package).is_dir() {
                files(&library, package, &mut sources, &|path| path.ends_with(".py"));
            }
        }
        for number in 0..60 {
            let inner = number % 7;
            let text = format!(
                "import os\ndef test_it(value={number}.5):\n    class Inner{inner}:\n        kind = {{'http', 'https', 'n{inner}'}}\n\
                 \x20       def open(self): return 'a.b' in ('n{inner}', b'x', 'TestIt.<locals>.Inner{inner}')\n    return Inner{inner}\n"
            );
            sources.insert(format!("ours/m{number}.py"), text.into_bytes());
        }
        sources.insert("ours/empty.py".to_owned(), Vec::new());
        sources.insert("ours/broken.py".to_owned(), b"def (:\n".to_vec());
        sources.insert("ours/nul.py".to_owned(), b"x = 1\0".to_vec());
        sources.insert("ours/latin.py".to_owned(), b"# -*- coding: latin-1 -*-\nx = '\xe9'\n".to_vec());
        sources.insert("ours/\u{e9}.py".to_owned(), b"x = 1\n".to_vec());
        sources.insert("ours/tests/a.py".to_owned(), b"x = 1\n".to_vec());
        sources.insert("ours/test/a.py".to_owned(), b"x = 1\n".to_vec());
        sources.insert("alone.py".to_owned(), b"import ours\n".to_vec());
        let of = |path: &str| path.split_once('/').map(|(folder, _)| if folder == "ours" { "ours" } else { "real" });
        let mut records: BTreeMap<&str, String> = BTreeMap::new();
        for (path, text) in &sources {
            let at = folder.path().join(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, text).unwrap();
            if let Some(name) = of(path) {
                *records.entry(name).or_default() += &format!("{path},,\n");
            }
        }
        for (name, record) in &records {
            std::fs::create_dir(folder.path().join(format!("{name}-1.dist-info"))).unwrap();
            std::fs::write(folder.path().join(format!("{name}-1.dist-info/RECORD")), record).unwrap();
        }
        let site = "/opt/venv/lib/python3.13/site-packages";
        let call = interpreter.command().arg("-S").arg(script()).arg(folder.path()).arg(site);
        call.read(Exit::Build).unwrap();
        let mut expected = BTreeMap::new();
        files(folder.path(), "", &mut expected, &|path| path.ends_with(".pyc"));

        let minor = interpreter.version.splitn(3, '.').take(2).collect::<String>();
        let tag = format!("cpython-{minor}");
        let mut chunks: Vec<Vec<&String>> = Vec::new();
        for name in ["real", "ours"] {
            chunks.extend(together(sources.keys().filter(|path| is_source(path) && of(path) == Some(name)).collect()));
        }
        chunks.extend(sources.keys().filter(|path| of(path).is_none()).map(|path| vec![path]));
        let found = Mutex::new(BTreeMap::new());
        let compiler = CompileScript { interpreter: &interpreter, script: &script(), site };
        let began = std::time::Instant::now();
        compiler
            .compile(&chunks, &|path| Ok((path.as_str(), sources[*path].clone())), &|path, code| {
                found.lock().unwrap().extend(code.map(|code| (cached(path, &tag), code)));
                Ok(())
            })
            .unwrap();
        println!("{} sources in {:?}", sources.len(), began.elapsed());
        let found = found.into_inner().unwrap();
        let names = |all: &BTreeMap<String, Vec<u8>>| all.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&found), names(&expected));
        let differ: Vec<&String> = found.keys().filter(|path| found[*path] != expected[*path]).collect();
        assert!(differ.is_empty() && found.len() > 200, "{differ:?}");
        assert!(!found.keys().any(|path| path.contains("/test") && path.starts_with("ours")));
    }

    #[test]
    fn the_script_divides_sources_alike() {
        let text = std::fs::read_to_string(script()).unwrap();
        assert!(text.contains(&format!("TOGETHER = {TOGETHER}\n")));
        let folders = LEFT_OUT.map(|folder| format!("\"{folder}\"")).join(", ");
        assert!(text.contains(&format!("LEFT_OUT = {{{folders}}}\n")));
        assert_eq!(together((0..100).collect()).iter().map(Vec::len).collect::<Vec<_>>(), [48, 48, 4]);
        for (path, expected) in [
            ("a/b.py", true),
            ("test.py", true),
            ("a/test/b.py", false),
            ("tests/a.py", false),
            ("a.pyi", false),
            ("a/testing/b.py", true),
        ] {
            assert_eq!(is_source(path), expected, "{path}");
        }
    }

    #[test]
    fn a_python_that_fails_is_a_fault_with_its_words() {
        let Some(interpreter) = python() else { return };
        let folder = tempfile::tempdir().unwrap();
        let ask = |text: &str| {
            let script = folder.path().join("compile.py");
            std::fs::write(&script, text).unwrap();
            let compiler = CompileScript { interpreter: &interpreter, script: &script, site: "/there" };
            let chunks = vec![vec!["a.py"], vec!["b.py"], vec!["c.py"]];
            compiler.compile(&chunks, &|path| Ok((*path, vec![b'#'; 1 << 20])), &|_, _| Ok(())).unwrap_err()
        };
        for text in
            ["raise SystemExit('no such mode')", "import sys; sys.stdin.buffer.read(9); sys.exit('no such mode')"]
        {
            let fault = ask(text);
            assert_eq!((fault.what.as_str(), fault.causes[0].as_str()), ("`compile.py` failed", "no such mode"));
        }
        assert!(ask("import os; os.kill(os.getpid(), 9)").hints[0].contains("of this version"));
        let compiler = CompileScript { interpreter: &interpreter, script: &script(), site: "/there" };
        let chunks = [vec!["a.py"]];
        let refused = compiler.compile(&chunks, &|_| Err(Fault::build("cannot read the wheel")), &|_, _| Ok(()));
        let fault = refused.unwrap_err();
        assert_eq!(fault.what, "cannot read the wheel");
    }
}
