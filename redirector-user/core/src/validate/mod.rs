//! What Istio's admission asks of single values: names, addresses, labels,
//! durations. The decoder applies them where it reads the values.

pub mod durations;
pub mod names;
pub mod subnets;
