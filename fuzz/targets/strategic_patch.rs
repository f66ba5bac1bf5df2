//! A strategic merge patch: see [`ironclad_fuzz::patches::strategic`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("strategic_patch"), |data: &[u8]| ironclad_fuzz::patches::strategic(data));
