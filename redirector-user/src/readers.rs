//! Who else may look: the group of `run --read-group`.
//!
//! Its members open tables and files for reading, and ask the daemon what it knows. They
//! cannot list directories in which a daemon takes a lock: who can open such a directory
//! could hold the lock.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use rustix::process::{getegid, geteuid};

/// Groups by name.
const GROUPS: &str = "/etc/group";

/// A group, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readers(u32);

/// What members of the group may do with something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum May {
    /// Find what lies in a directory, by its name.
    Pass,
    /// Read a file; list a directory, too.
    Read,
    /// Connect to a socket.
    Connect,
    /// Nothing.
    Nothing,
}

impl Readers {
    /// A group by its name in /etc/group, or by its number.
    ///
    /// # Errors
    ///
    /// When there is no such group, or it is root's or this process's own: what is owned by
    /// that was given to nobody.
    pub fn parse(text: &str) -> Result<Self, String> {
        let readers = Self::find(text)?;
        if [0, getegid().as_raw()].contains(&readers.0) {
            return Err("who looks is to be in a group of its own, and that is the daemon's: \
                        `groupadd --system redirector-readers` makes one"
                .to_owned());
        }
        Ok(readers)
    }

    fn find(text: &str) -> Result<Self, String> {
        // The highest number stands for none.
        let known = |number: &u32| *number != u32::MAX;
        if let Some(number) = text.parse().ok().filter(known) {
            return Ok(Self(number));
        }
        // A machine without the file has no group by a name.
        let groups = fs::read_to_string(GROUPS).unwrap_or_default();
        let found = entries(&groups).find(|(name, _)| *name == text);
        found.map(|(_, number)| Self(number)).ok_or_else(|| {
            format!("{GROUPS} has no group {text}: `groupadd --system {text}` makes it")
        })
    }

    /// The group that may look at something of root's; nothing when none may.
    pub fn of(path: &Path) -> Option<Self> {
        let meta = fs::symlink_metadata(path).ok()?;
        let is_given = meta.mode() & 0o070 != 0 && meta.gid() != 0 && meta.uid() == 0;
        is_given.then(|| Self(meta.gid()))
    }

    /// The group that is let pass through a directory, and no more than that, as
    /// [`admit`] does it.
    pub fn let_pass(directory: &Path) -> Option<Self> {
        let mode = fs::symlink_metadata(directory).ok()?.mode();
        Self::of(directory).filter(|_| mode & 0o077 == 0o010)
    }

    /// Its name for people.
    pub fn name(self) -> String {
        let groups = fs::read_to_string(GROUPS).unwrap_or_default();
        let found = entries(&groups).find(|(_, number)| *number == self.0);
        found.map_or_else(|| self.0.to_string(), |(name, _)| name.to_owned())
    }
}

/// Names and numbers of lines such as `adm:x:4:syslog`.
fn entries(groups: &str) -> impl Iterator<Item = (&str, u32)> {
    groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}

/// Lets the group do this with a file, a directory or a socket, and nobody else but the
/// owner. Without a group one that had been let in is let in no more, and what is the
/// owner's group's stays as it is.
///
/// # Errors
///
/// The system's refusal: giving something to a group that this process is not in takes
/// `CAP_CHOWN`.
pub fn admit(path: &Path, readers: Option<Readers>, may: May) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return Ok(());
    }
    let own = (geteuid().as_raw(), getegid().as_raw());
    let is_given = meta.gid() != own.1 && meta.uid() == own.0;
    let (group, bits) = match (readers, may, meta.is_dir()) {
        (None, ..) | (_, May::Nothing, _) if !is_given => return Ok(()),
        (None, ..) | (_, May::Nothing, _) => (own.1, 0),
        (Some(Readers(group)), May::Pass, _) => (group, 0o010),
        (Some(Readers(group)), May::Read, true) => (group, 0o050),
        (Some(Readers(group)), May::Read, false) => (group, 0o040),
        (Some(Readers(group)), May::Connect, _) => (group, 0o060),
    };
    let mode = meta.mode() & 0o700 | bits;
    if meta.gid() != group {
        // Those of the group before are let in no more than those of the next.
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700))?;
        lchown(path, None, Some(group))?;
    } else if meta.mode() & 0o7777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_known_by_its_number_or_its_name() {
        assert_eq!(Readers::parse("4242"), Ok(Readers(4242)));
        for own in ["0", "root"] {
            let error = Readers::parse(own).unwrap_err();
            assert!(error.contains("the daemon's"), "{error}");
        }
        assert_eq!(Readers::parse("4294967294"), Ok(Readers(u32::MAX - 1)));
        let error = Readers::parse("no-such-group-here").unwrap_err();
        assert!(error.contains("groupadd --system no-such-group-here"), "{error}");
        assert!(Readers::parse("4294967295").is_err(), "it stands for no group");
        let groups = "root:x:0:\nadm:x:4:syslog\nbroken\n";
        assert_eq!(entries(groups).collect::<Vec<_>>(), [("root", 0), ("adm", 4)]);
    }

    #[test]
    fn the_group_is_let_in_and_what_nobody_was_let_in_to_is_the_owners_affair() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let is = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        let group = Some(Readers(getegid().as_raw()));
        set(0o604);
        for (may, mode) in [(May::Read, 0o640), (May::Connect, 0o660)] {
            admit(&file, group, may).unwrap();
            assert_eq!(is(&file), mode);
        }
        admit(root.path(), group, May::Pass).unwrap();
        assert_eq!(is(root.path()), 0o710);
        set(0o644);
        admit(&file, None, May::Read).unwrap();
        assert_eq!(is(&file), 0o644);
    }
}
