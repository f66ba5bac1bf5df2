//! Two quantities: see [`ironclad_fuzz::selectors::quantity`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ironclad_fuzz::seeds::write("quantity"), |data: &[u8]| ironclad_fuzz::selectors::quantity(data));
