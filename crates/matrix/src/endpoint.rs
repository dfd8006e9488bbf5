//! Classes of endpoints: what a request costs and whom it disturbs, told from method and raw path alone.
//!
//! A class steers admission and balancing, never access: it is read from the raw bytes as a homeserver's router
//! would read them, and what is spelled in another way is [`EndpointClass::Other`]. Source: the Matrix
//! specification and Synapse's worker documentation (`docs/workers.md`).

/// What kind of request this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
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
    /// Log in, with password hashing or through single sign-on. To renew an access token is not: nobody guesses one.
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

impl EndpointClass {
    /// Every class, in the order of its discriminant.
    pub const ALL: [EndpointClass; 12] = [
        EndpointClass::Sync,
        EndpointClass::Send,
        EndpointClass::MediaUpload,
        EndpointClass::MediaDownload,
        EndpointClass::Keys,
        EndpointClass::Login,
        EndpointClass::Register,
        EndpointClass::FederationSend,
        EndpointClass::FederationRead,
        EndpointClass::KeyServer,
        EndpointClass::WellKnown,
        EndpointClass::Other,
    ];

    /// As metrics and configurations name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndpointClass::Sync => "sync",
            EndpointClass::Send => "send",
            EndpointClass::MediaUpload => "media_up",
            EndpointClass::MediaDownload => "media_down",
            EndpointClass::Keys => "keys",
            EndpointClass::Login => "login",
            EndpointClass::Register => "register",
            EndpointClass::FederationSend => "federation_send",
            EndpointClass::FederationRead => "federation_read",
            EndpointClass::KeyServer => "key_server",
            EndpointClass::WellKnown => "well_known",
            EndpointClass::Other => "other",
        }
    }
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
    // Most patterns end here.
    if !pattern.starts_with('*') && pattern.as_bytes().first() != path.first() {
        return false;
    }
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
mod tests;
