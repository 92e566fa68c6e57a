//! Fuzz target: `pyro_network::fuzzing::questions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pyro_network::fuzzing::questions(data));
