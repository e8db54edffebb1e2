//! Documents to objects: what a file, or an object of the API server, holds.
//!
//! Whatever is wrong is said of the one object that it concerns; the others are
//! read. Documents of other kinds are left alone, with a note.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::decode;
use crate::decode::templates::{self, Deployment, PodTemplate};
use crate::diag::codes::{differences, syntax};
use crate::diag::{Diagnostic, Severity, Subject, nearest};
use crate::model::{Kind, Object, ObjectRef};
use crate::yaml::{self, Entry, Node, Position, SyntaxError, Value};

mod memory;

pub use memory::Memory;

/// What a text holds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reading {
    /// The file, as the user named it; `None` for the Kubernetes API.
    pub file: Option<Arc<str>>,
    /// Its objects of known kinds, good and bad, in their order.
    pub objects: Vec<Read>,
    /// What was found, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// How many documents there are (an item of a List is one), those of other
    /// kinds included.
    pub documents: usize,
    /// What other documents promise of Pods: their templates.
    pub templates: Vec<PodTemplate>,
    /// Its Deployments.
    pub deployments: Vec<Deployment>,
    /// Whether every document could be told apart and named. When not, objects
    /// may be missing here that the text still means to have.
    pub complete: bool,
    /// There are comments and nothing else, as in an example that nobody has begun with.
    pub only_comments: bool,
    /// How many documents are no objects.
    strangers: usize,
}

/// Whether each line that says anything is a comment, and one does.
fn has_only_comments(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty()).peekable();
    lines.peek().is_some() && lines.all(|line| line.starts_with('#'))
}

/// The most documents of one file that are told to be no objects, and the most
/// repeated keys of one document.
const MAX_TOLD: usize = 1000;

/// A document of a known kind.
#[derive(Clone, PartialEq, Debug)]
pub struct Read {
    /// Which object it is; `None` when it has no usable name.
    pub reference: Option<ObjectRef>,
    /// The object; `None` when it is refused. The diagnostics say why.
    pub object: Option<Arc<Object>>,
    /// Its tree, for the positions of later findings; none of one that was not decoded
    /// again ([`read_again`]). Cheap to drop.
    pub tree: Node,
}

impl Reading {
    /// The errors that hide documents which the text means to have: all of a text
    /// that is not complete, but those of objects that are known.
    pub fn hiding(&self) -> Vec<&Diagnostic> {
        if self.complete {
            return Vec::new();
        }
        let known: HashSet<&ObjectRef> =
            self.objects.iter().filter_map(|read| read.reference.as_ref()).collect();
        let of_known =
            |one: &Diagnostic| one.reference().is_some_and(|object| known.contains(object));
        let errors = self.diagnostics.iter().filter(|one| one.severity == Severity::Error);
        errors.filter(|one| !of_known(one)).collect()
    }
}

/// Reads all documents of a file's text.
pub fn read(file: Option<Arc<str>>, text: &str) -> Reading {
    read_again(file, text, &mut Memory::default())
}

