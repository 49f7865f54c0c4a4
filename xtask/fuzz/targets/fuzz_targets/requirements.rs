//! Any bytes through `xtask_fuzz::requirement_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask_fuzz::requirement_file(bytes);
});
