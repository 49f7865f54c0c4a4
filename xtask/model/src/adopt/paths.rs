//! Paths within an image.
//!
//! Pure.

/// An absolute path, without `.` and `..`.
pub(super) fn absolute(workdir: &str, path: &str) -> String {
    let path = path.trim_matches('"');
    let path = path.strip_prefix("~").map_or_else(|| path.to_owned(), |rest| format!("/root{rest}"));
    let whole = if path.starts_with('/') { path } else { format!("{workdir}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The rest of a path below a folder; empty for the folder itself.
pub(super) fn below<'p>(path: &'p str, folder: &str) -> Option<&'p str> {
    let folder = folder.trim_end_matches('/');
    let rest = path.strip_prefix(folder)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}
