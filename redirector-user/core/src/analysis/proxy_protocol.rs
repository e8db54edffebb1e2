//! The annotation of ours that has backends told the client of a Gateway.

use super::facts::Facts;
use super::gateways::both_select;
use super::{Finding, Report};
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::annotations::PROXY_PROTOCOL;
use crate::model::{Gateway, Kind, Object, PROXY_PROTOCOL_V2, ServerTls, speaks_proxy_protocol};
use crate::rules::RuleSet;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut annotated = false;
    for object in facts.world.objects() {
        let Some(value) = object.meta.annotations.get(PROXY_PROTOCOL) else { continue };
        annotated = true;
        let kind = object.reference().kind;
        let problem = if kind != Kind::Gateway {
            format!("{PROXY_PROTOCOL} has no meaning for a {kind}")
        } else if value != PROXY_PROTOCOL_V2 {
            format!("{PROXY_PROTOCOL}: \"{value}\" is not {PROXY_PROTOCOL_V2}")
        } else {
            continue;
        };
        Report::new(object.reference(), findings).add(
            format!("metadata.annotations.{PROXY_PROTOCOL}"),
            Diagnostic::new(&differences::PROXY_PROTOCOL, problem),
        );
    }
    if annotated {
        for set in &facts.book.sets {
            of_two_minds(facts, set, findings);
        }
    }
}

/// A VirtualService that two Gateways have at one port, of which one wants the
/// backend to be told the client and the other does not.
fn of_two_minds(facts: &Facts<'_>, set: &RuleSet, findings: &mut Vec<Finding>) {
    let mut before: Vec<(&Object, &Gateway)> = Vec::new();
    for (i, name) in set.gateways.iter().enumerate() {
        let Some((gateway, spec)) = facts.gateway(name) else { continue };
        if !facts.spend(before.len()) {
            return;
        }
        let speaks = |gateway: &Object| speaks_proxy_protocol(&gateway.meta.annotations);
        let other = before.iter().find_map(|(other, its)| {
            let port = shared_port(spec, its).filter(|_| speaks(gateway) != speaks(other))?;
            both_select(facts, spec, its).then_some((other, port))
        });
        if let Some((other, port)) = other {
            let (with, without) =
                if speaks(gateway) { (gateway, *other) } else { (*other, gateway) };
            let problem = format!(
                "on port {port} {} asks for the PROXY protocol and {} does not: of rules that \
                 both have, the older Gateway's come first",
                with.reference(),
                without.reference()
            );
            let finding = Diagnostic::new(&differences::PROXY_PROTOCOL, problem)
                .help("let both Gateways ask for it or neither, or bind the rules to one of them");
            Report::new(set.reference.clone(), findings)
                .add(format!("spec.gateways[{i}]"), finding);
            return;
        }
        before.push((gateway, spec));
    }
}

/// A port on which both have a passthrough server: only these share one.
fn shared_port(a: &Gateway, b: &Gateway) -> Option<u16> {
    let ports = |gateway: &Gateway| -> Vec<u16> {
        let passes = gateway.servers.iter().filter(|s| s.tls == Some(ServerTls::Passthrough));
        passes.map(|server| server.port).collect()
    };
    let theirs = ports(b);
    ports(a).into_iter().find(|port| theirs.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Around, analyze as all};
    use crate::documents;
    use crate::registry::Registry;
    use crate::world::{Settings, World};

    /// The findings in these documents: object, path and message.
    fn found(text: &str) -> Vec<String> {
        let mut world = World::new(Settings::default());
        for read in documents::read(None, text).objects {
            world.insert(read.object.expect("the documents are good"));
        }
        let found = all(&world, &mut Registry::new(&world), &Around::default()).0;
        let ours = found.iter().filter(|f| f.diagnostic.code == differences::PROXY_PROTOCOL.id);
        ours.map(|f| format!("{} {} {}", f.object, f.path, f.diagnostic.message)).collect()
    }

    /// A Gateway with a server, and an annotation with this value.
    fn gateway(name: &str, value: Option<&str>, server: &str) -> String {
        let annotation = value.map(|value| format!("redirector.io/proxy-protocol: {value}"));
        format!(
            "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, annotations: {{{}}}}}
spec: {{selector: {{istio: edge}}, servers: [{{hosts: ['*'], {server}}}]}}
---
",
            annotation.unwrap_or_default()
        )
    }

    const TLS: &str = "port: {name: tls, number: 443, protocol: TLS}, tls: {mode: PASSTHROUGH}";
    const TCP: &str = "port: {name: tcp, number: 443, protocol: TCP}";
    const OTHER: &str = "port: {name: tls, number: 444, protocol: TLS}, tls: {mode: PASSTHROUGH}";

    fn rules(gateways: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: rules}}
spec:
  hosts: ['*']
  gateways: [{gateways}]
  tls: [{{match: [{{sniHosts: ['*']}}], route: [{{destination: {{host: a}}}}]}}]
"
        )
    }

    #[test]
    fn another_version_or_another_kind_is_told() {
        assert_eq!(found(&gateway("one", Some("v2"), TCP)), Vec::<String>::new());
        let wrong = found(&gateway("one", Some("v1"), TCP));
        assert!(matches!(&wrong[..], [one] if one.contains("\"v1\" is not v2")), "{wrong:?}");
        let elsewhere = rules("one").replace(
            "{name: rules}",
            "{name: rules, annotations: {redirector.io/proxy-protocol: v2}}",
        );
        let wrong = found(&elsewhere);
        assert!(
            matches!(&wrong[..], [one] if one.contains("no meaning for a VirtualService")),
            "{wrong:?}"
        );
    }

    #[test]
    fn gateways_of_two_minds_about_a_rule_that_both_have_at_one_port_are_told() {
        let of = |first: &str, second: Option<&str>, server: &str, bound: &str| {
            found(
                &(gateway("one", Some(first), TLS)
                    + &gateway("two", second, server)
                    + &rules(bound)),
            )
        };
        let told = of("v2", None, TLS, "one, two");
        assert!(
            matches!(&told[..], [one] if one.starts_with("VirtualService/default/rules spec.gateways[1]")
                && one.contains("Gateway/default/one asks") && one.contains("Gateway/default/two does not")),
            "{told:?}"
        );
        let nothing = Vec::<String>::new();
        assert_eq!(of("v2", Some("v2"), TLS, "one, two"), nothing, "they agree");
        assert_eq!(of("v2", None, OTHER, "one, two"), nothing, "another port");
        assert_eq!(of("v2", None, TCP, "one, two"), nothing, "a TCP server shares no port");
        assert_eq!(of("v2", None, TLS, "one"), nothing, "rules of one of them");
    }
}
