//! A JSON document on its way into memory, without the objects that nobody needs: pages of a package index list thousands of files, of which
//! a build wants a few.
//!
//! Pure. An object in an array in the outermost object is given to a function, which says whether it stays. The rest is passed on as it is, and
//! whoever reads it finds what is invalid.

use std::io::{self, Write};

/// Takes the bytes of a document in pieces of any length. Not generic: callers are compiled without optimisation, and this runs for each byte.
pub struct Elements<'k> {
    keep: &'k dyn Fn(&[u8]) -> bool,
    kept: Vec<u8>,
    /// The object that is not complete.
    object: Vec<u8>,
    depth: usize,
    is_text: bool,
    is_escaped: bool,
    /// True if the bytes are directly in such an array.
    is_array: bool,
    /// True if the next value is the first after a comma.
    is_next: bool,
    /// True if the array has a value that stays.
    has_value: bool,
}

impl<'k> Elements<'k> {
    pub fn new(keep: &'k dyn Fn(&[u8]) -> bool) -> Self {
        Self {
            keep,
            kept: Vec::new(),
            object: Vec::new(),
            depth: 0,
            is_text: false,
            is_escaped: false,
            is_array: false,
            is_next: false,
            has_value: false,
        }
    }

    /// Rest of the document, without the elements that were left out.
    pub fn kept(mut self) -> Vec<u8> {
        self.kept.append(&mut self.object);
        self.kept
    }

    fn take(&mut self, byte: u8) {
        let in_object = !self.object.is_empty();
        let in_array = self.depth == 2 && self.is_array;
        if self.is_text {
            self.is_text = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return self.pass(byte);
        }
        match byte {
            b'"' => self.is_text = true,
            b'{' | b'[' => {
                self.depth += 1;
                if in_array && byte == b'{' {
                    return self.object.push(byte);
                }
                if self.depth == 2 {
                    (self.is_array, self.is_next, self.has_value) = (byte == b'[', true, false);
                    return self.kept.push(byte);
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.pass(byte);
                if in_object && self.depth == 2 {
                    self.end_object();
                }
                return;
            }
            b',' if in_array => {
                self.is_next = true;
                return;
            }
            b' ' | b'\n' | b'\r' | b'\t' => return self.pass(byte),
            _ => {}
        }
        if in_array {
            self.begin_value();
        }
        self.pass(byte);
    }

    fn pass(&mut self, byte: u8) {
        if self.object.is_empty() { self.kept.push(byte) } else { self.object.push(byte) }
    }

    fn begin_value(&mut self) {
        if self.is_next && self.has_value {
            self.kept.push(b',');
        }
        (self.is_next, self.has_value) = (false, true);
    }

    fn end_object(&mut self) {
        if (self.keep)(&self.object) {
            // Two objects without a comma stay so.
            self.begin_value();
            self.kept.append(&mut self.object);
        }
        self.object.clear();
    }
}

impl Write for Elements<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|byte| self.take(*byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(document: &str, expected: &str) {
        for piece in [1, 3, document.len().max(1)] {
            let mut elements = Elements::new(&|object| !object.windows(4).any(|part| part == b"drop"));
            document.as_bytes().chunks(piece).for_each(|piece| elements.write_all(piece).unwrap());
            assert_eq!(String::from_utf8(elements.kept()).unwrap(), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn objects_of_arrays_may_go() {
        check(
            r#"{"a":{"n":1},"f":[{"n":"drop"},{"n":2}],"v":["1","2"]}"#,
            r#"{"a":{"n":1},"f":[{"n":2}],"v":["1","2"]}"#,
        );
        check(r#"{"f":[{"n":1},{"n":"drop"},{"n":[{"m":2}]}]}"#, r#"{"f":[{"n":1},{"n":[{"m":2}]}]}"#);
        check(r#"{"f":[{"n":"drop"}],"g":[1,{"n":"drop"},"x",{"y":{}}]}"#, r#"{"f":[],"g":[1,"x",{"y":{}}]}"#);
        check(r#"{"f":[ {"n":"\"}],drop"} , {"n":"\\"} ]}"#, r#"{"f":[   {"n":"\\"} ]}"#);
        check(r#"{"drop":{"drop":[{"x":1}]}}"#, r#"{"drop":{"drop":[{"x":1}]}}"#);
    }

    #[test]
    fn other_documents_stay_as_they_are() {
        for document in ["", "[]", "[{\"drop\":1}]", "{\"f\":[{\"n\":1}{\"n\":2}]}", "}}]", "\"drop", "{\"f\":[{\"drop"]
        {
            check(document, document);
        }
    }
}
