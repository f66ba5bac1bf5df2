//! Server-side apply: see [`fuzz::patches::apply`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::seeds::write("apply"), |data: &[u8]| fuzz::patches::apply(data));
