//! Loading the programs and making the maps, or finding both pinned.

use std::hash::Hasher as _;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::programs::{CgroupSock, CgroupSockAddr, ProgramError, SockOps};
use aya::{Ebpf, EbpfLoader};

use redirector_common::hash::Fnv;

use super::layout::{Layout, Part};
use super::pins::{PROGRAMS, Pins, UNFINISHED};
use super::places::Places;
use super::{Error, Hook, Options, Sizes, features, lives, names};

/// The programs that were built in, aligned as the ELF reader wants them; empty
/// when there was no toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirector.bpf.o"));

/// Why there are none.
const MISSING: &str = include_str!(concat!(env!("OUT_DIR"), "/missing.txt"));

impl Hook {
    /// All hooks, in the order in which they are attached: what frees an entry
    /// of connection memory before what makes one.
    pub const ALL: [Self; 6] = [
        Self::Sockops,
        Self::Release,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
            Self::Release => "release",
            Self::Sockops => "sockops",
        }
    }

    /// The name of its program in the object, and of its pins.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Connect4 => "rd_connect4",
            Self::Connect6 => "rd_connect6",
            Self::Getpeername4 => "rd_getpeername4",
            Self::Getpeername6 => "rd_getpeername6",
            Self::Release => "rd_release",
            Self::Sockops => "rd_sockops",
        }
    }

    /// `enum bpf_attach_type`.
    pub(super) const fn attach_type(self) -> u32 {
        match self {
            Self::Sockops => 3,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::Getpeername4 => 29,
            Self::Getpeername6 => 30,
            Self::Release => 34,
        }
    }
}

/// Makes sure that maps of this layout and these programs are pinned. Says
/// whether the tables are new.
pub fn ensure(pins: &Pins, layout: &Layout, options: &Options) -> Result<(Places, bool), Error> {
    let object = options.object.as_deref().unwrap_or(OBJECT);
    if object.is_empty() {
        return Err(Error::NoPrograms(MISSING.into()));
    }
    let at = |part| pins.join(&layout.directory(part));
    let tables = at(Part::Tables);
    let places = Places {
        programs: tables.join(programs_name(object, layout, options.log_level)),
        tables,
        memory: at(Part::Memory),
        counts: at(Part::Counts),
        flows: at(Part::Flows),
    };
    // Everything new is made under an unfinished name first.
    let unfinished = |name: &str| pins.join(&format!("{UNFINISHED}{name}"));
    let mut making = Places { programs: unfinished(PROGRAMS), ..places.clone() };
    let mut missing = Vec::new();
    for part in Part::ALL {
        if places.of(part).exists() {
            places.check(part, layout)?;
        } else {
            *making.of_mut(part) = unfinished(part.prefix());
            missing.push(part);
        }
    }
    let pinned = |hook: &Hook| places.programs.join(hook.program()).exists();
    if missing.is_empty() && Hook::ALL.iter().all(pinned) {
        return Ok((places, false));
    }
    pins.make(&making.programs)?;
    for part in &missing {
        pins.make(making.of(*part))?;
    }
    if missing.contains(&Part::Counts) {
        let shape = layout.shape(names::LIVE)?;
        lives::make(&making.map(shape), shape.entries)?;
    }
    let mut ebpf = load_object(object, layout, options, &making)?;
    load_programs(&mut ebpf, &making.programs)?;
    pins.set_memory(&making.programs, &places.memory)?;
    for part in &missing {
        pins.publish(making.of(*part), places.of(*part))?;
    }
    // Those of this name use maps whose pins somebody has removed, or are not whole.
    pins.remove(&places.programs)?;
    pins.publish(&making.programs, &places.programs)?;
    Ok((places, missing.contains(&Part::Tables)))
}

/// The directory that the programs of this object lie in: named after all that
/// makes them what they are.
fn programs_name(object: &[u8], layout: &Layout, log_level: u8) -> String {
    let mut hash = Fnv::default();
    hash.write(object);
    hash.write(format!("{:?} {log_level}", layout.limits).as_bytes());
    format!("{PROGRAMS}{:016x}", hash.finish())
}

/// The largest connection memory of this version that is there.
fn largest_memory(pins: &Pins) -> Result<Option<PathBuf>, Error> {
    let prefix = Part::Memory.of_version();
    let names = pins.names(pins.root())?;
    let sizes = names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse::<u32>().ok());
    Ok(sizes.max().map(|size| pins.join(&format!("{prefix}{size}"))))
}

/// Sizes with those of connection memory that is there, unless they are larger:
/// it never shrinks while it is loaded.
pub fn with_memory(pins: &Pins, sizes: &Sizes) -> Result<Sizes, Error> {
    let Some(directory) = largest_memory(pins)? else { return Ok(*sizes) };
    let entries =
        |name: &str| MapInfo::from_pin(directory.join(name)).map_or(0, |info| info.max_entries());
    let (connections, overflow) = (entries(names::CONNECTIONS), entries(names::OVERFLOW));
    if sizes.connections > connections {
        return Ok(Sizes { overflow: sizes.overflow.max(overflow), ..*sizes });
    }
    Ok(Sizes { connections, overflow, ..*sizes })
}

