//! Over random worlds: callers in known workloads and in none, whom rules are for and not,
//! with endpoints that are ejected and destinations that are full.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use redirector::datapath::{Datapath, Options, Sizes};
use redirector::explain::{Named, Process, Question, Who, explain};
use redirector_core::compile::compile_with;
use redirector_core::explain::{Dialled, Explanation, NowView, QuerySource, VerdictWord};
use redirector_core::image::Image;
use redirector_core::layout::Layout;
use redirector_core::registry::Registry;
use redirector_core::world::World;
use redirector_tests::cgroup::key;
use redirector_tests::child;
use redirector_tests::documents::{self, PORTS, Shape};
use redirector_tests::figure;
use redirector_tests::kernel::{Place, privileged, scaled, small};
use redirector_tests::netns::NetNs;
use redirector_tests::random::Random;
use redirector_tests::redirector::Redirector;
use redirector_tests::server::Server;

use super::{PROGRAM, outcome};
use crate::decide::{CALLERS, lives, shown, sources, stir, world};

/// How many random configurations are compared.
const WORLDS: usize = 300;
/// Callers of each, addresses that each dials, and how often.
const ASKED: (usize, usize, usize) = (3, 4, 8);

/// What an explanation promises of the next connection: who greets, or that it is
/// refused, each with its share.
fn promised(explanation: &Explanation, to: SocketAddr) -> BTreeMap<Result<String, i32>, f64> {
    let refused = Err(libc::ECONNREFUSED);
    match (explanation.verdict, &explanation.now) {
        (VerdictWord::Passthrough, _) => [(Ok(shown(to)), 1.0)].into(),
        (VerdictWord::Refuse, _) => [(refused, 1.0)].into(),
        (VerdictWord::Undecided, _) => panic!("tables have decided: {explanation:?}"),
        (VerdictWord::Route, None) => panic!("it is not said how it stands now: {explanation:?}"),
        (VerdictWord::Route, Some(NowView { endpoints, refused_share, .. })) => {
            let endpoints = endpoints.iter().map(|(endpoint, share)| {
                (Ok(shown(endpoint.parse().expect("an address"))), *share)
            });
            endpoints.chain([(refused, *refused_share)]).filter(|(_, share)| *share > 0.0).collect()
        }
    }
}

/// Without what another moment changes: for how long something is ejected.
fn lasting(mut explanation: Explanation) -> Explanation {
    for why in explanation.now.iter_mut().flat_map(|now| &mut now.why) {
        let end = why.find(" for ").unwrap_or(why.len());
        why.truncate(end);
    }
    explanation
}

/// Servers at the ports that are dialled, so that what is left alone is told from what is
/// refused.
fn bystanders(netns: &NetNs) -> Vec<Server> {
    thread::scope(|scope| {
        let start = || {
            netns.enter();
            PORTS.map(|port| Server::start("at", (Ipv6Addr::UNSPECIFIED, port))).into()
        };
        scope.spawn(start).join().expect("servers")
    })
}

/// A workload of a World as somebody would describe it.
fn described(world: &World, source: &QuerySource) -> Option<QuerySource> {
    let QuerySource::Workload { namespace, name } = source else { return None };
    let (_, entry) = world.workload_entries().find(|(object, _)| {
        (&*object.meta.namespace, &*object.meta.name) == (namespace.as_str(), name.as_str())
    })?;
    let labels = entry.labels.clone();
    Some(QuerySource::Described { namespace: namespace.clone(), labels, addresses: Vec::new() })
}

