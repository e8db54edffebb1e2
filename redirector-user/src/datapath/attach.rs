//! Links: which cgroups the programs are attached to.
//!
//! A link outlives the daemon by its pin. A new version of a program takes its
//! place in the link, so that no connect runs without one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::cgroup::Cgroup;
use super::error::says_gone;
use super::layout::MEMORY;
use super::pins::{Pins, leads_to};
use super::places::Places;
use super::{Attached, Error, Hook, Served, sys};

/// The name of the link in a cgroup's directory that leads to the cgroup.
const CGROUP: &str = "cgroup";

/// A cgroup that something of ours is attached to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkedCgroup {
    /// Its id.
    pub id: u64,
    /// Where it is, or was.
    pub path: PathBuf,
}

/// The cgroups to attach to: without those that lie below another, which would
/// run the programs twice.
pub fn outermost(cgroups: &[PathBuf]) -> Result<Vec<(Cgroup, File)>, Error> {
    let mut open =
        cgroups.iter().map(|path| Cgroup::with_file(path)).collect::<Result<Vec<_>, Error>>()?;
    open.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    let mut outermost: Vec<(Cgroup, File)> = Vec::new();
    for (cgroup, file) in open {
        if !outermost.iter().any(|(outer, _)| cgroup.path.starts_with(&outer.path)) {
            outermost.push((cgroup, file));
        }
    }
    Ok(outermost)
}

/// Every cgroup that has links.
pub fn places(pins: &Pins) -> Result<Vec<LinkedCgroup>, Error> {
    let mut places = Vec::new();
    for name in pins.names(&pins.links())? {
        let Ok(id) = name.parse() else { continue };
        // One that was killed may have made the directory only.
        let path = leads_to(&pins.links().join(&name).join(CGROUP))?.unwrap_or_default();
        places.push(LinkedCgroup { id, path });
    }
    places.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(places)
}

/// Where a cgroup that has links is, seen from this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    /// At its path.
    Here,
    /// Not at its path, and its links live: in another cgroup namespace, or on a mount
    /// that this process does not have.
    Elsewhere,
    /// It was removed, and its programs with it.
    Gone,
}

/// Looks for a cgroup that has links.
pub fn sight(pins: &Pins, place: &LinkedCgroup) -> Result<Sight, Error> {
    if is_at(place)? {
        return Ok(Sight::Here);
    }
    for hook in Hook::ALL {
        for link in links(pins, place.id, hook)? {
            if link_at(&link)?.is_some_and(|info| info.cgroup == place.id) {
                return Ok(Sight::Elsewhere);
            }
        }
    }
    Ok(Sight::Gone)
}

/// What a pinned link attaches; nothing when it has gone, or something else lies there.
fn link_at(pin: &Path) -> Result<Option<sys::CgroupLink>, Error> {
    match sys::open_pin(pin).and_then(|link| sys::link_info(link.as_fd())) {
        Ok(info) => Ok(Some(info)),
        Err(error) if says_gone(&error) || is_no_link(&error) => Ok(None),
        Err(error) => Err(Error::from_io(format!("reading {}", pin.display()), error)),
    }
}

/// Whether a link still attaches something; also where that cannot be told.
pub fn is_attached(link: BorrowedFd<'_>) -> bool {
    // Zero once it was detached, or its cgroup removed.
    sys::link_info(link).map_or(true, |info| info.cgroup != 0)
}

