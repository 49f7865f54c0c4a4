//! The image that a Dockerfile begins from, and the root that takes its place.
//!
//! Pure. A root has Python and nothing else that the new images would miss.

/// The Python of images whose names do not say theirs: the newest that the root from Debian packages has too.
pub(super) const PYTHON: &str = "3.13";

/// A root of the official images of Python.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PythonImage {
    /// `python:3.12-slim`.
    pub image: String,
    /// `3.12`, if the former image's name says it.
    pub python: Option<String>,
    /// Reason why it is another image than before.
    pub reason: Option<&'static str>,
    /// The former image is one of Python too.
    pub was_python: bool,
}

/// The system images with a Python of their own packages; without a release, for those that are not known here.
const SYSTEMS: [(&str, &str, &str); 18] = [
    ("ubuntu", "22.04", "3.10"),
    ("ubuntu", "jammy", "3.10"),
    ("ubuntu", "24.04", "3.12"),
    ("ubuntu", "noble", "3.12"),
    ("debian", "bullseye", "3.9"),
    ("debian", "11", "3.9"),
    ("debian", "bookworm", "3.11"),
    ("debian", "12", "3.11"),
    ("debian", "trixie", "3.13"),
    ("debian", "13", "3.13"),
    ("alpine", "3.18", "3.11"),
    ("alpine", "3.19", "3.11"),
    ("alpine", "3.20", "3.12"),
    ("alpine", "3.21", "3.12"),
    ("alpine", "3.22", "3.12"),
    ("alpine", "", ""),
    ("debian", "", ""),
    ("ubuntu", "", ""),
];

/// Major and minor version at the begin of a tag.
pub(super) fn version(tag: &str) -> Option<String> {
    let end = tag.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(tag.len());
    let parts: Vec<&str> = tag[..end].split('.').filter(|part| !part.is_empty()).collect();
    (parts.len() >= 2).then(|| parts[..2].join("."))
}

/// The root for an image; `python` is the version where the image's name does not say it. `None` for an image that may have anything.
pub(super) fn root(image: &str, python: &str) -> Option<PythonImage> {
    let named = image.split('@').next().unwrap_or_default();
    let last = named.rsplit('/').next().unwrap_or_default();
    let (name, tag) = last.split_once(':').unwrap_or((last, ""));
    let official = !named.contains('/') || named.starts_with("docker.io/library/") || named.starts_with("library/");
    let on = |said: &Option<String>, variant: &str| format!("python:{}{variant}", said.as_deref().unwrap_or(python));
    if name == "uv" && named.contains("astral-sh") {
        let tag = tag.rsplit("python").next().unwrap_or_default();
        let said = version(tag);
        let variant = match tag.find('-').map_or("", |at| &tag[at..]) {
            "-bookworm-slim" => "-slim-bookworm",
            "-trixie-slim" => "-slim-trixie",
            _ => "-slim",
        };
        let (image, reason) = (on(&said, variant), Some("the app needs no installer"));
        return Some(PythonImage { image, python: said, reason, was_python: true });
    }
    if name == "python" && official {
        let said = version(tag);
        let alpine = tag.contains("alpine");
        let variant = tag.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim_start_matches('-');
        let image = match (&said, variant) {
            _ if alpine => on(&said, "-slim"),
            (Some(_), _) => last.to_owned(),
            (None, "" | "latest") => on(&said, ""),
            (None, variant) => on(&said, &format!("-{variant}")),
        };
        let reason = alpine.then_some("Alpine's C library takes none of the wheels that are built for others");
        return Some(PythonImage { image, python: said, reason, was_python: true });
    }
    let (.., said) = SYSTEMS.iter().find(|(os, release, _)| official && *os == name && tag.starts_with(release))?;
    let said = Some((*said).to_owned()).filter(|said| !said.is_empty());
    let (image, reason) = (on(&said, "-slim"), Some("its Python comes from packages"));
    Some(PythonImage { image, python: said, reason, was_python: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_become_images_of_python() {
        for (image, expected, python) in [
            ("python:3.12-slim", "python:3.12-slim", "3.12"),
            ("docker.io/library/python:3.11.4-slim-bookworm@sha256:00", "python:3.11.4-slim-bookworm", "3.11"),
            ("python:3.12-alpine3.20", "python:3.12-slim", "3.12"),
            ("python", "python:3.13", ""),
            ("python:latest", "python:3.13", ""),
            ("python:3", "python:3.13", ""),
            ("python:3-slim", "python:3.13-slim", ""),
            ("python:slim-bookworm", "python:3.13-slim-bookworm", ""),
            ("python:alpine", "python:3.13-slim", ""),
            ("ghcr.io/astral-sh/uv:python3.12-bookworm-slim", "python:3.12-slim-bookworm", "3.12"),
            ("ghcr.io/astral-sh/uv:0.8-python3.13-alpine", "python:3.13-slim", "3.13"),
            ("debian:bookworm-slim", "python:3.11-slim", "3.11"),
            ("ubuntu:24.04", "python:3.12-slim", "3.12"),
            ("alpine:3.20", "python:3.12-slim", "3.12"),
            ("alpine:3.99", "python:3.13-slim", ""),
            ("ubuntu", "python:3.13-slim", ""),
        ] {
            let found = root(image, PYTHON).unwrap_or_else(|| panic!("{image}"));
            assert_eq!(
                (found.image.as_str(), found.python.as_deref().unwrap_or_default()),
                (expected, python),
                "{image}"
            );
        }
        for image in ["acme/python:3.12", "quay.io/jupyterhub/jupyterhub:5", "scratch", "node:22"] {
            assert_eq!(root(image, PYTHON), None, "{image}");
        }
    }
}
