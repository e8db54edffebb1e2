//! The shell around the functional core: kernel, files, processes, command line.

pub mod datapath;
