//! What the commands that read documents have in common: the PATHs, and the
//! settings that decide what the documents mean here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redirector_core::budget::{Budgets, Quantity};
use redirector_core::diag::Diagnostic;
use redirector_core::documents::{self, Reading};
use redirector_core::model::{IstioMutual, Object};
use redirector_core::world::{CrossNamespace, ServiceAddresses, Settings, World};
use redirector_core::yaml;

use super::{Context, Exit, Failure};
use crate::output::{Lines, render};
use crate::source::files::{Text, read_all};

/// The shortest time after which something may be done again and again.
const SHORTEST: Duration = Duration::from_millis(100);

/// A time between two of the same: without a pause there would be nothing else.
pub fn interval(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < SHORTEST {
        return Err(format!("at least {}", humantime::format_duration(SHORTEST)));
    }
    Ok(time)
}

/// Flags that decide what documents mean.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "What the documents mean here")]
pub struct SettingsArgs {
    /// Who serves the addresses of Services that no rule matches: own (this daemon) or leave
    /// (somebody else, such as kube-proxy) [default: own; with --kubernetes: leave]
    #[arg(long, value_enum, value_name = "WHO")]
    services: Option<Services>,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// What full service names end with
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Namespace whose DestinationRules are for all
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system")]
    root_namespace: String,
    /// Give hosts of ServiceEntries that have no addresses one of 240.240.0.0/16 and one of
    /// fdf0:240:240::/48 each, for /etc/hosts (`redirector hosts`)
    #[arg(long)]
    allocate_addresses: bool,
    /// For whom objects decide that are of another namespace than the host: istio (for whom
    /// exportTo says) or owner (for clients of their own namespace)
    #[arg(long, value_enum, value_name = "WHO", default_value = "istio")]
    cross_namespace: Cross,
    /// What becomes of connections for which a DestinationRule asks for ISTIO_MUTUAL, which only the
    /// proxies of both sides could speak: refuse, or plain (they go as they are); an annotation of
    /// the rule goes before, redirector.io/istio-mutual
    #[arg(long, value_enum, value_name = "WHAT", default_value = "refuse")]
    istio_mutual: Mutual,
    /// How much one object may ask for: frontends, endpoints, names, rules, conditions or legs; one
    /// that asks for more is refused
    #[arg(long, value_name = "WHAT=COUNT", action = clap::ArgAction::Append, value_parser = limit)]
    object_limit: Vec<(Quantity, u64)>,
    /// How much all objects of a namespace may ask for together; the newest that do not fit are
    /// left out
    #[arg(long, value_name = "WHAT=COUNT", action = clap::ArgAction::Append, value_parser = limit)]
    namespace_limit: Vec<(Quantity, u64)>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Services {
    Own,
    Leave,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Cross {
    Istio,
    Owner,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Mutual {
    Refuse,
    Plain,
}

impl SettingsArgs {
    /// The settings, for documents from files or from an API server.
    pub fn settings(&self, kubernetes: bool) -> Settings {
        let services = match self.services {
            Some(Services::Own) => ServiceAddresses::Own,
            Some(Services::Leave) => ServiceAddresses::Leave,
            None if kubernetes => ServiceAddresses::Leave,
            None => ServiceAddresses::Own,
        };
        let host_name = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        Settings {
            cluster_domain: self.cluster_domain.clone(),
            root_namespace: self.root_namespace.clone(),
            node_name: Some(self.node_name.clone().unwrap_or_else(host_name)),
            services,
            allocates: self.allocate_addresses,
            budgets: self.budgets(),
            cross_namespace: match self.cross_namespace {
                Cross::Istio => CrossNamespace::Istio,
                Cross::Owner => CrossNamespace::Owner,
            },
            istio_mutual: match self.istio_mutual {
                Mutual::Refuse => IstioMutual::Refuse,
                Mutual::Plain => IstioMutual::Plain,
            },
            ..Settings::default()
        }
    }

    fn budgets(&self) -> Budgets {
        let mut budgets = Budgets::default();
        for (limits, set) in [
            (&mut budgets.object, &self.object_limit),
            (&mut budgets.namespace, &self.namespace_limit),
        ] {
            set.iter().for_each(|(quantity, most)| *limits.of(*quantity) = *most);
        }
        budgets
    }
}

/// How much there may be of something.
fn limit(text: &str) -> Result<(Quantity, u64), String> {
    let (what, count) =
        text.split_once('=').ok_or("expected WHAT=COUNT, such as endpoints=100000")?;
    let count = count.parse().map_err(|_| format!("{count:?} is no count"))?;
    Ok((what.parse()?, count))
}

/// Documents that were read for a command that only looks.
#[derive(Debug, Default)]
pub struct Documents {
    /// What each file holds.
    pub readings: Vec<Reading>,
    /// The text of each file, to show lines of.
    pub texts: Vec<Text>,
    /// What concerns whole files.
    pub diagnostics: Vec<Diagnostic>,
}

impl Documents {
    /// Reads all documents below the PATHs.
    pub fn read(paths: &[PathBuf]) -> Self {
        let (texts, diagnostics) = read_all(paths, std::io::stdin().lock());
        let mut documents = Self { readings: Vec::new(), texts: Vec::new(), diagnostics };
        for (name, bytes) in texts {
            match yaml::decode_bytes(&bytes) {
                Ok(text) => documents.readings.push(documents::read(Some(name.clone()), &text)),
                Err(error) => {
                    documents.diagnostics.push(documents::not_text(Some(name.clone()), error));
                }
            }
            documents.texts.push((name, bytes));
        }
        documents
    }

    /// Fails when a PATH, or a document in it, could not be read at all: an answer
    /// from half of the documents would be a wrong one.
    pub fn insist(&self, context: &mut Context<'_>) -> Result<(), Failure> {
        let hiding = self.readings.iter().flat_map(Reading::hiding);
        let style = context.err_style();
        let mut lines = Lines::new(&self.texts);
        let mut failed = false;
        for finding in self.diagnostics.iter().chain(hiding) {
            context.note(render(finding, &mut lines, style).trim_end());
            failed = true;
        }
        if !failed {
            return Ok(());
        }
        Err(Failure::new(
            Exit::No,
            "not all documents can be read: there is no answer without them",
        ))
    }

    /// Says so when objects are refused: the answer is without them.
    pub fn note_refused(&self, context: &mut Context<'_>) {
        let mut all = self.readings.iter().flat_map(|reading| &reading.objects);
        if all.any(|read| read.object.is_none()) {
            context.note("note: some documents are refused; `redirector check` says which and why");
        }
    }

    /// The good objects, in the order in which they were read.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.readings
            .iter()
            .flat_map(|reading| &reading.objects)
            .filter_map(|read| read.object.as_ref())
    }

    /// The World of the good objects.
    pub fn world(&self, settings: Settings) -> World {
        let mut world = World::new(settings);
        for object in self.objects() {
            world.insert(object.clone());
        }
        world
    }
}
