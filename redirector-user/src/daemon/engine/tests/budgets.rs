//! Who asks for more than there is for it.

use super::*;

#[test]
fn what_the_tables_have_no_room_for_is_left_out_of_the_namespace_with_the_most() {
    let mut engine = engine();
    let [services, rules] = text(3, 50);
    let other = text(1, 50).concat().replace("{name: s0", "{namespace: other, name: t0");
    let other = other.replace("service-name: s0", "service-name: t0").replace("10.96.", "10.97.");
    let other = other.replace("hosts: [s0]", "hosts: [t0]").replace("host: s0", "host: t0");
    put(&mut engine, "services.yaml", &services);
    put(&mut engine, "rules.yaml", &rules);
    put(&mut engine, "other.yaml", &other);
    (engine.grows, engine.sizes.routes) = (false, 2);
    in_force(&mut engine);
    assert_eq!(left_out(&engine), ["s1", "s2"], "those of the other stay");
    // What changes for others comes in force, and these stay away.
    put(&mut engine, "other.yaml", &other.replace("10.1.0.0", "10.1.0.9"));
    let (delta, _) = in_force(&mut engine);
    assert!(!delta.is_empty());
    assert_eq!(left_out(&engine), ["s1", "s2"]);
    // With room they come by themselves.
    engine.store.remove("other.yaml");
    in_force(&mut engine);
    in_force(&mut engine);
    assert_eq!(left_out(&engine), ["s2"]);
}

#[test]
fn a_new_version_beyond_the_budget_of_one_object_leaves_the_last_good_one_in_force() {
    let mut engine = engine();
    engine.settings.budgets.object.rules = 1;
    take(&mut engine, 2, 50);
    let more = "hosts: [s1, s0], tcp";
    put(&mut engine, "rules.yaml", &text(2, 50)[1].replace("hosts: [s1], tcp", more));
    let (delta, _) = in_force(&mut engine);
    assert!(delta.is_empty());
    let rejected = engine.rejected();
    assert_eq!((rejected.len(), rejected[0].kept), (1, true), "{rejected:?}");
}

#[test]
fn what_is_beyond_the_budget_of_its_namespace_comes_by_itself_when_there_is_room() {
    let mut engine = engine();
    engine.settings.budgets.namespace.rules = 2;
    take(&mut engine, 3, 50);
    assert_eq!(left_out(&engine), ["s2"]);
    assert_eq!(engine.plan().routes.len(), 2);
    put(&mut engine, "rules.yaml", &text(3, 50)[1].replace("name: s1}", "name: s1, namespace: x}"));
    in_force(&mut engine);
    assert!(left_out(&engine).is_empty());
}

#[test]
fn an_edit_for_which_its_namespace_has_no_room_leaves_the_last_good_version_until_there_is() {
    let mut engine = engine();
    engine.settings.budgets.namespace.rules = 3;
    take(&mut engine, 3, 50);
    assert!(engine.rejected().is_empty());
    let more = |rules: String| rules.replace("hosts: [s2], tcp", "hosts: [s2, more.example], tcp");
    put(&mut engine, "rules.yaml", &more(text(3, 50)[1].clone()));
    for _ in 0..2 {
        let (delta, _) = in_force(&mut engine);
        assert!(delta.is_empty(), "{delta:?}");
        let rejected = engine.rejected();
        let [one] = &rejected[..] else { panic!("{rejected:?}") };
        assert_eq!((one.kept, one.diagnostics[0].code), (true, "RD1026"), "{one:?}");
        let s2 = one.object.clone().expect("an object");
        let in_force = engine.in_force(&s2).expect("in force");
        assert_eq!(in_force.spec.virtual_service().map(|spec| spec.hosts.len()), Some(1));
    }
    // Without another edit it comes when there is room.
    let fewer = more(text(3, 50)[1].clone()).replace("{name: s1}", "{name: s1, namespace: x}");
    put(&mut engine, "rules.yaml", &fewer);
    in_force(&mut engine);
    assert!(engine.rejected().is_empty(), "{:?}", engine.rejected());
    engine.settings.budgets.namespace.rules = 2;
    let edited =
        fewer.replace("more.example", "other.example").replace("{name: s0}", "{name: s00}");
    put(&mut engine, "rules.yaml", &edited);
    in_force(&mut engine);
    assert_eq!(left_out(&engine), ["s2"], "less than it had is no budget for what is new");
    // Room by other settings is room, too.
    engine.settings.budgets.namespace.rules = 4;
    in_force(&mut engine);
    assert!(engine.rejected().is_empty(), "{:?}", engine.rejected());
}

