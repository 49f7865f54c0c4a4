//! Any bytes through `xtask_fuzz::layer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask_fuzz::layer(bytes);
});
