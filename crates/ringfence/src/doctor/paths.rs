//! Whether request paths reach the homeserver byte for byte, and which should not reach it at all.
//!
//! Federation signatures cover the request target as it is spelled, and room ids, aliases and event ids carry slashes, so a
//! proxy that decodes, merges or resolves anything on the way breaks some requests and leaves most alone: nginx with
//! a slash behind the port of `proxy_pass` is the frequent one. From outside it shows in these ways, worked out on Synapse
//! 1.163 (other homeservers route alike, or the check is skipped):
//!
//! - the room directory: `GET /_matrix/client/v3/directory/room/%23a%3Aserver` of an alias that nobody has is answered 404
//!   `M_NOT_FOUND`, and the message names the alias as it was read. So is one with `%2F` in it. Where that was decoded
//!   on the way there are more segments than any endpoint has, and the answer is 404 `M_UNRECOGNIZED`. The same with `%2F%2F`
//!   and with `%2F..%2F`, for slashes that are merged and dots that are resolved once decoded;
//! - a federation endpoint without a signature: 401 `M_UNAUTHORIZED` when its path was recognised, whatever stands in its
//!   segments, else 404 `M_UNRECOGNIZED`;
//! - Synapse's static folder: a folder without its final slash is answered by a redirect to the very bytes that
//!   Synapse was sent and a slash. `%6Cogin` is `login` to it, and `%6C` stays only where nobody decoded anything;
//! - with the server's own signing key, a request that it makes of itself: 401 where the signed target is not what arrived.

use super::{
    advice,
    client::Outcome,
    http::{Answer, Ask, Endpoint, ask},
    network::Network,
    report::{Check, excerpt},
    signature::SigningKey,
};

/// What of it breaks, for a person.
const BREAKS: &str = "the proxy changes request paths: signed requests of other servers are refused, and rooms, aliases and media \
                      with a slash in their name cannot be reached";

/// Whether encoded paths pass, on the clients' side.
pub(super) async fn encoded_client(
    network: &Network,
    endpoint: &Endpoint,
    server_name: &str,
    nonce: &str,
) -> Check {
    let id = "encoded-path";
    let place = format!("clients {}", endpoint.place());
    let alias = |name: &str| format!("#ringfence-doctor-{nonce}{name}:{server_name}");
    let control = match room(network, endpoint, &alias("")).await {
        Ok(answer) => answer,
        Err(failure) => return Check::skipped(id, format!("{place}: {failure}")),
    };
    if (control.status, control.errcode().as_deref()) != (404, Some("M_NOT_FOUND")) {
        let why = "the room directory says not M_NOT_FOUND but";
        return Check::skipped(
            id,
            format!("{place}: cannot be told: {why} {} to a plain alias", control.summary()),
        );
    }
    let names_alias = message(&control).is_some_and(|message| message.contains(&alias("")));
    for (name, what) in [("/a", "%2F"), ("/a//b", "%2F%2F"), ("/a/../b", "%2F..%2F")] {
        let answer = match room(network, endpoint, &alias(name)).await {
            Ok(answer) => answer,
            Err(failure) => return Check::skipped(id, format!("{place}: {what}: {failure}")),
        };
        let is_alike = answer.status == control.status && answer.errcode() == control.errcode();
        let is_read = !names_alias || message(&answer).is_some_and(|message| message.contains(&alias(name)));
        if !is_alike || !is_read {
            let seen =
                message(&answer).filter(|_| is_alike).map_or_else(|| answer.summary(), |text| excerpt(&text));
            let seen = format!("{place}: a path with {what} does not arrive as it was sent: {seen}");
            return Check::fault(id, seen, advice::encoded_path(BREAKS));
        }
    }
    needless_escapes(network, endpoint).await
}

/// Whether an escape stays that need not be one: the last thing that changes, and the hardest to see.
async fn needless_escapes(network: &Network, endpoint: &Endpoint) -> Check {
    let id = "encoded-path";
    let place = format!("clients {}", endpoint.place());
    let answer = ask(network, endpoint, Ask::to("GET", "/_matrix/static/client/%6Cogin")).await;
    let location = answer.ok().and_then(|answer| answer.redirect());
    let path = "/_matrix/static/client/";
    match location.as_deref() {
        Some(location) if location.ends_with(&format!("{path}%6Cogin/")) => Check::ok(
            id,
            format!("{place}: paths reach the homeserver byte for byte (%2F, %2F%2F, %2F..%2F, %6C)"),
        ),
        Some(location)
            if location.ends_with(&format!("{path}login/"))
                || location.ends_with(&format!("{path}%6cogin/")) =>
        {
            let seen =
                format!("{place}: %2F arrives, but %6C was decoded or written anew: {}", excerpt(location));
            Check::fault(id, seen, advice::encoded_path(BREAKS))
        }
        _ => Check::ok(
            id,
            format!(
                "{place}: %2F, %2F%2F and %2F..%2F arrive; whether needless escapes stay is not shown by this homeserver"
            ),
        ),
    }
}

async fn room(network: &Network, endpoint: &Endpoint, alias: &str) -> Outcome<Answer> {
    let target = format!("/_matrix/client/v3/directory/room/{}", escaped(alias));
    ask(network, endpoint, Ask::to("GET", &target)).await
}

fn message(answer: &Answer) -> Option<String> {
    answer.json()?.get("error")?.as_str().map(str::to_owned)
}