/// The same of a file that was read before: documents that are the same, and stand where
/// they stood, are not decoded again, and come without their trees. What is read here is
/// known the next time.
pub fn read_again(file: Option<Arc<str>>, text: &str, memory: &mut Memory) -> Reading {
    let mut recalled = memory.recall();
    let parts = yaml::parse_parts(text, |chunk| recalled.look(chunk));
    let kind = |document: &yaml::Document| document.root.get("kind").is_some();
    if let Some(tool) = file.as_deref().and_then(tool_of)
        && !parts.iter().any(|part| part.is_known || part.documents.iter().any(kind))
    {
        return something_else(file, &format!("this is a file of {tool}, and no configuration"));
    }
    let is_json = file.as_deref().is_some_and(|file| file.ends_with(".json"));
    let mut documents = parts.iter().flat_map(|part| &part.documents).peekable();
    if is_json
        && documents.peek().is_some()
        && documents.all(is_no_object)
        && parts.iter().all(|part| part.error.is_none() && !part.is_known)
    {
        return something_else(file, "this JSON has nothing that an object has");
    }
    let only_comments = has_only_comments(text);
    let mut reading = Reading { complete: true, only_comments, ..Reading::default() };
    let mut errors = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        if part.is_known {
            reading.documents += 1;
            reading.objects.extend(recalled.take(index));
            continue;
        }
        let (before, found) = (reading.objects.len(), reading.diagnostics.len());
        let is_one = part.documents.len() == 1 && part.error.is_none();
        for document in part.documents {
            parsed_into(&mut reading, document, file.as_ref());
        }
        errors.extend(part.error);
        if let ([Read { object: Some(object), .. }], true) = (&reading.objects[before..], is_one)
            && reading.diagnostics.len() == found
        {
            recalled.note(index, object, part.nodes);
        }
    }
    reading.complete &= errors.is_empty();
    let template = if errors.is_empty() { None } else { template(text) };
    for error in errors {
        if let Some(position) = template.filter(|_| !error.limit) {
            let finding = Diagnostic::new(
                &syntax::NOT_YAML,
                "this is a template, and no YAML until it is rendered",
            )
            .help("render it first (as with helm template), and check what comes out");
            reading.diagnostics.retain(|finding| finding.code != syntax::NOT_AN_OBJECT.id);
            reading.diagnostics.push(placed(finding, position));
            break;
        }
        let code = if error.limit { &syntax::TOO_LARGE } else { &syntax::NOT_YAML };
        reading.diagnostics.push(syntax_finding(code, error));
    }
    for finding in &mut reading.diagnostics {
        finding.file.clone_from(&file);
    }
    reading.file = file;
    reading.diagnostics.sort_by_key(|finding| (finding.line, finding.column));
    reading
}

/// Reads a document of a text.
fn parsed_into(reading: &mut Reading, document: yaml::Document, file: Option<&Arc<str>>) {
    let (before, found) = (reading.objects.len(), reading.diagnostics.len());
    document_into(reading, document.root, file, 0);
    if document.duplicates.is_empty() && document.indented.is_none() {
        return;
    }
    // The object is known, and not to be trusted.
    for read in &mut reading.objects[before..] {
        read.object = None;
    }
    let object = match &reading.objects[before..] {
        [only] => only.reference.clone().map(Subject::from),
        _ => None,
    };
    if let Some(indented) = document.indented {
        // All else that was found may follow from it.
        reading.diagnostics.truncate(found);
        let mut finding = syntax_finding(&syntax::NOT_YAML, indented);
        finding.object = object;
        return reading.diagnostics.push(finding);
    }
    // Items without their dashes are one map, whose keys stand twice.
    let no_lists: Vec<(u32, u32)> = (reading.diagnostics[found..].iter())
        .filter(|one| {
            one.code == syntax::WRONG_TYPE.id && one.message.starts_with("expected a list")
        })
        .map(|one| (one.line, one.column))
        .collect();
    let follows = |at: Position| {
        no_lists.iter().any(|(line, column)| *line < at.line && *column == at.column)
    };
    for duplicate in document.duplicates.into_iter().take(MAX_TOLD) {
        if follows(duplicate.position) {
            continue;
        }
        let mut finding = syntax_finding(&syntax::DUPLICATE_KEY, duplicate);
        finding.object.clone_from(&object);
        reading.diagnostics.push(finding);
    }
}

/// Where the first action of a template stands, outside of quotes.
fn template(text: &str) -> Option<Position> {
    let (line, column) = text.lines().enumerate().find_map(|(n, line)| {
        let at = line.find("{{").filter(|at| line[*at..].contains("}}"))?;
        let before = line[..at].trim_end();
        let bare =
            before.is_empty() || before.ends_with([':', '-', '[', ',']) || before.ends_with("}}");
        bare.then(|| (n, line[..at].chars().count()))
    })?;
    let clamp = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
    Some(Position { line: clamp(line), column: clamp(column) })
}

