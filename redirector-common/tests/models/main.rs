//! Models of what runs at the same time: every interleaving of a few steps is looked at.
//!
//! Each model has a test in which a step is left out that it needs: there the checker must
//! find what goes wrong, or it would find nothing anywhere. How many states there were is
//! printed (`cargo test -p redirector-common --test models -- --nocapture`).

mod connection;
mod daemons;
mod ejection;
mod handover;
mod lives;
mod rollout;
mod update;

use stateright::{Checker as _, Model};

/// Looks at every state of a model in which nothing may go wrong.
fn holds<M>(what: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: std::fmt::Debug + Clone + std::hash::Hash + PartialEq + Send + Sync,
    M::Action: std::fmt::Debug + Clone + PartialEq + Send + Sync,
{
    let checker = model.checker().threads(2).spawn_dfs().join();
    checker.assert_properties();
    println!(
        "figure: {what}: {} states, {} steps, no fault",
        checker.unique_state_count(),
        checker.state_count()
    );
}

/// Looks for what goes wrong with this property where something must.
fn breaks<M>(property: &'static str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: std::fmt::Debug + Clone + std::hash::Hash + PartialEq + Send + Sync,
    M::Action: std::fmt::Debug + Clone + PartialEq + Send + Sync,
{
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_any_discovery(property);
}
