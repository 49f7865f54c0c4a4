//! Any bytes through `xtask::fuzzing::lock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask::fuzzing::lock(bytes);
});
