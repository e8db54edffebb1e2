//! Where and by which command figures were made.

/// "Made by ... on ...", for the page of results.
pub fn made_by() -> String {
    let options = std::env::args().skip_while(|word| word != "bench").collect::<Vec<_>>().join(" ");
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let release = read("/proc/sys/kernel/osrelease");
    format!("Made by `cargo xtask {options}` on Linux {}, {model}", release.trim())
}
