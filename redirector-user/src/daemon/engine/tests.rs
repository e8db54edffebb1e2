use std::net::{IpAddr, Ipv4Addr};

use redirector_core::documents;
use redirector_core::registry::MOST_ADDRESSES;
use redirector_core::store::Content;

use super::*;
use crate::daemon::names::{Addresses, Family};

mod budgets;

/// Services with two endpoints each, in an EndpointSlice each, and a rule each that splits
/// between itself and the first one; `first` is the weight of the first one's rule.
fn text(rules: usize, first: u32) -> [String; 2] {
    let mut texts = [String::new(), String::new()];
    for index in 0..rules {
        let (high, low) = (index / 250, index % 250);
        let weight = if index == 0 { first } else { 50 };
        texts[0].push_str(&format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{index}}}\nspec: {{clusterIP: \
             10.96.{high}.{low}, ports: [{{name: tcp, port: 80}}]}}\n---\napiVersion: \
             discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{index}, labels: \
             {{kubernetes.io/service-name: s{index}}}}}\naddressType: IPv4\nports: [{{name: tcp, \
             port: 80}}]\nendpoints: [{{addresses: [10.1.{high}.{low}]}}, {{addresses: \
             [10.2.{high}.{low}]}}]\n"
        ));
        texts[1].push_str(&format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: \
             s{index}}}\nspec: {{hosts: [s{index}], tcp: [{{route: [{{destination: {{host: \
             s{index}}}, weight: {weight}}}, {{destination: {{host: s0}}, weight: {}}}]}}]}}\n",
            100 - weight
        ));
    }
    texts
}

fn engine() -> Engine {
    let mut engine =
        Engine::new(Settings::default(), Sizes::default(), Layout::default(), Image::default());
    engine.grows = true;
    engine
}

/// A ServiceEntry whose endpoint is a name.
const NAMED: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: \
                     e}\nspec:\n  hosts: [db.example]\n  ports: [{number: 80, name: tcp, \
                     protocol: TCP}]\n  resolution: DNS\n";

#[test]
fn names_are_asked_for_also_when_the_step_that_brought_them_did_not_come_in_force() {
    let mut engine = engine();
    take(&mut engine, 2, 50);
    put(&mut engine, "entry.yaml", NAMED);
    let names = Some(["db.example".into()].into());
    for _ in 0..2 {
        let step = engine.step(PendingPods::default()).expect("there is room");
        assert_eq!(step.names, names);
        assert_eq!(step.made_of.objects.len(), 1, "{:?}", step.made_of);
        engine.give_up(step);
    }
    let step = engine.step(PendingPods::default()).expect("there is room");
    assert_eq!(step.names, names);
    engine.adopt(step);
    engine.store.accept();
    let step = engine.step(PendingPods::default()).expect("there is room");
    assert!(step.names.is_none() && step.made_of.is_empty() && step.changes.is_empty());
}

#[test]
fn names_are_asked_for_also_when_the_step_that_brought_them_did_not_fit() {
    let mut engine = engine();
    take(&mut engine, 2, 50);
    (engine.grows, engine.sizes.routes) = (false, 2);
    put(&mut engine, "entry.yaml", NAMED);
    let [services, rules] = text(3, 50);
    put(&mut engine, "services.yaml", &services);
    put(&mut engine, "rules.yaml", &rules);
    let step = engine.step(PendingPods::default()).expect("the rest has room");
    assert_eq!(step.names, Some(["db.example".into()].into()));
}

