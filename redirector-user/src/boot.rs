//! Which boot of the machine this is.

/// The kernel's id of this boot: another after each. Empty where it cannot be read.
pub fn id() -> String {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(FILE).unwrap_or_default().trim().to_owned()
}
