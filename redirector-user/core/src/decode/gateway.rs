//! Gateway.

use std::collections::BTreeSet;

use super::common::{self, Protocol, check, required};
use super::cursor::{At, Fields};
use crate::diag::Diagnostic;
use crate::diag::codes::{admission, differences};
use crate::model::{Gateway, Server, ServerTls};
use crate::validate::names;

const MODES: [&str; 6] =
    ["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"];

pub(super) fn gateway(root: &Fields<'_>, name: &str) -> Gateway {
    if !names::is_dns_label(name) {
        root.place("metadata").complain(
            &admission::BAD_NAME,
            format!("\"{name}\" is not a Gateway's name: it is one DNS label, without dots"),
        );
    }
    let Some(spec) = common::spec(root, "Gateway", &["servers", "selector"]) else {
        return Gateway::default();
    };
    let servers = spec.items("servers");
    if spec.is_empty("servers") {
        required(&spec, "servers", "the list of the Gateway's servers");
    }
    let mut port_names = BTreeSet::new();
    for at in &servers {
        let Some(port) = at.node.get("port") else { continue };
        let name = port.get("name").and_then(|node| node.as_str()).unwrap_or_default();
        if !port_names.insert(name) && !name.is_empty() {
            at.any_fields().unwrap_or_else(|| spec.clone()).place("port").complain(
                &admission::DUPLICATE_PORT,
                format!("the port name \"{name}\" stands twice in the Gateway"),
            );
        }
    }
    Gateway {
        selector: spec.get("selector").map(|at| at.labels()),
        servers: servers.iter().filter_map(server).collect(),
    }
}

fn server(at: &At<'_>) -> Option<Server> {
    let fields = at.fields(&["port", "bind", "hosts", "tls", "defaultEndpoint", "name"])?;
    let hosts = fields.items("hosts");
    if fields.is_empty("hosts") {
        required(&fields, "hosts", "the list of the server's hosts");
    }
    let mut server = Server { line: at.line(), ..Server::default() };
    for at in &hosts {
        if let Some(host) = at.string() {
            server_host(at, host);
            server.hosts.push(host.to_owned());
        }
    }
    let bind = fields.string("bind").filter(|bind| !bind.is_empty());
    let unix = bind.and_then(|bind| bind.strip_prefix("unix://"));
    let protocol = port(&fields, unix.is_some(), &mut server);
    if let (Some(bind), Some(at)) = (bind, fields.get("bind")) {
        match unix {
            Some(path) => {
                check(&at, &admission::BAD_BIND, common::unix_path(path));
                if server.port != 0 {
                    at.complain(
                        &admission::BAD_BIND,
                        "a server on a unix socket has port number 0",
                    );
                }
            }
            None if !names::is_ip(bind) => at.complain(
                &admission::BAD_BIND,
                format!("\"{bind}\" is neither an IP address nor unix:// and a path"),
            ),
            None => {}
        }
    }
    server.bind = bind.map(str::to_owned);
    if let Some(at) = fields.get("defaultEndpoint") {
        at.complain(
            &differences::DEFAULT_ENDPOINT,
            "defaultEndpoint does nothing, in Istio neither: what no rule matches is refused",
        );
    }
    server.tls = tls(&fields, protocol);
    Some(server)
}

/// A host of a server: a name with an optional namespace before it.
fn server_host(at: &At<'_>, text: &str) {
    let host = match text.split_once('/') {
        None => text,
        Some((namespace, host)) => {
            if namespace.is_empty() || host.is_empty() {
                at.complain(
                    &admission::BAD_SERVER_HOST,
                    format!("\"{text}\" is not namespace/host: one of the two is empty"),
                );
                return;
            }
            if namespace != "*" && namespace != "." && !names::is_dns_label(namespace) {
                at.complain(
                    &admission::BAD_SERVER_HOST,
                    format!("\"{namespace}\" is not a namespace: expected a DNS label, '.' or '*'"),
                );
            }
            host
        }
    };
    if host != "*" && !host.contains('.') && !names::is_ip(host) {
        at.report(
            Diagnostic::new(
                &admission::BAD_SERVER_HOST,
                format!("\"{host}\" is a short name, which a server does not take"),
            )
            .help("write the full name, or '*'"),
        );
    } else if names::is_partial_wildcard(host) {
        at.complain(
            &admission::BAD_SERVER_HOST,
            format!("\"{host}\": a server takes '*' and '*.' before a name, no other wildcard"),
        );
    } else if let Err(message) = names::wildcard_domain(host)
        && !names::is_ip(host)
    {
        at.complain(&admission::BAD_SERVER_HOST, message);
    }
}

/// `port` of a server. The protocol, when everything about the port is right.
fn port(fields: &Fields<'_>, unix: bool, server: &mut Server) -> Option<Protocol> {
    let Some(at) = fields.get("port") else {
        required(fields, "port", "the port of the server");
        return None;
    };
    let port = at.fields(&["number", "name", "protocol", "targetPort"])?;
    let mut good = true;
    let protocol_name = port.text("protocol");
    let protocol = common::protocol(&protocol_name);
    match (protocol, port.get("protocol")) {
        (Some(_), _) => {}
        (None, Some(at)) => {
            if at.node.as_str().is_some() {
                common::unknown_protocol(&at, &protocol_name);
            }
            good = false;
        }
        (None, None) => {
            required(&port, "protocol", "the protocol of the port");
            good = false;
        }
    }
    server.protocol = protocol_name.to_ascii_uppercase();
    let number = match port.get("number") {
        Some(at) => at.integer(),
        None => Some(0),
    };
    match number.map(u16::try_from) {
        Some(Ok(0)) if !unix => {
            port.place("number").complain(
                &admission::BAD_PORT,
                "port 0 is not in the range 1 to 65535 (only a unix socket has port 0)",
            );
            good = false;
        }
        Some(Ok(number)) => server.port = number,
        Some(Err(_)) => {
            port.place("number").complain(
                &admission::BAD_PORT,
                format!("port {} is not in the range 1 to 65535", number.unwrap_or_default()),
            );
            good = false;
        }
        None => good = false,
    }
    if let Some(at) = port.get("targetPort")
        && at.integer().is_some_and(|value| value != 0)
    {
        at.report(
            Diagnostic::new(&admission::NO_EFFECT, "targetPort has no effect in a Gateway")
                .help("remove it: a Service of the gateway maps ports"),
        );
        good = false;
    }
    server.port_name = port.text("name");
    if server.port_name.is_empty() {
        required(&port, "name", "the name of the port");
        good = false;
    }
    protocol.filter(|_| good)
}

