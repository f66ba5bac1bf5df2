//! Server-side apply: see [`ironclad_fuzz::patches::apply`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("apply"), |data: &[u8]| ironclad_fuzz::patches::apply(data));
