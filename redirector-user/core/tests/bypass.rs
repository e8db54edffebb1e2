//! What is left alone for a while goes as if no rule matched.

use redirector_core::compile::compile;
use redirector_core::explain::{Explanation, Query, QuerySource, VerdictWord, explain};
use redirector_core::model::SourceId;
use redirector_core::model::bypass::Target;
use redirector_core::plan::{FrontendId, Verdict};
use redirector_core::world::{ServiceAddresses, Settings, World, can_leave_alone};

use crate::support::world_with;

const DOCUMENTS: &str = "
Service echo: {clusterIP: 10.96.0.10, selector: {app: echo}, ports: [{name: tcp, port: 80}]}
WorkloadEntry one: {address: 10.0.0.1, labels: {app: echo}}
WorkloadEntry client {annotations: {redirector.io/cgroup: client}}: {address: 10.0.0.9, labels: {app: client}}
WorkloadEntry other {annotations: {redirector.io/cgroup: other}}: {address: 10.0.0.8, labels: {app: client}}
ServiceEntry out:
  hosts: [out.example.com]
  addresses: [10.97.0.1]
  resolution: STATIC
  ports: [{number: 80, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.0.0.2}]
VirtualService first: {hosts: [echo], tcp: [{match: [{port: 80}], route: [{destination: {host: out.example.com}}]}]}
VirtualService second: {hosts: [echo, out.example.com], tcp: [{route: [{destination: {host: nowhere}}]}]}
VirtualService edge: {hosts: [echo], gateways: [edge], tcp: [{route: [{destination: {host: echo}}]}]}
";

fn world(services: ServiceAddresses, targets: &[Target]) -> World {
    let settings = Settings { services, bypass: targets.iter().collect(), ..Settings::default() };
    world_with(DOCUMENTS, settings)
}

fn ask(world: &World, name: &str, to: &str) -> Explanation {
    let source = QuerySource::Workload { namespace: "default".into(), name: name.into() };
    let destination = format!("{to}:80").parse().expect("an address");
    explain(world, &Query { source, destination, gateway: None, sni: None }).expect("known")
}

fn endpoint(explanation: &Explanation) -> Option<&str> {
    explanation.endpoints.keys().next().map(String::as_str)
}

#[test]
fn a_bypassed_workload_goes_as_if_no_rule_matched_and_others_as_before() {
    let target = Target::workload("default/client").unwrap();
    let world = world(ServiceAddresses::Leave, &[target]);
    let left = ask(&world, "client", "10.96.0.10");
    assert_eq!((left.verdict, &left.rule), (VerdictWord::Passthrough, &None));
    assert!(left.notes.iter().any(|note| note.contains("bypassed")), "{left:?}");
    assert_eq!(endpoint(&ask(&world, "other", "10.96.0.10")), Some("10.0.0.2:80"));
    // Nothing else is behind this address.
    assert_eq!(endpoint(&ask(&world, "client", "10.97.0.1")), Some("10.0.0.2:80"));
    assert_eq!(ask(&world, "other", "10.97.0.1").verdict, VerdictWord::Refuse);
}

#[test]
fn what_a_bypassed_rule_would_take_is_not_given_to_the_next_one() {
    let target = Target::rule("VirtualService/default/first").unwrap();
    let leave = world(ServiceAddresses::Leave, std::slice::from_ref(&target));
    assert_eq!(ask(&leave, "client", "10.96.0.10").verdict, VerdictWord::Passthrough);
    let own = world(ServiceAddresses::Own, &[target]);
    assert_eq!(endpoint(&ask(&own, "client", "10.96.0.10")), Some("10.0.0.1:80"));
    assert_eq!(ask(&own, "client", "10.97.0.1").verdict, VerdictWord::Refuse);
}

#[test]
fn the_tables_say_what_explain_says() {
    let target = Target::workload("default/client").unwrap();
    let plan = compile(&world(ServiceAddresses::Leave, &[target])).plan;
    let id = FrontendId { prefix: "10.96.0.10/32".parse().unwrap(), port: 80 };
    let verdict = |name: &str| {
        let source = SourceId { namespace: "default".into(), name: name.into() };
        let frontend = &plan.frontends[&id];
        let class = plan.sources[&source].class;
        frontend.exceptions.get(&class).unwrap_or(&frontend.default)
    };
    assert_eq!(verdict("client"), &Verdict::Pass);
    assert!(matches!(verdict("other"), Verdict::Route(_)));
}

#[test]
fn what_is_not_there_or_for_gateways_cannot_be_left_alone() {
    let world = world(ServiceAddresses::Leave, &[]);
    assert!(Target::workload("client").is_err());
    assert!(Target::rule("Service/default/echo").is_err());
    let can = |target: &Target| can_leave_alone(target, |object| world.get(object));
    can(&Target::workload("default/client").unwrap()).unwrap();
    can(&Target::rule("default/first").unwrap()).unwrap();
    for (target, why) in [
        (Target::workload("default/nobody"), "there is no Pod or WorkloadEntry default/nobody"),
        (Target::rule("default/third"), "there is no VirtualService/default/third"),
        (Target::rule("default/edge"), "for gateways only"),
    ] {
        let error = can(&target.unwrap()).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn it_is_written_down_by_name() {
    let target = Target::rule("default/first").unwrap();
    let text = serde_json::to_string(&target).unwrap();
    assert_eq!(text, "{\"rule\":\"VirtualService/default/first\"}");
    assert_eq!(serde_json::from_str::<Target>(&text).unwrap(), target);
}
