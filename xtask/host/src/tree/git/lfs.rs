//! Pointer files of Git LFS: what is committed in place of a large file.
//!
//! Pure. Specification: <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.

use xtask_model::spec::reference::Digest;

const LONGEST: usize = 1024;

/// Digest of the contents of a pointer file; `None` for any other file.
pub fn pointer(bytes: &[u8]) -> Option<Digest> {
    if bytes.len() >= LONGEST {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let version = lines.next()?.strip_prefix("version ")?;
    if !version.starts_with("https://git-lfs.github.com/spec/") && !version.starts_with("http://git-media.io/") {
        return None;
    }
    lines.find_map(|line| line.strip_prefix("oid "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_names_its_contents() {
        let digest = Digest::of(b"large");
        let text = format!("version https://git-lfs.github.com/spec/v1\noid {digest}\nsize 5\n");
        assert_eq!(pointer(text.as_bytes()), Some(digest));
        assert_eq!(pointer(format!("{text}{}", "x".repeat(1024)).as_bytes()), None);
        for other in ["", "version 1\n", "version https://git-lfs.github.com/spec/v1\n", "oid sha256:00\n"] {
            assert_eq!(pointer(other.as_bytes()), None, "{other}");
        }
    }
}
