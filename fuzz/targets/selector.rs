//! A label or field selector: see [`ironclad_fuzz::selectors::selector`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("selector"), |data: &[u8]| ironclad_fuzz::selectors::selector(data));
