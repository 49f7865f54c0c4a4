//! The documents that are signed, as cosign has them: a payload that names a digest, and envelopes of statements (DSSE).
//!
//! No key is known here: signatures are made and checked elsewhere.

use crate::spec::reference::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Media type of a payload.
pub const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Media type of an envelope.
pub const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// Artifact type of a manifest with signatures.
pub const SIGNATURES: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// Artifact type of a manifest with attestations.
pub const ATTESTATIONS: &str = "application/vnd.dev.cosign.artifact.att.v1+json";
/// Annotation of a layer with the signature of its payload in Base64.
pub const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Annotation of an envelope's layer.
pub const PREDICATE_TYPE: &str = "predicateType";

const KIND: &str = "cosign container image signature";

/// The payload that names an image by digest.
pub fn payload(repository: &str, digest: Digest) -> Vec<u8> {
    let payload = json!({
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": digest.to_string()},
            "type": KIND,
        },
        "optional": null,
    });
    serde_json::to_vec(&payload).expect("the payload is valid JSON")
}

/// The digest that a payload names.
pub fn signed_digest(payload: &[u8]) -> Option<Digest> {
    let payload: Value = serde_json::from_slice(payload).ok()?;
    let critical = &payload["critical"];
    if critical["type"] != KIND {
        return None;
    }
    critical["image"]["docker-manifest-digest"].as_str()?.parse().ok()
}

/// An envelope; payload and signatures are in Base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    pub payload_type: String,
    pub payload: String,
    pub signatures: Vec<EnvelopeSignature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvelopeSignature {
    #[serde(default)]
    pub keyid: String,
    pub sig: String,
}

/// The bytes over which an envelope's signature is (DSSE's pre-authentication encoding).
pub fn to_sign(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_names_its_digest() {
        let digest = Digest::of(b"x");
        assert_eq!(signed_digest(&payload("ghcr.io/acme/app", digest)), Some(digest));
        assert_eq!(signed_digest(b"{}"), None);
        assert_eq!(
            signed_digest(br#"{"critical":{"type":"other","image":{"docker-manifest-digest":"sha256:00"}}}"#),
            None
        );
        // The example of the specification.
        assert_eq!(
            to_sign("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }
}