/// An item of a List that is named after its items, with the kind that it has by that
/// where it says none itself.
fn item_of(list: &Node, item: &Node) -> Node {
    let kind = list.get("kind").and_then(Node::as_str).and_then(|kind| kind.strip_suffix("List"));
    let (Some(kind), Value::Map(entries)) = (kind.filter(|kind| !kind.is_empty()), &item.value)
    else {
        return item.clone();
    };
    if item.get("kind").is_some() || item.get("apiVersion").is_some() {
        return item.clone();
    }
    let said = ["apiVersion", "kind"].into_iter().filter_map(|name| list.entry(name));
    let said = said.map(|entry| match &*entry.key {
        "kind" => {
            let value = Value::String(kind.into());
            Entry { value: Node { value, ..entry.value.clone() }, ..entry.clone() }
        }
        _ => entry.clone(),
    });
    let own = entries.iter().filter(|entry| !matches!(&*entry.key, "apiVersion" | "kind"));
    Node { value: Value::Map(said.chain(own.cloned()).collect()), ..item.clone() }
}

/// Whether a document has none of the fields that an object has.
fn is_no_object(document: &yaml::Document) -> bool {
    let of_objects = ["apiVersion", "kind", "metadata", "spec", "items", "tests"];
    of_objects.iter().all(|name| document.root.entry(name).is_none())
}

/// The tool whose file this is, by its name.
fn tool_of(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next()?;
    let stem = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml"))?;
    match stem {
        "kustomization" => Some("kustomize"),
        "Chart" | "values" => Some("Helm"),
        "compose" | "docker-compose" => Some("Compose"),
        _ if stem.starts_with("values-") || stem.ends_with(".values") => Some("Helm"),
        _ => None,
    }
}

/// A file that is no configuration, whatever is in it.
fn something_else(file: Option<Arc<str>>, why: &str) -> Reading {
    let mut finding = Diagnostic::new(&syntax::SOMETHING_ELSE, format!("{why}: skipped"));
    finding.file.clone_from(&file);
    (finding.line, finding.column) = (1, 1);
    Reading { file, diagnostics: vec![finding], complete: true, ..Reading::default() }
}

/// Whether a document is of the form that `redirector test` reads.
fn is_routing_tests(root: &Node) -> bool {
    let Some(Value::List(tests)) = root.get("tests").map(|tests| &tests.value) else {
        return false;
    };
    tests.iter().any(|test| test.get("to").is_some() || test.get("expect").is_some())
}

/// Reads an object that came as JSON, such as the API server's: no positions.
pub fn read_json(json: &serde_json::Value) -> Reading {
    let mut reading = Reading { complete: true, ..Reading::default() };
    document_into(&mut reading, Node::from_json(json), None, 0);
    reading
}

/// A finding about a whole file that could not be read as text.
pub fn not_text(file: Option<Arc<str>>, error: yaml::EncodingError) -> Diagnostic {
    let mut finding =
        Diagnostic::new(&syntax::NOT_TEXT, error.message).help("save the file as UTF-8");
    finding.file = file;
    (finding.line, finding.column) = (error.position.line, error.position.column);
    finding
}

/// A finding about a file that is larger than [`yaml::MAX_FILE_BYTES`].
pub fn too_large(file: Option<Arc<str>>, bytes: u64) -> Diagnostic {
    let mut finding = Diagnostic::new(
        &syntax::TOO_LARGE,
        format!(
            "the file has {} MiB; at most {} MiB are read",
            bytes >> 20,
            yaml::MAX_FILE_BYTES >> 20
        ),
    )
    .help("split it into several files");
    finding.file = file;
    finding
}

fn syntax_finding(code: &'static crate::diag::Code, error: SyntaxError) -> Diagnostic {
    let mut finding = Diagnostic::new(code, error.message);
    finding.help = error.help;
    (finding.line, finding.column) = (error.position.line, error.position.column);
    finding
}

