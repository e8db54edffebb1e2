//! `cargo xtask`: set-up, demo, tests, benchmarks.

fn main() {}
