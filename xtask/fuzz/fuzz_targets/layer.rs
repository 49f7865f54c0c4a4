//! Any bytes through `xtask::fuzzing::layer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask::fuzzing::layer(bytes);
});