fn document_into(reading: &mut Reading, root: Node, file: Option<&Arc<str>>, depth: usize) {
    let kind = root.get("kind").and_then(Node::as_str);
    let api = root.get("apiVersion").and_then(Node::as_str);
    // `kubectl get -o yaml` writes a List; others are named after their items, which need
    // not say again what they are.
    if let (Some(kind), Some(_)) = (kind, api)
        && kind.ends_with("List")
        && let Some(items) = root.get("items")
        && let Value::List(items) = &items.value
        && depth < 4
    {
        for item in items.iter() {
            document_into(reading, item_of(&root, item), file, depth + 1);
        }
        return;
    }
    reading.documents += 1;
    if let (Some("List"), Some("v1")) = (kind, api) {
        let items = root.entry("items").map(|items| &items.value.value);
        if items == Some(&Value::Null) {
            return;
        }
        reading.complete = false;
        let message = match items {
            Some(Value::List(_)) => "Lists are nested too deeply".to_owned(),
            Some(other) => format!("the items of a List are a list, this is {}", other.describe()),
            None => "the List has no items".to_owned(),
        };
        let finding = Diagnostic::new(&syntax::WRONG_TYPE, message)
            .help("write the objects under items, each behind a dash");
        let at = if root.entry("items").is_some() { "items" } else { "kind" };
        reading.diagnostics.push(at_field(finding, &root, at));
        return;
    }
    if root.get("kind").is_none() && root.get("apiVersion").is_none() && is_routing_tests(&root) {
        let told = |one: &Diagnostic| one.code == syntax::SOMETHING_ELSE.id;
        if !reading.diagnostics.iter().any(told) {
            let message = "this file holds routing tests, and no configuration: skipped";
            let finding = Diagnostic::new(&syntax::SOMETHING_ELSE, message);
            let name = file.map_or("FILE", |file| file);
            let finding = finding.help(format!("redirector test {name} runs them"));
            reading.diagnostics.push(placed(finding, root.position));
        }
        return;
    }
    let (Some(kind_name), Some(api)) = (kind, api) else {
        reading.complete = false;
        reading.strangers += 1;
        if reading.strangers > MAX_TOLD {
            if reading.strangers == MAX_TOLD + 1 {
                let message =
                    format!("more than {MAX_TOLD} documents are no objects: the rest is left out");
                let finding = Diagnostic::new(&syntax::TOO_MANY_FINDINGS, message);
                reading.diagnostics.push(placed(finding, root.position));
            }
            return;
        }
        let missing: Vec<&str> =
            ["apiVersion", "kind"].into_iter().filter(|name| root.get(name).is_none()).collect();
        let wrong = ["apiVersion", "kind"].into_iter().find_map(|name| {
            let value = root.get(name).filter(|value| value.as_str().is_none())?;
            Some(format!("{name} is a string, this is {}", value.value.describe()))
        });
        let message = match (&root.value, wrong) {
            (Value::Map(_), Some(wrong)) if missing.is_empty() => wrong,
            (Value::Map(_), _) => format!("the document has no {}", missing.join(" and no ")),
            _ => format!(
                "a document is a map with apiVersion and kind, this is {}",
                root.value.describe()
            ),
        };
        let finding = Diagnostic::new(&syntax::NOT_AN_OBJECT, message);
        reading.diagnostics.push(match misspelt(&root, &missing) {
            Some((name, entry)) => {
                let key = entry.written.as_deref().unwrap_or(&entry.key);
                let message = format!("{}: there is no field \"{key}\"", finding.message);
                let finding = Diagnostic { message, ..finding };
                placed(finding.help(format!("did you mean \"{name}\"?")), entry.position)
            }
            None => placed(finding, root.position),
        });
        return;
    };
    match judge(api, kind_name) {
        Judgement::Known(kind) => {
            let decoded = decode::decode(&root, kind, file);
            reading.complete &= decoded.reference.is_some();
            reading.diagnostics.extend(decoded.findings);
            reading.objects.push(Read {
                reference: decoded.reference,
                object: decoded.object.map(Arc::new),
                tree: root,
            });
        }
        Judgement::Other if kind_name == "Sidecar" && api.starts_with("networking.istio.io/") => {
            let lets_through = root
                .get("spec")
                .is_some_and(|spec| spec.get("outboundTrafficPolicy").is_some())
                .then_some(", and connections to hosts that are not known are let through");
            let finding = Diagnostic::new(
                &differences::SIDECAR,
                format!(
                    "a Sidecar is not honoured: workloads may see more hosts than in Istio{}",
                    lets_through.unwrap_or_default()
                ),
            );
            reading.diagnostics.push(at_field(finding, &root, "kind"));
        }
        Judgement::Other => {
            let finding = match not_read(api, kind_name).or_else(|| of_mesh(&root, kind_name)) {
                Some(lost) => Diagnostic::new(
                    &syntax::NOT_READ,
                    format!("{kind_name} ({api}) is not read here: {lost}"),
                ),
                None => Diagnostic::new(
                    &syntax::UNKNOWN_KIND,
                    format!("{kind_name} ({api}) takes no part in L4 routing: skipped"),
                ),
            };
            reading.diagnostics.push(at_field(finding, &root, "kind"));
            reading.templates.extend(templates::pod_template(&root));
            reading.deployments.extend(templates::deployment(&root));
        }
        Judgement::WrongApiVersion(kind) => {
            let message = format!("{kind} is not of the apiVersion \"{api}\"");
            let finding = Diagnostic::new(&syntax::WRONG_API_VERSION, message)
                .help(format!("write apiVersion: {}", api_versions(kind).join(", or ")));
            reading.diagnostics.push(at_field(finding, &root, "apiVersion"));
            reading.complete = false;
        }
        Judgement::Misspelt(kind) => {
            let message = format!("{api} has no kind \"{kind_name}\"");
            let finding = Diagnostic::new(&syntax::MISSPELT_KIND, message).help(match kind {
                Some(kind) => format!("did you mean {kind}?"),
                None => {
                    let ours = |kind: &Kind| api_versions(*kind).contains(&api);
                    let known: Vec<_> = Kind::ALL.iter().filter(|kind| ours(kind)).collect();
                    let known: Vec<_> = known.iter().map(ToString::to_string).collect();
                    format!("its kinds that are read here are {}", known.join(", "))
                }
            });
            reading.diagnostics.push(at_field(finding, &root, "kind"));
            reading.complete = false;
        }
    }
}

