//! One run of a virtual machine, and the eye on its console.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::guest::{self, Message};
use super::kernel::Kernel;
use super::newc::Archive;
use crate::static_binary::Arch;
use crate::test::libtest::{Case, Outcome, tail};
use crate::workspace::target;

/// What a kernel says when something is wrong with it.
const ALARMS: &[&str] = &[
    "Kernel panic",
    "Oops:",
    "BUG:",
    "------------[ cut here ]------",
    "soft lockup",
    "hard LOCKUP",
    "rcu: INFO: rcu_",
    "self-detected stall",
    "blocked for more than",
    "Out of memory:",
    "general protection fault",
    "Call Trace:",
    "Call trace:",
    "Internal error:",
    "Unable to handle kernel",
];

/// How a kernel dies where an emulated processor still runs its translation of a
/// breakpoint after the kernel has put the patched instruction there. No real one does,
/// and no program of ours can bring it about: it is a fault of QEMU before 8.1, mended by
/// its commit deba78709a.
const STALE_BREAKPOINT: &str = "int3: 0000";

/// A machine that has said nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(10 * 60);
/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// How to boot.
#[derive(Clone)]
pub struct Boot {
    /// The kernel.
    pub kernel: Kernel,
    /// Its processors.
    pub cpus: u32,
    /// More words for the kernel's command line.
    pub extra: &'static str,
    /// Layers to run, `kernel,demo`, and behind a colon what the paths of kernel
    /// tests must contain one of.
    pub orders: String,
}

impl Boot {
    /// How the run is called in the table.
    pub fn name(&self) -> String {
        let release = self.kernel.release.trim_end_matches("-cloud-amd64");
        let cpus = if self.cpus == 1 { "1 CPU" } else { "2 CPUs" };
        let extra = if self.extra.is_empty() { String::new() } else { format!(", {}", self.extra) };
        format!("{release}, {cpus}{extra}")
    }

    fn emulator(&self) -> &'static str {
        match self.kernel.arch {
            Arch::X86_64 => "qemu-system-x86_64",
            Arch::Aarch64 => "qemu-system-aarch64",
        }
    }

    fn command(&self, initramfs: &Path) -> Command {
        let mut command = Command::new(self.emulator());
        let machine: &[&str] = match self.kernel.arch {
            Arch::X86_64 => &["-cpu", "max,la57=off"],
            // A server's. Authenticating pointers, which newer ones do, is slow when emulated.
            Arch::Aarch64 => &["-machine", "virt", "-cpu", "neoverse-n1"],
        };
        command
            .args(["-accel", "tcg,thread=multi", "-m", "2048"])
            .args(machine)
            .args(["-smp", &self.cpus.to_string()])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command
    }

    /// The initramfs with this kernel's modules behind it: the kernel unpacks
    /// one archive after the other.
    fn with_modules(&self, initramfs: &Path) -> Result<PathBuf> {
        if self.kernel.modules.is_empty() {
            return Ok(initramfs.to_owned());
        }
        let mut modules = Archive::default();
        modules.directory(guest::MODULES);
        for (index, module) in self.kernel.modules.iter().enumerate() {
            let content = std::fs::read(module)?;
            modules.file(&format!("{}/{index}.ko", guest::MODULES), &content);
        }
        let mut bytes = std::fs::read(initramfs)?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(modules.finish());
        let path = initramfs.with_file_name(format!("initramfs-{}.cpio", self.kernel.release));
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The devices of the console, and of the port for results.
    const fn ports(&self) -> [&'static str; 2] {
        match self.kernel.arch {
            Arch::X86_64 => ["ttyS0", "ttyS1"],
            // A port of its own kind, and a card.
            Arch::Aarch64 => ["ttyAMA0", "ttyS0"],
        }
    }

    /// The port for results.
    const fn results(&self) -> [&'static str; 2] {
        match self.kernel.arch {
            Arch::X86_64 => ["-serial", "chardev:results"],
            Arch::Aarch64 => ["-device", "pci-serial,chardev=results"],
        }
    }

    fn command_line(&self, orders: &str, quiet: &str) -> String {
        let [console, results] = self.ports();
        format!(
            "console={console} {quiet} panic=-1 oops=panic {} {}={results} {}={orders}",
            self.extra,
            guest::RESULTS,
            guest::ORDERS
        )
    }
}

