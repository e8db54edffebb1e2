//! Finds the toolchain for the BPF target and builds the programs with it.
