//! Two quantities: see [`fuzz::selectors::quantity`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("quantity"), |data: &[u8]| fuzz::selectors::quantity(data));
