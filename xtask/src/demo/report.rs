//! What the demo prints.

use std::fmt::Write;
use std::path::Path;

use super::daemon::{Explanation, Redirector};
use super::sections::{Expect, Row, SERVERS, Section};
use super::stage::Stage;
use crate::command;
use crate::play::Tally;
use crate::test::libtest::Outcome;

/// Width of the bar of a split, in characters.
const BAR: usize = 50;
/// How many standard deviations a split may be off: once in 16,000 times a
/// right split is further off.
const SIGMAS: f64 = 4.0;

/// A section's heading.
pub fn heading(number: usize, section: &Section) -> String {
    format!(
        "\n{number}. {}\n   {}\n   deploy/demo/{}\n",
        section.title, section.about, section.rules
    )
}

/// What `redirector check` says about a file.
pub fn check(file: &str, text: &str) -> String {
    let body: String = text.trim_end().lines().map(|line| format!("   | {line}\n")).collect();
    format!("   redirector check deploy/demo/{file} says:\n{body}")
}

/// A row's lines and its verdict.
pub fn row(
    section: &Section,
    row: &Row,
    tally: &Tally,
    why: &Explanation,
    config: &Path,
) -> (String, String, Outcome) {
    let mut wrong = Vec::new();
    let mut text = match row.expect {
        Expect::Greeting(greeting) => greeting_line(row, greeting, tally, &mut wrong),
        Expect::Split(parts) => split_lines(row, parts, tally, &mut wrong),
        Expect::Explained => String::new(),
    };
    for (peer, _) in tally.peers.iter().filter(|(peer, _)| *peer != row.to) {
        wrong.push(format!("getpeername said {peer}, but {} was dialled", row.to));
    }
    disagreements(tally, why, &mut wrong);
    let _ = writeln!(text, "       because {}", because(why, config));
    for line in &wrong {
        let _ = writeln!(text, "       WRONG: {line}");
    }
    let outcome = match wrong.is_empty() {
        true => Outcome::Passed,
        false => Outcome::Failed(wrong.join("\n")),
    };
    let name = format!("{}: {} dials {}", section.title, row.from, row.to);
    (text, name, outcome)
}

fn greeting_line(row: &Row, greeting: &str, tally: &Tally, wrong: &mut Vec<String>) -> String {
    let expected = format!("{greeting} test");
    let got =
        tally.answers.keys().chain(tally.errors.keys()).cloned().collect::<Vec<_>>().join(", ");
    if got != expected {
        wrong.push(format!("expected \"{expected}\", got \"{got}\""));
    }
    let verdict = if got == expected { "ok" } else { "WRONG" };
    format!(
        "   {:<18} dials {:<17} expected {expected:<16} got {got:<16} {verdict}\n",
        row.from, row.to
    )
}

fn split_lines(row: &Row, parts: &[(&str, u32)], tally: &Tally, wrong: &mut Vec<String>) -> String {
    let all: u32 = tally.answers.values().chain(tally.errors.values()).sum();
    let sum: u32 = parts.iter().map(|part| part.1).sum();
    let mut text = format!("   {:<18} dials {} {all} times\n", row.from, row.to);
    for (greeting, weight) in parts {
        let got = tally.answers.get(&format!("{greeting} test")).copied().unwrap_or(0);
        let share = f64::from(*weight) / f64::from(sum);
        let part = f64::from(got) / f64::from(all.max(1));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share between 0 and 1 times the bar's width"
        )]
        let bar = "#".repeat((part * BAR as f64).round() as usize);
        let _ = writeln!(
            text,
            "       {greeting:<11} expected {:>3.0} %  got {got:>5}  {:>5.1} %  {bar}",
            share * 100.0,
            part * 100.0
        );
        let sigma = (f64::from(all) * share * (1.0 - share)).sqrt();
        if (f64::from(got) - f64::from(all) * share).abs() > SIGMAS * sigma {
            wrong.push(format!("{greeting} is more than {SIGMAS} standard deviations off"));
        }
    }
    let expected = |answer: &String| parts.iter().any(|part| *answer == format!("{} test", part.0));
    for (what, count) in
        tally.answers.iter().filter(|(answer, _)| !expected(answer)).chain(&tally.errors)
    {
        wrong.push(format!("{count} times \"{what}\""));
    }
    text
}