/// A Service, with EndpointSlices of so many endpoints each.
fn service(ports: usize, slices: &[usize]) -> String {
    let ports: Vec<_> =
        (0..ports).map(|at| format!("{{name: p{at}, port: {}}}", 80 + at)).collect();
    let ports = ports.join(", ");
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: big}}\nspec: {{clusterIP: 10.96.9.9, \
         selector: {{app: big}}, ports: [{ports}]}}\n"
    );
    for (slice, endpoints) in slices.iter().enumerate() {
        let endpoints = (0..*endpoints).map(|at| format!("{{addresses: [10.7.{slice}.{at}]}}"));
        let endpoints = endpoints.collect::<Vec<_>>().join(", ");
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: \
             big-{slice}, labels: {{kubernetes.io/service-name: big}}}}\naddressType: IPv4\nports: \
             [{ports}]\nendpoints: [{endpoints}]\n"
        );
    }
    text
}

fn workload(name: &str, app: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}}}\n\
         spec: {{address: 10.8.0.{}, labels: {{app: {app}}}}}\n",
        name.len()
    )
}

#[test]
fn whoever_stands_beside_a_service_beyond_its_limit_does_not_pay_for_it() {
    let mut engine = engine();
    engine.settings.budgets.object.endpoints = 4;
    put(&mut engine, "big.yaml", &service(1, &[3, 2]));
    in_force(&mut engine);
    assert_eq!(left_out(&engine), ["big"], "its slices are good by themselves");
    // It was beyond before: not even what it selects is refused for that.
    put(&mut engine, "new.yaml", &(workload("a", "other") + &workload("bb", "big")));
    in_force(&mut engine);
    assert_eq!(left_out(&engine), ["big"]);
    put(&mut engine, "big.yaml", &service(1, &[3]));
    in_force(&mut engine);
    assert!(engine.rejected().is_empty(), "{:?}", engine.rejected());
    // One that was good stays, and what would put it beyond is what it has not got.
    put(&mut engine, "more.yaml", &(workload("ccc", "other") + &workload("dddd", "big")));
    in_force(&mut engine);
    assert_eq!(left_out(&engine), ["dddd"]);
    let destination = engine.plan().destinations.values().next();
    assert!(destination.is_none(), "no rule leads there: {destination:?}");
}

#[test]
fn a_service_with_new_slices_that_is_refused_has_them_once_it_is_mended() {
    let mut engine = engine();
    engine.settings.budgets.object.endpoints = 4;
    let [_, rules] = text(1, 100);
    put(&mut engine, "rules.yaml", &rules.replace("s0", "big"));
    put(&mut engine, "service.yaml", &service(2, &[]));
    put(&mut engine, "slices.yaml", &service(1, &[3]).replace("kind: Service", "kind: Namespace"));
    in_force(&mut engine);
    assert_eq!(left_out(&engine), ["big"]);
    put(&mut engine, "service.yaml", &service(1, &[]));
    in_force(&mut engine);
    assert!(engine.rejected().is_empty(), "{:?}", engine.rejected());
    let destinations = engine.plan().destinations.values();
    assert_eq!(destinations.map(|one| one.endpoints.len()).max(), Some(3));
}

#[test]
fn an_entry_beyond_its_limit_by_what_its_names_resolve_to_does_not_come_and_go() {
    let mut engine = engine();
    engine.settings.budgets.object.endpoints = 2;
    let resolves = |engine: &mut Engine, count: u8| {
        let addresses = (1..=count).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        engine.resolve(&"db.example".into(), Addresses { addresses, ..Addresses::default() }, 1);
    };
    put(&mut engine, "entry.yaml", NAMED);
    let asked = |engine: &mut Engine| {
        in_force(engine);
        engine.forget_names();
        (left_out(engine).len(), engine.names.len())
    };
    assert_eq!(asked(&mut engine), (0, 1));
    resolves(&mut engine, 3);
    for _ in 0..3 {
        assert_eq!(asked(&mut engine), (1, 1), "its name is asked for, and its answer is known");
    }
    resolves(&mut engine, 2);
    assert_eq!(asked(&mut engine), (0, 1));
    // Of too many names none is asked for.
    engine.settings.budgets.object.names = 0;
    for _ in 0..2 {
        assert_eq!(asked(&mut engine), (1, 0));
    }
    engine.settings.budgets.object.names = 1;
    engine.settings.budgets.namespace.endpoints = 2;
    resolves(&mut engine, 3);
    for _ in 0..3 {
        assert_eq!(asked(&mut engine), (1, 1));
    }
}

