//! Which protocol a port declares.

use super::service::Protocol;

/// Ports that are TCP unless something else is declared: their servers speak
/// first, so that nothing could be detected.
const WELL_KNOWN_TCP: [u16; 4] = [25, 53, 3306, 27017];

/// The protocol of a Service port: its `appProtocol`, else its name up to the
/// first dash.
pub fn of_service_port(
    number: u16,
    name: &str,
    transport: &str,
    app_protocol: Option<&str>,
) -> Protocol {
    if !transport.is_empty() && !transport.eq_ignore_ascii_case("tcp") {
        return Protocol::Other;
    }
    let said = match app_protocol {
        Some(said) => match said.strip_prefix("kubernetes.io/").unwrap_or(said) {
            "h2c" | "ws" => return Protocol::Http,
            "wss" => return Protocol::Tls,
            _ => said,
        },
        None => name,
    };
    // The one protocol whose name has a dash.
    if said.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("grpc-web")) {
        return Protocol::Http;
    }
    let said = said.split_once('-').map_or(said, |(protocol, _)| protocol);
    match parse(said) {
        Protocol::Auto if WELL_KNOWN_TCP.contains(&number) => Protocol::Tcp,
        protocol => protocol,
    }
}

/// The protocol that a name stands for, in any case; `Auto` when it stands for
/// none.
pub fn parse(name: &str) -> Protocol {
    match name.to_ascii_lowercase().as_str() {
        "tcp" | "mongo" | "redis" | "mysql" => Protocol::Tcp,
        "http" | "http_proxy" | "http2" | "grpc" | "grpc-web" | "hbone" => Protocol::Http,
        "https" | "tls" => Protocol::Tls,
        "udp" => Protocol::Other,
        _ => Protocol::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_protocol_goes_before_the_name_and_the_name_before_the_number() {
        let of = |number, name, app| of_service_port(number, name, "TCP", app);
        assert_eq!(of(80, "http-web", None), Protocol::Http);
        assert_eq!(of(80, "HTTP", None), Protocol::Http);
        assert_eq!(of(80, "httpx", None), Protocol::Auto);
        assert_eq!(of(80, "http", Some("tcp")), Protocol::Tcp);
        assert_eq!(of(80, "tcp", Some("kubernetes.io/h2c")), Protocol::Http);
        assert_eq!(of(80, "tcp", Some("wss")), Protocol::Tls);
        assert_eq!(of(80, "grpc-web-x", None), Protocol::Http);
        assert_eq!(of(80, "grpc-x", None), Protocol::Http);
        assert_eq!(of(443, "tls-x", None), Protocol::Tls);
        assert_eq!(of(3306, "", None), Protocol::Tcp);
        assert_eq!(of(3306, "http", None), Protocol::Http);
        assert_eq!(of(9000, "", None), Protocol::Auto);
        assert_eq!(of(9000, "redis-main", None), Protocol::Tcp);
        assert_eq!(of_service_port(53, "dns", "UDP", None), Protocol::Other);
    }
}
