//! The `pyro` executable.
fn main() {}
