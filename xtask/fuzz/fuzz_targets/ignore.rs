//! Any bytes through `xtask::fuzzing::ignore`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask::fuzzing::ignore(bytes);
});
