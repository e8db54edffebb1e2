//! Everything that is pinned, held open: so that it outlives its pins when
//! somebody removes them, and can be pinned again as it is.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::layout::Layout;
use super::load::Places;
use super::pins::Pins;
use super::{Error, Hook, sys};

/// Maps and programs, with the places of their pins.
#[derive(Debug)]
pub struct Held(Vec<(PathBuf, OwnedFd)>);

impl Held {
    /// All that these places hold.
    pub fn open(places: &Places, layout: &Layout) -> Result<Self, Error> {
        let maps = layout.maps.iter().map(|map| places.map(map));
        let programs = Hook::ALL.iter().map(|hook| places.programs.join(hook.program()));
        let open = |pin: PathBuf| match sys::open_pin(&pin) {
            Ok(fd) => Ok((pin, fd)),
            Err(error) => Err(Error::from_io(format!("opening {}", pin.display()), error)),
        };
        maps.chain(programs).map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Makes pins again that are not there any more. Says how many.
    pub fn pin_again(&self, pins: &Pins) -> Result<usize, Error> {
        let mut made = 0;
        for (pin, fd) in self.0.iter().filter(|(pin, _)| !pin.exists()) {
            pins.make(pin.parent().unwrap_or(Path::new("/")))?;
            sys::pin(fd.as_fd(), pin)
                .map_err(|error| Error::from_io(format!("pinning {}", pin.display()), error))?;
            made += 1;
        }
        Ok(made)
    }
}
