//! A CEL expression: see [`fuzz::expressions::cel`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("cel"), |data: &[u8]| fuzz::expressions::cel(data));