#[test]
fn all_that_connections_are_counted_on_can_be_replaced_at_once() {
    let count = 40_000;
    let mut engine = engine();
    let all = |base: u32| {
        let address = |index| std::net::Ipv4Addr::from(base + index);
        let endpoint = |index| format!("{{address: {}}}", address(index));
        let endpoints: Vec<_> = (0..count).map(endpoint).collect();
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e}}\nspec: \
             {{hosts: [e.example], addresses: [192.0.2.1], ports: [{{number: 80, name: tcp, \
             protocol: TCP}}], resolution: STATIC, endpoints: [{}]}}\n---\napiVersion: \
             networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: e}}\nspec: {{host: \
             e.example, trafficPolicy: {{loadBalancer: {{simple: LEAST_REQUEST}}}}}}\n",
            endpoints.join(", ")
        )
    };
    put(&mut engine, "e.yaml", &all(0x0a00_0000));
    in_force(&mut engine);
    put(&mut engine, "e.yaml", &all(0x0b00_0000));
    in_force(&mut engine);
    assert!(!engine.is_unfinished(), "there is room for those that come beside those that go");
    assert!(left_out(&engine).is_empty());
    let backends = engine.image().backends.values();
    let lives: BTreeSet<u32> = backends.map(|one| one.live).collect();
    assert_eq!((lives.len(), lives.contains(&0)), (count as usize, false));
}

#[test]
fn answers_stay_when_the_first_step_does_not_fit() {
    let mut engine = engine();
    let addresses = vec!["192.0.2.1".parse().expect("an address")];
    let found = Addresses { addresses: addresses.clone(), ..Addresses::default() };
    assert!(engine.resolve(&"db.example".into(), found, 1));
    let [services, rules] = text(2, 50);
    put(&mut engine, "services.yaml", &format!("{services}---\n{NAMED}"));
    engine.begin_with(World::of(engine.settings.clone(), engine.store.effective()));
    (engine.grows, engine.sizes.routes) = (false, 0);
    put(&mut engine, "rules.yaml", &rules);
    in_force(&mut engine);
    assert_eq!(left_out(&engine), ["s0", "s1"]);
    engine.sizes = Sizes::default();
    in_force(&mut engine);
    engine.forget_names();
    assert_eq!(engine.resolved()["db.example"].addresses, addresses);
}

#[test]
fn what_leaves_an_answer_stays_an_address_of_the_name_for_a_while() {
    let mut engine = engine();
    engine.grace = Duration::from_secs(300);
    let name: Arc<str> = "db.example".into();
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let resolve = |engine: &mut Engine, all: &[&str], silent, now| {
        let addresses = all.iter().map(|one| ip(one)).collect();
        let news = engine.resolve(&name, Addresses { addresses, silent, ttl: None }, now);
        let Answer { addresses, former } = engine.resolved()["db.example"].answer();
        let text =
            |all: Vec<IpAddr>| all.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
        (news, text(addresses), text(former))
    };
    let known = |news, now: &str, former: &str| (news, now.to_owned(), former.to_owned());
    let [one, two, six] = ["192.0.2.1", "192.0.2.2", "fd00::1"];
    assert_eq!(resolve(&mut engine, &[one, two], None, 10), known(true, "192.0.2.1 192.0.2.2", ""));
    let turned = resolve(&mut engine, &[two, one], None, 20);
    assert_eq!(turned, known(false, "192.0.2.1 192.0.2.2", ""), "another order is no news");
    assert_eq!(resolve(&mut engine, &[two, six], None, 30), known(true, "192.0.2.2 fd00::1", one));
    let silent = resolve(&mut engine, &[two], Some(Family::V6), 40);
    assert_eq!(silent, known(false, "192.0.2.2 fd00::1", one), "no answer takes nothing away");
    assert!(!engine.let_go(329));
    assert!(engine.let_go(330) && !engine.let_go(330));
    assert!(engine.resolved()["db.example"].former.is_empty());
    resolve(&mut engine, &[one], None, 400);
    let back = resolve(&mut engine, &[two], None, 500);
    let known = known(true, two, "192.0.2.1 fd00::1");
    assert_eq!(back, known, "what comes back is no former one");
}

#[test]
fn of_what_has_left_an_answer_no_more_is_kept_than_is_taken_and_the_last_stay() {
    let mut engine = engine();
    engine.grace = Duration::from_secs(300);
    let name: Arc<str> = "db.example".into();
    let all = |first: u32| (first..first + 500).map(|n| IpAddr::from(Ipv4Addr::from(n)));
    for (now, first) in [(1, 1000), (2, 3000), (3, 2000), (4, 4000)] {
        let addresses = all(first).collect();
        engine.resolve(&name, Addresses { addresses, ..Addresses::default() }, now);
    }
    let known = &engine.resolved()["db.example"];
    assert_eq!(known.addresses.len() + known.former.len(), MOST_ADDRESSES);
    assert!(all(2000).all(|ip| known.former.contains_key(&ip)));
    let older = all(3000).filter(|ip| known.former.contains_key(ip));
    assert_eq!(older.count(), MOST_ADDRESSES - 1000);
}