/// A rule that leads to so many subsets of a Service, which all have all of its endpoints.
fn subsets(count: usize) -> [String; 2] {
    let names: Vec<_> = (0..count).map(|at| format!("v{at}")).collect();
    let defined: Vec<_> = names.iter().map(|name| format!("{{name: {name}}}")).collect();
    let rules = (0u16..).zip(&names).map(|(at, name)| {
        format!(
            "{{match: [{{sourceLabels: {{app: a{at}}}}}], route: [{{destination: {{host: big, \
             subset: {name}}}}}]}}"
        )
    });
    let rules = rules.collect::<Vec<_>>().join(", ");
    [
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: \
             subsets}}\nspec: {{host: big, subsets: [{}]}}\n",
            defined.join(", ")
        ),
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: \
             rules}}\nspec: {{hosts: [big], tcp: [{rules}, {{route: [{{destination: {{host: \
             big}}}}]}}]}}\n"
        ),
    ]
}

/// Pods of this node that meet each of these rules.
fn callers(count: usize) -> String {
    let all: Vec<_> = (0..count).map(|at| (format!("p{at}"), format!("a{at}"))).collect();
    pods(&all.iter().map(|(name, app)| (&**name, &**app)).collect::<Vec<_>>())
}

#[test]
fn subsets_times_endpoints_are_bounded_by_what_their_namespace_may_have() {
    let most_made = |engine: &Engine| {
        let all = engine.plan().destinations.values();
        all.map(|one| one.endpoints.len()).sum::<usize>()
    };
    let mut engine = engine();
    engine.settings.node_name = Some("here".to_owned());
    engine.settings.budgets.namespace.endpoints = 100;
    put(&mut engine, "service.yaml", &service(1, &[10]));
    put(&mut engine, "pods.yaml", &callers(50));
    let [few, rule] = subsets(4);
    put(&mut engine, "subsets.yaml", &few);
    put(&mut engine, "rule.yaml", &rule);
    let other = text(1, 100).concat().replace("{name: s0", "{namespace: other, name: s0");
    put(&mut engine, "other.yaml", &other);
    in_force(&mut engine);
    assert_eq!(left_out(&engine), [""; 0]);
    assert_eq!(most_made(&engine), 50 + 2, "four subsets, the rest, and the other's");

    // An edit beyond it leaves the last good version.
    let [many, rules] = subsets(50);
    put(&mut engine, "subsets.yaml", &many);
    put(&mut engine, "rule.yaml", &rules);
    in_force(&mut engine);
    assert_eq!(left_out(&engine), ["subsets"]);
    assert!(engine.rejected()[0].kept);
    assert_eq!(most_made(&engine), 50 + 2);
    assert!(!engine.stages.is_cut());
    // What changes for others comes in force meanwhile.
    put(&mut engine, "other.yaml", &other.replace("10.1.0.0", "10.1.0.9"));
    assert!(!in_force(&mut engine).0.is_empty());

    // Nor does it come in force where nothing was before.
    let mut fresh = super::engine();
    fresh.settings = engine.settings.clone();
    for (file, text) in [
        ("service.yaml", service(1, &[10])),
        ("pods.yaml", callers(50)),
        ("subsets.yaml", many),
        ("rule.yaml", rules),
        ("other.yaml", other),
    ] {
        put(&mut fresh, file, &text);
    }
    in_force(&mut fresh);
    assert_eq!(left_out(&fresh), ["subsets"]);
    assert!(most_made(&fresh) <= 100, "{}", most_made(&fresh));
    assert_eq!(audit(&mut fresh), [""; 0]);
    // With fewer endpoints there is room.
    let fewer = service(1, &[1]).replace("{name: big}", "{name: big, labels: {app: big}}");
    put(&mut fresh, "service.yaml", &fewer);
    in_force(&mut fresh);
    in_force(&mut fresh);
    assert_eq!(left_out(&fresh), [""; 0]);
    assert_eq!(most_made(&fresh), 51 + 2);
    assert_eq!(audit(&mut fresh), [""; 0]);
}

#[test]
fn where_tables_cannot_grow_only_what_would_need_larger_ones_waits() {
    let mut engine = engine();
    engine.sizes.routes = 2;
    take(&mut engine, 2, 50);
    let [services, rules] = text(4, 50);
    put(&mut engine, "services.yaml", &services.replace("10.2.0.1]", "10.3.0.1]"));
    put(&mut engine, "rules.yaml", &rules);
    let step = engine.step(PendingPods::default()).expect("they grow");
    assert!(step.sizes.routes >= 4);
    engine.give_up(step);
    engine.cannot_grow("out of memory".to_owned());
    let (delta, _) = in_force(&mut engine);
    assert_eq!(delta.backends.len(), 1, "what fits is in force: {delta:?}");
    assert_eq!(left_out(&engine), ["s2", "s3"]);
    let why = &engine.rejected()[0].diagnostics[0].message;
    assert!(why.contains("cannot be made, and are tried again: out of memory"), "{why}");
    engine.grow_again();
    in_force(&mut engine);
    assert_eq!(left_out(&engine), [""; 0]);
    assert_eq!(engine.plan().routes.len(), 4);
}
