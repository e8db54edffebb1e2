//! Which of the connections are shown.

use std::time::SystemTime;

use super::super::which::{About, Which};
use super::story::{OUTCOMES, RESET, Told};

/// Which of the connections: all that are given have to hold
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which connections")]
pub struct Filter {
    #[command(flatten)]
    which: Which,
    /// Since then: so long ago (10m), or a time in UTC (2026-11-30T01:45:00Z)
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<SystemTime>,
    /// With this outcome: passed, routed, refused (for any reason), empty (no endpoint), limited,
    /// ended, failed, givenup, released, reset (at a gateway)
    #[arg(long, value_name = "OUTCOME", value_parser = outcome)]
    outcome: Option<String>,
}

fn since(text: &str) -> Result<SystemTime, String> {
    let ago = humantime::parse_duration(text).ok();
    ago.and_then(|time| SystemTime::now().checked_sub(time))
        .or_else(|| humantime::parse_rfc3339_weak(text).ok())
        .ok_or_else(|| {
            "expected how long ago, such as 10m, or a time: 2026-11-30T01:45:00Z".to_owned()
        })
}

fn outcome(text: &str) -> Result<String, String> {
    let names: Vec<&str> = OUTCOMES.iter().map(|(_, name)| *name).chain([RESET]).collect();
    if names.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("expected one of {}", names.join(", ")))
}

impl Filter {
    /// Whether this one is shown.
    pub fn takes(&self, told: &Told) -> bool {
        let about = About {
            workload: told.workload.as_deref(),
            pid: told.process.as_ref().map(|process| process.pid),
            route: told.route.as_deref(),
            may_be: &[],
            addresses: [Some(told.destination), told.endpoint],
        };
        self.which.takes(about) == Some(true)
            && self.since.is_none_or(|since| told.at >= since)
            && self.outcome.as_ref().is_none_or(|wanted| {
                told.outcome == wanted
                    || (wanted == "refused" && ["empty", "limited"].contains(&told.outcome))
            })
    }
}
