//! Requests as remote servers and clients make them: paths, fields and bodies of real shape.
//!
//! Signatures and tokens have the right form and are not valid: a homeserver that checks them answers 401 or 403, and
//! `--accept` says that this is no error. A client's token can be given.

use std::io::Write as _;

use crate::random::Random;
use crate::request::Request;
use crate::scenarios::Kind;

/// Who asks whom.
pub(crate) struct Parties<'a> {
    /// The value of Host.
    pub(crate) authority: &'a str,
    /// The homeserver's name.
    pub(crate) server_name: &'a str,
    /// Number of the peer.
    pub(crate) peer: usize,
    /// A client's access token.
    pub(crate) access_token: &'a str,
    /// Whether the connection ends with the request.
    pub(crate) closes: bool,
}

/// Writes a request of this kind.
pub(crate) fn write(kind: &Kind, parties: &Parties<'_>, random: &mut Random, request: &mut Request) {
    let (peer, server_name) = (parties.peer, parties.server_name);
    let unique = random.bits();
    let room = format!("!{}:{server_name}", letters(peer as u64 % 500));
    let encoded_room = format!("%21{}%3A{server_name}", letters(peer as u64 % 500));
    match kind {
        Kind::Transaction { pdus, bytes } => {
            let path = format!("/_matrix/federation/v1/send/{}{peer}", unique >> 16);
            let body = transaction(random.size(pdus), random.size(bytes), peer, &room);
            remote(request, "PUT", &path, parties, Some(body.as_bytes()));
        }
        Kind::Keys => remote(request, "GET", "/_matrix/key/v2/server", parties, None),
        Kind::StateIds => {
            let event = letters(unique);
            let path = format!("/_matrix/federation/v1/state_ids/{encoded_room}?event_id=%24{event}");
            remote(request, "GET", &path, parties, None);
        }
        Kind::MakeJoin => {
            let user = format!("%40user%3Aserver{peer}.example");
            let path = format!("/_matrix/federation/v1/make_join/{encoded_room}/{user}?ver=10&ver=11");
            remote(request, "GET", &path, parties, None);
        }
        Kind::Sync => {
            let path = format!("/_matrix/client/v3/sync?since=s{}_{peer}&timeout=30000", unique >> 40);
            client(request, "GET", &path, parties, None, 0);
        }
        Kind::Send => {
            let path = format!("/_matrix/client/v3/rooms/{encoded_room}/send/m.room.message/m{unique}");
            let body = format!(r#"{{"msgtype":"m.text","body":"{}"}}"#, letters(unique));
            client(request, "PUT", &path, parties, Some(body.as_bytes()), 0);
        }
        Kind::Upload { bytes } => {
            let path = "/_matrix/media/v3/upload?filename=picture.jpg";
            client(request, "POST", path, parties, Some(b""), random.size(bytes));
        }
        Kind::Download { bytes } => {
            let (media, size) = (letters(unique), random.size(bytes));
            let path = format!("/_matrix/client/v1/media/download/{server_name}/{media}?bytes={size}");
            client(request, "GET", &path, parties, None, 0);
        }
        Kind::Versions => client(request, "GET", "/_matrix/client/versions", parties, None, 0),
    }
}

/// A request of a remote server.
fn remote(request: &mut Request, method: &str, path: &str, parties: &Parties<'_>, body: Option<&[u8]>) {
    let head = &mut request.head;
    begin(head, method, path, parties);
    add(head, "User-Agent: Synapse/1.140.0\r\n");
    let signature = SIGNATURE;
    let authorization = format!(
        "Authorization: X-Matrix origin=\"server{}.example\",key=\"ed25519:a_load\",sig=\"{signature}\",destination=\"{}\"\r\n",
        parties.peer, parties.server_name
    );
    add(head, &authorization);
    end(request, "application/json", body, 0);
}

/// A request of a client; `zeros` follow its body.
fn client(
    request: &mut Request,
    method: &str,
    path: &str,
    parties: &Parties<'_>,
    body: Option<&[u8]>,
    zeros: u64,
) {
    let head = &mut request.head;
    begin(head, method, path, parties);
    add(head, "User-Agent: Element/1.12 (load)\r\nAccept: application/json\r\nAccept-Language: en\r\n");
    add(head, &format!("Authorization: Bearer {}\r\n", parties.access_token));
    let content_type = if zeros > 0 { "image/jpeg" } else { "application/json" };
    end(request, content_type, body, zeros);
}

fn begin(head: &mut Vec<u8>, method: &str, path: &str, parties: &Parties<'_>) {
    add(head, &format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", parties.authority));
    if parties.closes {
        add(head, "Connection: close\r\n");
    }
}

fn end(request: &mut Request, content_type: &str, body: Option<&[u8]>, zeros: u64) {
    let head = &mut request.head;
    if let Some(body) = body {
        let length = body.len() as u64 + zeros;
        add(head, &format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n"));
    }
    add(head, "\r\n");
    head.extend_from_slice(body.unwrap_or_default());
    request.add_zeros(zeros);
}

fn add(head: &mut Vec<u8>, text: &str) {
    head.extend_from_slice(text.as_bytes());
}

/// A transaction of so many PDUs that has about this size, and is never smaller than its PDUs need.
fn transaction(pdus: u64, bytes: u64, peer: usize, room: &str) -> String {
    let mut body = Vec::new();
    // Writing into memory does not fail.
    let _ = write!(body, r#"{{"origin":"server{peer}.example","origin_server_ts":1767225600000,"pdus":["#);
    for number in 0..pdus {
        let comma = if number > 0 { "," } else { "" };
        let begin = body.len() as u64;
        let _ = write!(
            body,
            r#"{comma}{{"auth_events":["${ID}"],"prev_events":["${ID}"],"type":"m.room.message","room_id":"{room}","sender":"@user:server{peer}.example","depth":{number},"origin_server_ts":1767225600000,"hashes":{{"sha256":"{ID}"}},"signatures":{{"server{peer}.example":{{"ed25519:a_load":"{SIGNATURE}"}}}},"content":{{"msgtype":"m.text","body":""#
        );
        let used = body.len() as u64 - begin + 4;
        let text = usize::try_from((bytes / pdus).saturating_sub(used)).unwrap_or(0);
        body.resize(body.len() + text, b'x');
        body.extend_from_slice(br#""}}"#);
    }
    body.extend_from_slice(b"]}");
    String::from_utf8(body).unwrap_or_default()
}

/// An opaque id.
fn letters(number: u64) -> String {
    let mut random = Random::new(number);
    (0..18).map(|_| char::from(b'a' + u8::try_from(random.below(26)).unwrap_or(0))).collect()
}

/// An event id without its sigil, as rooms of version 4 and later have them.
const ID: &str = "Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg";

/// The form of an Ed25519 signature in unpadded Base64, of nothing.
const SIGNATURE: &str =
    "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::SCENARIOS;

    fn written(kind: &Kind, seed: u64) -> (Request, usize) {
        let parties = Parties {
            authority: "127.0.0.1:8448",
            server_name: "localhost",
            peer: 7,
            access_token: "t",
            closes: false,
        };
        let mut request = Request::default();
        write(kind, &parties, &mut Random::new(seed), &mut request);
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Request::new(&mut fields);
        let length = head.parse(&request.head).unwrap().unwrap();
        let promised = head.headers.iter().find(|field| field.name == "Content-Length");
        let promised = promised.map_or(0, |field| str::from_utf8(field.value).unwrap().parse().unwrap());
        assert_eq!(request.head.len() as u64 - length as u64 + request.zeros, promised, "{kind:?}");
        (request, length)
    }

    #[test]
    fn every_request_of_every_scenario_is_http_and_as_long_as_it_says() {
        let mixes = SCENARIOS.iter().flat_map(|scenario| scenario.crowds).flat_map(|crowd| crowd.mix);
        for (_, kind) in mixes {
            (0..20).for_each(|seed| drop(written(kind, seed)));
        }
    }

    #[test]
    fn transactions_are_json_of_the_size_and_number_of_events_that_was_asked_for() {
        for (pdus, bytes) in [(1, 1024), (50, 65536), (50, 1024), (3, 4000)] {
            let kind = Kind::Transaction { pdus: pdus..=pdus, bytes: bytes..=bytes };
            let (request, head) = written(&kind, 3);
            let body: serde_json::Value = serde_json::from_slice(&request.head[head..]).unwrap();
            assert_eq!(body["pdus"].as_array().unwrap().len() as u64, pdus);
            let size = (request.head.len() - head) as u64;
            assert!(size >= bytes * 9 / 10, "{size} bytes instead of {bytes}");
            assert!(size <= bytes.max(pdus * 600) + 200, "{size} bytes instead of {bytes}");
        }
    }
}
