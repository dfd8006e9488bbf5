//! As much of a homeserver as the doctor asks for, with the answers of Synapse 1.163: it routes on raw segments, and each
//! is decoded once.

use std::sync::Mutex;

use crate::{Head, message};

/// A homeserver that remembers from which address its one account was seen.
#[derive(Default)]
pub struct Homeserver {
    seen: Mutex<Vec<String>>,
}

/// The token of its account.
pub const TOKEN: &str = "secret";

/// What it takes, in bytes: Synapse's default.
pub const UPLOAD_BYTES_MAX: u64 = 50 * 1024 * 1024;

/// Its key document, which is valid until 2100.
pub const KEYS: &str = r#"{"old_verify_keys":{},"server_name":"example.com","signatures":{"example.com":{"ed25519:test":"FClpxR6zCVl/B0WiI2U53xJdMCac5ifGJdfiR2iEdDai1ECDSJeZJjUiw5fEbCC1dz/jhkGdQsHYauw/ti/sDw"}},"valid_until_ts":4102444800000,"verify_keys":{"ed25519:test":{"key":"slkC2oOKNBGXPATSZDsiLY4GU+7nYa4cay9HHBpwA1g"}}}"#;
/// That of another server name, signed by the same throwaway key.
pub const KEYS_OF_ANOTHER: &str = r#"{"old_verify_keys":{},"server_name":"other.example","signatures":{"other.example":{"ed25519:test":"ar6V3tnmV5XBpX7fiKyHU8ylzLdaNiBi6NxD8Z7OcAmF92MHIjJkgt8mHeBRki5RMcw64ggU6jyOMqgRYdtQDQ"}},"valid_until_ts":4102444800000,"verify_keys":{"ed25519:test":{"key":"slkC2oOKNBGXPATSZDsiLY4GU+7nYa4cay9HHBpwA1g"}}}"#;

const CORS: &str = "Access-Control-Allow-Origin: *\r\n\
    Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n\
    Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization, Date\r\n";

impl Homeserver {
    /// What it answers; a long poll is answered at once.
    pub fn answer(&self, request: &Head) -> Vec<u8> {
        if request.method() == "OPTIONS" {
            return message::response("204 No Content", CORS, "");
        }
        let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
        let segments: Vec<String> = path.split('/').skip(1).map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["_matrix", "client", "versions"] => json("200 OK", r#"{"versions":["v1.11"]}"#),
            ["_matrix", "client", "v3", "directory", "room", alias] => {
                let error = format!("Room alias {alias} not found");
                json("404 Not Found", &format!(r#"{{"errcode":"M_NOT_FOUND","error":"{error}"}}"#))
            }
            ["_matrix", "client", "v3", "login"] => {
                json("200 OK", r#"{"flows":[{"type":"m.login.sso"},{"type":"m.login.password"}]}"#)
            }
            ["_matrix", "client", "v3", "login", "sso", "redirect"] => sign_on(request, path, query),
            ["_matrix", "client", "v3", "sync"] => json("200 OK", r#"{"next_batch":"s1"}"#),
            ["_matrix", "client", "v3", "account", "whoami"] => {
                let first = request.values("x-forwarded-for").join(",");
                let first = first.split(',').next().unwrap_or_default().trim().to_owned();
                self.seen.lock().expect("nobody panicked").push(first);
                json("200 OK", r#"{"user_id":"@alice:example.com"}"#)
            }
            ["_matrix", "client", "v3", "admin", "whois", "@alice:example.com"] => {
                let seen = self.seen.lock().expect("nobody panicked");
                let seen: Vec<_> = seen.iter().map(|ip| format!(r#"{{"ip":"{ip}"}}"#)).collect();
                json("200 OK", &format!(r#"{{"devices":{{"":{{"connections":[{}]}}}}}}"#, seen.join(",")))
            }
            ["_matrix", "client", "v1", "media", "config"]
                if request.value("authorization") == Some(&format!("Bearer {TOKEN}")) =>
            {
                json("200 OK", &format!(r#"{{"m.upload.size":{UPLOAD_BYTES_MAX}}}"#))
            }
            ["_matrix", "static", "client", "login"] => {
                message::response("302 Found", &format!("Location: {}/\r\n", request.target()), "")
            }
            ["_matrix", "key", "v2", "server"] => json("200 OK", KEYS),
            ["_matrix", "federation", "v1", "version"] => {
                json("200 OK", r#"{"server":{"name":"Stand-in","version":"1"}}"#)
            }
            ["_matrix", "federation", "v1", "state_ids", _] => json(
                "401 Unauthorized",
                r#"{"errcode":"M_UNAUTHORIZED","error":"Missing Authorization headers"}"#,
            ),
            ["_synapse", "admin", "v1", "server_version"] => json("200 OK", r#"{"server_version":"1"}"#),
            _ => json("404 Not Found", r#"{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}"#),
        }
    }
}

/// Sends single sign-on that did not come by https and to its own name there first, as Synapse does.
fn sign_on(request: &Head, path: &str, query: &str) -> Vec<u8> {
    let is_here = request.value("x-forwarded-proto") == Some("https")
        && request.value("host").is_some_and(|host| host.split(':').next() == Some("matrix.example.com"));
    let location = match is_here {
        true => "https://sso.example.com/".to_owned(),
        false => format!("https://matrix.example.com{path}?{query}"),
    };
    message::response("302 Found", &format!("Location: {location}\r\n"), "")
}

fn json(status: &str, body: &str) -> Vec<u8> {
    message::response(status, &format!("Content-Type: application/json\r\n{CORS}"), body)
}

/// Percent-decoded once.
#[must_use]
pub fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digits =
            [ahead.next(), ahead.next()].map(|digit| digit.and_then(|digit| char::from(digit).to_digit(16)));
        match (byte, digits) {
            (b'%', [Some(high), Some(low)]) => {
                out.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits"));
                bytes = ahead;
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
