//! What a run of each program costs, in nanoseconds, by the kernel's own count.
//!
//! `cargo run --release --package redirector-tests --example program_cost`, as
//! root. Every connect is of a fresh TCP socket, on one CPU. The kernel's
//! bookkeeping costs 45 to 50 ns of each run; the first row shows it with a
//! program that returns at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aya::programs::ProgramInfo;
use aya::sys::{Stats, enable_stats};
use redirector::datapath::{Hook, Options, Sizes};
use redirector_common::abi::Verdict;
use redirector_tests::cgroup::key;
use redirector_tests::child;
use redirector_tests::image::Builder;
use redirector_tests::kernel::{Place, privileged};
use redirector_tests::netns::NetNs;
use redirector_tests::socket::Socket;

const RUNS: usize = 20_000;
const ROUNDS: usize = 7;

/// Time and runs of a program so far.
fn so_far(programs: &[(Hook, PathBuf)], hook: Hook) -> (Duration, u64) {
    let pin = programs.iter().find(|(one, _)| *one == hook).map(|(_, pin)| pin).expect("pinned");
    let info = ProgramInfo::from_pin(pin).expect("a program");
    (info.run_time(), info.run_count())
}

fn dial(to: SocketAddr, kind: i32) {
    let socket = Socket::new(to, kind, 0).expect("a socket");
    socket.nonblocking().expect("the option");
    let _ = socket.connect(to);
    if kind == libc::SOCK_STREAM {
        let _ = socket.peer();
    }
}

fn pin_to_first_cpu() {
    // SAFETY: all zeroes are an empty set; the set is as large as said.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

fn main() {
    if !privileged() {
        return;
    }
    let frontends: u32 =
        std::env::args().nth(1).map_or(10, |count| count.parse().expect("a number of frontends"));
    let at = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    let place = Place::new("cost");
    let netns = NetNs::new("cost");
    let endpoints: Vec<SocketAddr> =
        (1..=4).map(|host| SocketAddr::from(([127, 97, 0, host], 9))).collect();
    let mut image = Builder::default();
    let single = image.route(&endpoints[..1]);
    let (left, right) = (image.destination(&endpoints[..2]), image.destination(&endpoints[2..]));
    let weighted = image.route_with(&[(left, u32::MAX, 0), (right, 1 << 31, 0)]);
    image.class(1, 1);
    let classes = image.classes(Verdict::REFUSE, &[(1, weighted)]);
    image.frontend(at("127.96.0.1:80"), single);
    image.frontend(at("127.96.0.2:80"), weighted);
    image.frontend(at("127.96.0.3:80"), classes);
    image.frontend(at("127.96.0.4:80"), Verdict::REFUSE);
    for index in 0..frontends {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + index);
        image.frontend((address, 80).into(), single);
    }
    let options = Options { sizes: Sizes::default(), ..place.options() };
    let mut datapath =
        place.start(&options, &image.build()).unwrap_or_else(|error| panic!("{error}"));
    let caller = place.cgroup.child("pods/burstable/pod");
    let container = place.cgroup.child("pods/burstable/pod/container");
    datapath.insert_source(key(&caller), 1).expect("inserted");

    let tables = std::fs::canonicalize(place.pins().join("current")).expect("the tables");
    let programs = std::fs::read_dir(tables)
        .expect("the tables")
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("programs-"))
        .expect("the programs")
        .path();
    let programs: Vec<(Hook, PathBuf)> =
        Hook::ALL.into_iter().map(|hook| (hook, programs.join(hook.program()))).collect();
    let _stats = enable_stats(Stats::RunTime).expect("run time statistics");

    println!("{frontends} frontends beside; median of {ROUNDS} rounds of {RUNS}, ns per run");
    println!("{:<34}{:>9}{:>13}{:>9}", "", "connect4", "getpeername4", "release");
    let cases = [
        ("at once (UDP)", "127.0.0.1:9", libc::SOCK_DGRAM),
        ("miss", "127.0.0.1:9", libc::SOCK_STREAM),
        ("refused", "127.96.0.4:80", libc::SOCK_STREAM),
        ("hit, one endpoint", "127.96.0.1:80", libc::SOCK_STREAM),
        ("hit, two draws", "127.96.0.2:80", libc::SOCK_STREAM),
        ("hit by source class, two draws", "127.96.0.3:80", libc::SOCK_STREAM),
    ];
    let hooks = [Hook::Connect4, Hook::Getpeername4, Hook::Release];
    let mut costs = vec![[const { Vec::new() }; 3]; cases.len()];
    for _ in 0..ROUNDS {
        for (case, (_, to, kind)) in cases.iter().enumerate() {
            let to = at(to);
            let before = hooks.map(|hook| so_far(&programs, hook));
            child::run(&container, || {
                netns.enter();
                pin_to_first_cpu();
                (0..RUNS).for_each(|_| dial(to, *kind));
            });
            for (index, hook) in hooks.into_iter().enumerate() {
                let (time, count) = so_far(&programs, hook);
                let time = (time - before[index].0).as_nanos() as u64;
                costs[case][index].extend(time.checked_div(count - before[index].1));
            }
        }
    }
    for ((name, _, _), costs) in cases.iter().zip(&mut costs) {
        let median = |values: &mut Vec<u64>| {
            values.sort_unstable();
            values.get(values.len() / 2).map_or("-".to_owned(), u64::to_string)
        };
        let [connect, peername, release] = costs;
        println!("{name:<34}{:>9}{:>13}{:>9}", median(connect), median(peername), median(release));
    }
}
