//! The black-box tests that need no kernel of a certain kind, in one program:
//! linking is what takes long.

#[path = "../cli/main.rs"]
mod cli;
mod deploy;
mod kubernetes_apiserver;
mod kubernetes_events;
mod kubernetes_watches;
mod monitoring;
mod names;
