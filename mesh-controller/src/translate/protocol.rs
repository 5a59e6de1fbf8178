//! `appProtocol` and the name of a port -> what is spoken at it.

use mesh_common::model::traffic::Protocol;

/// The field beats the name, as in `grpc-api`. A word that nobody knows is no fault: the name is free text, and an
/// `appProtocol` may be another implementation's.
pub fn protocol(app: Option<&str>, name: &str) -> Protocol {
    let word = name.split('-').next().unwrap_or_default();
    // `grpc-web` is HTTP/1.1 or HTTP/2, as browsers speak it.
    let word = if name == "grpc-web" || name.starts_with("grpc-web-") { "grpc-web" } else { word };
    app.and_then(spoken).or_else(|| spoken(word)).unwrap_or_default()
}

fn spoken(word: &str) -> Option<Protocol> {
    Some(match word.to_ascii_lowercase().as_str() {
        "http" | "grpc-web" | "kubernetes.io/ws" => Protocol::Http,
        "http2" | "grpc" | "kubernetes.io/h2c" => Protocol::Http2,
        "https" | "tls" | "kubernetes.io/wss" => Protocol::Tls,
        "tcp" | "mongo" | "redis" | "mysql" => Protocol::Tcp,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_beats_the_name() {
        for (app, name, expected) in [
            (None, "", Protocol::Auto),
            (None, "web", Protocol::Auto),
            (None, "http", Protocol::Http),
            (None, "http-web", Protocol::Http),
            (None, "HTTP-web", Protocol::Http),
            (None, "httpweb", Protocol::Auto),
            (None, "http2-web", Protocol::Http2),
            (None, "grpc", Protocol::Http2),
            (None, "grpc-web", Protocol::Http),
            (None, "grpc-web-front", Protocol::Http),
            (None, "grpc-webfront", Protocol::Http2),
            (None, "https", Protocol::Tls),
            (None, "tls-x", Protocol::Tls),
            (None, "tcp", Protocol::Tcp),
            (None, "mongo", Protocol::Tcp),
            (None, "redis-1", Protocol::Tcp),
            (None, "mysql", Protocol::Tcp),
            (Some("http"), "tcp-x", Protocol::Http),
            (Some("kubernetes.io/h2c"), "http", Protocol::Http2),
            (Some("kubernetes.io/ws"), "", Protocol::Http),
            (Some("kubernetes.io/wss"), "", Protocol::Tls),
            (Some("example.com/own"), "http", Protocol::Http),
            (Some("example.com/own"), "", Protocol::Auto),
        ] {
            assert_eq!(protocol(app, name), expected, "{app:?} {name}");
        }
    }
}
