//! Whether the kernel tells the workloads' processes, as it is now.

use redirector_core::model::SourceId;
use redirector_core::registry::Registry;

use crate::cli::Failure;
use crate::datapath::Datapath;
use crate::identity::{OF_ANOTHER, Resolver};
use crate::mounts;
use crate::state::{Snapshot, UnknownWorkload};

/// The workloads of the configuration in force whose processes the kernel
/// cannot tell, looked for now; and a word on each that it takes for another one. Nothing
/// where it cannot be told which numbers they have.
pub(super) fn gaps(
    datapath: &Datapath,
    snapshot: Option<&Snapshot>,
) -> Result<(Vec<UnknownWorkload>, Vec<String>), Failure> {
    let Some(snapshot) = snapshot.filter(|snapshot| snapshot.knows_numbers()) else {
        return Ok(Default::default());
    };
    let known = datapath.sources()?;
    let mut resolver = Resolver::new(mounts::cgroup2().ok().flatten().unwrap_or_default());
    let world = snapshot.world();
    let registry = Registry::new(&world);
    let (mut gaps, mut others) = (Vec::new(), Vec::new());
    for workload in registry.workloads.sources() {
        let (namespace, name) = (workload.object.namespace.clone(), workload.object.name.clone());
        let id = SourceId { namespace, name };
        let Some(selector) = &workload.source else { continue };
        let of = |identity| known.iter().filter(move |(_, number)| Some(*number) == identity);
        let mut keys = of(snapshot.contents.layout.identity(&id)).map(|(key, _)| key).peekable();
        if keys.peek().is_some() {
            if resolver.is_another(selector, keys) {
                others.push(format!(
                    "{}/{} cannot be told: {OF_ANOTHER}; start the daemon",
                    id.namespace, id.name
                ));
            }
            continue;
        }
        let because = match resolver.resolve(selector) {
            Err(why) => why.to_string(),
            Ok(_) => "it is there, and the kernel has not been told yet".to_owned(),
        };
        gaps.push(UnknownWorkload { workload: format!("{}/{}", id.namespace, id.name), because });
    }
    Ok((gaps, others))
}
