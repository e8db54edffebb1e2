//! Who may look without being root: members of the group of `run --read-group`, as users
//! of their own, without any capability.

use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use redirector_tests::established::{Established, goes_on};
use redirector_tests::netns::NetNs;
use redirector_tests::redirector::{Answer, Redirector};
use redirector_tests::scene::{ECHO, Scene, to};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// Of nobody else on this machine.
const GROUP: u32 = 4_242_001;
const GIVEN: [&str; 2] = ["--read-group", "4242001"];

/// A user who is a member of this group, and of no other.
fn asked(redirector: &Redirector, group: u32, name: &str, args: &[&str]) -> Answer {
    let mut command = redirector.command(name);
    command.args(args).uid(4_242_777).gid(group).output().expect("the program starts").into()
}

fn member(redirector: &Redirector, name: &str, args: &[&str]) -> Answer {
    asked(redirector, GROUP, name, args)
}

/// Everything below a directory, itself included.
fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|one| one.path());
    let mut all: Vec<PathBuf> = entries
        .flat_map(|path| match path.is_dir() && !path.is_symlink() {
            true => below(&path),
            false => vec![path],
        })
        .collect();
    all.push(directory.to_owned());
    all
}

/// A scene whose directories others may pass through, but for the bpffs.
fn scene(what: &str) -> Option<Scene> {
    let scene = Scene::new(what, PROGRAM)?;
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set(scene.redirector.directory(), 0o711).expect("a mode");
    set(scene.redirector.place.pins().parent().expect("the mount"), 0o700).expect("a mode");
    Some(scene)
}

#[test]
fn members_of_the_group_look_as_root_does() {
    let Some(scene) = scene("readers") else { return };
    let redirector = &scene.redirector;
    // What a daemon without readers has made is theirs, too, from the next on.
    assert_eq!(redirector.start().stop(), 0);
    let _daemon = redirector.start_with(&GIVEN);
    redirector.wait("health", |status| status["healthy"] == true);

    let status = member(redirector, "status", &["--output", "json"]);
    assert_eq!(status.exit, 0, "{status:?}");
    let (seen, of_root) = (status.json(), redirector.status().json());
    for field in ["healthy", "problems", "programs", "selfTest", "drift", "generation", "daemon"] {
        assert_eq!(seen[field], of_root[field], "{field}");
    }
    let explain = ["--from-workload", "default/client", "--to", ECHO, "--output", "json"];
    let explained = member(redirector, "explain", &explain);
    assert_eq!(explained.exit, 0, "{explained:?}");
    assert_eq!(explained.json(), redirector.ask("explain", &explain).json());
    for part in ["frontends", "routes", "backends", "sources"] {
        let args = [part, "--output", "json"];
        let maps = member(redirector, "maps", &args);
        assert_eq!(maps.json(), redirector.ask("maps", &args).json(), "{part}");
    }
    let top = member(redirector, "top", &["--count", "1", "--interval", "100ms"]);
    assert!(top.exit == 0 && top.out.contains("default/echo"), "{top:?}");
    let args = ["--output", "json"];
    let history = member(redirector, "history", &args);
    assert_eq!(history.json(), redirector.ask("history", &args).json());

    // The kernel tells of connections because a member asks for it.
    let flows = thread::scope(|scope| {
        let followed = scope.spawn(|| member(redirector, "flows", &["--for", "2s"]));
        while !followed.is_finished() {
            assert_eq!(scene.answer(&scene.client()), "one");
            thread::sleep(Duration::from_millis(50));
        }
        followed.join().expect("an answer")
    });
    assert_eq!(flows.exit, 0, "{flows:?}");
    assert!(flows.out.contains("default/client"), "{flows:?}");
    assert!(flows.out.contains("ended"), "how they end is told, too: {flows:?}");

    // What comes later is read as well.
    redirector.change("a change", || redirector.write("rules.yaml", &to("two")));
    let explained = member(redirector, "explain", &explain);
    assert_eq!(explained.json()["destinations"][0]["subset"], "two", "{explained:?}");
}

