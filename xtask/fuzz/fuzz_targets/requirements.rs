//! Any bytes through `xtask::fuzzing::requirement_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask::fuzzing::requirement_file(bytes);
});
