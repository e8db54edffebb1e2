//! `redirector completions`, and what a shell is answered that asks.
//!
//! The scripts know nothing: at each Tab the shell asks the program, by a variable that
//! they set, so that the names of what is in force are completed, too.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};
use redirector_core::model::Kind;
use redirector_core::registry::Registry;
use redirector_core::world::World;

use super::kernel::STATE;
use super::{Context, Env, Exit, Failure};
use crate::state::StateDir;

/// Prints a completion script for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  redirector completions bash \\
      > /usr/share/bash-completion/completions/redirector

The script asks the program at each Tab. Who may read the state directory (root)
gets the names of workloads, routes and services in force as well.")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// What a script sets when its shell asks.
const VARIABLE: &str = "REDIRECTOR_COMPLETE";

const NAME: &str = "redirector";

/// Bash ends a word at a colon, and a service's port stands behind one. What loads this
/// script has functions for that.
const BASH: &str = r#"
_redirector() {
    if ! declare -F _get_comp_words_by_ref __ltrim_colon_completions >/dev/null; then
        _clap_complete_redirector "$@"
        return
    fi
    local cur words cword
    _get_comp_words_by_ref -n : cur words cword
    local COMP_WORDS=("${words[@]}") COMP_CWORD=$cword
    _clap_complete_redirector "$1" "$cur" "$3"
    __ltrim_colon_completions "$cur"
}
complete -o nospace -o bashdefault -o nosort -F _redirector redirector
"#;

/// Where it is loaded at the first Tab, that is answered, too.
const ZSH: &str = r#"if [ "$funcstack[1]" = "_redirector" ]; then
    _clap_dynamic_completer_redirector "$@"
fi
"#;

pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, Failure> {
    context.print(&script(args.shell)?)?;
    Ok(Exit::Fine)
}

fn script(shell: Shell) -> Result<String, Failure> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let failed = |why: String| Failure::new(Exit::No, why);
    let shell = shells.completer(&name).ok_or_else(|| failed(format!("{name} is not known")))?;
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, NAME, NAME, NAME, &mut script)
        .map_err(|error| failed(error.to_string()))?;
    let mut script = String::from_utf8_lossy(&script).into_owned();
    script += match name.as_str() {
        "bash" => BASH,
        "zsh" => ZSH,
        _ => "",
    };
    Ok(script)
}

/// Answers a shell that asks, and ends; returns when none does.
pub fn answer_shell() {
    CompleteEnv::with_factory(|| super::command(&Env::default()))
        .var(VARIABLE)
        .bin(NAME)
        .complete();
}

/// Completes by names of what is in force.
fn by(names: fn(&World) -> Vec<String>) -> ArgValueCompleter {
    ArgValueCompleter::new(move |begun: &OsStr| {
        let names = in_force().map(|world| names(&world)).unwrap_or_default();
        beginning(names, begun)
    })
}

/// Workloads, as `NS/NAME`.
pub fn workloads() -> ArgValueCompleter {
    by(workload_names)
}

/// Objects with rules.
pub fn rules() -> ArgValueCompleter {
    by(|world| names_of(world, Kind::VirtualService, true))
}

/// Gateways, as `NS/NAME`.
pub fn gateways() -> ArgValueCompleter {
    by(|world| names_of(world, Kind::Gateway, false))
}

/// Services with their ports, as `explain --to` takes them.
pub fn services() -> ArgValueCompleter {
    by(service_names)
}

/// The World of the newest generation, for who may read it.
fn in_force() -> Option<World> {
    let directory = std::env::var_os("REDIRECTOR_STATE_DIR").unwrap_or_else(|| STATE.into());
    let state = StateDir::new(PathBuf::from(directory));
    let newest = state.generations().last().copied()?;
    Some(state.snapshot(newest).ok()??.world())
}

fn workload_names(world: &World) -> Vec<String> {
    let registry = Registry::new(world);
    let names = registry
        .workloads
        .sources()
        .map(|workload| format!("{}/{}", workload.object.namespace, workload.object.name));
    names.collect()
}

fn service_names(world: &World) -> Vec<String> {
    let registry = Registry::new(world);
    let names = registry.services().flat_map(|service| {
        let host = service.host.clone();
        service.ports.iter().map(move |port| format!("{host}:{}", port.number))
    });
    names.collect()
}

/// The objects of a kind, with the kind or without.
fn names_of(world: &World, kind: Kind, with_kind: bool) -> Vec<String> {
    let references = world.objects().map(|object| object.reference());
    let names = references.filter(|one| one.kind == kind).map(|one| match with_kind {
        true => one.to_string(),
        false => format!("{}/{}", one.namespace, one.name),
    });
    names.collect()
}

fn beginning(mut names: Vec<String>, begun: &OsStr) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    names.retain(|name| name.starts_with(&*begun));
    names.sort();
    names.dedup();
    names.into_iter().map(|name| CompletionCandidate::new(OsString::from(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_complete::engine::complete;
    use redirector_core::documents;
    use redirector_core::world::Settings;

    /// What a shell is offered behind these words.
    fn offered(words: &[&str]) -> Vec<String> {
        let mut command = crate::cli::command(&Env::default());
        let all = std::iter::once("redirector").chain(words.iter().copied()).map(OsString::from);
        let found = complete(&mut command, all.collect(), words.len(), None).unwrap();
        found.iter().map(|one| one.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn every_command_and_all_its_options_are_offered() {
        let all = crate::cli::command(&Env::default());
        let commands = offered(&[""]);
        for sub in all.get_subcommands() {
            let name = sub.get_name();
            assert!(commands.contains(&name.to_owned()), "{name}: {commands:?}");
            let options = offered(&[name, "--"]);
            for long in sub.get_arguments().filter_map(|arg| arg.get_long()) {
                assert!(options.contains(&format!("--{long}")), "{name} --{long}: {options:?}");
            }
        }
        assert!(offered(&["status", "--output", "j"]).contains(&"json".to_owned()));
    }

    #[test]
    fn names_of_what_is_in_force_are_offered() {
        let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: db, \
                    namespace: shop}\nspec: {hosts: [db], tcp: [{route: [{destination: {host: \
                    db}}]}]}\n---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
                    metadata: {name: web, namespace: shop, annotations: {redirector.io/cgroup: \
                    a.slice}}\nspec: {address: 127.0.0.1, labels: {app: web}}\n---\napiVersion: \
                    v1\nkind: Service\nmetadata: {name: db, namespace: shop}\nspec: {clusterIP: \
                    10.0.0.1, ports: [{port: 5432}]}\n";
        let mut world = World::new(Settings::default());
        for read in documents::read(None, text).objects {
            world.insert(read.object.unwrap());
        }
        assert_eq!(workload_names(&world), ["shop/web"]);
        assert_eq!(names_of(&world, Kind::VirtualService, true), ["VirtualService/shop/db"]);
        assert_eq!(service_names(&world), ["db.shop.svc.cluster.local:5432"]);
        let names = ["shop/web", "other/x", "shop/api", "shop/web"].map(str::to_owned).to_vec();
        let found = beginning(names, OsStr::new("shop/"));
        let found: Vec<_> = found.iter().map(CompletionCandidate::get_value).collect();
        assert_eq!(found, ["shop/api", "shop/web"]);
    }

    #[test]
    fn every_shell_has_a_script_that_asks() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = script(shell).unwrap();
            assert!(script.contains(VARIABLE), "{shell}: {script}");
        }
        let zsh = script(Shell::Zsh).unwrap();
        assert!(zsh.starts_with("#compdef redirector\n"), "{zsh}");
    }
}
