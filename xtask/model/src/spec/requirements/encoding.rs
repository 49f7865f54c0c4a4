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
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(format!("{error}; save it as UTF-8")),
        },
    }
}

/// True if the bytes are UTF-8, as uv reads them.
pub fn is_utf8(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
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
    fn other_bytes_are_refused_with_a_way_out() {
        for bytes in [&b"\xff\xfea"[..], b"\xff\xfe\x00\xd8", b"\xff\xfe\0\0a\0\0\0", b"caf\xe9"] {
            assert!(decoded(bytes).unwrap_err().ends_with("save it as UTF-8"));
        }
    }
}