/// Whether what was asked about is another thing than a link to a cgroup.
fn is_no_link(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

/// An error where this process may not ask about our links.
pub fn check_sight(pins: &Pins) -> Result<(), Error> {
    for place in places(pins)? {
        for link in links_of_all(pins, place.id)? {
            match sys::open_pin(&link) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(Error::hidden(&link, error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether what is at the path is that cgroup, and not another one of that name.
///
/// # Errors
///
/// When that cannot be told.
pub fn is_at(place: &LinkedCgroup) -> Result<bool, Error> {
    match Cgroup::open(&place.path) {
        Ok(cgroup) => Ok(cgroup.id == place.id),
        // Something else lies there, or on a mount that shows a part only.
        Err(Error::Path { .. }) => Ok(false),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn directory(pins: &Pins, cgroup: u64) -> PathBuf {
    pins.links().join(cgroup.to_string())
}

/// Where a link is pinned. A hook that only deals with connection memory has a
/// link for each of it: programs with another one, of another layout or smaller,
/// stay for as long as there are connections in theirs.
pub fn pin(pins: &Pins, memory: &Path, cgroup: u64, hook: Hook) -> PathBuf {
    let memory = memory.file_name().unwrap_or_default().to_string_lossy();
    let name = match hook {
        Hook::Connect4 | Hook::Connect6 => hook.program().to_owned(),
        _ => format!("{}-{}", hook.program(), memory.trim_start_matches(MEMORY)),
    };
    directory(pins, cgroup).join(name)
}

/// Detaches what belongs to connection memory other than this and those that are
/// kept, by the names of their directories.
pub fn detach_other_memory(
    pins: &Pins,
    memory: &Path,
    cgroup: u64,
    kept: &[String],
) -> Result<(), Error> {
    let ours = Hook::ALL.map(|hook| pin(pins, memory, cgroup, hook));
    for name in pins.names(&directory(pins, cgroup))? {
        let path = directory(pins, cgroup).join(&name);
        let memory = name.split_once('-').map(|(_, memory)| format!("{MEMORY}{memory}"));
        let stays = name == CGROUP
            || ours.contains(&path)
            || memory.is_some_and(|memory| kept.contains(&memory));
        if !stays {
            detach_link(pins, &path)?;
        }
    }
    Ok(())
}

/// Our links to a hook of a cgroup, with whatever memory.
pub fn links(pins: &Pins, cgroup: u64, hook: Hook) -> Result<Vec<PathBuf>, Error> {
    let mut names = pins.names(&directory(pins, cgroup))?;
    names.retain(|name| name.split('-').next() == Some(hook.program()));
    Ok(names.into_iter().map(|name| directory(pins, cgroup).join(name)).collect())
}

/// Our links to all hooks of a cgroup.
pub fn links_of_all(pins: &Pins, cgroup: u64) -> Result<Vec<PathBuf>, Error> {
    let all = Hook::ALL.into_iter().map(|hook| links(pins, cgroup, hook));
    Ok(all.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Every cgroup that has links, with their hooks.
pub fn served(pins: &Pins) -> Result<Vec<Served>, Error> {
    let served = places(pins)?.into_iter().map(|LinkedCgroup { id, path }| {
        let mut hooks = Vec::new();
        for hook in Hook::ALL {
            if !links(pins, id, hook)?.is_empty() {
                hooks.push(hook);
            }
        }
        Ok(Served { id, path, hooks })
    });
    served.collect()
}

/// The programs that our links to a hook of a cgroup run.
fn linked(pins: &Pins, cgroup: u64, hook: Hook) -> Result<Vec<u32>, Error> {
    let all = links(pins, cgroup, hook)?;
    let programs = all.iter().map(|link| Ok(link_at(link)?.map(|info| info.program)));
    Ok(programs.collect::<Result<Vec<_>, Error>>()?.into_iter().flatten().collect())
}

/// Has this program run on this hook of this cgroup: through the link that is
/// there, or through a new one.
pub fn attach(
    pins: &Pins,
    places: &Places,
    cgroup: &Cgroup,
    file: &File,
    hook: Hook,
) -> Result<(), Error> {
    let what = || format!("attaching {} to {}", hook.program(), cgroup.path.display());
    name_cgroup(pins, &LinkedCgroup { id: cgroup.id, path: cgroup.path.clone() })?;
    let program = program(places, hook)?;
    let pin = pin(pins, &places.memory, cgroup.id, hook);
    let place = LinkedCgroup { id: cgroup.id, path: cgroup.path.clone() };
    let updated = update(&pin, program.as_fd(), &place, hook);
    if updated.map_err(|error| Error::from_io(what(), error))? {
        return Ok(());
    }
    let link =
        sys::create_link(program.as_fd(), file.as_fd(), hook.attach_type()).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EINVAL) => Error::Kernel {
                    what: what(),
                    missing: "this kernel has no such hook".into(),
                    help: "It takes a kernel of at least 6.1 with CONFIG_CGROUP_BPF".into(),
                },
                // The kernel says so where a program was attached without leave for
                // others, here or above.
                Some(libc::EPERM) if exclusive(file, hook) => Error::Path {
                    path: cgroup.path.clone(),
                    problem: "another program is attached there exclusively".into(),
                    help: "Attach to a cgroup beside it, or have its owner attach it with \
                       BPF_F_ALLOW_MULTI; `bpftool cgroup tree` shows it"
                        .into(),
                },
                _ => Error::from_io(what(), error),
            }
        })?;
    sys::pin(link.as_fd(), &pin)
        .map_err(|error| Error::from_io(format!("pinning {}", pin.display()), error))
}

/// Whether somebody else's program on this hook explains a refusal.
fn exclusive(file: &File, hook: Hook) -> bool {
    sys::effective_programs(file.as_fd(), hook.attach_type()).is_ok_and(|ids| !ids.is_empty())
}

/// Puts a program into the link that is pinned there, if there is one and its
/// cgroup lives.
pub fn update(
    pin: &Path,
    program: BorrowedFd<'_>,
    place: &LinkedCgroup,
    hook: Hook,
) -> io::Result<bool> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let info = sys::link_info(link.as_fd())?;
    if info.cgroup == place.id {
        if info.program == sys::program_id(program)? {
            return Ok(true);
        }
        let runs = || runs(&place.path, hook, info.program);
        let before = runs();
        match sys::update_link(link.as_fd(), program) {
            Ok(()) if before > 0 && runs() == before => {
                return make_anew(pin, &link, program, &place.path, hook).map(|()| true);
            }
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(error),
        }
    }
    // The cgroup it was attached to is gone: the link is dead.
    fs::remove_file(pin)?;
    Ok(false)
}

/// How often a program runs on a hook of a cgroup; never, where that cannot be told.
fn runs(cgroup: &Path, hook: Hook, program: u32) -> usize {
    let Ok(file) = File::open(cgroup) else { return 0 };
    let all = sys::effective_programs(file.as_fd(), hook.attach_type()).unwrap_or_default();
    all.into_iter().filter(|id| *id == program).count()
}

/// Has a link anew whose program was put in the place of somebody else's: kernels of about
/// 6.16 to 7.0 mistake the place where a program with `BPF_F_PREORDER` is there. With
/// another link the kernel works out all places again; meanwhile no connect is without a
/// program of ours.
fn make_anew(
    pin: &Path,
    link: &OwnedFd,
    program: BorrowedFd<'_>,
    cgroup: &Path,
    hook: Hook,
) -> io::Result<()> {
    let fresh = sys::create_link(program, File::open(cgroup)?.as_fd(), hook.attach_type())?;
    // A bpffs takes no dots.
    let mut beside = pin.as_os_str().to_owned();
    beside.push("-new");
    let beside = PathBuf::from(beside);
    if let Err(error) = fs::remove_file(&beside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    sys::pin(fresh.as_fd(), &beside)?;
    fs::rename(&beside, pin)?;
    sys::detach_link(link.as_fd())
}

/// Opens a pinned program.
pub fn program(places: &Places, hook: Hook) -> Result<OwnedFd, Error> {
    let pin = places.programs.join(hook.program());
    sys::open_pin(&pin).map_err(|error| Error::from_io(format!("opening {}", pin.display()), error))
}

/// Detaches a hook of a cgroup, with whatever memory; fine when it is not attached.
pub fn detach(pins: &Pins, cgroup: u64, hook: Hook) -> Result<(), Error> {
    links(pins, cgroup, hook)?.iter().try_for_each(|pin| detach_link(pins, pin))
}

/// Ends a pinned link; fine when it is not there.
pub fn detach_link(pins: &Pins, pin: &Path) -> Result<(), Error> {
    // Where that fails, the end of the link does it.
    if let Ok(link) = sys::open_pin(pin) {
        let _ = sys::detach_link(link.as_fd());
    }
    pins.unpin(pin)
}

/// Notes which cgroup the links of a directory are about.
pub fn name_cgroup(pins: &Pins, place: &LinkedCgroup) -> Result<(), Error> {
    let directory = directory(pins, place.id);
    pins.make(&directory)?;
    pins.link(&place.path, &directory.join(CGROUP))
}

/// Detaches everything from a cgroup: what makes entries of connection memory
/// before what frees them.
pub fn detach_all(pins: &Pins, cgroup: u64) -> Result<(), Error> {
    for hook in Hook::ALL.into_iter().rev() {
        detach(pins, cgroup, hook)?;
    }
    pins.remove(&directory(pins, cgroup))
}

/// Detaches everything from all cgroups.
pub fn detach_everywhere(pins: &Pins) -> Result<(), Error> {
    places(pins)?.iter().try_for_each(|place| detach_all(pins, place.id))
}

/// `BPF_F_ALLOW_MULTI`.
const ALLOW_MULTI: u32 = 1 << 1;

/// Most cgroups below ours that are looked at.
const MOST_BELOW: usize = 16_384;

/// Where a program is attached, and whether alone.
struct Owner {
    cgroup: PathBuf,
    exclusive: bool,
}

/// Adds the programs that are attached to this very cgroup.
fn owners(cgroup: &Path, hook: Hook, into: &mut BTreeMap<u32, Owner>) {
    let Ok(file) = File::open(cgroup) else { return };
    let Ok((ids, flags)) = sys::attached_programs(file.as_fd(), hook.attach_type()) else { return };
    for id in ids {
        let exclusive = flags & ALLOW_MULTI == 0;
        into.entry(id).or_insert_with(|| Owner { cgroup: cgroup.to_owned(), exclusive });
    }
}

/// Programs of others that are attached below our cgroups, to hooks that
/// rewrite addresses: there they run before ours.
pub fn attachments_below(pins: &Pins) -> Result<Vec<Attached>, Error> {
    let mut attached = Vec::new();
    for place in places(pins)? {
        let mut below = vec![place.path.clone()];
        let mut seen = 0;
        while let Some(cgroup) = below.pop() {
            for entry in fs::read_dir(&cgroup).into_iter().flatten().flatten() {
                if seen < MOST_BELOW && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    seen += 1;
                    below.push(entry.path());
                }
            }
            if cgroup == place.path {
                continue;
            }
            for hook in [Hook::Connect4, Hook::Connect6, Hook::Getpeername4, Hook::Getpeername6] {
                let mut here = BTreeMap::new();
                owners(&cgroup, hook, &mut here);
                if here.is_empty() {
                    continue;
                }
                let Ok(file) = File::open(&cgroup) else { continue };
                let effective = sys::effective_programs(file.as_fd(), hook.attach_type());
                let effective = effective.unwrap_or_default();
                for (program_id, owner) in here {
                    attached.push(Attached {
                        cgroup: cgroup.clone(),
                        hook,
                        order: effective.iter().position(|id| *id == program_id).unwrap_or(0),
                        program_id,
                        name: sys::program_name(program_id).unwrap_or_default(),
                        ours: false,
                        at: owner.cgroup,
                        exclusive: owner.exclusive,
                    });
                }
            }
        }
    }
    Ok(attached)
}

/// All programs on our hooks of our cgroups, in the order in which they run. Of cgroups
/// that are not seen from here nothing is told.
pub fn attachments(pins: &Pins) -> Result<Vec<Attached>, Error> {
    let mut all = Vec::new();
    for place in places(pins)? {
        if is_at(&place)? {
            all.append(&mut programs(&place.path, |hook| linked(pins, place.id, hook))?);
        }
    }
    Ok(all)
}

/// All programs on our hooks of these cgroups, before anything of ours is there.
pub fn programs_of_others(cgroups: &[PathBuf]) -> Vec<Attached> {
    let all = cgroups.iter().map(|cgroup| programs(cgroup, |_| Ok(Vec::new())));
    all.flat_map(Result::unwrap_or_default).collect()
}

/// The programs on our hooks of a cgroup, of which those are `ours`.
fn programs(
    cgroup: &Path,
    ours: impl Fn(Hook) -> Result<Vec<u32>, Error>,
) -> Result<Vec<Attached>, Error> {
    let mut attached = Vec::new();
    let file = match File::open(cgroup) {
        Err(error) if says_gone(&error) => return Ok(attached),
        file => file.map_err(|error| {
            Error::from_io(format!("opening the cgroup {}", cgroup.display()), error)
        })?,
    };
    for hook in Hook::ALL {
        let mut owner = BTreeMap::new();
        let above = cgroup.ancestors().take_while(|path| path.join("cgroup.controllers").exists());
        above.for_each(|path| owners(path, hook, &mut owner));
        let ours = ours(hook)?;
        // A hook that this kernel lacks has no programs.
        let Ok(ids) = sys::effective_programs(file.as_fd(), hook.attach_type()) else {
            continue;
        };
        for (order, program_id) in ids.into_iter().enumerate() {
            attached.push(Attached {
                cgroup: cgroup.to_owned(),
                hook,
                order,
                program_id,
                // It may have gone meanwhile.
                name: sys::program_name(program_id).unwrap_or_default(),
                ours: ours.contains(&program_id),
                exclusive: owner.get(&program_id).is_some_and(|owner| owner.exclusive),
                at: owner.remove(&program_id).map_or(cgroup.to_owned(), |owner| owner.cgroup),
            });
        }
    }
    Ok(attached)
}
