//! A SPDY connection: see [`fuzz::framing::spdy`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("spdy"), |data: &[u8]| fuzz::framing::spdy(data));
