//! Classes of endpoints: what a request costs and whom it disturbs, told from method and raw path alone.
//!
//! A class steers admission and balancing, never access: it is read from the raw bytes as a homeserver's router
//! would read them, and what is spelled in another way is [`EndpointClass::Other`]. Source: the Matrix
//! specification and Synapse's worker documentation (`docs/workers.md`).

/// What kind of request this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointClass {
    /// Waits for news, often for 30 s and more, and may answer with megabytes.
    Sync,
    /// A local client changes a room.
    Send,
    /// Content comes in.
    MediaUpload,
    /// Content, thumbnails or previews go out, perhaps fetched from elsewhere first.
    MediaDownload,
    /// End-to-end encryption keys: many, and urgent at login.
    Keys,
    /// Log in, with password hashing or through single sign-on.
    Login,
    /// Create an account.
    Register,
    /// Another server delivers a transaction.
    FederationSend,
    /// Another server asks for something.
    FederationRead,
    /// Signing keys of servers.
    KeyServer,
    /// Discovery documents.
    WellKnown,
    /// Everything else.
    Other,
}

/// The class of a request with this method and this raw path (the request target up to `?`).
pub fn classify(method: &[u8], raw_path: &[u8]) -> EndpointClass {
    // A preflight costs nothing, whatever it asks about.
    if method == b"OPTIONS" {
        return EndpointClass::Other;
    }
    let Some((area, rest)) = AREAS.iter().find_map(|area| Some((area, raw_path.strip_prefix(area.prefix)?)))
    else {
        return EndpointClass::Other;
    };
    let rest = if area.versioned { skip_version(rest) } else { rest };
    let found =
        area.rules.iter().find(|rule| rule.method.includes(method) && matches_pattern(rule.pattern, rest));
    found.map_or(area.default, |rule| rule.class)
}

/// A part of the path space with rules of its own.
struct Area {
    prefix: &'static [u8],
    /// Whether a version comes first.
    versioned: bool,
    /// The first that matches decides.
    rules: &'static [Rule],
    /// Where none does.
    default: EndpointClass,
}

struct Rule {
    method: Method,
    /// Segments; `*` is any one segment, a final `**` is whatever follows, or nothing.
    pattern: &'static str,
    class: EndpointClass,
}

#[derive(Clone, Copy)]
enum Method {
    Any,
    Read,
    Write,
}

impl Method {
    fn includes(self, method: &[u8]) -> bool {
        match self {
            Method::Any => true,
            Method::Read => matches!(method, b"GET" | b"HEAD"),
            Method::Write => matches!(method, b"POST" | b"PUT" | b"DELETE"),
        }
    }
}

const fn rule(method: Method, pattern: &'static str, class: EndpointClass) -> Rule {
    Rule { method, pattern, class }
}

const AREAS: [Area; 7] = {
    use EndpointClass::{FederationRead, KeyServer, Other, WellKnown};
    [
        Area { prefix: b"/_matrix/client/", versioned: true, rules: CLIENT, default: Other },
        Area { prefix: b"/_matrix/federation/", versioned: true, rules: FEDERATION, default: FederationRead },
        Area { prefix: b"/_matrix/media/", versioned: true, rules: MEDIA, default: Other },
        Area { prefix: b"/_matrix/key/", versioned: true, rules: &[], default: KeyServer },
        Area { prefix: b"/.well-known/matrix/", versioned: false, rules: &[], default: WellKnown },
        Area { prefix: b"/_synapse/client/", versioned: false, rules: SINGLE_SIGN_ON, default: Other },
        Area { prefix: b"/_matrix/", versioned: false, rules: &[], default: Other },
    ]
};

const CLIENT: &[Rule] = {
    use EndpointClass::{Keys, Login, MediaDownload, MediaUpload, Register, Send, Sync};
    use Method::{Any, Read, Write};
    &[
        rule(Any, "sync", Sync),
        rule(Any, "events", Sync),
        rule(Any, "initialSync", Sync),
        rule(Any, "rooms/*/initialSync", Sync),
        rule(Write, "rooms/*/send/**", Send),
        rule(Write, "rooms/*/redact/**", Send),
        rule(Write, "rooms/*/state/**", Send),
        rule(Write, "rooms/*/join", Send),
        rule(Write, "rooms/*/invite", Send),
        rule(Write, "rooms/*/leave", Send),
        rule(Write, "rooms/*/ban", Send),
        rule(Write, "rooms/*/unban", Send),
        rule(Write, "rooms/*/kick", Send),
        rule(Write, "join/*", Send),
        rule(Write, "knock/*", Send),
        // A new name or picture is sent to every room of the user.
        rule(Write, "profile/**", Send),
        rule(Any, "keys/**", Keys),
        rule(Any, "room_keys/**", Keys),
        rule(Any, "login/**", Login),
        rule(Any, "refresh", Login),
        rule(Any, "register/**", Register),
        rule(Read, "media/**", MediaDownload),
        rule(Write, "media/**", MediaUpload),
    ]
};

