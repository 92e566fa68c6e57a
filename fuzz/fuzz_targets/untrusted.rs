//! Fuzz target: `pyro_supervisor::fuzzing::untrusted`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pyro_supervisor::fuzzing::untrusted(data));