#[test]
fn what_is_explained_from_the_tables_of_random_worlds_is_what_connects_get() {
    if !privileged() {
        return;
    }
    let seed = std::process::id().into();
    let mut random = Random::new(seed);
    eprintln!("seed {seed}");
    let place = Place::new("explained");
    let (netns, servers) = world("explained");
    let _bystanders = bystanders(&netns);
    let shape = Shape {
        sources: sources(),
        endpoint_ports: servers.iter().map(|server| server.address().port()).collect(),
    };
    let sizes = Sizes { backends: 65_536, ..small() };
    let options = Options { sizes, ..place.options() };
    let mut datapath = place.start(&options, &Image::default()).expect("started");
    // As the command line opens it, with a daemon in charge or without.
    let reader = Datapath::open_read_only(&place.pins()).expect("it is loaded");
    let served = reader.served().expect("it is attached");
    let mut lives = lives(&place.pins());
    let cgroups: Vec<PathBuf> = CALLERS.iter().map(|(name, _)| place.cgroup.child(name)).collect();
    let processes: Vec<Process> =
        cgroups.iter().map(|path| Process::of_cgroup(path).expect("it exists")).collect();

    let (mut layout, mut image) = (Layout::default(), Image::default());
    // Of one outcome of each first connect: how often it came, was promised, and its
    // variance.
    let (mut came, mut wanted, mut variance) = (0_u32, 0.0, 0.0);
    let (mut compared, mut otherwise) = (0_usize, 0_usize);
    let mut verdicts = BTreeMap::<String, usize>::new();
    for generation in 0..scaled(WORLDS) as u64 {
        let world = documents::world(&mut random, &shape);
        let compiled = compile_with(&world, &Registry::new(&world));
        let (next, to_be) =
            layout.place(&compiled.plan, &datapath.sizes().limits()).expect("it fits");
        datapath.apply(&image.diff(&to_be), 10 + generation).expect("applied");
        stir(&mut lives, &to_be, &mut random);
        (layout, image) = (next, to_be);
        for (id, cgroup) in &shape.sources {
            let identity = layout.identity(id).expect("placed");
            datapath
                .insert_source(key(&place.cgroup.path().join(cgroup)), identity)
                .expect("inserted");
        }
        let named = Named::new(world.clone(), layout.clone());
        let ask = |who, to| {
            let question = Question { who, to: Dialled::Address(to), gateway: None, sni: None };
            let answer = reader.read(|tables| explain(tables, &served, Some(&named), &question));
            lasting(answer.expect("an answer"))
        };
        // What somebody serves or has rules for.
        let owned = compiled.plan.frontends.keys();
        let owned: Vec<SocketAddr> =
            owned.map(|id| SocketAddr::new(id.prefix.addr(), id.port)).collect();
        for _ in 0..ASKED.0 {
            let at = random.below(CALLERS.len() as u64) as usize;
            let dials: Vec<SocketAddr> = (0..ASKED.1)
                .map(|_| match owned.is_empty() || random.once_in(3) {
                    true => documents::dialled(&mut random),
                    false => *random.pick(&owned),
                })
                .collect();
            let source = CALLERS[at].1.map_or(QuerySource::Unknown, |index| {
                let id = &shape.sources[index].0;
                QuerySource::Workload {
                    namespace: id.namespace.to_string(),
                    name: id.name.to_string(),
                }
            });
            let explained: Vec<Explanation> = dials
                .iter()
                .map(|to| {
                    let by_process = ask(Who::Process(processes[at].clone()), *to);
                    let by_name = ask(Who::Source(source.clone()), *to);
                    assert_eq!(by_process, by_name, "{to} from {source:?}");
                    assert_eq!(
                        by_process.notes.iter().find(|note| note.contains("say otherwise")),
                        None,
                        "{to} from {source:?}: {by_process:#?}"
                    );
                    if let Some(described) = described(&world, &source) {
                        let told = ask(Who::Source(described), *to);
                        assert_eq!(
                            (told.verdict, &told.endpoints, &told.notes),
                            (by_process.verdict, &by_process.endpoints, &by_process.notes),
                            "{to} from {source:?}"
                        );
                        // Of a source that is only described, it cannot be told to which
                        // endpoint it keeps.
                        let keeps = by_process.now.iter().flat_map(|now| &now.why);
                        if !keeps.into_iter().any(|why| why.contains("consistentHash")) {
                            assert_eq!(told.now, by_process.now, "{to} from {source:?}");
                        }
                    }
                    by_process
                })
                .collect();
            let seen: Vec<Vec<Result<String, i32>>> = child::run(&cgroups[at], || {
                netns.enter();
                dials.iter().map(|to| (0..ASKED.2).map(|_| outcome(*to)).collect()).collect()
            });
            for ((to, explanation), outcomes) in dials.iter().zip(&explained).zip(seen) {
                let promised = promised(explanation, *to);
                let sum: f64 = promised.values().sum();
                assert!((sum - 1.0).abs() < 1e-4, "{sum}: {explanation:#?}");
                for outcome in &outcomes {
                    assert!(
                        promised.contains_key(outcome),
                        "{to} from {source:?}: {outcome:?} is not among {promised:?}: \
                         {explanation:#?}"
                    );
                }
                let one = promised.keys().nth(generation as usize % promised.len());
                let one = one.expect("something comes of it");
                let share = promised[one].min(1.0);
                came += u32::from(outcomes[0] == *one);
                wanted += share;
                variance += share * (1.0 - share);
                compared += outcomes.len();
                otherwise +=
                    usize::from(explanation.now.as_ref().is_some_and(|now| !now.why.is_empty()));
                *verdicts.entry(format!("{:?}", explanation.verdict)).or_default() += 1;
            }
        }
    }
    let off = (f64::from(came) - wanted).abs();
    assert!(off < 5.0 * variance.sqrt() + 1.0, "{came} came, {wanted} were promised ({variance})");
    assert_eq!(verdicts.len(), 3, "too little of one kind: {verdicts:?}");
    assert!(verdicts.values().all(|count| *count * 100 > compared / ASKED.2), "{verdicts:?}");
    assert!(otherwise * 20 > compared / ASKED.2, "ejection and limits matter: {otherwise}");
    figure!("{compared} connections as explained: {verdicts:?}, {otherwise} other than by weight");
}

