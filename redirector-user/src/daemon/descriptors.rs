//! How many files the daemon may have open.
//!
//! A connection through a gateway is two descriptors, and many systems start a
//! process with a soft limit of 1024. What the hard limit allows is used.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one: to how many. `None` is no limit.
///
/// # Errors
///
/// The kernel's, when it refuses.
pub fn raise_limit() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        // Enough for whatever runs beside this test.
        let current = Some(maximum.map_or(4096, |most| most.saturating_sub(1)));
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("a lower soft limit");
        assert_eq!(raise_limit().expect("raised"), maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