/// Whether encoded paths pass, on the other servers' side.
pub(super) async fn encoded_federation(
    network: &Network,
    endpoint: &Endpoint,
    server_name: &str,
    nonce: &str,
    key: Option<&SigningKey>,
) -> Check {
    let id = "encoded-path";
    let place = format!("federation {}", endpoint.place());
    let target = |name: &str| {
        let room = escaped(&format!("!ringfence-doctor-{nonce}{name}:{server_name}"));
        format!("/_matrix/federation/v1/state_ids/{room}?event_id=%24x")
    };
    if let Some(key) = key {
        return signed(network, endpoint, server_name, &target("/a//b/../c"), key).await;
    }
    let (control, probe) = (target(""), target("/a//b/../c"));
    let answers = (
        ask(network, endpoint, Ask::to("GET", &control)).await,
        ask(network, endpoint, Ask::to("GET", &probe)).await,
    );
    match answers {
        (Ok(control), Ok(probe)) if control.status != 401 => {
            let told =
                format!("{} to an unsigned request, {} with slashes", control.summary(), probe.summary());
            Check::skipped(id, format!("{place}: cannot be told: {told}"))
        }
        (Ok(control), Ok(probe))
            if (control.status, control.errcode()) == (probe.status, probe.errcode()) =>
        {
            Check::ok(
                id,
                format!("{place}: encoded slashes and dots arrive; --signing-key proves every byte"),
            )
        }
        (Ok(_), Ok(probe)) => {
            let seen =
                format!("{place}: a path with %2F does not arrive as it was sent: {}", probe.summary());
            Check::fault(id, seen, advice::encoded_path(BREAKS))
        }
        (Err(failure), _) | (_, Err(failure)) => Check::skipped(id, format!("{place}: {failure}")),
    }
}

/// Asks as the server itself would: the signature covers every byte of the target.
async fn signed(
    network: &Network,
    endpoint: &Endpoint,
    server_name: &str,
    target: &str,
    key: &SigningKey,
) -> Check {
    let id = "encoded-path";
    let place = format!("federation {}", endpoint.place());
    let plain = "/_matrix/federation/v1/query/profile?user_id=x";
    for (target, is_control) in [(plain, true), (target, false)] {
        let authorization = key.authorization(server_name, "GET", target);
        let fields = [("Authorization", authorization.as_str())];
        let answer = match ask(network, endpoint, Ask { fields: &fields, ..Ask::to("GET", target) }).await {
            Ok(answer) => answer,
            Err(failure) => return Check::skipped(id, format!("{place}: {failure}")),
        };
        match (is_control, answer.status, answer.errcode().as_deref()) {
            (true, 401, _) => {
                let why =
                    format!("{place}: the homeserver does not take the signing key: {}", answer.summary());
                return Check::skipped(id, why);
            }
            (false, 401, _) | (false, _, Some("M_UNRECOGNIZED")) | (false, 400 | 404, None) => {
                let seen =
                    format!("{place}: a signed path with %2F and %21 is refused: {}", answer.summary());
                return Check::fault(id, seen, advice::encoded_path(BREAKS));
            }
            _ => {}
        }
    }
    Check::ok(id, format!("{place}: a signed path with %2F, %21 and %3A arrives byte for byte"))
}

/// Every byte but the unreserved ones, percent-encoded (RFC 3986 §2.3), dots kept.
pub(super) fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Whether the admin API can be had from outside, however its path is spelled.
pub(super) async fn admin(network: &Network, endpoint: &Endpoint) -> Check {
    let id = "admin-closed";
    let place = endpoint.place();
    let mut asked = 0;
    for path in ADMIN_SPELLINGS {
        // A spelling that something on the way refuses to answer at all is closed.
        let Ok(answer) = ask(network, endpoint, Ask::to("GET", path)).await else { continue };
        asked += 1;
        if reaches_admin(&answer) {
            let seen = format!("{place}: {path} is answered by the homeserver: {}", answer.summary());
            let what = "the admin API is open to the Internet: only its tokens protect it";
            return Check::fault(id, seen, advice::admin_open(what));
        }
    }
    match asked {
        0 => Check::skipped(id, format!("{place}: no answer")),
        _ => Check::ok(id, format!("{place}: closed in {asked} of {} spellings", ADMIN_SPELLINGS.len())),
    }
}

/// Synapse answers the first ones without a token, the last with a complaint about it. Spellings that decode, merge, cut or
/// resolve to the same.
const ADMIN_SPELLINGS: [&str; 9] = [
    "/_synapse/admin/v1/server_version",
    "/_synapse/%61dmin/v1/server_version",
    "/_synapse%2Fadmin/v1/server_version",
    "//_synapse/admin/v1/server_version",
    "/_synapse//admin/v1/server_version",
    "/_matrix/../_synapse/admin/v1/server_version",
    "/_matrix/%2e%2e/_synapse/admin/v1/server_version",
    "/_synapse/client/..%2Fadmin/v1/server_version",
    "/_synapse/admin/v1/rooms",
];

fn reaches_admin(answer: &Answer) -> bool {
    let has_version = answer.json().is_some_and(|json| json.get("server_version").is_some());
    has_version || matches!(answer.errcode().as_deref(), Some("M_MISSING_TOKEN" | "M_UNKNOWN_TOKEN"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_reserved_is_escaped() {
        assert_eq!(escaped("#a/b//../c:d"), "%23a%2Fb%2F%2F..%2Fc%3Ad");
    }

    #[test]
    fn every_spelling_of_an_admin_path_is_one_to_ringfence() {
        for path in ADMIN_SPELLINGS {
            assert!(ringfence_matrix::is_admin(path.as_bytes()), "{path}");
        }
    }
}
