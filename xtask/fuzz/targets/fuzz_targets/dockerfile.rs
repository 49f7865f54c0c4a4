//! Any bytes through `xtask_fuzz::dockerfile`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask_fuzz::dockerfile(bytes);
});