/// A field of the root that is nearly one of those that are missing.
fn misspelt<'r>(root: &'r Node, missing: &[&'static str]) -> Option<(&'static str, &'r Entry)> {
    let Value::Map(entries) = &root.value else { return None };
    entries.iter().filter(|entry| !decode::is_of_root(&entry.key)).find_map(|entry| {
        let near = nearest(&entry.key, missing.iter().copied())?;
        Some((missing.iter().copied().find(|name| *name == near)?, entry))
    })
}

fn placed(mut finding: Diagnostic, position: Position) -> Diagnostic {
    (finding.line, finding.column) = (position.line, position.column);
    finding
}

fn at_field(mut finding: Diagnostic, root: &Node, field: &str) -> Diagnostic {
    finding.path = field.to_owned();
    let kind = root.get("kind").and_then(Node::as_str).unwrap_or_default();
    let namespace = root.nearest("metadata.namespace").as_str().unwrap_or("default");
    let name = root.nearest("metadata.name").as_str().unwrap_or_default();
    finding.object = Some(match Kind::named(kind).filter(|kind| !kind.is_cluster_scoped()) {
        Some(kind) => ObjectRef { kind, namespace: namespace.into(), name: name.into() }.into(),
        None => Subject::Other(format!("{kind}/{namespace}/{name}").into()),
    });
    placed(finding, root.get(field).map_or(root.position, |node| node.position))
}

enum Judgement {
    /// A kind that is read.
    Known(Kind),
    /// Another kind.
    Other,
    /// A kind that is read, in an apiVersion that does not have it.
    WrongApiVersion(Kind),
    /// No kind of a group that is known, and nearly one that is read.
    Misspelt(Option<&'static str>),
}

/// The apiVersions in which a kind is read.
fn api_versions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::VirtualService
        | Kind::DestinationRule
        | Kind::Gateway
        | Kind::ServiceEntry
        | Kind::WorkloadEntry => &[
            "networking.istio.io/v1",
            "networking.istio.io/v1beta1",
            "networking.istio.io/v1alpha3",
        ],
        Kind::EndpointSlice => &["discovery.k8s.io/v1"],
        Kind::Service | Kind::Pod | Kind::Namespace | Kind::Node => &["v1"],
    }
}