/// `tls` of a server.
fn tls(fields: &Fields<'_>, protocol: Option<Protocol>) -> Option<ServerTls> {
    let Some(at) = fields.get("tls") else {
        if protocol == Some(Protocol::Tls) {
            fields.place("tls").report(
                Diagnostic::new(&admission::SERVER_TLS, "a TLS or HTTPS server needs tls settings")
                    .help("add tls: with a mode, or make the protocol TCP"),
            );
        }
        return None;
    };
    let tls = at.fields(&[
        "httpsRedirect",
        "mode",
        "serverCertificate",
        "privateKey",
        "caCertificates",
        "caCrl",
        "credentialName",
        "credentialNames",
        "tlsCertificates",
        "caCertCredentialName",
        "subjectAltNames",
        "verifyCertificateSpki",
        "verifyCertificateHash",
        "minProtocolVersion",
        "maxProtocolVersion",
        "cipherSuites",
    ])?;
    let mode = match tls.get("mode").and_then(|at| at.one_of(&MODES)).unwrap_or(0) {
        1 => ServerTls::Simple,
        2 => ServerTls::Mutual,
        3 => ServerTls::AutoPassthrough,
        4 => ServerTls::IstioMutual,
        5 => ServerTls::OptionalMutual,
        _ => ServerTls::Passthrough,
    };
    let complain = |message: &str| at.complain(&admission::SERVER_TLS, message);
    let set = |name: &str| tls.string(name).is_some_and(|text| !text.is_empty());
    let certificates = ["serverCertificate", "privateKey", "caCertificates"].map(set);
    let passthrough = matches!(mode, ServerTls::Passthrough | ServerTls::AutoPassthrough);
    match protocol {
        Some(Protocol::Http) if !passthrough || certificates.contains(&true) => {
            complain("a plain HTTP server has no tls settings but httpsRedirect");
        }
        Some(Protocol::Tcp | Protocol::Other) => {
            complain("only TLS and HTTPS servers have tls settings: remove tls");
        }
        _ => {}
    }
    if tls.flag("httpsRedirect") && protocol.is_some_and(|p| p != Protocol::Http) {
        tls.place("httpsRedirect")
            .complain(&admission::UNUSED_TLS, "httpsRedirect is only for HTTP servers");
    }
    certificates_fit(&tls, mode, &complain);
    versions(&tls);
    Some(mode)
}

fn certificates_fit(tls: &Fields<'_>, mode: ServerTls, complain: &dyn Fn(&str)) {
    let set = |name: &str| tls.string(name).is_some_and(|text| !text.is_empty());
    let named = set("credentialName")
        || !tls.items("credentialNames").is_empty()
        || !tls.items("tlsCertificates").is_empty();
    match mode {
        ServerTls::IstioMutual => {
            for name in ["serverCertificate", "privateKey", "caCertificates", "credentialName"] {
                if set(name) {
                    complain(&format!("mode ISTIO_MUTUAL takes no {name}"));
                }
            }
            return;
        }
        ServerTls::Passthrough | ServerTls::AutoPassthrough => {
            let unused =
                ["caCrl", "serverCertificate", "privateKey", "caCertificates", "credentialName"];
            if let Some(name) = unused.into_iter().find(|name| set(name)) {
                tls.place(name).complain(
                    &admission::UNUSED_TLS,
                    format!("a server that passes TLS through does not use {name}"),
                );
            }
        }
        ServerTls::Simple | ServerTls::Mutual | ServerTls::OptionalMutual if named => return,
        ServerTls::Simple | ServerTls::Mutual | ServerTls::OptionalMutual => {
            for name in ["serverCertificate", "privateKey"] {
                if !set(name) {
                    complain(&format!("this tls mode needs credentialName, or {name}"));
                }
            }
            if mode != ServerTls::Simple && !set("caCertificates") {
                complain("this tls mode needs credentialName, or caCertificates");
            }
        }
    }
    if set("caCrl") {
        if set("credentialName") {
            complain("caCrl does not go with credentialName: the credential carries it");
        }
        if mode == ServerTls::Simple {
            complain("caCrl does not go with mode SIMPLE");
        }
    }
}

fn versions(tls: &Fields<'_>) {
    let words = ["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"];
    let least = tls.get("minProtocolVersion").and_then(|at| at.one_of(&words));
    if let Some(at) = tls.get("maxProtocolVersion") {
        at.one_of(&words);
    }
    if matches!(least, Some(1 | 2)) && tls.items("cipherSuites").is_empty() {
        tls.place("minProtocolVersion").complain(
            &admission::UNUSED_TLS,
            "TLS below 1.2 needs cipherSuites: the default ones do not include its ciphers",
        );
    }
}
