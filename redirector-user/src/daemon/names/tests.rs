use super::schedule::{AT_ONCE, Schedule, TIMES, Times};
use super::*;
use std::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

fn names(names: impl IntoIterator<Item = String>) -> BTreeSet<Arc<str>> {
    names.into_iter().map(Arc::from).collect()
}

fn here(ttl: Option<Duration>) -> Looked {
    Ok(Addresses { addresses: vec![IpAddr::from([127, 0, 0, 9])], ttl, ..Addresses::default() })
}

/// Answers at once, but for some names, which it never answers for.
#[derive(Default)]
struct Script {
    silent: Vec<Done>,
}

impl Ask for Script {
    fn ask(&mut self, name: &Arc<str>, done: Done) -> io::Result<()> {
        match name.ends_with("silent.example") {
            true => self.silent.push(done),
            false => done(here(None)),
        }
        Ok(())
    }

    fn has_changed(&mut self) -> bool {
        false
    }
}

#[test]
fn names_are_resolved_when_wanted() {
    let wanted = names(["no..such".to_owned(), "127.0.0.9".to_owned()]);
    let resolved = resolve(&Via::System, &wanted);
    let addresses = &resolved.answers["127.0.0.9"].addresses;
    assert_eq!(*addresses, ["127.0.0.9".parse::<IpAddr>().unwrap()]);
    assert!(resolved.failed["no..such"].len() > 3, "{resolved:?}");
    assert_eq!(resolved.answers.len() + resolved.failed.len(), 2);
}

#[test]
fn names_that_do_not_answer_hold_up_no_other() {
    let (sender, receiver) = mpsc::channel();
    let send = move |resolved| sender.send(resolved).is_ok();
    let times = Times { turn: Duration::from_millis(20), deadline: HOUR };
    let script = Box::new(Script::default());
    let mut resolver = Resolver::start_with(HOUR, times, script, send).unwrap();
    // Each in a domain of its own, before the one that answers.
    let silent = (0..3 * AT_ONCE).map(|number| format!("a.{number:02}.silent.example"));
    resolver.want(&names(silent.chain(["z.other.example".to_owned()])));
    let all = std::iter::from_fn(|| receiver.recv().ok());
    let one = all.into_iter().find(|resolved| !resolved.answers.is_empty()).unwrap();
    assert!(one.answers.contains_key("z.other.example") && one.failed.is_empty(), "{one:?}");
}

fn schedule() -> Schedule {
    Schedule::new(mpsc::channel().0, Box::new(Script::default()), HOUR, TIMES)
}

#[test]
fn one_domain_takes_turns_with_others_and_those_that_failed_come_last() {
    let mut schedule = schedule();
    schedule.want(names(["a.x.y", "b.x.y", "c.x.y", "d.z.y"].map(str::to_owned)));
    schedule.failing.insert("a.x.y".into(), 1);
    schedule.queue(Instant::now());
    let turns: Vec<_> = std::iter::from_fn(|| schedule.take_turn()).collect();
    assert_eq!(turns, ["d.z.y", "b.x.y", "c.x.y", "a.x.y"].map(Arc::from));
}

#[test]
fn names_that_are_asked_for_all_the_time_keep_no_other_from_its_turn() {
    let mut schedule = schedule();
    let often: BTreeSet<Arc<str>> = names((0..150).map(|n| format!("db.{n:03}.example")));
    schedule.want(often.clone());
    // As many as have their turn at a time are due again at once.
    let round = |schedule: &mut Schedule| {
        let now = Instant::now();
        schedule.queue(now);
        let turns: Vec<_> = (0..AT_ONCE).map_while(|_| schedule.take_turn()).collect();
        schedule.due.extend(turns.iter().map(|name| (name.clone(), now)));
        turns
    };
    let all = often.len().div_ceil(AT_ONCE);
    for _ in 0..3 * all {
        round(&mut schedule);
    }
    // One that comes, and sorts behind all of them; and one of them that has failed.
    let last: Arc<str> = "z.victim.test".into();
    schedule.want(often.iter().cloned().chain([last.clone()]).collect());
    schedule.failing.insert("db.149.example".into(), 3);
    let turns: Vec<Vec<Arc<str>>> = (0..10 * all).map(|_| round(&mut schedule)).collect();
    let first = |name: &str| turns.iter().position(|turn| turn.iter().any(|one| **one == *name));
    assert!(first(&last).is_some_and(|turn| turn <= all), "{:?}", first(&last));
    assert!(turns.iter().flatten().filter(|one| ***one == *"db.149.example").count() > 1);
    for name in &often {
        let every = turns.iter().flatten().filter(|one| *one == name).count();
        assert!(every > 0, "{name}");
    }
}