fn left_out(engine: &Engine) -> Vec<String> {
    let objects = engine.rejected().into_iter().filter_map(|one| one.object);
    objects.map(|object| object.name.to_string()).collect()
}

fn put(engine: &mut Engine, name: &str, text: &str) {
    engine.store.put(&name.into(), Content::from(documents::read(None, text)));
}

/// Has it all in force.
fn take(engine: &mut Engine, rules: usize, first: u32) -> (Delta, Work) {
    let [services, virtual_services] = text(rules, first);
    put(engine, "services.yaml", &services);
    put(engine, "rules.yaml", &virtual_services);
    in_force(engine)
}

fn in_force(engine: &mut Engine) -> (Delta, Work) {
    let step = engine.step(PendingPods::default()).expect("there is room");
    let result = (step.delta.clone(), step.work);
    engine.adopt(step);
    engine.store.accept();
    result
}

#[test]
fn the_work_of_a_change_is_that_of_the_change_however_much_there_is_beside_it() {
    let work = |rules| {
        let mut engine = engine();
        take(&mut engine, rules, 50);
        let (delta, weight) = take(&mut engine, rules, 70);
        // A leg of each destination; the alias table has room for one threshold.
        assert!(weight.written > 0 && weight.written <= 2, "{delta:?}");
        assert_eq!(weight.placed, 1, "one route");
        let [services, _] = text(rules, 70);
        put(&mut engine, "services.yaml", &services.replace("10.2.0.3]", "10.3.0.3]"));
        let (delta, endpoint) = in_force(&mut engine);
        assert_eq!((endpoint.placed, endpoint.written), (1, 1), "{delta:?}");
        let nothing = take(&mut engine, rules, 70).1;
        assert_eq!(nothing.placed, 1, "the endpoint is what it was");
        let nothing = in_force(&mut engine).1;
        assert_eq!(nothing, Work::default());
        (weight, endpoint)
    };
    assert_eq!(work(1000), work(10));
}

#[test]
fn what_does_not_come_in_force_comes_with_the_next_step() {
    let mut engine = engine();
    take(&mut engine, 10, 50);
    let before = engine.image().clone();
    let layout = engine.layout().clone();
    let [services, rules] = text(10, 90);
    put(&mut engine, "rules.yaml", &rules);
    let step = engine.step(PendingPods::default()).expect("there is room");
    let weight = step.delta.clone();
    engine.give_up(step);
    assert_eq!((engine.image(), engine.layout()), (&before, &layout));
    // Meanwhile an endpoint has moved.
    put(&mut engine, "services.yaml", &services.replace("10.2.0.3]", "10.3.0.3]"));
    let (both, _) = in_force(&mut engine);
    assert_eq!(both.legs, weight.legs);
    assert_eq!(both.backends.len(), 1, "{both:?}");
    let mut image = before;
    image.apply(&both);
    assert_eq!(engine.image(), &image);
}

/// Spoils what is kept: another weight was compiled, and has not come in force.
fn spoil(engine: &mut Engine) {
    let kept = engine.kept.as_ref().expect("a step was made");
    let mut world = kept.world.clone();
    let [_, rules] = text(10, 60);
    for read in documents::read(None, &rules).objects {
        world.insert(read.object.expect("it is admitted"));
    }
    engine.stages.replace(&world, &Registry::new(&world));
}

/// Audits what is kept, as the daemon does.
fn audit(engine: &mut Engine) -> Vec<&'static str> {
    let anew = engine.begin_audit().expect("it is in force").anew();
    compare(engine, anew)
}

/// Compares what is kept in small pieces.
fn compare(engine: &mut Engine, mut anew: Anew) -> Vec<&'static str> {
    let mut pieces = std::iter::repeat_with(|| engine.audit(&mut anew, 3));
    pieces.find_map(|parts| parts).expect("there is a last piece")
}

