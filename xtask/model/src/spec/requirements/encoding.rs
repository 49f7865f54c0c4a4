//! The text of a requirement file, whichever of the encodings that pip recognises by a byte order mark it is in.
//!
//! Pure. Windows PowerShell writes UTF-16 where `pip freeze > requirements.txt` is called.

/// The text of a file, or what is wrong with its bytes.
///
/// # Errors
/// Bytes that are invalid in their encoding, or an unsupported encoding.
pub fn decoded(bytes: &[u8]) -> Result<String, String> {
    match bytes {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Err("it is UTF-32; save it as UTF-8".to_owned()),
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => match (coding(bytes).as_deref(), std::str::from_utf8(bytes)) {
            (None | Some("utf-8" | "utf8" | "utf_8" | "utf-8-sig" | "ascii" | "us-ascii"), Ok(text)) => {
                Ok(text.to_owned())
            }
            (Some("latin-1" | "latin1" | "latin_1" | "iso-8859-1" | "iso8859-1" | "l1"), _) => {
                Ok(bytes.iter().map(|byte| char::from(*byte)).collect())
            }
            (Some("cp1252" | "windows-1252" | "1252"), _) => {
                let text: Option<String> = bytes.iter().map(|byte| windows(*byte)).collect();
                text.ok_or_else(|| "it has bytes that are nothing in `cp1252`; save it as UTF-8".to_owned())
            }
            (Some(name), Ok(text)) if text.is_ascii() && !name.starts_with("utf-7") => Ok(text.to_owned()),
            (Some(name), Ok(_)) => Err(format!("its first lines name the encoding `{name}`; save it as UTF-8")),
            (_, Err(error)) => Err(format!("{error}; save it as UTF-8")),
        },
    }
}

/// The encoding that a comment in the first two lines names, as Python's sources have it: `# -*- coding: latin-1 -*-`.
fn coding(bytes: &[u8]) -> Option<String> {
    let mut lines = bytes.split(|byte| *byte == b'\n').take(2);
    lines.find_map(|line| {
        let text = String::from_utf8_lossy(line);
        let after = text.trim_start().strip_prefix('#')?.split_once("coding")?.1;
        let name = after.strip_prefix([':', '='])?.trim_start();
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(name.len());
        (end > 0).then(|| name[..end].to_ascii_lowercase())
    })
}

fn windows(byte: u8) -> Option<char> {
    const SPECIAL: [char; 32] = [
        '€', '\0', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\0', 'Ž', '\0', '\0', '‘', '’', '“', '”',
        '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\0', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9f => Some(SPECIAL[usize::from(byte - 0x80)]).filter(|c| *c != '\0'),
        _ => Some(char::from(byte)),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let text = String::from_utf16(&pairs.iter().map(|pair| unit(*pair)).collect::<Vec<_>>());
    match (text, rest) {
        (Ok(text), []) => Ok(text),
        _ => Err("it starts like UTF-16 but is not valid UTF-16; save it as UTF-8".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn utf_16_of_either_order_is_the_same_text(text in "\\PC{0,20}") {
            let units = || std::iter::once('\u{feff}' as u16).chain(text.encode_utf16());
            let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
            let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
            prop_assert_eq!(decoded(&little).unwrap(), text.clone());
            prop_assert_eq!(decoded(&big).unwrap(), text.clone());
            prop_assert_eq!(decoded(text.as_bytes()).unwrap(), text);
        }
    }

    #[test]
    fn a_coding_line_names_the_encoding() {
        assert_eq!(decoded(b"# -*- coding: latin-1 -*-\n# caf\xe9\na").unwrap().lines().nth(1), Some("# caf\u{e9}"));
        assert_eq!(decoded(b"\n# vim: set fileencoding=cp1252 :\n# \x80\n").unwrap().lines().nth(2), Some("# €"));
        assert_eq!(decoded(b"# coding: koi8-r\na\n").unwrap(), "# coding: koi8-r\na\n");
        assert!(decoded("# coding: koi8-r\n# é\n".as_bytes()).unwrap_err().contains("koi8-r"));
        assert!(decoded(b"# coding: cp1252\n\x81").is_err());
        assert!(decoded(b"\n\n# coding: latin-1\n\xe9").is_err(), "only the first two lines count");
    }

    #[test]
    fn other_bytes_are_refused_with_a_way_out() {
        for bytes in [&b"\xff\xfea"[..], b"\xff\xfe\x00\xd8", b"\xff\xfe\0\0a\0\0\0", b"caf\xe9"] {
            assert!(decoded(bytes).unwrap_err().ends_with("save it as UTF-8"));
        }
    }
}