/// Reads the object and makes its maps, or takes the pinned ones.
fn load_object(
    object: &[u8],
    layout: &Layout,
    options: &Options,
    places: &Places,
) -> Result<Ebpf, Error> {
    let limits = layout.limits;
    let globals: [(&'static str, u32); 14] = [
        ("LIMIT_CLASS_TABLES", limits.class_tables),
        ("LIMIT_IDENTITIES", limits.identities),
        ("LIMIT_ROUTES", limits.routes),
        ("LIMIT_LEGS", limits.legs),
        ("LIMIT_DESTINATIONS", limits.destinations),
        ("LIMIT_BACKENDS", limits.backends),
        ("LIMIT_CONNECTIONS", limits.connections),
        ("LIMIT_OVERFLOW", limits.overflow),
        ("LIMIT_STRIPES", limits.stripes),
        ("KERNEL_SOCKET", limits.kernel_socket),
        ("HAS_BTF", limits.btf),
        ("SOCKET_ERROR", limits.socket_error),
        ("MD5_KEYS", limits.md5_keys),
        ("AO_KEYS", limits.ao_keys),
    ];
    let mut loader = EbpfLoader::new();
    for (name, value) in &globals {
        loader.override_global(name, value, true);
    }
    loader.override_global(LOG_LEVEL, &options.log_level, false);
    for map in &layout.maps {
        loader.map_max_entries(map.name, map.entries);
        loader.map_pin_path(map.name, places.map(map));
    }
    loader.load(object).map_err(|error| failed("making the BPF maps", &error))
}

/// The word that aya-log's macros compare with; where there are none left, the
/// compiler may have dropped it.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";

/// Loads and pins every program.
fn load_programs(ebpf: &mut Ebpf, directory: &Path) -> Result<(), Error> {
    for hook in Hook::ALL {
        let name = hook.program();
        let what = || format!("loading the BPF program {name}");
        let program = ebpf.program_mut(name).ok_or_else(|| Error::Library {
            what: what(),
            problem: "the object does not hold it".into(),
        })?;
        let loaded: Result<(), ProgramError> = match hook {
            Hook::Sockops => <&mut SockOps>::try_from(&mut *program).and_then(SockOps::load),
            Hook::Release => <&mut CgroupSock>::try_from(&mut *program).and_then(CgroupSock::load),
            _ => <&mut CgroupSockAddr>::try_from(&mut *program).and_then(CgroupSockAddr::load),
        };
        loaded.map_err(|error| match error {
            ProgramError::LoadError { verifier_log, .. } => {
                refused(&what(), &verifier_log.to_string())
            }
            error => failed(&what(), &error),
        })?;
        let pin = directory.join(name);
        program.pin(&pin).map_err(|error| failed(&format!("pinning {}", pin.display()), &error))?;
    }
    Ok(())
}

/// The verifier has refused a program. Its log is thousands of lines long, and
/// one of them says why.
fn refused(what: &str, log: &str) -> Error {
    let (line, omitted) = verdict_of(log);
    Error::Kernel {
        what: what.to_owned(),
        missing: format!("the kernel's verifier refused it: {line}"),
        help: format!(
            "It takes a kernel of at least {}; {omitted} more lines of the verifier are left out",
            features::OLDEST
        ),
    }
}

/// The line of a verifier's log that says what is wrong, and how many others
/// there are. What follows it are states and statistics.
fn verdict_of(log: &str) -> (&str, usize) {
    const AFTERWARDS: [&str; 6] = [
        "cur state:",
        "old state:",
        "verification time",
        "stack depth",
        "processed",
        "mark_precise",
    ];
    let lines: Vec<_> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let verdict = lines.iter().rev().find(|line| !AFTERWARDS.iter().any(|a| line.starts_with(a)));
    (verdict.unwrap_or(&"it gave no reason"), lines.len().saturating_sub(1))
}

/// An error of loading, with what an old kernel would explain.
fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    let error = Error::from_library(what, error);
    let oldest = aya::util::KernelVersion::new(6, 1, 0);
    match (&error, aya::util::KernelVersion::current()) {
        (Error::Library { what, problem }, Ok(version)) if version < oldest => Error::Kernel {
            what: what.clone(),
            missing: format!("{problem} (this kernel is {version:?})"),
            help: "It takes a kernel of at least 6.1".into(),
        },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::verdict_of;

    #[test]
    fn the_line_of_the_verifier_that_says_why_is_found() {
        let log = "\
13: (85) call bpf_get_prandom_u32#7   ; R0=scalar()
14: (56) if w0 != 0x7 goto pc-2
infinite loop detected at insn 13
cur state: R0=scalar() R10=fp0
old state: R0=scalar() R10=fp0
verification time 160008 usec
stack depth 216+0+0+0+0
processed 13642 insns (limit 1000000) max_states_per_insn 13

";
        assert_eq!(verdict_of(log), ("infinite loop detected at insn 13", 7));
        assert_eq!(verdict_of(""), ("it gave no reason", 0));
    }
}
