//! `redirector relay`: what is started to relay connections of gateways. It is nothing for
//! people, and no part of the command line that they see.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use rustix::net::getsockname;

use crate::daemon::{descriptors, log};
use crate::failure::end_with_any_panic;
use crate::proxy::{LISTEN, Log, SUBCOMMAND, Settings, Start, become_relay, relay, start_relays};

/// Runs as a relay, or as what starts relays, if that is what these arguments, behind the name
/// of the program, say.
pub fn if_asked(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if args.next()? != SUBCOMMAND {
        return None;
    }
    let usual = Settings::default().log;
    let ended = match (args.next(), args.next()) {
        (None, _) if getsockname(io::stdin()).is_ok() => {
            // As many files as a child of the daemon may have open.
            let raised = begin(&usual).and_then(|()| descriptors::raise_limit());
            raised.and_then(|_| Err(become_relay()))
        }
        (Some(flag), Some(at)) if flag == LISTEN => {
            begin(&usual).and_then(|()| start_relays(Path::new(&at)))
        }
        (start, _) => {
            let start = start.as_ref().map(|start| start.as_encoded_bytes()).unwrap_or_default();
            let Ok(start) = serde_json::from_slice::<Start>(start) else {
                eprintln!("error: relays are started by the daemon: redirector run");
                return Some(ExitCode::from(2));
            };
            begin(&start.log).and_then(|()| relay(&start, |level| drop(log::set_level(level))))
        }
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the relay of gateways cannot go on");
            ExitCode::FAILURE
        }
    })
}

/// Begins to log, also when it ends by a fault.
fn begin(wanted: &Log) -> io::Result<()> {
    end_with_any_panic("the daemon has another relay started");
    let format = if wanted.json { log::Format::Json } else { log::Format::Text };
    log::start(&wanted.level, format, wanted.colour).map_err(io::Error::other)
}
