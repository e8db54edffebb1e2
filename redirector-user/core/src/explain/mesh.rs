//! Connections of local workloads.

use ipnet::IpNet;

use super::{
    Considered, Explanation, FrontendView, HandledBy, Query, Source, VerdictWord, considered,
    prefix_text, rule_view, sentence, shares, unanswered,
};
use crate::client::Asker;
use crate::compile::destinations::{Destinations, Family};
use crate::compile::mesh::{Claim, claims};
use crate::compile::rules::{Dial, Rule, RuleBook, Sheet, in_order};
use crate::names::MESH;
use crate::registry::{Protocol, Registry};
use crate::world::World;

pub(super) fn explain(
    world: &World,
    registry: &Registry,
    source: &Source,
    query: &Query,
) -> Explanation {
    let book = RuleBook::new(world);
    let mut destinations = Destinations::new(registry);
    let who = Asker::new(source.client());
    let mut answer = unanswered(source, query, HandledBy::Kernel);
    let dialled = IpNet::from(query.destination.ip().to_canonical());
    let port = query.destination.port();

    let all = claims(registry);
    let Some(standing) = find(&all, &who, &dialled, port, &mut answer.notes) else {
        answer.notes.push(format!("no service that the source sees has {}", query.destination));
        return answer;
    };
    let (prefix, claim) = standing;
    answer.frontend = Some(FrontendView {
        prefix: prefix_text(&prefix),
        port,
        service: Some(format!("{}/{}", claim.service.object.namespace, claim.service.object.name)),
    });
    let dial = Dial { address: dialled, port, gateway: MESH };
    let asked = Asked { book: &book, claim: &claim, dial: &dial, who: &who };
    let matched = asked.consider(&destinations, &mut answer);
    let matched = matched.filter(|(sheet, _)| {
        let by = if who.client().bypassed {
            "the source".to_owned()
        } else if world.settings.bypass.rules.contains(&sheet.reference) {
            sheet.reference.to_string()
        } else {
            return true;
        };
        answer.notes.push(format!("{by} is bypassed: it goes as if no rule matched"));
        false
    });
    asked.consider_the_rest(&mut answer.considered);
    let v6 = query.destination.is_ipv6() && matches!(dialled, IpNet::V6(_));
    let (route, verdict) = match matched {
        Some((sheet, rule)) => {
            answer.rule = Some(rule_view(sheet, rule));
            destinations.rule(&who, sheet, rule, port, Family::Only { v6 })
        }
        None if claim.serves(registry.settings.services) => {
            destinations.service(&who, claim.service, claim.port, v6)
        }
        None => return answer,
    };
    shares::fill(&mut answer, &destinations, &route, &verdict, query.destination);
    if answer.verdict == VerdictWord::Passthrough {
        answer.notes.push("the rule leads to the address dialled itself".to_owned());
    }
    answer
}

/// The claim that stands for the client: the narrowest prefix that it sees.
fn find<'q>(
    all: &crate::compile::mesh::Claims<'q>,
    who: &Asker<'_, 'q>,
    dialled: &IpNet,
    port: u16,
    notes: &mut Vec<String>,
) -> Option<(IpNet, Claim<'q>)> {
    let prefixes = all.get(&port)?;
    // Wider prefixes come before what lies in them.
    for (prefix, claims) in prefixes.iter().rev().filter(|(prefix, _)| prefix.contains(dialled)) {
        for claim in claims {
            if claim.holds(who, prefix) {
                return Some((*prefix, *claim));
            }
            let object = &claim.service.object;
            notes.push(if claim.service.export.visible(who) {
                format!("{prefix} is the source's own address in the headless {object}")
            } else {
                format!("{object} has {prefix}, and is {}", claim.service.export.describe())
            });
        }
    }
    None
}

struct Asked<'a, 'b, 'q> {
    book: &'b RuleBook<'q>,
    claim: &'a Claim<'q>,
    dial: &'a Dial<'a>,
    who: &'a Asker<'a, 'q>,
}

impl<'b, 'q> Asked<'_, 'b, 'q>
where
    'b: 'q,
{
    /// Goes through the rules in their order until one matches.
    fn consider(
        &self,
        destinations: &Destinations<'q>,
        answer: &mut Explanation,
    ) -> Option<(&'b Sheet<'q>, &'b Rule<'q>)> {
        let sheets = self.book.for_host(&self.claim.service.host);
        let protocol = self.claim.port.protocol;
        for index in in_order(&sheets, self.who) {
            let sheet = *sheets.get(index)?;
            for rule in &sheet.tcp {
                let because = self.rule(rule);
                let matched = because.is_ok();
                answer.considered.push(considered(sheet, rule, because));
                if matched {
                    return Some((sheet, rule));
                }
            }
            if let Some(rule) = &sheet.http {
                let because = if protocol == Protocol::Tcp {
                    destinations.subsets_resolve(self.who, sheet, rule).map(|()| {
                        "http: a rule without match on a TCP port is applied as if it were tcp; \
                         Istio would ignore it"
                            .to_owned()
                    })
                } else {
                    Err(format!(
                        "http: the port is {}, and such a rule is applied on declared TCP ports only",
                        protocol.as_str()
                    ))
                };
                let matched = because.is_ok();
                answer.considered.push(considered(sheet, rule, because));
                if matched {
                    return Some((sheet, rule));
                }
            }
        }
        None
    }

    fn rule(&self, rule: &'b Rule<'q>) -> Result<String, String> {
        let protocol = self.claim.port.protocol;
        if !protocol.takes_tcp_rules() {
            return Err(format!(
                "port {} of {} is declared {}: tcp rules do not apply to it",
                self.dial.port,
                self.claim.service.host,
                protocol.as_str()
            ));
        }
        match rule.matches(self.dial, self.who) {
            Ok(()) if rule.blocks.is_empty() => {
                Ok("it has no match, and so takes everything".into())
            }
            Ok(()) => Ok("all conditions of a match block hold".into()),
            Err(reasons) => {
                let reasons: Vec<String> =
                    reasons.iter().map(|why| why.because(self.dial, self.who)).collect();
                Err(sentence(&reasons))
            }
        }
    }

    /// Rules for the same host that cannot apply whatever they match: hidden
    /// ones, those bound to gateways only, those that only mean something at
    /// L7.
    fn consider_the_rest(&self, out: &mut Vec<Considered>) {
        let host = &self.claim.service.host;
        for sheet in self.book.for_host(host) {
            if sheet.export.visible(self.who) {
                let l7 = sheet.tls.iter().map(|rule| {
                    let because = "tls: the server name is not known at connect".to_owned();
                    considered(sheet, rule, Err(because))
                });
                out.extend(l7);
                let honoured = usize::from(sheet.http.is_some());
                for index in honoured..sheet.http_count {
                    out.push(Considered {
                        object: sheet.reference.to_string(),
                        list: "http".to_owned(),
                        index: u32::try_from(index).unwrap_or(u32::MAX),
                        matched: false,
                        because: "http: has a meaning at L7 only".to_owned(),
                    });
                }
                continue;
            }
            let because = format!("exportTo: it is {}", sheet.export.describe());
            out.extend(sheet.tcp.iter().map(|rule| considered(sheet, rule, Err(because.clone()))));
        }
        for sheet in self.book.bound_elsewhere(host) {
            let because = format!(
                "gateways: it is bound to {}, and not to {MESH}",
                sheet.gateways.join(", ")
            );
            out.extend(sheet.tcp.iter().map(|rule| considered(sheet, rule, Err(because.clone()))));
        }
    }
}
