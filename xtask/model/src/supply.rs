//! Contents and origin of images, and known problems with them: inventories, SBOMs, provenance, signed documents, and vulnerabilities.

pub mod cyclonedx;
pub mod inventory;
pub mod licence;
pub mod osv;
pub mod provenance;
pub mod scan;
pub mod severity;
pub mod signature;
pub mod spdx;
pub mod vex;

use crate::spec::reference::Digest;

/// Media types of the SBOMs of an image.
pub const SBOMS: [&str; 3] = [cyclonedx::MEDIA_TYPE, spdx::MEDIA_TYPE, spdx::v3::MEDIA_TYPE];

/// A UUID that follows from a text, in the form of version 8 of RFC 9562: the same SBOM has the same one everywhere.
fn uuid(text: &str) -> String {
    let mut hex = Digest::of(text.as_bytes()).hex();
    hex.replace_range(12..13, "8");
    hex.replace_range(16..17, "a");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}
