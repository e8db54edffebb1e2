//! Tests of the core from outside, in one program: linking is what takes long.

mod bypass;
mod check;
mod conformance_compiled;
mod corpus;
mod cross_namespace;
mod edits;
mod expect;
mod findings;
mod findings_annotations;
mod findings_clients;
mod findings_outside;
mod findings_reach;
mod findings_shares;
mod flattening;
mod gateways;
mod handbook;
mod hostile;
mod layout;
mod mistakes;
mod newcomers;
mod placement;
mod reference_worlds;
mod refusals;
mod registry;
mod service_entries;
mod support;
