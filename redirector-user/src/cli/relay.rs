//! `redirector relay`: what the daemon starts to relay connections of gateways. It is
//! nothing for people, and no part of the command line that they see.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::daemon::log;
use crate::failure::end_with_any_panic;
use crate::proxy::{SUBCOMMAND, Start, relay};

/// Runs as a relay if that is what these arguments, behind the name of the program, say.
pub fn if_asked(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if args.next()? != SUBCOMMAND {
        return None;
    }
    let start: Option<Start> =
        args.next().and_then(|start| serde_json::from_slice(start.as_encoded_bytes()).ok());
    let Some(start) = start else {
        eprintln!("error: relays are started by the daemon: redirector run");
        return Some(ExitCode::from(2));
    };
    end_with_any_panic("the daemon starts another relay");
    let format = if start.log.json { log::Format::Json } else { log::Format::Text };
    let told = log::start(&start.log.level, format, start.log.colour);
    let log_at = |level: &str| drop(log::set_level(level));
    let result = told.map_err(std::io::Error::other).and_then(|()| relay(&start, log_at));
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the relay of gateways cannot go on");
            ExitCode::FAILURE
        }
    })
}
