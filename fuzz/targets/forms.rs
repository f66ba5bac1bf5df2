//! An object in every form: see [`ironclad_fuzz::bodies::forms`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("forms"), |data: &[u8]| ironclad_fuzz::bodies::forms(data));
