//! A JSON body: see [`fuzz::bodies::json`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("json"), |data: &[u8]| fuzz::bodies::json(data));
