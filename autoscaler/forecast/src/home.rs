//! Locations at run time: the worker's package, the templates, the sample history, the Python.
//!
//! Nothing is decided when compiling: the same binary runs in an image and from a checkout.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The environment variable that names the folder with `forecaster/`, `templates/` and `samples/`.
pub const HOME_VARIABLE: &str = "AUTOSCALER_HOME";
/// The environment variable that names the Python interpreter.
pub const PYTHON_VARIABLE: &str = "AUTOSCALER_PYTHON";

const IMAGE_HOME: &str = "/app";
const IMAGE_PYTHON: &str = "/opt/venv/bin/python";

/// The folder with `forecaster/`, `templates/` and `samples/`, always absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// The folder that was asked for; else the image's, the crate's under `cargo run`, or one near the working folder.
    pub fn find(asked: Option<PathBuf>) -> Home {
        let folder = asked.unwrap_or_else(|| {
            candidates(std::env::var_os("CARGO_MANIFEST_DIR"))
                .find(|folder| folder.join("forecaster/__main__.py").is_file())
                .unwrap_or_else(|| PathBuf::from(IMAGE_HOME))
        });
        // The worker gets it as PYTHONPATH, which must hold wherever the worker looks from.
        Home(std::path::absolute(&folder).unwrap_or(folder))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of the page's templates.
    pub fn templates(&self) -> PathBuf {
        self.0.join("templates")
    }

    /// Returns the path of the bundled history.
    pub fn sample(&self) -> PathBuf {
        self.0.join("samples/requests.csv")
    }
}

fn candidates(crate_folder: Option<OsString>) -> impl Iterator<Item = PathBuf> {
    [
        Some(PathBuf::from(IMAGE_HOME)),
        crate_folder.map(PathBuf::from),
        Some(PathBuf::from(".")),
        Some(PathBuf::from("autoscaler")),
    ]
    .into_iter()
    .flatten()
}

/// The Python that was asked for; else the image's, or `python3` as PATH has it.
pub fn python(asked: Option<PathBuf>) -> PathBuf {
    asked.unwrap_or_else(|| {
        let image = PathBuf::from(IMAGE_PYTHON);
        if image.exists() { image } else { PathBuf::from("python3") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_asked_for_is_taken_and_absolute() {
        let home = Home::find(Some(PathBuf::from("somewhere")));
        assert!(home.path().is_absolute());
        assert!(home.templates().ends_with("somewhere/templates"));
    }

    #[test]
    fn the_image_comes_before_the_checkout() {
        let found: Vec<_> = candidates(Some("/crate".into())).collect();
        assert_eq!(found[..2], [PathBuf::from("/app"), PathBuf::from("/crate")]);
    }
}
