//! `redirector flows`

mod filter;
mod story;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use redirector_core::layout::Layout;
use serde::Serialize;

use super::kernel::{KernelArgs, REPORT_PATIENCE};
use super::{Common, Context, Exit, Failure, Format};
use crate::daemon::control::Request;
use crate::datapath::{self, Flows};
use crate::output::{Style, source_name};
use crate::state::StateDir;

use filter::Filter;
use story::{Stories, Told};

/// Shows connections as they are decided and closed
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector flows --follow
  redirector flows --for 10s --workload default/telnet-client --outcome refused
  redirector flows --since 5m --pid 4711
  redirector flows --last 100 --route VirtualService/default/echo --output json

While nobody follows, the kernel tells nothing and it costs nothing; with `run
--flows` it always does. Without a daemon, how a connection ended is told only
as far as its socket is seen to close. With --output json and --follow each line
is an object, with --output yaml each document.")]
pub struct Args {
    /// Go on as they happen, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Go on for so long
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    r#for: Option<Duration>,
    /// How many of the last to begin with [default: 20, with --since all, with --follow none]
    #[arg(long, value_name = "COUNT")]
    last: Option<usize>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    kernel: KernelArgs,
}

/// How long the kernel goes on telling when a follower is gone.
const LEASE: Duration = Duration::from_secs(15);
/// How often a follower says that it is there.
const RENEWAL: Duration = Duration::from_secs(5);
/// How often a follower looks.
const LOOK: Duration = Duration::from_millis(50);

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let begun = Instant::now();
    // How long the daemon is waited for, where it is not for as long as this takes.
    let patience = || {
        let left = args.r#for.map(|time| time.saturating_sub(begun.elapsed()));
        left.map_or(REPORT_PATIENCE, |left| left.clamp(LOOK, REPORT_PATIENCE))
    };
    let datapath = args.kernel.open()?;
    let mut flows = datapath.flows()?;
    let follow = args.follow || args.r#for.is_some();
    let mut stories = Stories::new(Names::new(args.kernel.state(), datapath.active().generation));
    let style = context.style(common);
    let mut out = Out { common: *common, style, follow, told: Vec::new(), lost: 0 };

    // Everything that is there makes the stories whole, also of those shown.
    let last = args.last.unwrap_or(match (args.filter.since, follow) {
        (Some(_), _) => usize::MAX,
        (None, true) => 0,
        (None, false) => 20,
    });
    flows.rewind(u64::MAX);
    let mut before: Vec<Told> = read(&mut flows, &mut stories, &args.filter);
    let mut gateways = Gateways::default();
    let through =
        gateways.read(&args.kernel, patience(), if follow { LEASE } else { Duration::ZERO });
    before.extend(through.into_iter().filter(|told| args.filter.takes(told)));
    before.sort_by_key(|told| told.at);
    let lost = flows.lost();
    before.drain(..before.len().saturating_sub(last));
    for told in before {
        out.tell(told, context)?;
    }
    if !follow {
        if args.kernel.silent.get() {
            context.note(
                "note: the daemon does not answer, so connections through gateways are not told: \
                 `redirector status` says what helps",
            );
        }
        if out.told.is_empty() && out.common.output.encoding().is_none() {
            context.note(if datapath.tells_flows() {
                "note: there were none like that"
            } else {
                "note: nobody follows, so the kernel tells nothing: see `redirector flows --follow` \
                 and `redirector run --flows`"
            });
        }
        return out.end(context);
    }
    drop(datapath);

    let mut renewed: Option<Instant> = None;
    loop {
        if renewed.is_none_or(|renewed| renewed.elapsed() >= RENEWAL) {
            // First of all, so that how it ends is told of the first that is told, too.
            let request = Request::Follow { seconds: LEASE.as_secs() };
            if let Err(failure) =
                args.kernel.ask_for(&request, "so it is not told how they end", patience())
                && renewed.is_none()
            {
                context.note(&format!("note: {}", failure.message));
            }
            // Opened again: after an upgrade there are other tables.
            let datapath = args.kernel.open()?;
            match datapath.follow_flows(LEASE) {
                // Who may only look has the daemon do it.
                Err(datapath::Error::Privilege { .. }) => {
                    let request = Request::Tell { seconds: LEASE.as_secs() };
                    let without = "and who may only look cannot have it told";
                    args.kernel.ask_for(&request, without, patience())?;
                }
                done => done?,
            }
            stories.names.generation = datapath.active().generation;
            renewed = Some(Instant::now());
        }
        let mut told = read(&mut flows, &mut stories, &args.filter);
        if gateways.is_time() {
            let through = gateways.read(&args.kernel, patience(), LEASE).into_iter();
            told.extend(through.filter(|told| args.filter.takes(told)));
            told.sort_by_key(|told| told.at);
        }
        for told in told {
            out.tell(told, context)?;
        }
        out.lose(flows.lost() - lost, context)?;
        if args.r#for.is_some_and(|time| begun.elapsed() >= time) {
            return Ok(Exit::Fine);
        }
        std::thread::sleep(LOOK);
    }
}