/// What all clients get, against what is explained.
pub fn everybody(wrong: &[String]) -> (String, Outcome) {
    if wrong.is_empty() {
        let text = "   every client gets at every service what is explained to it\n";
        return (text.to_owned(), Outcome::Passed);
    }
    let text: String = wrong.iter().map(|line| format!("       WRONG: {line}\n")).collect();
    (text, Outcome::Failed(wrong.join("\n")))
}

/// What `redirector test` says of the routing tests.
pub fn routing_tests(number: usize, text: &str) -> String {
    let body: String = text.trim_end().lines().map(|line| format!("   | {line}\n")).collect();
    format!(
        "\n{number}. The same on the documents alone\n   redirector test \
         deploy/demo/routing-tests.yaml says:\n{body}"
    )
}

/// What came and what the explanation promises must be the same endpoints.
pub fn disagreements(tally: &Tally, why: &Explanation, wrong: &mut Vec<String>) {
    for (error, times) in tally.errors.iter().filter(|_| why.refused_share == 0.0) {
        if why.verdict != "passthrough" {
            wrong.push(format!("{times} times \"{error}\", and nothing is refused: {why:?}"));
        }
    }
    if why.endpoints.len() == 1 && why.refused_share == 0.0 && tally.answers.is_empty() {
        wrong.push(format!("nothing answered, where {:?} should", why.endpoints));
    }
    for answer in tally.answers.keys() {
        let server = SERVERS.iter().find(|server| *answer == format!("{} test", server.greeting));
        let Some(server) = server else { continue };
        if !why.endpoints.get(server.endpoint).is_some_and(|share| *share > 0.0) {
            wrong.push(format!(
                "{} answered, which the explanation does not name: {:?}",
                server.endpoint, why.endpoints
            ));
        }
    }
}

/// The explanation in one line; files are named as in the daemon's directory.
fn because(why: &Explanation, config: &Path) -> String {
    let rule = match &why.rule {
        Some(rule) => {
            let short = |file: &String| {
                let file = Path::new(file);
                file.strip_prefix(config).unwrap_or(file).display().to_string()
            };
            let place = match (rule.file.as_ref().map(short), rule.line) {
                (Some(file), Some(line)) => format!(" at {file}:{line}"),
                (Some(file), None) => format!(" in {file}"),
                _ => String::new(),
            };
            format!("tcp[{}] of {}{place}", rule.index, rule.object)
        }
        None => "no rule matches".to_owned(),
    };
    let endpoints: Vec<_> = why
        .endpoints
        .iter()
        .map(|(endpoint, share)| format!("{endpoint} ({:.0} %)", share * 100.0))
        .collect();
    format!("{rule}: {} {}", why.verdict, endpoints.join(", "))
}

/// What to try when all has been seen.
pub fn what_next(program: &Path) -> String {
    format!(
        "
What next:
  cargo xtask demo --keep     the same, and it stays up, with commands to try in it
  {program} explain --config examples --from-workload default/telnet-client \\
      --to 10.96.0.10:19000   why a connection goes where it goes; README.md, \"A quick tour\",
                              goes on from there
  cargo xtask test            all tests that take no virtual machine
",
        program = program.strip_prefix(crate::workspace::root()).unwrap_or(program).display()
    )
}

/// What to try while the demo stays up.
pub fn things_to_try(stage: &Stage, redirector: &Redirector) -> String {
    let ours = |name: &str| command::shown(&redirector.command(name));
    let cgroup = stage.cgroup.display();
    format!(
        "
The demo stays up until Ctrl-C. Its configuration is that of `examples`, in
{config}; edit it there. To try, from another terminal:

  {explain} --from-workload default/telnet-client --to 10.96.0.10:19000
  {maps} all
  {status}

To connect as telnet-client (or telnet-client-2, telnet-client-foo):

  sh -c 'echo $$ > {cgroup}/telnet-client/cgroup.procs
         exec nsenter --net=/run/netns/{name} bash' <<'END'
  exec 3<>/dev/tcp/10.96.0.10/19000; echo test >&3; head -1 <&3
  END
",
        config = stage.config().display(),
        explain = ours("explain"),
        maps = ours("maps"),
        status = ours("status"),
        name = stage.name,
    )
}