const FEDERATION: &[Rule] = &[
    rule(Method::Write, "send/*", EndpointClass::FederationSend),
    rule(Method::Read, "media/**", EndpointClass::MediaDownload),
];

const MEDIA: &[Rule] = &[
    rule(Method::Read, "**", EndpointClass::MediaDownload),
    rule(Method::Write, "**", EndpointClass::MediaUpload),
];

/// The pages that Synapse itself serves during single sign-on.
const SINGLE_SIGN_ON: &[Rule] = {
    use EndpointClass::Login;
    use Method::Any;
    &[
        rule(Any, "pick_idp", Login),
        rule(Any, "pick_username/**", Login),
        rule(Any, "new_user_consent", Login),
        rule(Any, "sso_register", Login),
        rule(Any, "oidc/callback", Login),
        rule(Any, "saml2/authn_response", Login),
    ]
};

/// Drops the version: one segment, two for the ancient `api/v1` and for `unstable/org.example.feature`.
fn skip_version(path: &[u8]) -> &[u8] {
    let (version, rest) = split_segment(path);
    let (next, after) = split_segment(rest);
    match version {
        b"api" => after,
        b"unstable" if next.contains(&b'.') => after,
        _ => rest,
    }
}

fn matches_pattern(pattern: &str, path: &[u8]) -> bool {
    let mut path = Some(path);
    for expected in pattern.as_bytes().split(|byte| *byte == b'/') {
        if expected == b"**" {
            return true;
        }
        let Some((segment, rest)) = path.map(next_segment) else { return false };
        if expected != b"*" && expected != segment {
            return false;
        }
        path = rest;
    }
    path.is_none()
}

