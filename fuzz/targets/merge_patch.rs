//! A JSON merge patch: see [`ironclad_fuzz::patches::merge`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("merge_patch"), |data: &[u8]| ironclad_fuzz::patches::merge(data));
