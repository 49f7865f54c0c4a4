//! Keys that sign images: ECDSA P-256, as cosign's.
//!
//! The private key is a PEM text in a file that only its owner reads, or in a variable of CI. It is never an argument, and no error repeats it.

pub mod identity;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use std::path::{Path, PathBuf};
use xtask_model::fault::Fault;

/// Variable with the path of the private key.
pub const KEY_FILE: &str = "XTASK_SIGNING_KEY_FILE";
/// Variable with the private key itself.
pub const KEY: &str = "XTASK_SIGNING_KEY";

/// Prefix of a P-256 key's point in its `SubjectPublicKeyInfo`.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

const MAKE: &str = "make one: `(umask 077; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY)`, \
                    and its public key: `openssl pkey -in KEY -pubout`";

pub struct PrivateKey(EcdsaKeyPair);

impl PrivateKey {
    /// The key of this machine. `root` is the repository, in which no key may be.
    ///
    /// # Errors
    /// There is none, others may read it, or it is of another kind.
    pub fn of_environment(root: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Fault> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        match (set(KEY_FILE), set(KEY)) {
            (Some(path), _) => Self::read(root, &PathBuf::from(path)),
            (None, Some(text)) => {
                Self::parse(&text).map_err(|why| Fault::usage(format!("the key in `{KEY}` {why}")).hint(MAKE))
            }
            (None, None) => Err(Fault::usage("there is no key to sign with")
                .hint(format!("set `{KEY_FILE}` to the path of a private key, or `{KEY}` to the key itself"))
                .hint(MAKE)),
        }
    }

    fn read(root: &Path, path: &Path) -> Result<Self, Fault> {
        let cannot =
            |why: &dyn std::fmt::Display| Fault::usage(format!("cannot read the key `{}`", path.display())).cause(why);
        let real = path.canonicalize().map_err(|error| cannot(&error))?;
        let inside =
            root.canonicalize().is_ok_and(|root| real.starts_with(&root) && !real.starts_with(root.join("target")));
        if inside {
            return Err(cannot(&"it is inside the repository, where a `COPY` could take it into an image")
                .hint("move it outside, or below `target`"));
        }
        is_private(&real).map_err(|why| cannot(&why).hint(format!("`chmod 600 {}`", path.display())))?;
        let text = std::fs::read_to_string(&real).map_err(|error| cannot(&error))?;
        Self::parse(&text).map_err(|why| cannot(&format!("it {why}")).hint(MAKE))
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.contains("ENCRYPTED ") {
            return Err("is encrypted; the cosign program can use it: `cosign = \"FILE\"` in the step".to_owned());
        }
        if text.contains("BEGIN EC PRIVATE KEY") {
            return Err("is not in PKCS #8; convert it: `openssl pkcs8 -topk8 -nocrypt -in OLD -out KEY`".to_owned());
        }
        let der = pem(text, "PRIVATE KEY").ok_or("is not a private key in PEM")?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &SystemRandom::new());
        key.map(Self).map_err(|why| format!("is not a P-256 key in PKCS #8 ({why})"))
    }

    /// The signature in Base64.
    pub fn sign(&self, message: &[u8]) -> Result<String, Fault> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        signature
            .map(|signature| STANDARD.encode(signature))
            .map_err(|_| Fault::build("cannot sign: the system has no random numbers"))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().to_vec())
    }
}

/// Checks the file of an encrypted key, which the cosign program reads.
///
/// # Errors
/// There is no such file, or others may read it.
pub fn check_encrypted(path: &Path) -> Result<(), Fault> {
    is_private(path).map_err(|why| {
        let fault = Fault::usage(format!("cannot read the key `{}`", path.display())).cause(why);
        match path.exists() {
            true => fault.hint(format!("`chmod 600 {}`", path.display())),
            false => fault.hint("make one: `cosign generate-key-pair`"),
        }
    })
}

/// Says why a file can be read by others than its owner.
fn is_private(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!("its mode is {mode:o}: others may read it"));
        }
    }
    #[cfg(not(unix))]
    drop(metadata);
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let cannot = |why: &dyn std::fmt::Display| {
            Fault::usage(format!("cannot read the public key `{}`", path.display())).cause(why)
        };
        let text = std::fs::read_to_string(path).map_err(|error| cannot(&error))?;
        Self::parse(&text).ok_or_else(|| cannot(&"it is not a P-256 public key in PEM").hint(MAKE))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let der = pem(text, "PUBLIC KEY")?;
        let point = der.strip_prefix(&SPKI[..])?;
        (point.len() == 65).then(|| Self(point.to_vec()))
    }

    /// True if the signature, in Base64, is this key's over the message.
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature.trim()) else { return false };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(message, &signature).is_ok()
    }
}

/// Base64, as documents that are signed have it.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a Base64 text.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.trim()).ok()
}

/// The bytes between the marks of a PEM text.
fn pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn key() -> String {
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()))
    }

    fn public(key: &PrivateKey) -> String {
        let der = [&SPKI[..], &key.public().0].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    #[test]
    fn a_signature_is_of_its_key_and_its_message() {
        let (one, other) = (PrivateKey::parse(&key()).unwrap(), PrivateKey::parse(&key()).unwrap());
        let published = PublicKey::parse(&public(&one)).unwrap();
        assert_eq!(published, one.public());
        let signature = one.sign(b"message").unwrap();
        assert!(published.verifies(b"message", &signature));
        assert!(!published.verifies(b"messagf", &signature));
        assert!(!other.public().verifies(b"message", &signature));
        assert!(!published.verifies(b"message", "!") && !published.verifies(b"message", ""));
        assert_eq!(PublicKey::parse("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"), None);
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_in_the_repository_is_refused() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |path: PathBuf, mode: u32| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, key()).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let said = path.to_str().unwrap().to_owned();
            PrivateKey::of_environment(root.path(), &move |name| (name == KEY_FILE).then(|| said.clone()))
        };
        assert!(write(outside.path().join("good"), 0o600).is_ok());
        assert!(write(root.path().join("target/good"), 0o400).is_ok());
        let refused = |done: Result<PrivateKey, Fault>, why: &str| {
            let fault = done.err().unwrap();
            assert!(fault.to_string().contains(why) && !fault.to_string().contains("BEGIN"), "{fault}");
        };
        refused(write(outside.path().join("open"), 0o644), "its mode is 644");
        refused(write(root.path().join("key"), 0o600), "inside the repository");
        refused(PrivateKey::of_environment(root.path(), &|_| None), "there is no key");
        let text = |text: &str| {
            let text = text.to_owned();
            PrivateKey::of_environment(root.path(), &move |name| (name == KEY).then(|| text.clone()))
        };
        assert!(text(&key()).is_ok());
        refused(text("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nx"), "is encrypted");
        refused(text("-----BEGIN EC PRIVATE KEY-----\nx"), "PKCS #8");
        refused(text("secret"), "not a private key");
    }
}
