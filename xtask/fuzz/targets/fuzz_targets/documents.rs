//! Any bytes through `xtask_fuzz::documents`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask_fuzz::documents(bytes);
});