#[test]
fn members_change_nothing_and_keep_no_daemon_from_starting() {
    let Some(scene) = scene("onlooker") else { return };
    let redirector = &scene.redirector;
    let daemon = redirector.start_with(&GIVEN);
    let generation = redirector.generation();
    for (name, args) in [
        ("rollback", &[][..]),
        ("reload", &[]),
        ("log-level", &["debug"]),
        ("bypass", &["--workload", "default/client"]),
        ("bypass", &["--end"]),
    ] {
        let refused = member(redirector, name, args);
        assert_ne!(refused.exit, 0, "{name}: {refused:?}");
        assert!(refused.err.contains("may only look"), "{name}: {refused:?}");
    }
    let refused = member(redirector, "unload", &["--yes"]);
    assert_ne!(refused.exit, 0, "{refused:?}");
    let status = redirector.status().json();
    assert_eq!((&status["healthy"], &status["generation"]), (&true.into(), &generation.into()));
    // Links are root's alone, and so is what is locked.
    for path in below(&redirector.place.pins().join("links")) {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        if meta.is_file() {
            assert_eq!((meta.gid(), meta.mode() & 0o077), (0, 0), "{}", path.display());
        }
    }
    // A program that can be opened, if only for reading, can be attached.
    let (programs, maps): (Vec<_>, Vec<_>) = below(&redirector.place.pins())
        .into_iter()
        .filter(|path| path.is_file() && !path.starts_with(redirector.place.pins().join("links")))
        .partition(|path| path.iter().any(|name| name.to_string_lossy().starts_with("programs-")));
    assert!(programs.iter().any(|path| path.ends_with("rd_connect4")), "{programs:?}");
    for path in programs {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        assert_eq!((meta.gid(), meta.mode() & 0o777), (0, 0o600), "{}", path.display());
        assert_eq!(as_member(|| get(&path)), Err(libc::EACCES), "{}", path.display());
    }
    for path in maps {
        assert_eq!(as_member(|| get(&path)), Ok(()), "{}", path.display());
    }
    let locked = [redirector.place.pins(), redirector.directory().join("state/daemon.lock")];
    for path in locked {
        let opened = asked_to_open(&path);
        assert!(!opened, "a member can open {}, and so lock it", path.display());
    }

    // Without a daemon what takes privilege cannot be told; what is in the tables can.
    daemon.kill();
    let status = member(redirector, "status", &["--output", "json"]);
    assert_eq!(status.exit, 1, "{status:?}");
    assert!(status.json()["problems"].to_string().contains("cannot be told"), "{status:?}");
    let explain = ["--from-workload", "default/client", "--to", ECHO];
    assert_eq!(member(redirector, "explain", &explain).exit, 0);

    // Other tables, made for other sizes, are theirs to read as well.
    let args = [GIVEN, ["--max-prefixes", "300"]].concat();
    let daemon = redirector.start_with(&args);
    assert_eq!(member(redirector, "explain", &explain).exit, 0);
    assert_eq!(member(redirector, "status", &[]).exit, 0);

    // A daemon without the group lets nobody in any more.
    assert_eq!(daemon.stop(), 0);
    let _daemon = redirector.start();
    for name in ["status", "explain", "maps"] {
        let args: &[&str] = if name == "explain" { &explain } else { &[] };
        let refused = member(redirector, name, args);
        assert_eq!(refused.exit, 3, "{name}: {refused:?}");
        assert!(refused.err.contains("--read-group"), "{name}: {refused:?}");
    }
    let ours = [redirector.place.pins(), redirector.directory().join("state")];
    for path in ours.iter().flat_map(|path| below(path)) {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        assert!(meta.is_symlink() || meta.gid() != GROUP, "{}", path.display());
    }
}

#[test]
fn others_are_told_which_group_may_look() {
    let Some(scene) = scene("stranger") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start_with(&GIVEN);
    for (name, args) in [
        ("status", &[][..]),
        ("maps", &[]),
        ("flows", &[]),
        ("explain", &["--from-namespace", "default", "--to", ECHO]),
    ] {
        let refused = asked(redirector, 4_242_002, name, args);
        assert_eq!(refused.exit, 3, "{name}: {refused:?}");
        let says = refused.err.contains("a member of the group 4242001");
        assert!(says && refused.out.is_empty(), "{name}: {refused:?}");
    }
    // Nothing of that stays at the mount, which is not ours, when all is unloaded.
    let mount = redirector.place.pins().parent().expect("the mount").to_owned();
    let mode = |path: &Path| {
        let meta = fs::metadata(path).expect("it is there");
        (meta.gid(), meta.mode() & 0o777)
    };
    assert_eq!(mode(&mount), (GROUP, 0o710));
    drop(_daemon);
    assert_eq!(redirector.ask("unload", &["--yes"]).exit, 0);
    assert_eq!(mode(&mount), (0, 0o700));
}

