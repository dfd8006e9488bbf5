//! The three documents under `/.well-known/matrix/` (Client-Server API, "Well-known URIs"; Server-Server API,
//! "Server discovery").

use std::fmt;

use serde_json::{Value, json};

use crate::server_name::{FEDERATION_PORT, HTTPS_PORT, ServerName};

/// Where clients learn the base URL of a homeserver.
pub const CLIENT_PATH: &str = "/.well-known/matrix/client";
/// Where servers learn the host and port to federate with.
pub const SERVER_PATH: &str = "/.well-known/matrix/server";
/// Where people learn whom to ask for help.
pub const SUPPORT_PATH: &str = "/.well-known/matrix/support";

/// The client document: the base URL at `public_host`.
pub fn client_document(public_host: &ServerName) -> String {
    let base_url = match public_host.port() {
        None | Some(HTTPS_PORT) => format!("https://{}", public_host.host()),
        Some(port) => format!("https://{}:{port}", public_host.host()),
    };
    json!({ "m.homeserver": { "base_url": base_url } }).to_string()
}

/// The server document: where to federate.
///
/// The port is always written: without it a server would look for SRV records first.
pub fn server_document(federation_host: &ServerName) -> String {
    let delegated = federation_host.with_port(federation_host.port().unwrap_or(FEDERATION_PORT));
    json!({ "m.server": delegated.to_string() }).to_string()
}

/// A document given by the operator: one JSON object, with the operator's keys in the operator's order.
pub fn object_document(text: &str) -> Result<String, DocumentError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(Value::Object(object).to_string()),
        Ok(_) => Err(DocumentError::NotAnObject),
        Err(error) => {
            let message = error.to_string();
            let what = message.split(" at line ").next().unwrap_or_default().to_owned();
            Err(DocumentError::NotJson { line: error.line(), column: error.column(), what })
        }
    }
}

/// Why a text cannot be a well-known document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentError {
    /// JSON, but an array, a string or a number.
    NotAnObject,
    /// Not JSON; line and column count from 1 within the text.
    NotJson {
        /// Line of the fault.
        line: usize,
        /// Column of the fault.
        column: usize,
        /// What the parser says.
        what: String,
    },
}

impl fmt::Display for DocumentError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DocumentError::NotAnObject => formatter.write_str("it is not a JSON object"),
            DocumentError::NotJson { line, column, what } => {
                write!(formatter, "it is not JSON ({what} at its line {line}, column {column})")
            }
        }
    }
}

impl std::error::Error for DocumentError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServerName {
        ServerName::parse(text).unwrap()
    }

    #[test]
    fn the_client_document_names_the_base_url() {
        for (host, document) in [
            ("matrix.example.com", r#"{"m.homeserver":{"base_url":"https://matrix.example.com"}}"#),
            ("matrix.example.com:443", r#"{"m.homeserver":{"base_url":"https://matrix.example.com"}}"#),
            ("127.0.0.1:8443", r#"{"m.homeserver":{"base_url":"https://127.0.0.1:8443"}}"#),
            ("[::1]:8443", r#"{"m.homeserver":{"base_url":"https://[::1]:8443"}}"#),
        ] {
            assert_eq!(client_document(&name(host)), document);
        }
    }

    #[test]
    fn the_server_document_always_names_a_port() {
        for (host, document) in [
            ("matrix.example.com:443", r#"{"m.server":"matrix.example.com:443"}"#),
            ("matrix-fed.example.com", r#"{"m.server":"matrix-fed.example.com:8448"}"#),
            ("[::1]:9448", r#"{"m.server":"[::1]:9448"}"#),
        ] {
            assert_eq!(server_document(&name(host)), document);
        }
    }

    #[test]
    fn an_operators_object_keeps_its_keys_in_order() {
        let text = r#"
            { "m.homeserver": { "base_url": "https://a.example" },
              "org.matrix.msc4143.rtc_foci": [ { "type": "livekit" } ] }"#;
        assert_eq!(
            object_document(text).unwrap(),
            r#"{"m.homeserver":{"base_url":"https://a.example"},"org.matrix.msc4143.rtc_foci":[{"type":"livekit"}]}"#
        );
    }

    #[test]
    fn an_operators_fault_is_told_with_its_place() {
        assert_eq!(object_document("[1]"), Err(DocumentError::NotAnObject));
        let error = object_document("{\n  \"a\": tru }").unwrap_err();
        assert!(matches!(error, DocumentError::NotJson { line: 2, .. }), "{error}");
        assert!(!error.to_string().contains("at line"), "{error}");
    }
}