/// Random worlds that a daemon reads.
const READ: usize = 6;

#[test]
fn what_a_daemon_has_put_in_force_is_explained_alike_with_it_and_without() {
    if !privileged() {
        return;
    }
    let seed = std::process::id().into();
    let mut random = Random::new(seed);
    eprintln!("seed {seed}");
    let redirector = Redirector::new("alike", PROGRAM);
    let (netns, servers) = world("alike");
    let _bystanders = bystanders(&netns);
    let sources = sources().into_iter();
    let shape = Shape {
        sources: sources.map(|(id, cgroup)| (id, redirector.cgroup(&cgroup))).collect(),
        endpoint_ports: servers.iter().map(|server| server.address().port()).collect(),
    };
    let cgroups: Vec<PathBuf> =
        CALLERS.iter().map(|(name, _)| redirector.place.cgroup.child(name)).collect();
    redirector.write("all.yaml", &documents::text(&mut random, &shape));
    let mut daemon = Some(redirector.start());
    for index in 0..READ {
        if index > 0 {
            let text = documents::text(&mut random, &shape);
            redirector.change("another world", || redirector.write("all.yaml", &text));
        }
        redirector.wait("all workloads", |status| status["identityGaps"] == serde_json::json!([]));
        let asked: Vec<(usize, SocketAddr)> = (0..6)
            .map(|_| (random.below(CALLERS.len() as u64) as usize, documents::dialled(&mut random)))
            .collect();
        let explain = |(at, to): &(usize, SocketAddr)| -> Explanation {
            let cgroup = cgroups[*at].to_str().expect("a path");
            let args = ["--from-cgroup", cgroup, "--to", &to.to_string(), "--output", "json"];
            let answer = redirector.ask("explain", &args);
            serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
        };
        let explained: Vec<Explanation> = asked.iter().map(explain).collect();
        if index + 1 == READ
            && let Some(daemon) = daemon.take()
        {
            daemon.kill();
            assert_eq!(asked.iter().map(explain).collect::<Vec<_>>(), explained);
        }
        for ((at, to), explanation) in asked.iter().zip(&explained) {
            let promised = promised(explanation, *to);
            let outcomes: Vec<_> = child::run(&cgroups[*at], || {
                netns.enter();
                (0..ASKED.2).map(|_| outcome(*to)).collect()
            });
            for outcome in outcomes {
                assert!(
                    promised.contains_key(&outcome),
                    "{to} from {}: {outcome:?} is not among {promised:?}: {explanation:#?}",
                    CALLERS[*at].0
                );
            }
        }
    }
}