/// Boots, and gives a prompt on this terminal.
pub fn shell(boot: &Boot, initramfs: &Path) -> Result<()> {
    let mut command = boot.command(&boot.with_modules(initramfs)?);
    command
        .args(["-append", &boot.command_line("shell", "quiet")])
        .args(["-chardev", "stdio,id=console,mux=on,signal=off"])
        .args(["-serial", "chardev:console", "-mon", "chardev=console"]);
    crate::command::run(&mut command)
}

/// What a machine says while it runs.
pub enum Told {
    /// The kernel that runs.
    Booted(String),
    /// What a test has printed, and the name of the file for it.
    Printed(String, String),
    /// A test of a suite has ended.
    Ended(String, Case),
    /// It was the last one of its suite.
    SuiteEnded(String),
}

impl Told {
    /// What it is about: the kernel, a test, a suite.
    fn subject(&self) -> (&'static str, String) {
        match self {
            Self::Booted(_) => ("kernel", String::new()),
            Self::Printed(file, _) => ("log", file.clone()),
            Self::Ended(suite, case) => ("test", format!("{suite} {}", case.name)),
            Self::SuiteEnded(suite) => ("suite", suite.clone()),
        }
    }
}

/// Boots, and tells what comes as it comes. A run that goes wrong is a test that
/// failed, with the console from there. With `show` what programs write to the
/// console is printed, too.
///
/// A machine whose emulator has run a breakpoint that is none any more (see
/// [`STALE_BREAKPOINT`]) is started once more; what the first one told is not told again.
pub fn run(boot: &Boot, initramfs: &Path, show: bool, mut tell: impl FnMut(Told)) -> Result<()> {
    let mut told = HashSet::new();
    let mut tell_once = |message: Told| {
        if told.insert(message.subject()) {
            tell(message);
        }
    };
    let started = Instant::now();
    let mut fault = run_once(boot, initramfs, show, &mut tell_once)?;
    if fault.as_ref().is_some_and(|fault| fault.contains(STALE_BREAKPOINT)) {
        println!("    {}: the emulator ran a stale breakpoint; once more", boot.name());
        fault = run_once(boot, initramfs, show, &mut tell_once)?;
    }
    if let Some(fault) = fault {
        let case = Case::since(started, "the machine stays healthy", Outcome::Failed(fault));
        tell(Told::Ended("machine".to_owned(), case));
    }
    Ok(())
}

/// One machine's life; gives back what went wrong.
fn run_once(
    boot: &Boot,
    initramfs: &Path,
    show: bool,
    mut tell: impl FnMut(Told),
) -> Result<Option<String>> {
    let name: String =
        boot.name().chars().map(|char| if char.is_alphanumeric() { char } else { '-' }).collect();
    let directory = target().join("vm/runs");
    std::fs::create_dir_all(&directory)?;
    let files = Files {
        console: directory.join(format!("{name}.console")),
        results: directory.join(format!("{name}.jsonl")),
    };
    for file in [&files.console, &files.results] {
        std::fs::write(file, "")?;
    }
    let mut machine = Machine(
        boot.command(&boot.with_modules(initramfs)?)
            .args(["-append", &boot.command_line(&boot.orders, "loglevel=5")])
            .arg("-serial")
            .arg(format!("file:{}", files.console.display()))
            .arg("-chardev")
            .arg(format!("file,id=results,path={}", files.results.display()))
            .args(boot.results())
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}: `cargo xtask setup`", boot.emulator()))?,
    );
    let mut reader = Reader { running: vec!["boot".to_owned()], ..Reader::default() };
    let fault =
        watch(&mut machine, boot.emulator(), &files, show, |new| reader.take(new, &mut tell))?;
    drop(machine);
    reader.take(&files.results_from(reader.read), &mut tell);
    let fault = fault.or_else(|| {
        (!reader.done).then(|| format!("it ended too early\n{}", tail(&files.console_text(), 60)))
    });
    Ok(match fault {
        Some(fault) => Some(format!("during {}: {fault}", reader.running.join(", "))),
        None if reader.ended == 0 => Some(format!("no test was run by the orders {}", boot.orders)),
        None => None,
    })
}

