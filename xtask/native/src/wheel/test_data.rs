//! Made-up archives, correct and not, byte by byte.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::{Compress, Compression, Crc, FlushCompress};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// A file of an archive, and what its records state if that is not the truth.
#[derive(Clone, Default)]
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// Unix mode with the kind of file.
    pub(crate) mode: u32,
    pub(crate) stored: bool,
    /// Sizes and checksum follow the file.
    pub(crate) descriptor: bool,
    /// Sizes are in extra fields.
    pub(crate) zip64: bool,
    pub(crate) flags: u16,
    pub(crate) crc: Option<u32>,
    pub(crate) size: Option<u64>,
    /// Uses the bytes of the file with this number.
    pub(crate) bytes_of: Option<usize>,
    pub(crate) local_name: Option<String>,
    /// Extra fields of both records.
    pub(crate) extra: Vec<u8>,
    /// Only has a local record.
    pub(crate) hidden: bool,
    /// The name is not marked as UTF-8.
    pub(crate) unmarked: bool,
    /// Bytes behind the file.
    pub(crate) behind: Vec<u8>,
}

pub(crate) fn made(name: &str, bytes: impl AsRef<[u8]>) -> Made {
    Made { name: name.to_owned(), bytes: bytes.as_ref().to_vec(), mode: 0o100_644, ..Made::default() }
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 1024);
    let mut deflate = Compress::new(Compression::new(6), false);
    deflate.compress_vec(bytes, &mut out, FlushCompress::Finish).unwrap();
    out
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

pub(crate) fn archive(files: &[Made]) -> Vec<u8> {
    let (mut out, mut directory, mut starts) = (Vec::new(), Vec::new(), Vec::<usize>::new());
    let u16 = |out: &mut Vec<u8>, value: u16| out.extend(value.to_le_bytes());
    let u32 = |out: &mut Vec<u8>, value: u32| out.extend(value.to_le_bytes());
    let u64 = |out: &mut Vec<u8>, value: u64| out.extend(value.to_le_bytes());
    for file in files {
        let packed = if file.stored { file.bytes.clone() } else { deflated(&file.bytes) };
        let crc = file.crc.unwrap_or_else(|| crc(&file.bytes));
        let (size, packed_size) = (file.size.unwrap_or(file.bytes.len() as u64), packed.len() as u64);
        let marked = if file.name.is_ascii() || file.unmarked { 0 } else { 1 << 11 };
        let flags = file.flags | marked | if file.descriptor { 8 } else { 0 };
        let method = if file.stored { 0 } else { 8 };
        let short = |value: u64| if file.zip64 { u32::MAX } else { value as u32 };
        let mut extra = file.extra.clone();
        if file.zip64 {
            u16(&mut extra, 1);
            u16(&mut extra, 16);
            u64(&mut extra, size);
            u64(&mut extra, packed_size);
        }
        let start = file.bytes_of.map_or(out.len(), |number| starts[number]);
        starts.push(start);
        if file.bytes_of.is_none() {
            let name = file.local_name.as_ref().unwrap_or(&file.name);
            u32(&mut out, 0x0403_4b50);
            u16(&mut out, 20);
            u16(&mut out, flags);
            u16(&mut out, method);
            u32(&mut out, 0);
            let (crc, packed_size, size) =
                if file.descriptor { (0, 0, 0) } else { (crc, short(packed_size), short(size)) };
            u32(&mut out, crc);
            u32(&mut out, packed_size);
            u32(&mut out, size);
            u16(&mut out, name.len() as u16);
            u16(&mut out, extra.len() as u16);
            out.extend(name.as_bytes());
            out.extend(&extra);
            out.extend(&packed);
        }
        if file.descriptor {
            u32(&mut out, 0x0807_4b50);
            u32(&mut out, crc);
            u32(&mut out, packed_size as u32);
            u32(&mut out, size as u32);
        }
        out.extend(&file.behind);
        if file.hidden {
            continue;
        }
        u32(&mut directory, 0x0201_4b50);
        u16(&mut directory, 0x0314);
        u16(&mut directory, 20);
        u16(&mut directory, flags);
        u16(&mut directory, method);
        u32(&mut directory, 0);
        u32(&mut directory, crc);
        u32(&mut directory, short(packed_size));
        u32(&mut directory, short(size));
        u16(&mut directory, file.name.len() as u16);
        u16(&mut directory, extra.len() as u16);
        u16(&mut directory, 0);
        u16(&mut directory, 0);
        u16(&mut directory, 0);
        u32(&mut directory, file.mode << 16);
        u32(&mut directory, start as u32);
        directory.extend(file.name.as_bytes());
        directory.extend(&extra);
    }
    let count = files.iter().filter(|file| !file.hidden).count() as u64;
    let (at, size) = (out.len() as u64, directory.len() as u64);
    out.extend(directory);
    let zip64 = files.iter().any(|file| file.zip64);
    if zip64 {
        let end = out.len() as u64;
        u32(&mut out, 0x0606_4b50);
        u64(&mut out, 44);
        u32(&mut out, 0);
        u64(&mut out, 0);
        u64(&mut out, count);
        u64(&mut out, count);
        u64(&mut out, size);
        u64(&mut out, at);
        u32(&mut out, 0x0706_4b50);
        u32(&mut out, 0);
        u64(&mut out, end);
        u32(&mut out, 1);
    }
    u32(&mut out, 0x0605_4b50);
    u32(&mut out, 0);
    let count = if zip64 { u16::MAX } else { count as u16 };
    u16(&mut out, count);
    u16(&mut out, count);
    u32(&mut out, size as u32);
    u32(&mut out, if zip64 { u32::MAX } else { at as u32 });
    u16(&mut out, 0);
    out
}

fn hash(bytes: &[u8]) -> String {
    format!("sha256={}", URL_SAFE_NO_PAD.encode(Sha256::digest(bytes)))
}

/// Writes a wheel of version 1 with these files and `WHEEL`, and with `METADATA` and a `RECORD` that lists them all, unless they are of these files.
pub(crate) fn wheel(folder: &Path, name: &str, files: &[Made]) -> PathBuf {
    let info = format!("{name}-1.dist-info");
    let mut all = files.to_vec();
    if !files.iter().any(|file| file.name == format!("{info}/METADATA")) {
        all.push(made(&format!("{info}/METADATA"), format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")));
    }
    all.push(made(&format!("{info}/WHEEL"), "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"));
    if !files.iter().any(|file| file.name == format!("{info}/RECORD")) {
        let rows: String = all
            .iter()
            .filter(|file| !file.name.ends_with('/'))
            .map(|file| format!("{},{},{}\n", file.name, hash(&file.bytes), file.bytes.len()))
            .collect();
        all.push(made(&format!("{info}/RECORD"), format!("{rows}{info}/RECORD,,\n")));
    }
    let path = folder.join(format!("{name}-1-py3-none-any.whl"));
    std::fs::write(&path, archive(&all)).unwrap();
    path
}
