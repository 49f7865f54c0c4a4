//! Any bytes through `xtask::fuzzing::dockerfile`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask::fuzzing::dockerfile(bytes);
});
