//! Any bytes through `xtask::fuzzing::documents`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask::fuzzing::documents(bytes);
});
