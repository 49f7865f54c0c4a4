//! MD5 as RFC 1321 defines it: dpkg records it of files. Nothing is trusted because of it.

/// Digest of bytes that arrive in pieces.
pub struct Md5 {
    state: [u32; 4],
    block: Vec<u8>,
    length: u64,
}

const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

impl Default for Md5 {
    fn default() -> Self {
        Self { state: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476], block: Vec::with_capacity(64), length: 0 }
    }
}

impl Md5 {
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.length = self.length.wrapping_add(bytes.len() as u64);
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(64 - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = rest;
            if self.block.len() == 64 {
                self.round();
            }
        }
    }

    /// The digest as 32 hex digits.
    pub fn finish(mut self) -> String {
        let bits = self.length.wrapping_mul(8);
        self.block.push(0x80);
        if self.block.len() > 56 {
            self.block.resize(64, 0);
            self.round();
        }
        self.block.resize(56, 0);
        self.block.extend_from_slice(&bits.to_le_bytes());
        self.round();
        self.state.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect()
    }

    fn round(&mut self) {
        let words: Vec<u32> =
            self.block.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
        let [mut a, mut b, mut c, mut d] = self.state;
        for step in 0..64_usize {
            let (mixed, index) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
                2 => (b ^ c ^ d, (3 * step + 5) % 16),
                _ => (c ^ (b | !d), (7 * step) % 16),
            };
            // floor(2^32 * |sin(step + 1)|), as the specification defines its table.
            let constant = (((step + 1) as f64).sin().abs() * 4_294_967_296.0) as u32;
            let sum = a.wrapping_add(mixed).wrapping_add(constant).wrapping_add(words[index]);
            (a, d, c) = (d, c, b);
            b = b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4]));
        }
        for (state, word) in self.state.iter_mut().zip([a, b, c, d]) {
            *state = state.wrapping_add(word);
        }
        self.block.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn sum(bytes: &[u8], expected: &str) {
        let mut sum = Md5::default();
        bytes.chunks(7).for_each(|chunk| sum.update(chunk));
        assert_eq!(sum.finish(), expected);
    }

    #[test]
    fn digests_are_those_of_the_specification() {
        sum(b"", "d41d8cd98f00b204e9800998ecf8427e");
        sum(b"abc", "900150983cd24fb0d6963f7d28e17f72");
        sum(b"message digest", "f96b697d7cb7938d525a2f31aaf161d0");
        let digits = "1234567890".repeat(8);
        sum(digits.as_bytes(), "57edf4a22be3c955ac49da2e2107b67a");
    }
}