#[test]
fn a_spoilt_memo_is_found_and_named_and_mended() {
    let mut engine = engine();
    take(&mut engine, 10, 50);
    let whole = engine.image().clone();
    assert_eq!(audit(&mut engine), [""; 0]);

    let plan = engine.plan().clone();
    spoil(&mut engine);
    assert_eq!(audit(&mut engine), ["routes"]);
    let (delta, _) = in_force(&mut engine);
    assert!(delta.is_empty(), "{delta:?}");
    assert_eq!(engine.plan(), &plan);
    assert_eq!(audit(&mut engine), [""; 0]);

    // A step has left the tables other than the Plan.
    let (id, _) = engine.plan().frontends.first_key_value().expect("there are frontends");
    let delta = plan::Delta { frontends: [(*id, None)].into(), ..plan::Delta::default() };
    let limits = engine.sizes.limits();
    engine.placement.place(&delta, &limits, &layout::Newcomers::default()).expect("room");
    engine.placement.settle();
    assert_eq!(audit(&mut engine), ["tables"]);
    let (delta, _) = in_force(&mut engine);
    assert_eq!(delta.frontends.len(), delta.len(), "{delta:?}");
    assert_eq!(engine.image(), &whole);
    assert_eq!(audit(&mut engine), [""; 0]);
    assert_eq!(engine.drifts, 2);
}

#[test]
fn what_changes_during_an_audit_is_no_drift() {
    let mut engine = engine();
    take(&mut engine, 10, 50);
    let anew = engine.begin_audit().expect("it is in force").anew();
    take(&mut engine, 10, 70);
    assert_eq!(compare(&mut engine, anew), [""; 0]);
    // What did not change is compared all the same.
    let anew = engine.begin_audit().expect("it is in force").anew();
    put(&mut engine, "services.yaml", &text(10, 70)[0].replace("10.2.0.3]", "10.3.0.3]"));
    in_force(&mut engine);
    spoil(&mut engine);
    assert_eq!(compare(&mut engine, anew), ["routes"]);
}

/// Pods of this node, by the rule for callers that they fall under.
fn pods(of: &[(&str, &str)]) -> String {
    let pod = |(index, (name, app)): (usize, &(&str, &str))| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: {name}, labels: {{app: \
             {app}}}}}\nspec: {{nodeName: here, containers: []}}\nstatus: {{podIP: 10.9.0.{index}}}\n"
        )
    };
    of.iter().enumerate().map(pod).collect()
}

#[test]
fn a_class_that_loses_its_workloads_to_others_during_an_audit_is_no_drift() {
    let mut engine = engine();
    engine.settings.node_name = Some("here".to_owned());
    let rules = text(2, 50)[1].replacen(
        "tcp: [{",
        "tcp: [{match: [{sourceLabels: {app: a}}], route: [{destination: {host: s1}}]}, {match: \
         [{sourceLabels: {app: b}}], route: [{destination: {host: s0}}]}, {",
        1,
    );
    put(&mut engine, "services.yaml", &text(2, 50)[0]);
    put(&mut engine, "rules.yaml", &rules);
    put(&mut engine, "pods.yaml", &pods(&[("p", "a"), ("q", "b"), ("r", "a")]));
    in_force(&mut engine);
    assert_eq!(engine.plan().classes.len(), 3, "{:?}", engine.plan().classes);
    let exceptions = |plan: &Plan| plan.frontends.values().any(|one| one.exceptions.len() == 2);
    assert!(exceptions(engine.plan()), "{:?}", engine.plan().frontends);
    for now in [
        [("p", "b"), ("q", "b"), ("r", "a")],
        [("p", "a"), ("q", "a"), ("r", "b")],
        [("s", "b"), ("t", "b"), ("u", "a")],
    ] {
        let anew = engine.begin_audit().expect("it is in force").anew();
        put(&mut engine, "pods.yaml", &pods(&now));
        in_force(&mut engine);
        assert_eq!(compare(&mut engine, anew), [""; 0], "{now:?}");
        assert_eq!(audit(&mut engine), [""; 0], "{now:?}");
    }
}