fn judge(api: &str, name: &str) -> Judgement {
    let Some(kind) = Kind::named(name) else {
        if api == "v1" && name.eq_ignore_ascii_case("List") {
            return Judgement::Misspelt(Some("List"));
        }
        let near = nearest(name, Kind::ALL.iter().map(|kind| kind.as_str()));
        let near = near.and_then(Kind::named);
        let slip = |kind: Kind| {
            let distance = strsim::levenshtein(&kind.as_str().to_lowercase(), &name.to_lowercase());
            distance <= 2 && api_versions(kind).contains(&api)
        };
        return match near {
            Some(kind) if slip(kind) && !is_other_kind(name) => {
                Judgement::Misspelt(Some(kind.as_str()))
            }
            _ if api.starts_with("networking.istio.io/") && !is_other_kind(name) => {
                Judgement::Misspelt(None)
            }
            _ => Judgement::Other,
        };
    };
    if api_versions(kind).contains(&api) {
        return Judgement::Known(kind);
    }
    // Other groups have kinds of the same name (Gateway, Service); a group that
    // is nearly ours, or none, is a slip.
    let group = |api: &str| api.split_once('/').map(|(group, _)| group.to_owned());
    let ours = group(api_versions(kind)[0]);
    // No other group of Istio's or of Kubernetes' has them, but for one.
    let of_istio = |group: &str| group == "istio.io" || group.ends_with(".istio.io");
    let words = |group: &str| BTreeSet::from_iter(group.split('.').map(str::to_owned));
    let known = |theirs: &str, ours: &str| {
        of_istio(theirs) && of_istio(ours)
            || theirs.ends_with(".k8s.io") && kind != Kind::Gateway
            || words(theirs) == words(ours)
    };
    match (group(api), ours) {
        (Some(theirs), Some(ours))
            if theirs.contains('.')
                && !known(&theirs, &ours)
                && strsim::levenshtein(&theirs, &ours) > 4 =>
        {
            Judgement::Other
        }
        (Some(theirs), None) if theirs.contains('.') => Judgement::Other,
        _ => Judgement::WrongApiVersion(kind),
    }
}

/// What is lost of a document of a kind that others act on.
fn not_read(api: &str, kind: &str) -> Option<&'static str> {
    let group = api.split_once('/').map_or("", |(group, _)| group);
    Some(match (group, kind) {
        ("", "Endpoints") => {
            "its addresses are no endpoints of its Service, which come from EndpointSlices: write \
             it as one (discovery.k8s.io/v1)"
        }
        ("gateway.networking.k8s.io", "TCPRoute" | "TLSRoute" | "UDPRoute") => {
            "its routes have no effect: write them as a VirtualService"
        }
        ("gateway.networking.k8s.io", "Gateway" | "ListenerSet" | "XListenerSet") => {
            "its listeners are not served: write them as servers of a networking.istio.io Gateway"
        }
        ("security.istio.io", "AuthorizationPolicy") => {
            "connections that it denies are let through, as far as they are routed here"
        }
        ("security.istio.io", "PeerAuthentication") => {
            "connections that are routed here are neither encrypted nor refused for being plain"
        }
        ("networking.istio.io", "EnvoyFilter" | "ProxyConfig" | "WorkloadGroup") => match kind {
            "WorkloadGroup" => "it makes no workloads: write each as a WorkloadEntry",
            _ => "there is no Envoy here that it could configure",
        },
        _ => return None,
    })
}

/// What is lost of a document that holds settings of the whole mesh.
fn of_mesh(root: &Node, kind: &str) -> Option<&'static str> {
    let name = || root.get("metadata")?.get("name")?.as_str();
    let has = match kind {
        "ConfigMap" if name().is_some_and(|name| name.starts_with("istio")) => {
            root.get("data")?.get("mesh")
        }
        "IstioOperator" => root.get("spec")?.get("meshConfig"),
        _ => None,
    };
    has.map(|_| {
        "settings of the mesh have no effect: objects without exportTo are for all namespaces, \
         what no rule takes is let through, and locality is as DestinationRules say"
    })
}

/// Real kinds with names like those that are read.
fn is_other_kind(name: &str) -> bool {
    matches!(
        name,
        "WorkloadGroup"
            | "Endpoints"
            | "Event"
            | "Secret"
            | "Sidecar"
            | "EnvoyFilter"
            | "ProxyConfig"
    )
}
