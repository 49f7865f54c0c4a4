//! Fingerprint of a layer, computed before the layer is made.
//!
//! Pure. The encoding is typed, versioned and length-delimited, so two recipes never share one.

use super::copy::target::{CopiedItem, Sum};
use crate::layer::item::Content;
use sha2::{Digest as _, Sha256};
use xtask_model::spec::reference::Digest;

/// Version of the encoding. Increase it when the same inputs give other items.
const SCHEMA: u64 = 3;

pub(super) struct LayerFingerprint(Sha256);

impl LayerFingerprint {
    pub(super) fn new(kind: &str) -> Self {
        Self(Sha256::new()).text(b"native layer").number(SCHEMA).text(kind.as_bytes())
    }

    pub(super) fn text(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    pub(super) fn number(mut self, number: u64) -> Self {
        self.0.update(number.to_be_bytes());
        self
    }

    pub(super) fn digest(self, digest: &Digest) -> Self {
        self.text(digest.hex().as_bytes())
    }

    /// Encodes an optional text; a missing text differs from an empty one.
    pub(super) fn maybe(self, text: Option<&str>) -> Self {
        match text {
            None => self.number(0),
            Some(text) => self.number(1).text(text.as_bytes()),
        }
    }

    pub(super) fn texts<T: AsRef<[u8]>>(self, texts: &[T]) -> Self {
        texts.iter().fold(self.number(texts.len() as u64), |recipe, text| recipe.text(text.as_ref()))
    }

    /// All entries of a layer; file contents by digest.
    pub(super) fn made(self, made: &[CopiedItem]) -> Self {
        made.iter().fold(self.number(made.len() as u64), |recipe, CopiedItem { item, sum }| {
            let recipe = recipe.text(item.path.as_bytes()).number(item.uid.into()).number(item.gid.into());
            match &item.content {
                Content::Dir => {
                    let recipe = recipe.text(b"folder").number(item.mode.into());
                    match sum {
                        Some(Sum::Whole(id)) => recipe.text(b"whole").text(id.hex().as_bytes()),
                        _ => recipe,
                    }
                }
                Content::Symlink(target) => recipe.text(b"link").text(target),
                Content::File(_) => {
                    let recipe = recipe.number(item.mode.into());
                    match sum {
                        Some(Sum::Contents(id)) => recipe.text(b"file").text(id.hex().as_bytes()),
                        Some(Sum::Recipe(digest)) => recipe.text(b"made").digest(digest),
                        Some(Sum::Whole(_)) | None => recipe.text(b"unknown"),
                    }
                }
            }
        })
    }

    pub(super) fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}
