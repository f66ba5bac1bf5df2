//! An object in every form: see [`fuzz::bodies::forms`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("forms"), |data: &[u8]| fuzz::bodies::forms(data));
