//! Every system call of a change, and of a start, fails once, and a daemon dies at each of
//! them: connects go where one configuration says, nothing shows as healthy that is not in
//! force, and all is well again once the fault is over.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use redirector_tests::fault::{Begun, Fault, Point, Traced, threads};
use redirector_tests::figure;
use redirector_tests::kernel::at_least;
use redirector_tests::redirector::Daemon;
use redirector_tests::scene::{Scene, to};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A change that was written down is read within this time, and what does not come in
/// force is told of.
const NOTICED: Duration = Duration::from_secs(3);

/// So many daemons at a time.
const SIDE_BY_SIDE: usize = 4;

/// A scene whose configuration is now one, now the other.
struct Changing {
    scene: Scene,
    round: usize,
}

/// Subsets, of which the configuration leads to one.
const SUBSETS: [&str; 2] = ["one", "two"];

impl Changing {
    fn new(what: &str) -> Option<Self> {
        let scene = Scene::new(what, PROGRAM)?;
        for guest in SUBSETS {
            scene.redirector.place.cgroup.child(guest);
        }
        let this = Self { scene, round: 0 };
        this.write();
        Some(this)
    }

    /// Where the configuration leads, and which cgroup is the guest's.
    fn subset(&self) -> &'static str {
        SUBSETS[self.round % 2]
    }

    /// Another route, another workload and another rule for it: whatever the daemon does
    /// for a change, it does for this one.
    fn write(&self) {
        let redirector = &self.scene.redirector;
        let (subset, other) = (self.subset(), SUBSETS[(self.round + 1) % 2]);
        let guest = redirector.cgroup(subset);
        let rule = to(subset).replace(
            "  tcp:\n",
            &format!(
                "  tcp:\n  - match: [{{sourceLabels: {{app: guest}}}}]\n    route:\n    - \
                 destination: {{host: echo, subset: {other}}}\n"
            ),
        );
        let workload = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: \
             guest-{subset}, annotations: {{redirector.io/cgroup: {guest}}}}}\nspec: {{address: \
             127.0.0.8, labels: {{app: guest}}}}\n"
        );
        redirector.write("rules.yaml", &format!("{rule}{workload}"));
    }

    fn change(&mut self) {
        self.round += 1;
        self.write();
    }

    /// Connects go where this or the last configuration says, all of it: in both the guest
    /// goes to the other subset than all others do, so that each cgroup goes to the subset
    /// that it is not named after. One that got the rules of one configuration and the
    /// workload of the other would go to that one.
    fn is_one_of_both(&self, at: &str) -> String {
        let of = |cgroup: &str| {
            self.scene.answer(&self.scene.redirector.place.cgroup.path().join(cgroup))
        };
        let (client, guests) = (of("client"), SUBSETS.map(of));
        assert!(SUBSETS.contains(&&*client), "{at}: {client}");
        assert_eq!(guests, [SUBSETS[1], SUBSETS[0]], "{at}: the guests'");
        client
    }

    /// Whether all is as the configuration says, for everybody.
    fn is_in_force(&self, at: &str) -> bool {
        self.is_one_of_both(at) == self.subset()
    }

    /// Waits until all is well. Meanwhile nothing shows as healthy, for longer than it
    /// takes to notice, that is not in force.
    fn becomes_well(&self, at: &str) {
        let begun = Instant::now();
        loop {
            let status = self.scene.redirector.status();
            let healthy = status.exit == 0;
            let in_force = self.is_in_force(at);
            if healthy && in_force && (status.json()["inStep"] == true) {
                return;
            }
            let noticed = begun.elapsed() > NOTICED;
            let told = || format!("{}\n{}", status.out, self.scene.redirector.last_log());
            assert!(!(healthy && noticed), "{at}: healthy, and not in force: {}", told());
            assert!(begun.elapsed() < PATIENCE, "{at}: not well again: {}", told());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The threads of the daemon that make a change.
const MAKE: [&str; 2] = ["control", "files"];

/// Those of a daemon. The first thread is the one of the control loop.
fn thread_of(daemon: &Daemon, name: &str) -> u32 {
    match name {
        "control" => daemon.pid(),
        name => threads(daemon.pid())[name],
    }
}

/// What each of these threads calls in a change.
fn of_a_change(changing: &mut Changing, daemon: &Daemon) -> Vec<(&'static str, Point)> {
    let traced = MAKE.map(|name| (name, Traced::all(thread_of(daemon, name))));
    changing.change();
    changing.becomes_well("traced");
    let all = traced
        .iter()
        .flat_map(|(name, traced)| traced.points().into_iter().map(|point| (*name, point)));
    all.collect()
}

/// Does something at each of these places, at the same time.
fn each<P: Send, T: Send>(places: Vec<P>, with: impl Fn(P, usize) -> T + Sync) -> Vec<T> {
    let with = &with;
    thread::scope(|scope| {
        let places = places.into_iter().enumerate();
        let running: Vec<_> =
            places.map(|(index, place)| scope.spawn(move || with(place, index))).collect();
        let ended = running.into_iter().map(|one| one.join());
        ended.map(|one| one.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Only faults of which all these words are said, such as `readlink EACCES`, and then every
/// one of them.
const ONLY: &str = "REDIRECTOR_FAULTS";

/// What falls to one of the places: so many in all, from all over.
fn share<T: std::fmt::Debug>(mut all: Vec<T>, count: usize, index: usize) -> Vec<T> {
    let mut each = all.len().div_ceil(count).max(1);
    if let Ok(only) = std::env::var(ONLY) {
        all.retain(|one| only.split(' ').all(|word| format!("{one:?}").contains(word)));
        each = 1;
    }
    let chosen = all.into_iter().step_by(each).enumerate();
    chosen.filter(|(at, _)| at % SIDE_BY_SIDE == index).map(|(_, one)| one).collect()
}

/// Whether it writes the daemon's log.
fn is_of_log(point: &Point) -> bool {
    point.file.as_ref().is_some_and(|file| file.to_string_lossy().contains("-log-"))
}

/// How many faults there were, and how many of them came about.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    points: usize,
    happened: usize,
}

impl Count {
    fn note(&mut self, happened: bool) {
        self.points += 1;
        self.happened += usize::from(happened);
    }

    fn of(all: Vec<Self>) -> Self {
        let sum = |one: fn(&Self) -> usize| all.iter().map(one).sum();
        let count = Self { points: sum(|one| one.points), happened: sum(|one| one.happened) };
        // Calls that belong to what is done from time to time are not always reached.
        assert!(count.happened * 5 >= count.points * 3, "{count:?}");
        count
    }
}

/// Scenes with what is in them, as many as work side by side.
fn scenes(what: &str) -> Option<Vec<(Changing, Daemon)>> {
    let start = |index| {
        let changing = Changing::new(what)?;
        // What cannot be put in force is tried again where no table may grow, too.
        let args: &[&str] = if index == 0 { &["--fixed-sizes"] } else { &[] };
        let daemon = changing.scene.redirector.start_with(args);
        Some((changing, daemon))
    };
    (0..SIDE_BY_SIDE).map(start).collect()
}

#[test]
fn whatever_system_call_of_a_change_fails_the_change_comes_in_force_and_is_not_healthy_before() {
    let Some(scenes) = scenes("faults") else { return };
    let counts = each(scenes, |(mut changing, mut daemon), index| {
        let all = of_a_change(&mut changing, &daemon).into_iter().flat_map(|(thread, point)| {
            point.errors().iter().map(move |error| (thread, point.clone(), *error))
        });
        let mut count = Count::default();
        for (thread, point, error) in share(all.collect(), at_least(60, usize::MAX), index) {
            let at = format!("{thread}: {point:?} with {error}");
            assert!(!daemon.has_ended(), "before {at}: {}", daemon.log());
            let traced = Traced::with(thread_of(&daemon, thread), &point, Fault::Error(error));
            changing.change();
            changing.becomes_well(&at);
            count.note(traced.happened());
        }
        count
    });
    let Count { points, happened } = Count::of(counts);
    figure!("{happened} system calls of a change failed, {points} tried");
}

#[test]
fn a_daemon_that_dies_at_any_system_call_of_a_change_leaves_one_configuration() {
    let Some(scenes) = scenes("deaths") else { return };
    let counts = each(scenes, |(mut changing, mut daemon), index| {
        let points = of_a_change(&mut changing, &daemon);
        let mut count = Count::default();
        for (thread, mut point) in share(points, at_least(24, usize::MAX), index) {
            let at = format!("{thread}: dies at {point:?}");
            // Each daemon has a log of its own.
            if is_of_log(&point) {
                point.file = Some(daemon.log_file().to_owned());
            }
            let traced = Traced::with(thread_of(&daemon, thread), &point, Fault::Kill);
            changing.change();
            let begun = Instant::now();
            while !traced.happened() && begun.elapsed() < NOTICED {
                thread::sleep(Duration::from_millis(5));
            }
            changing.is_one_of_both(&at);
            count.note(traced.happened());
            drop(traced);
            daemon.kill();
            changing.is_one_of_both(&at);
            daemon = changing.scene.redirector.start();
            changing.becomes_well(&at);
            let drift = &changing.scene.redirector.status().json()["drift"];
            assert_eq!(drift["entries"], 0, "{at}: {drift}");
        }
        count
    });
    let Count { points, happened } = Count::of(counts);
    figure!("a daemon died at {happened} system calls of a change, {points} tried");
}

/// Starts a successor, of which a call goes wrong, or all calls are written down.
fn succeed(changing: &Changing, fault: Option<(&Point, Fault)>) -> (Begun, Daemon) {
    let redirector = &changing.scene.redirector;
    let mut command = redirector.daemon_command();
    command.arg("--replace");
    let (begun, command) = Begun::under(&command, redirector.directory(), fault);
    (begun, redirector.launch_command(command, Stdio::null()))
}

#[test]
fn a_workload_stays_known_to_a_successor_whom_the_system_does_not_tell_what_its_cgroup_is() {
    let Some(changing) = Changing::new("untold") else { return };
    let before = changing.scene.redirector.start();
    changing.becomes_well("before");
    let guest = changing.scene.redirector.place.cgroup.path().join(changing.subset());
    let point = Point { call: "fstatfs".to_owned(), nth: 1, file: Some(guest) };
    let (begun, successor) = succeed(&changing, Some((&point, Fault::Error("EACCES"))));
    assert_eq!(before.wait(), 0);
    changing.becomes_well("after");
    assert!(begun.happened());
    assert!(!successor.log().contains("workload gone"), "{}", successor.log());
}

#[test]
fn whatever_system_call_of_a_successor_fails_somebody_is_in_charge_and_all_is_in_force() {
    let Some(scenes) = scenes("successors") else { return };
    let counts = each(scenes, |(mut changing, mut before), index| {
        let (begun, successor) = succeed(&changing, None);
        changing.becomes_well("traced");
        assert_eq!(before.wait(), 0);
        before = successor;
        // What each logs lies in a file of its own.
        let points = begun.points().into_iter().filter(|point| !is_of_log(point));
        let faults = points.flat_map(|point| {
            let errors = point.errors().iter().map(|error| Fault::Error(error));
            errors.chain([Fault::Kill]).map(move |fault| (point.clone(), fault)).collect::<Vec<_>>()
        });
        let mut count = Count::default();
        for (point, fault) in share(faults.collect(), at_least(16, 500), index) {
            let at = format!("successor: {point:?} with {fault:?}");
            changing.change();
            let (begun, mut successor) = succeed(&changing, Some((&point, fault)));
            let started = Instant::now();
            let stays = loop {
                changing.is_one_of_both(&at);
                match (before.has_ended(), successor.has_ended()) {
                    (false, true) => break Some(before),
                    (true, false) => break Some(successor),
                    (true, true) => break None,
                    (false, false) => {}
                }
                let logs = || format!("{}\n{}", before.log(), successor.log());
                assert!(started.elapsed() < PATIENCE, "{at}: {}", logs());
                thread::sleep(Duration::from_millis(10));
            };
            count.note(begun.happened());
            // One that dies after the other has let go leaves nobody, and what is in force.
            assert!(stays.is_some() || fault == Fault::Kill, "{at}: nobody is in charge");
            before = stays.unwrap_or_else(|| changing.scene.redirector.start());
            changing.becomes_well(&at);
        }
        count
    });
    let Count { points, happened } = Count::of(counts);
    figure!("{happened} faults and deaths of successors, {points} tried");
}
