//! Everything that is pinned, held open: so that it outlives its pins when
//! somebody removes them, and can be pinned again as it is.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::attach::LinkedCgroup;
use super::layout::Layout;
use super::pins::Pins;
use super::places::Places;
use super::{Error, Hook, attach, lives, sys};

/// Maps, programs and links, with the places of their pins.
#[derive(Debug)]
pub struct Held {
    /// Maps and programs, with their pins.
    objects: Vec<(PathBuf, OwnedFd)>,
    /// The cgroups that something is attached to, and the links.
    links: Vec<(LinkedCgroup, Vec<(PathBuf, OwnedFd)>)>,
}

impl Held {
    /// All that these places hold.
    pub fn open(places: &Places, layout: &Layout) -> Result<Self, Error> {
        let maps = layout.maps.iter().map(|map| places.map(map));
        let programs = Hook::ALL.iter().map(|hook| places.programs.join(hook.program()));
        let objects = maps.chain(programs).map(opened).collect::<Result<_, _>>()?;
        let mut held = Self { objects, links: Vec::new() };
        held.hold_lives(places)?;
        Ok(held)
    }

    /// Holds the arrays of `LIVE` that there are.
    pub fn hold_lives(&mut self, places: &Places) -> Result<(), Error> {
        let pins = (0..).map(|index| lives::pin(&places.counts, index));
        for pin in pins.take_while(|pin| pin.exists()) {
            if !self.objects.iter().any(|(held, _)| *held == pin) {
                self.objects.push(opened(pin)?);
            }
        }
        Ok(())
    }

    /// Whether there are links to hold.
    pub fn is_attached(&self) -> bool {
        !self.links.is_empty()
    }

    /// Holds all links that are there now, and goes on holding those whose pins somebody
    /// has removed: they end only by being detached.
    pub fn hold_links(&mut self, pins: &Pins) -> Result<(), Error> {
        let pinned = |place: LinkedCgroup| {
            let mut links = Vec::new();
            for pin in attach::links_of_all(pins, place.id)? {
                match opened(pin) {
                    // One that goes just now is none to hold.
                    Err(error) if error.is_not_found() => {}
                    link => links.push(link?),
                }
            }
            Ok((place, links))
        };
        let now: Vec<_> =
            attach::places(pins)?.into_iter().map(pinned).collect::<Result<_, Error>>()?;
        for (place, links) in std::mem::replace(&mut self.links, now) {
            let is_pinned =
                |pin: &Path| self.links.iter().flat_map(|of| &of.1).any(|(p, _)| p == pin);
            let unpinned: Vec<_> = links
                .into_iter()
                .filter(|(pin, link)| !is_pinned(pin) && attach::is_attached(link.as_fd()))
                .collect();
            if unpinned.is_empty() {
                continue;
            }
            match self.links.iter_mut().find(|(now, _)| now.id == place.id) {
                Some((_, links)) => links.extend(unpinned),
                None => self.links.push((place, unpinned)),
            }
        }
        Ok(())
    }

    /// Makes pins again that are not there any more. Says how many.
    pub fn pin_again(&self, pins: &Pins) -> Result<usize, Error> {
        for (place, links) in &self.links {
            if links.iter().any(|(pin, _)| !pin.exists()) {
                attach::name_cgroup(pins, place)?;
            }
        }
        let links = self.links.iter().flat_map(|(_, links)| links);
        let mut made = 0;
        for (pin, fd) in self.objects.iter().chain(links).filter(|(pin, _)| !pin.exists()) {
            pins.make(pin.parent().unwrap_or(Path::new("/")))?;
            sys::pin(fd.as_fd(), pin)
                .map_err(|error| Error::from_io(format!("pinning {}", pin.display()), error))?;
            pins.admit(pin)?;
            made += 1;
        }
        Ok(made)
    }
}

fn opened(pin: PathBuf) -> Result<(PathBuf, OwnedFd), Error> {
    match sys::open_pin(&pin) {
        Ok(fd) => Ok((pin, fd)),
        Err(error) => Err(Error::from_io(format!("opening {}", pin.display()), error)),
    }
}
