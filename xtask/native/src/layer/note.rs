//! A note in a layer: bytes after its files that no reader of layers sees, and that count in the layer's digest.
//!
//! In gzip, the extra fields of empty members (RFC 1952, 2.3.1.1), as eStargz has its footer; in zstd, a skippable frame (RFC 8878,
//! 3.1.2). Pure.

use super::{Codec, LEVEL};
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use std::io::{Read as _, Write as _};
use xtask_model::image::policy::Compression;

/// Header of an empty gzip member up to its extra field, and what comes after it: an empty block, checksum and size.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
const END: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Name of the extra field.
const FIELD: [u8; 2] = *b"xt";
/// Most bytes of an extra field: with its name and length, all of them have 16 bits for their size.
const MOST: usize = 0xffff - 4;

const FRAME: [u8; 4] = [0x5a, 0x2a, 0x4d, 0x18];

/// Largest note, in bytes.
const LIMIT: u64 = 256 << 20;

/// The note as it is in the layer.
pub(super) fn framed(codec: Codec, note: &[u8]) -> Vec<u8> {
    let mut deflate = DeflateEncoder::new(Vec::new(), flate2::Compression::new(LEVEL));
    let packed = deflate.write_all(note).and_then(|()| deflate.finish()).expect("a vector takes all bytes");
    let size = |length: usize| u32::try_from(length).expect("a note has less than 4 GB").to_le_bytes();
    match codec.0 {
        Compression::Gzip => {
            let member = |part: &[u8]| {
                let [length, field] = [size(part.len()), size(part.len() + 4)];
                [&HEAD[..], &field[..2], &FIELD, &length[..2], part, &END].concat()
            };
            packed.chunks(MOST).flat_map(member).collect()
        }
        Compression::Zstd => [&FRAME[..], &size(packed.len()), &packed].concat(),
    }
}

/// Reads a note from the end of a layer; `framed` are the bytes that it has there. `None` if there is none.
pub fn read(layer: &[u8], framed: u64) -> Option<Vec<u8>> {
    let begin = layer.len().checked_sub(usize::try_from(framed).ok()?)?;
    let mut rest = &layer[begin..];
    let mut packed = Vec::new();
    if let Some(frame) = rest.strip_prefix(&FRAME) {
        let (length, frame) = frame.split_first_chunk::<4>()?;
        (frame.len() == u32::from_le_bytes(*length) as usize).then(|| packed.extend_from_slice(frame))?;
        rest = &[];
    }
    while !rest.is_empty() {
        let (field, after) = rest.strip_prefix(&HEAD)?.split_first_chunk::<2>()?;
        let (length, after) = after.strip_prefix(&FIELD)?.split_first_chunk::<2>()?;
        let (field, length) = (u16::from_le_bytes(*field), u16::from_le_bytes(*length));
        let part = after.get(..length.into()).filter(|_| field == length + 4)?;
        packed.extend_from_slice(part);
        rest = after[part.len()..].strip_prefix(&END)?;
    }
    let mut note = Vec::new();
    let read = DeflateDecoder::new(&packed[..]).take(LIMIT + 1).read_to_end(&mut note);
    (read.is_ok() && !packed.is_empty() && note.len() as u64 <= LIMIT).then_some(note)
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Reader, write, write_with_note};
    use super::*;

    #[test]
    fn a_note_is_read_again_and_no_reader_of_the_layer_sees_it() {
        // Longer than an extra field, and not to be compressed.
        let mut noise = vec![0_u8; 200_000];
        let mut state = 1_u32;
        for byte in &mut noise {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        for codec in [Compression::Gzip, Compression::Zstd].map(Codec::new) {
            let mut plain = Vec::new();
            let without = write(&[], codec, 1, &mut plain).unwrap();
            for note in [&b""[..], b"a note", &noise] {
                let mut layer = Vec::new();
                let written = write_with_note(&[], Some(note), codec, 1, &mut layer).unwrap();
                assert_eq!(read(&layer, written.note).as_deref(), Some(note));
                assert!(layer.starts_with(&plain) && written.diff_id == without.diff_id);
                let mut reader = Reader::open(&layer[..], Some(&written.diff_id), Limits::default()).unwrap();
                assert_eq!(reader.next().unwrap(), None);
                for (bytes, length) in
                    [(&layer[..], 0), (&layer, written.note - 1), (&layer, written.note + 1), (&layer, u64::MAX)]
                {
                    assert_eq!(read(bytes, length), None);
                }
                let mut damaged = layer.clone();
                *damaged.last_mut().unwrap() ^= 0xff;
                assert_ne!(read(&damaged, written.note).as_deref(), Some(note));
            }
        }
    }
}
