//! Fuzz target: `pyro_network::fuzzing::guest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pyro_network::fuzzing::guest(data));
