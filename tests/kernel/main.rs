//! The programs in this machine's kernel, and the daemon with them: each test in
//! a cgroup, a bpffs and directories of its own, and in network namespaces where
//! it needs addresses. All in one program: linking is what takes long.

mod apply;
mod bypass;
mod changes;
mod connect;
mod connections;
mod cookbook;
mod crash;
mod daemon;
mod decide;
mod doctor;
mod drain;
mod explain;
mod faults;
mod flows;
mod grow;
mod health;
mod kubernetes;
mod kubernetes_document;
mod life;
mod memory;
mod metrics;
mod names;
mod others;
mod package;
mod policies;
mod program_log;
mod readers;
mod refusals;
mod reload;
mod silent;
mod source;
mod succession;
mod takeover;
mod text;
mod top;
mod upgrade;