/// What has been read of the results.
#[derive(Default)]
struct Reader {
    /// How many bytes of whole lines.
    read: usize,
    /// The tests that have begun and not ended.
    running: Vec<String>,
    /// How many have ended.
    ended: usize,
    /// Whether nothing more will come.
    done: bool,
}

impl Reader {
    /// Takes the whole lines of what follows that which was read; gives back how much
    /// is read now. A machine that stops in the middle leaves half a line, the last one.
    fn take(&mut self, new: &str, tell: &mut impl FnMut(Told)) -> usize {
        let whole = new.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole;
        for line in new[..whole].lines().map(str::trim).filter(|line| !line.is_empty()) {
            match serde_json::from_str(line) {
                Ok(Message::Booted { release }) => {
                    self.running.clear();
                    tell(Told::Booted(release));
                }
                Ok(Message::Printed { file, text }) => tell(Told::Printed(file, text)),
                Ok(Message::Begins { test }) => self.running.push(test),
                Ok(Message::Ended { suite, case }) => {
                    self.running.retain(|test| *test != case.name);
                    self.ended += 1;
                    tell(Told::Ended(suite, case));
                }
                Ok(Message::SuiteEnded { suite }) => tell(Told::SuiteEnded(suite)),
                Ok(Message::Done) => self.done = true,
                Err(_) => {}
            }
        }
        self.read
    }
}

/// Waits for the machine's end; gives back what went wrong. `take` is given the
/// results from where it has read them to.
fn watch(
    machine: &mut Machine,
    emulator: &str,
    files: &Files,
    show: bool,
    mut take: impl FnMut(&str) -> usize,
) -> Result<Option<String>> {
    let started = Instant::now();
    let mut heard = (0, Instant::now());
    let mut shown = 0;
    let mut read = 0;
    loop {
        let ended = machine.0.try_wait()?;
        let console = files.console_text();
        if show {
            shown = show_from(&console, shown);
        }
        read = take(&files.results_from(read));
        if let Some(alarm) = alarm(&console) {
            // What follows the first line of a fault explains it.
            std::thread::sleep(Duration::from_secs(2));
            let console = files.console_text();
            let from = console.find(alarm.trim()).unwrap_or(0);
            return Ok(Some(format!("the kernel complained:\n{}", head(&console[from..], 80))));
        }
        match ended {
            Some(status) if status.success() => return Ok(None),
            Some(status) => bail!("{emulator} ended with {status}"),
            None => {}
        }
        let volume = console.len() + read;
        if volume != heard.0 {
            heard = (volume, Instant::now());
        }
        if heard.1.elapsed() > SILENCE || started.elapsed() > LIMIT {
            return Ok(Some(format!(
                "it hangs: nothing new for {} s\n{}",
                heard.1.elapsed().as_secs(),
                tail(&console, 60)
            )));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Prints the whole lines of programs from there on; gives back where it ended.
fn show_from(console: &str, from: usize) -> usize {
    let new = console.get(from..).unwrap_or_default();
    let end = new.rfind('\n').map_or(0, |end| end + 1);
    for line in new[..end].lines().filter(|line| !line.trim_start().starts_with('[')) {
        println!("{}", line.trim_end_matches('\r'));
    }
    from + end
}

/// The first line of the console that is a kernel's complaint.
fn alarm(console: &str) -> Option<&str> {
    console.lines().find(|line| {
        // Only the kernel's own lines: "[   12.345678] ...".
        line.trim_start().starts_with('[') && ALARMS.iter().any(|alarm| line.contains(alarm))
    })
}

fn head(text: &str, lines: usize) -> String {
    text.lines().take(lines).collect::<Vec<_>>().join("\n")
}

struct Files {
    console: PathBuf,
    results: PathBuf,
}

impl Files {
    fn console_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    fn results_from(&self, from: usize) -> String {
        let bytes = std::fs::read(&self.results).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }
}

/// A running machine. Dropping it ends it.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_of_the_kernel_is_heard_and_one_quoted_by_a_program_is_not() {
        let stall = "[   31.1] rcu: INFO: rcu_preempt self-detected stall on CPU";
        assert_eq!(alarm(&format!("[    0.1] Linux version 6.1\n{stall}\n")), Some(stall));
        assert_eq!(alarm("guest: a test that says BUG: nothing\n"), None);
    }
}