fn read(flows: &mut Flows, stories: &mut Stories, filter: &Filter) -> Vec<Told> {
    let flows = flows.read();
    flows.iter().filter_map(|flow| stories.tell(flow)).filter(|told| filter.takes(told)).collect()
}

/// How often a follower asks what goes through gateways.
const ASK: Duration = Duration::from_millis(200);

/// Connections through gateways, as the daemon tells of them.
#[derive(Default)]
struct Gateways {
    /// The last record that was told.
    last: u64,
    /// When it is asked for again.
    next: Option<Instant>,
}

impl Gateways {
    fn is_time(&self) -> bool {
        self.next.is_none_or(|next| next <= Instant::now())
    }

    /// What was told since the last time: nothing where no daemon answers in time. There is
    /// more for so long.
    fn read(&mut self, kernel: &KernelArgs, patience: Duration, time: Duration) -> Vec<Told> {
        let request = Request::Through { after: self.last, seconds: time.as_secs() };
        let answer = kernel.ask_for(&request, "", patience);
        // A daemon that is away is not looked for all the time.
        let wait = if answer.is_ok() { ASK } else { RENEWAL };
        self.next = Some(Instant::now() + wait);
        let through = answer.map(|answer| answer.through).unwrap_or_default();
        let last = through.last().map(|one| one.number);
        self.last = last.unwrap_or(self.last);
        through.iter().map(Told::through).collect()
    }
}

/// What is shown, and how.
struct Out {
    common: Common,
    style: Style,
    follow: bool,
    told: Vec<Told>,
    lost: u64,
}

/// The answer without `--follow`.
#[derive(Serialize)]
struct Answer<'a> {
    flows: &'a [Told],
}

/// A line that says how many were not seen.
#[derive(Serialize)]
struct Lost {
    lost: u64,
}

impl Out {
    fn tell(&mut self, told: Told, context: &mut Context<'_>) -> Result<(), Failure> {
        match (self.common.output.encoding(), self.follow) {
            (None, _) if self.common.output == Format::Name => {
                context.print(&format!("{}\n", told.cookie))?;
            }
            (None, _) => context.print_text(&told.text(self.style), self.style)?,
            (Some(encoding), true) => context.print_record(encoding, &told)?,
            (Some(_), false) => {}
        }
        if !self.follow {
            self.told.push(told);
        }
        Ok(())
    }

    /// Says so when more were overwritten than was said.
    fn lose(&mut self, lost: u64, context: &mut Context<'_>) -> Result<(), Failure> {
        let more = lost.saturating_sub(self.lost);
        self.lost = lost;
        if more == 0 {
            return Ok(());
        }
        match self.common.output.encoding() {
            Some(encoding) => context.print_record(encoding, &Lost { lost: more }),
            None => {
                context.note(&format!("note: {more} records came too fast and are not shown"));
                Ok(())
            }
        }
    }

    fn end(&self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        if let Some(encoding) = self.common.output.encoding() {
            context.print_value(encoding, &Answer { flows: &self.told })?;
        }
        Ok(Exit::Fine)
    }
}

/// The names of the generations that decided.
struct Names {
    state: StateDir,
    /// The one in force, for what nobody saw decided.
    generation: u64,
    layouts: BTreeMap<u64, Option<Arc<Layout>>>,
    /// When names were read again for a workload that had none yet.
    read_again: Option<Instant>,
}

/// So many generations are remembered.
const KEPT: usize = 8;

/// How often names are read again when a workload has none.
const READ_AGAIN: Duration = Duration::from_millis(200);

impl Names {
    fn new(state: StateDir, generation: u64) -> Self {
        Self { state, generation, layouts: BTreeMap::new(), read_again: None }
    }

    /// The names of a generation, while the state directory has them.
    fn of(&mut self, generation: u64) -> Option<Arc<Layout>> {
        if !self.layouts.contains_key(&generation) {
            let snapshot = self.state.snapshot(generation).ok().flatten();
            let layout = snapshot.map(|snapshot| Arc::new(snapshot.contents.layout));
            self.layouts.insert(generation, layout);
            while self.layouts.len() > KEPT {
                self.layouts.pop_first();
            }
        }
        self.layouts.get(&generation).cloned().flatten()
    }

    /// The workload that a generation knew by this number. A pod of a known class
    /// connects before it is compiled: it is named by the same generation, told
    /// anew, or by the next.
    fn workload(&mut self, generation: u64, identity: u32) -> Option<String> {
        let look = |names: &mut Self| {
            [generation, generation + 1].into_iter().find_map(|generation| {
                let layout = names.of(generation)?;
                layout
                    .identities()
                    .find(|(_, known)| *known == identity)
                    .map(|(id, _)| source_name(id))
            })
        };
        let found = look(self);
        let is_time = self.read_again.is_none_or(|then| then.elapsed() >= READ_AGAIN);
        if found.is_some() || !is_time {
            return found;
        }
        self.read_again = Some(Instant::now());
        self.layouts.retain(|known, _| *known != generation && *known != generation + 1);
        look(self)
    }
}

/// The wall clock's time for one of the programs' clock.
fn wall(nanoseconds: u64) -> SystemTime {
    let ago = datapath::now().saturating_sub(nanoseconds);
    SystemTime::now() - Duration::from_nanos(ago)
}