/// The first segment, and what follows its slash if there is one.
fn next_segment(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

/// The first segment and the rest, which may be empty.
fn split_segment(path: &[u8]) -> (&[u8], &[u8]) {
    let (segment, rest) = next_segment(path);
    (segment, rest.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{EndpointClass::*, *};

    #[track_caller]
    fn check(class: EndpointClass, requests: &[&str]) {
        for request in requests {
            let (method, path) = request.split_once(' ').unwrap();
            assert_eq!(classify(method.as_bytes(), path.as_bytes()), class, "{request}");
        }
    }

    // The groups of Synapse's worker documentation, one request for each of its expressions.

    #[test]
    fn sync_requests_of_the_worker_documentation() {
        check(
            Sync,
            &[
                "GET /_matrix/client/v3/sync",
                "GET /_matrix/client/r0/sync",
                "GET /_matrix/client/api/v1/events",
                "GET /_matrix/client/v3/events",
                "GET /_matrix/client/r0/initialSync",
                "GET /_matrix/client/api/v1/rooms/!r:hs/initialSync",
                "POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
            ],
        );
    }

    #[test]
    fn federation_requests_of_the_worker_documentation() {
        check(
            FederationRead,
            &[
                "GET /_matrix/federation/v1/version",
                "GET /_matrix/federation/v1/event/$e",
                "GET /_matrix/federation/v1/state_ids/!r:hs",
                "GET /_matrix/federation/v1/backfill/!r:hs",
                "POST /_matrix/federation/v1/get_missing_events/!r:hs",
                "GET /_matrix/federation/v1/publicRooms",
                "GET /_matrix/federation/v1/query/directory",
                "GET /_matrix/federation/v1/make_join/!r:hs/@u:hs",
                "PUT /_matrix/federation/v2/send_join/!r:hs/$e",
                "PUT /_matrix/federation/v2/send_leave/!r:hs/$e",
                "PUT /_matrix/federation/v1/send_knock/!r:hs/$e",
                "PUT /_matrix/federation/v2/invite/!r:hs/$e",
                "GET /_matrix/federation/v1/user/devices/@u:hs",
                "GET /_matrix/federation/v1/hierarchy/!r:hs",
            ],
        );
        check(FederationSend, &["PUT /_matrix/federation/v1/send/1700000000000"]);
        check(KeyServer, &["POST /_matrix/key/v2/query", "GET /_matrix/key/v2/server"]);
        check(MediaDownload, &["GET /_matrix/federation/v1/media/download/abc"]);
    }

    #[test]
    fn event_sending_requests_of_the_worker_documentation() {
        check(
            Send,
            &[
                "PUT /_matrix/client/v3/rooms/!r:hs/redact/$e/1",
                "POST /_matrix/client/v3/rooms/!r:hs/send/m.room.message",
                "PUT /_matrix/client/api/v1/rooms/!r:hs/send/m.room.message/txn%2F1",
                "PUT /_matrix/client/r0/rooms/%21r%3Ahs/state/m.room.name/",
                "PUT /_matrix/client/v3/rooms/!r:hs/state/m.room.name",
                "POST /_matrix/client/v3/rooms/!r:hs/join",
                "POST /_matrix/client/v3/rooms/!r:hs/unban",
                "POST /_matrix/client/unstable/join/%23a:hs",
                "POST /_matrix/client/v3/knock/!r:hs",
                "PUT /_matrix/client/v3/profile/@u:hs/displayname",
            ],
        );
    }

    #[test]
    fn encryption_login_and_registration_requests_of_the_worker_documentation() {
        check(
            Keys,
            &[
                "POST /_matrix/client/v3/keys/query",
                "GET /_matrix/client/v3/keys/changes",
                "POST /_matrix/client/r0/keys/claim",
                "PUT /_matrix/client/v3/room_keys/keys",
                "POST /_matrix/client/v3/keys/upload",
                "POST /_matrix/client/r0/keys/upload/DEVICE",
                "POST /_matrix/client/unstable/keys/device_signing/upload",
            ],
        );
        check(
            Login,
            &[
                "GET /_matrix/client/v3/login",
                "POST /_matrix/client/api/v1/login",
                "GET /_matrix/client/v3/login/sso/redirect/google",
                "GET /_matrix/client/r0/login/cas/ticket",
                "GET /_synapse/client/pick_idp",
                "GET /_synapse/client/pick_username/check",
                "GET /_synapse/client/oidc/callback",
                "POST /_synapse/client/saml2/authn_response",
            ],
        );
        check(
            Register,
            &[
                "POST /_matrix/client/v3/register",
                "GET /_matrix/client/v3/register/available",
                "GET /_matrix/client/v1/register/m.login.registration_token/validity",
            ],
        );
    }

    #[test]
    fn media_requests_of_the_worker_documentation() {
        check(
            MediaDownload,
            &[
                "GET /_matrix/media/v3/download/hs/abc/name.png",
                "HEAD /_matrix/media/r0/thumbnail/hs/abc",
                "GET /_matrix/client/v1/media/download/hs/abc",
                "GET /_matrix/client/v1/media/preview_url",
            ],
        );
        check(
            MediaUpload,
            &[
                "POST /_matrix/media/v3/upload",
                "PUT /_matrix/media/v3/upload/hs/abc",
                "POST /_matrix/media/v1/create",
                "POST /_matrix/media/unstable/fi.mau.msc2246/create",
            ],
        );
    }

    #[test]
    fn requests_that_the_worker_documentation_calls_generic_have_no_class() {
        check(
            Other,
            &[
                "POST /_matrix/client/v3/createRoom",
                "GET /_matrix/client/v3/rooms/!r:hs/members",
                "GET /_matrix/client/v3/rooms/!r:hs/messages",
                "GET /_matrix/client/v3/rooms/!r:hs/state",
                "GET /_matrix/client/v3/rooms/!r:hs/event/$e",
                "GET /_matrix/client/versions",
                "GET /_matrix/client/v3/capabilities",
                "GET /_matrix/client/v3/pushrules/",
                "PUT /_matrix/client/v3/rooms/!r:hs/typing/@u:hs",
            ],
        );
    }

    #[test]
    fn other_methods_and_other_spellings_have_no_class() {
        check(
            Other,
            &[
                "OPTIONS /_matrix/client/v3/sync",
                "OPTIONS /_matrix/media/v3/upload",
                "GET /_matrix/client/v3/profile/@u:hs",
                "GET /_matrix/client/v3/sync/",
                "GET /_matrix/client/v3/%73ync",
                "GET /_matrix/client//v3/sync",
                "GET /_matrix/client/v3/rooms/!r:hs/sync",
                "GET /_matrix/client/",
                "GET /_matrix/client",
                "GET /_matrix/policy/v1/sign",
                "GET /",
                "GET *",
                "GET ",
            ],
        );
        check(WellKnown, &["GET /.well-known/matrix/client", "GET /.well-known/matrix/support"]);
    }

    #[test]
    fn every_pattern_can_match() {
        for area in &AREAS {
            for rule in area.rules {
                let path = rule.pattern.replace("**", "x").replace('*', "x");
                assert!(matches_pattern(rule.pattern, path.as_bytes()), "{}", rule.pattern);
            }
        }
    }
}