#[test]
fn a_name_that_does_not_answer_is_told_once_and_may_answer_later() {
    let mut schedule = schedule();
    let name: Arc<str> = "a.x".into();
    schedule.want(names(["a.x".to_owned()]));
    schedule.known = None;
    let begun = Instant::now();
    schedule.under_way.insert(name.clone(), begun);
    schedule.note_silent(begun);
    assert!(schedule.known.is_none());
    schedule.note_silent(begun + TIMES.deadline);
    let (resolved, _) = schedule.known.take().unwrap();
    assert_eq!(resolved.failed["a.x"], "no answer in 10 s");
    schedule.note_silent(begun + TIMES.deadline);
    assert!(schedule.known.is_none());
    schedule.found(name, here(None));
    let (resolved, _) = schedule.known.take().unwrap();
    assert!(resolved.failed.is_empty() && resolved.answers.contains_key("a.x"));
}

#[test]
fn what_this_machine_was_given_says_nothing_of_where_a_host_is() {
    let mut schedule = schedule();
    schedule.want(names(["a.x".to_owned()]));
    let mut found = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|one| one.parse().unwrap()).collect();
        schedule.found("a.x".into(), Ok(Addresses { addresses, ..Addresses::default() }));
        schedule.known.take().unwrap().0
    };
    let resolved = found(&["240.240.0.9", "192.0.2.1", "fdf0:240:240::9"]);
    let answer = &resolved.answers["a.x"];
    assert_eq!(answer.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(answer.silent, Some(Family::V6), "what is known of it stays");
    let resolved = found(&["240.240.0.9", "fdf0:240:240::9", "::ffff:240.240.0.9"]);
    let because = "answered from this machine's own /etc/hosts: name a server by --dns-server";
    assert!(resolved.answers.is_empty() && resolved.failed["a.x"] == because, "{resolved:?}");
    assert_eq!(found(&[]).failed["a.x"], "the answer has no addresses");
}

#[test]
fn an_answer_is_asked_for_again_when_it_holds_no_longer() {
    let mut schedule = schedule();
    let name: Arc<str> = "a.x".into();
    schedule.want(names(["a.x".to_owned()]));
    let mut again = |looked: Looked| {
        let begun = Instant::now();
        schedule.found(name.clone(), looked);
        (schedule.due["a.x"] - begun).as_millis() / 500
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(again(here(seconds(20))), 40);
    assert_eq!(again(here(seconds(0))), 2, "at most once a second");
    assert_eq!(again(here(seconds(86_400))), 600, "at least every five minutes");
    assert_eq!(again(here(None)), 7200, "whatever does not say it, as often as is asked for");
    let none = |ttl| Err(Missed { because: "no".to_owned(), ttl });
    assert_eq!(again(none(seconds(60))), 120, "that there is none holds as well");
    let failed = [4, 8, 16, 32].map(|_| again(none(None)));
    assert_eq!(failed, [8, 16, 32, 64], "the longer it fails the less often");
}

#[test]
fn when_no_name_is_wanted_any_more_that_is_said() {
    let (sender, receiver) = mpsc::channel();
    let send = move |resolved| sender.send(resolved).is_ok();
    let setup = Setup { via: Via::System, again: HOUR };
    let mut resolver = Resolver::start(&setup, send).unwrap();
    resolver.want(&names(["127.0.0.9".to_owned()]));
    let one = std::iter::from_fn(|| receiver.recv().ok()).find(|one| !one.answers.is_empty());
    assert!(one.is_some() && resolver.wants("127.0.0.9"));
    resolver.want(&BTreeSet::new());
    let none = receiver.recv().unwrap();
    assert!(none.answers.is_empty() && none.failed.is_empty());
    assert!(!resolver.wants("127.0.0.9"));
}
