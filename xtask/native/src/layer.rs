//! Layers: compressed tar files, each identified by the digest of its contents and the digest of the stored bytes.
//!
//! The same items give the same bytes on every machine: clock, user names, umask and number of threads have no effect.
//! Layers from other sources are read as untrusted input.

mod compress;
mod decompress;
mod header;
pub mod item;
pub mod note;
pub mod packed;
pub(crate) mod part;
mod read;
#[cfg(any(test, feature = "test-data"))]
pub mod test_data;
pub mod toc;
pub mod unpack;
mod write;

pub use compress::Written;
pub use read::{Contents, Entry, EntryKind, Limits, Reader, Whiteout};
pub use write::{write, write_with_note};

use xtask_model::image::policy::Compression;
use xtask_model::spec::oci::media_type;

/// 2026-01-01T00:00:00Z, the time of every entry, in seconds.
pub const TIME: u64 = 1_767_225_600;

/// The compressor versions of the lock file: other versions may give other bytes.
const GZIP_LIBRARY: &str = "zlib-rs 0.6.8";
const ZSTD_LIBRARY: &str = "ruzstd 0.9.1";

/// Level 1: a layer is compressed once and mostly travels a short way.
const LEVEL: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec(Compression);

impl Codec {
    pub fn new(compression: Compression) -> Self {
        Self(compression)
    }

    /// Everything that determines the compressed bytes, for the fingerprint of a layer's recipe.
    pub fn id(&self) -> String {
        let library = match self.0 {
            Compression::Gzip => GZIP_LIBRARY,
            Compression::Zstd => ZSTD_LIBRARY,
        };
        let blocks = compress::BLOCK >> 10;
        format!("{} level {LEVEL}, blocks of {blocks} KiB, {library}", self.0.as_str())
    }

    pub(crate) fn media_type(&self) -> &'static str {
        match self.0 {
            Compression::Gzip => media_type::LAYER_GZIP,
            Compression::Zstd => media_type::LAYER_ZSTD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_are_those_of_the_lock_file() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let lock: toml::Table = std::fs::read_to_string(root.join("Cargo.lock")).unwrap().parse().unwrap();
        let packages = lock["package"].as_array().unwrap();
        for library in [GZIP_LIBRARY, ZSTD_LIBRARY] {
            let locked = packages
                .iter()
                .any(|p| format!("{} {}", p["name"].as_str().unwrap(), p["version"].as_str().unwrap()) == library);
            assert!(
                locked,
                "`{library}` is not in Cargo.lock: name the version that is, so that old layers are not taken for new"
            );
        }
    }

    #[test]
    fn a_codec_id_has_everything_that_affects_its_bytes() {
        let gzip = Codec::new(Compression::Gzip);
        assert_eq!(gzip.id(), "gzip level 1, blocks of 1024 KiB, zlib-rs 0.6.8");
        assert_ne!(gzip.id(), Codec::new(Compression::Zstd).id());
    }
}
