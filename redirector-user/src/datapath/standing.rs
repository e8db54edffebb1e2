//! How the programs stand: where they are attached, who else is there, and whether they
//! are effective.

use std::path::PathBuf;

use super::attach::{self, Sight};
use super::{Attached, Datapath, Error, Hook, SelfTest, Served, Standing, selftest};

impl Datapath {
    /// The cgroups that our programs are attached to.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn served(&self) -> Result<Vec<Served>, Error> {
        attach::served(&self.pins)
    }

    /// All programs on our hooks of our cgroups, in the order they run, ours
    /// and others'.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn attachments(&self) -> Result<Vec<Attached>, Error> {
        attach::attachments(&self.pins)
    }

    /// All programs on our hooks of these cgroups, where nothing of ours is.
    pub fn programs_of_others(cgroups: &[PathBuf]) -> Vec<Attached> {
        attach::programs_of_others(cgroups)
    }

    /// Programs of others that are attached below our cgroups, to hooks that
    /// rewrite addresses: there they run before ours.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn attachments_below(&self) -> Result<Vec<Attached>, Error> {
        attach::attachments_below(&self.pins)
    }

    /// The cgroups with our programs that this process does not see, since they are in
    /// another cgroup namespace or on a mount that it does not have.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn unseen(&self) -> Result<Vec<PathBuf>, Error> {
        let mut unseen = Vec::new();
        for place in attach::places(&self.pins)? {
            if attach::sight(&self.pins, &place)? == Sight::Elsewhere {
                unseen.push(place.path);
            }
        }
        Ok(unseen)
    }

    /// Proves with real connects, from a probe cgroup below each attached one that this
    /// process sees, that the programs are effective.
    ///
    /// # Errors
    ///
    /// When the probe cannot be made: a programs' fault is an outcome.
    pub fn self_test(&self) -> Result<Vec<SelfTest>, Error> {
        let port = self.maps.self_test_port();
        let wanted = match self.lock {
            Some(_) => attach::outermost(&self.cgroups)?,
            None => Vec::new(),
        };
        let mut tests = Vec::new();
        for place in attach::places(&self.pins)? {
            // Only kept for connections that are there: not to be tested.
            if self.lock.is_some() && !wanted.iter().any(|(cgroup, _)| cgroup.id == place.id) {
                continue;
            }
            match attach::sight(&self.pins, &place)? {
                Sight::Here => tests.extend(selftest::run(&place.path, port)?),
                Sight::Elsewhere => {}
                Sight::Gone => {
                    let outcome = Err("the cgroup is gone, and its programs with it".to_owned());
                    tests.push(SelfTest { cgroup: place.path, hook: Hook::Connect4, outcome });
                }
            }
        }
        Ok(tests)
    }

    /// How the programs stand.
    ///
    /// # Errors
    ///
    /// `Hidden` for those who may only read tables, and the kernel's refusal.
    pub fn standing(&self) -> Result<Standing, Error> {
        attach::check_sight(&self.pins)?;
        Ok(Standing {
            attached: self.attachments()?,
            below: self.attachments_below()?,
            unseen: self.unseen()?,
            tests: self.self_test()?,
        })
    }
}