#[test]
fn members_are_told_that_they_do_not_see_whose_connections_are() {
    let Some(scene) = scene("whose") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start_with(&GIVEN);
    let netns = NetNs::new("whose");
    let (directory, one) = (redirector.directory(), scene.one.address());
    let address = ECHO.parse().expect("an address");
    let held = Established::new((directory, "held"), &scene.client(), &netns, address, one);
    let listed = member(redirector, "connections", &[]);
    assert!(listed.out.contains(&one.to_string()), "{listed:?}");
    for args in [&["--workload", "default/client"][..], &["--pid", "1"]] {
        let listed = member(redirector, "connections", args);
        assert!(listed.err.contains("left out, whoever is asked for"), "{args:?}: {listed:?}");
        let closed = member(redirector, "connections", &[&["close", "--yes"], args].concat());
        assert_eq!(closed.exit, 1, "{args:?}: {closed:?}");
    }
    assert_eq!(held.ends(), goes_on());
}

#[test]
fn however_many_connections_members_open_roots_are_kept_and_answered() {
    let Some(scene) = scene("crowd") else { return };
    let redirector = &scene.redirector;
    let _daemon = redirector.start_with(&GIVEN);
    let socket = redirector.directory().join("state/control.sock");
    let mut roots = UnixStream::connect(&socket).expect("a connection");
    let crowd: Vec<UnixStream> = as_member(|| {
        (0..200).map(|_| UnixStream::connect(&socket).expect("a connection")).collect()
    });
    // They were accepted, as those that came first are gone.
    let mut first = &crowd[0];
    assert_eq!(first.read(&mut [0]).expect("its end"), 0);
    roots.write_all(b"{\"do\":\"report\"}\n").expect("it is open");
    let mut answer = String::new();
    BufReader::new(&roots).read_line(&mut answer).expect("an answer");
    assert!(answer.contains("\"generation\""), "{answer}");
}

#[test]
fn a_group_that_is_not_there_is_told_before_anything_is_done() {
    let Some(scene) = Scene::new("nogroup", PROGRAM) else { return };
    let mut command = scene.redirector.daemon_command();
    let answer = command.args(["--read-group", "no-such-group"]).output().expect("it starts");
    let answer = Answer::from(answer);
    assert_eq!(answer.exit, 2, "{answer:?}");
    assert!(answer.err.contains("groupadd --system no-such-group"), "{answer:?}");
}

#[test]
fn a_mount_that_is_given_to_others_stays_theirs() {
    let Some(scene) = Scene::new("given-mount", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let mount = redirector.place.pins().parent().expect("the mount").to_owned();
    let is = || {
        let meta = fs::metadata(&mount).expect("it is there");
        (meta.gid(), meta.mode() & 0o7777)
    };
    let set = |group, mode| {
        chown(&mount, None, Some(group)).expect("a group");
        fs::set_permissions(&mount, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    for given in [(4_242_003, 0o750), (0, 0o1770)] {
        set(given.0, given.1);
        let mut command = redirector.daemon_command();
        let answer = Answer::from(command.args(GIVEN).output().expect("it starts"));
        assert_ne!(answer.exit, 0, "{answer:?}");
        assert!(answer.err.contains("chmod o+x"), "{answer:?}");
        assert_eq!(is(), given);
    }
    // One that is the readers' already stays so, with and without them.
    set(GROUP, 0o750);
    assert_eq!(redirector.start_with(&GIVEN).stop(), 0);
    assert_eq!(redirector.start().stop(), 0);
    assert_eq!(is(), (GROUP, 0o750));
}

/// Does something on a thread that is a member's.
fn as_member<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    let run = || {
        // SAFETY: the calls take no memory but an empty list, and are this thread's alone.
        let set = unsafe {
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) == 0
                && libc::syscall(libc::SYS_setresgid, GROUP, GROUP, GROUP) == 0
                && libc::syscall(libc::SYS_setresuid, 4_242_777, 4_242_777, 4_242_777) == 0
        };
        assert!(set, "a member: {}", std::io::Error::last_os_error());
        what()
    };
    thread::scope(|scope| scope.spawn(run).join().expect("what a member does"))
}

/// `BPF_OBJ_GET` for reading only; the kernel's refusal.
fn get(pin: &Path) -> Result<(), i32> {
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_F_RDONLY: u32 = 1 << 3;
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes()).expect("a path");
    let attr = Attr { path: path.as_ptr() as u64, fd: 0, flags: BPF_F_RDONLY };
    // SAFETY: the attributes and the path live until the call has returned.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attr, size_of::<Attr>()) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or_default());
    }
    // SAFETY: the kernel has just given us this descriptor.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

/// Whether a member can open something, if only for reading.
fn asked_to_open(path: &Path) -> bool {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec 3<\"$1\"", "sh"]).arg(path).uid(4_242_777).gid(GROUP);
    command.stderr(std::process::Stdio::null()).status().expect("sh starts").success()
}
