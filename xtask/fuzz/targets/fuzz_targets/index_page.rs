//! Any bytes through `xtask_fuzz::index_page`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    xtask_fuzz::index_page(bytes);
});
