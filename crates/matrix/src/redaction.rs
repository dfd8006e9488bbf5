//! What of a request target may be written down.
//!
//! A target can carry secrets (`access_token`, `loginToken`, the codes of single sign-on) and says who talks to whom where
//! (rooms, users, devices, media). [`without_secrets`] masks the first, [`without_identifiers`] leaves nothing of either.
//! Both hand their result on piece by piece, without memory of their own. Pure. Sources: the query parameters and paths of the
//! Client-Server, Server-Server and Identity Service APIs (v1.11), Synapse's own pages (`/_synapse/client`), RFC 6749.

/// Stands where a secret stood.
const MASK: &[u8] = b"<redacted>";

/// Stands where something was cut out.
const CUT: &[u8] = b"*";

/// The target with the value of every parameter masked that is a secret, however its name is spelled.
///
/// Names are found through percent-encodings, also nested ones (a `redirectUrl` with a token in it), and where they do not
/// belong, as behind a path without `?`. What is masked reaches to the next `&`: too much rather than too little.
pub fn without_secrets(target: &[u8], out: &mut dyn FnMut(&[u8])) {
    if !target.iter().any(|byte| matches!(byte, b'=' | b'%')) {
        return out(target);
    }
    let (mut written, mut at, mut word) = (0, 0, Word::default());
    while at < target.len() {
        let (char, next) = decode(target, at);
        at = next;
        if char == b'=' && word.is_secret() {
            out(&target[written..at]);
            out(MASK);
            at += target[at..].iter().position(|byte| *byte == b'&').unwrap_or(target.len() - at);
            written = at;
        }
        word.push(char);
    }
    out(&target[written..]);
}

/// The target with nothing left that tells rooms, users, events, devices, media or transactions apart.
///
/// On Matrix paths only the words of the specification stay, everything else is `*`:
/// `/_matrix/client/v3/rooms/*/send/m.room.message/*`. On other paths segments that begin like a Matrix identifier are cut.
/// Of the query the names stay, and values that say nothing of anybody (`timeout=30000`).
pub fn without_identifiers(target: &[u8], out: &mut dyn FnMut(&[u8])) {
    let target = without_authority(target, out);
    let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    write_path(path, out);
    let Some(query) = query.get(1..) else { return };
    let mut separator = b"?";
    for parameter in query.split(|byte| *byte == b'&') {
        out(separator);
        separator = b"&";
        write_parameter(parameter, out);
    }
}

/// Hands on scheme and authority of an absolute form (RFC 9112 §3.2.2) and returns what follows.
fn without_authority<'t>(target: &'t [u8], out: &mut dyn FnMut(&[u8])) -> &'t [u8] {
    if target.first().is_none_or(|first| *first == b'/') {
        return target;
    }
    let Some(authority) = target.windows(3).position(|window| window == b"://").map(|at| at + 3) else {
        return target;
    };
    let length = target[authority..].iter().position(|byte| matches!(byte, b'/' | b'?'));
    let end = authority + length.unwrap_or(target.len() - authority);
    // User information is a name and a password (RFC 9110 §4.2.4).
    match target[authority..end].contains(&b'@') {
        true => out(CUT),
        false => out(&target[..end]),
    }
    &target[end..]
}

fn write_path(path: &[u8], out: &mut dyn FnMut(&[u8])) {
    // What stays is handed on in one piece.
    let (mut written, mut start) = (0, 0);
    let mut is_matrix = None;
    let mut before: &[u8] = b"";
    for (index, segment) in path.split(|byte| *byte == b'/').enumerate() {
        let stays = match index {
            0 => is_harmless(segment),
            _ if *is_matrix.get_or_insert_with(|| is_root(segment)) => is_word(segment, before),
            _ => is_harmless(segment),
        };
        let end = start + segment.len();
        if !stays && !segment.is_empty() {
            out(&path[written..start]);
            out(CUT);
            written = end;
        }
        (before, start) = (segment, end + 1);
    }
    out(&path[written..]);
}

/// Whether what is below this first segment is Matrix' own, however it is spelled.
fn is_root(segment: &[u8]) -> bool {
    let mut at = 0;
    let mut matches = |word: &[u8]| {
        at = 0;
        word.iter().all(|expected| {
            at < segment.len() && {
                let (char, next) = decode(segment, at);
                at = next;
                char.eq_ignore_ascii_case(expected)
            }
        })
    };
    // As beginnings, and what a homeserver might resolve to one: neither makes anything harmless of what follows.
    matches!(segment, b"_matrix" | b"" | b"." | b"..")
        || [&b"_matrix"[..], b"_synapse", b".well-known"].iter().any(|root| matches(root))
}

/// Whether a segment of an operator's own path names no one: it does not begin like a Matrix identifier, and is no secret.
fn is_harmless(segment: &[u8]) -> bool {
    let (first, next) = if segment.is_empty() { (0, 0) } else { decode(segment, 0) };
    let (mut at, mut has_equals) = (next, first == b'=');
    while at < segment.len() {
        let (char, next) = decode(segment, at);
        has_equals |= char == b'=';
        at = next;
    }
    !SIGILS.contains(&first) && !has_equals
}

/// How identifiers begin: rooms, users, events, aliases, groups (Matrix specification, "Common Identifier Format").
const SIGILS: &[u8] = b"!@$#+";

/// Whether a segment of a Matrix path is a word of the specification. `before` is the segment in front of it.
fn is_word(segment: &[u8], before: &[u8]) -> bool {
    is_version(segment)
        // A proposal under trial: `/unstable/org.matrix.msc3575/`.
        || before == b"unstable" && segment.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
        || is_specified(segment)
        || is_known(segment)
}

/// `v3`, `r0`.
fn is_version(segment: &[u8]) -> bool {
    matches!(segment, [b'v' | b'r', digits @ ..] if matches!(digits.len(), 1 | 2) && digits.iter().all(u8::is_ascii_digit))
}

/// Types of events, rules and flows of the specification: `m.room.message`, `.m.rule.master`.
fn is_specified(segment: &[u8]) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'_' | b'.');
    let name = segment.strip_prefix(b".").unwrap_or(segment);
    name.starts_with(b"m.") && name.iter().all(is_plain)
}

/// Whether this is one of [`WORDS`].
fn is_known(segment: &[u8]) -> bool {
    if segment.len() > WORD_BYTES_MAX {
        return false;
    }
    let mut slot = first_slot(segment);
    while let Some(word) = WORDS.get(usize::from(WORD_SLOTS[slot])) {
        if word.as_bytes() == segment {
            return true;
        }
        slot = (slot + 1) % SLOTS;
    }
    false
}

/// Places for [`WORDS`]; five times as many, so that nearly all stand where they are looked for first.
const SLOTS: usize = 1024;

/// No word stands here.
const EMPTY: u8 = u8::MAX;

/// Index of the word at each place: the first that was free from [`first_slot`] on.
const WORD_SLOTS: [u8; SLOTS] = {
    assert!(WORDS.len() < EMPTY as usize);
    let (mut slots, mut word) = ([EMPTY; SLOTS], 0);
    while (word as usize) < WORDS.len() {
        let mut slot = first_slot(WORDS[word as usize].as_bytes());
        while slots[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = word;
        word += 1;
    }
    slots
};

/// Where a word is looked for first, by all its letters (FNV-1a).
const fn first_slot(word: &[u8]) -> usize {
    let (mut hash, mut at) = (0x811c_9dc5_u32, 0);
    while at < word.len() {
        hash = (hash ^ word[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    (hash >> 16) as usize % SLOTS
}

/// Length of the longest of [`WORDS`], in bytes.
const WORD_BYTES_MAX: usize = WORDS[WORDS.len() - 1].len();

/// Segments of the specification's paths, shorter ones first.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "add", "all", "api", "app", "ban", "cas", "key", "rtc", "set", "sso", "web", "3pid", "auth", "bind",
    "join", "keys", "kick", "list", "lock", "oidc", "ping", "push", "read", "room", "send", "sync", "tags",
    "user", "voip", "admin", "check", "claim", "email", "event", "knock", "leave", "login", "media",
    "query", "renew", "rooms", "saml2", "state", "terms", "unban", "users", "whois", "backup", "client",
    "config", "create", "delete", "events", "filter", "forget", "global", "health", "invite", "logout",
    "lookup", "matrix", "msisdn", "notify", "onbind", "openid", "policy", "pubkey", "redact", "report",
    "search", "sender", "server", "static", "status", "ticket", "typing", "unbind", "upload", "whoami",
    "_matrix", "account", "actions", "aliases", "archive", "changes", "consent", "content", "context",
    "devices", "enabled", "isvalid", "members", "metrics", "network", "profile", "pushers", "receipt",
    "refresh", "room_id", "summary", "support", "suspend", "threads", "upgrade", "version", "_synapse",
    "backfill", "callback", "download", "edutypes", "fallback", "identity", "location", "messages",
    "override", "password", "pick_idp", "presence", "protocol", "redirect", "register", "unstable",
    "userinfo", "validate", "validity", "versions", "available", "directory", "ephemeral", "get_token",
    "hierarchy", "make_join", "protocols", "pushrules", "relations", "room_keys", "send_join", "state_ids",
    "thumbnail", "underride", "appservice", "avatar_url", "createRoom", "deactivate", "event_auth",
    "federation", "make_knock", "make_leave", "query_auth", "rendezvous", "send_knock", "send_leave",
    "signatures", "thirdparty", "transports", "turnServer", ".well-known", "auth_issuer", "displayname",
    "extremities", "initialSync", "preview_url", "publicRooms", "submitToken", "unsubscribe",
    "account_data", "capabilities", "hash_details", "joined_rooms", "metadata.xml", "mutual_rooms",
    "read_markers", "requestToken", "room_summary", "sendToDevice", "sign-ed25519", "sso_register",
    "store-invite", "submit_token", "transactions", "auth_metadata", "notifications", "pick_username",
    "request_token", "acme-challenge", "authn_response", "delayed_events", "delete_devices",
    "device_signing", "joined_members", "password_reset", "user_directory", "account_validity",
    "getValidated3pid", "new_user_consent", "dehydrated_device", "backchannel_logout", "get_missing_events",
    "timestamp_to_event", "openid-configuration", "exchange_third_party_invite",
];

fn write_parameter(parameter: &[u8], out: &mut dyn FnMut(&[u8])) {
    let is_plain = |text: &[u8]| {
        (1..=PLAIN_BYTES_MAX).contains(&text.len())
            && text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
    };
    let Some(equals) =
        parameter.iter().position(|byte| *byte == b'=').filter(|at| is_plain(&parameter[..*at]))
    else {
        return if !parameter.is_empty() {
            out(CUT)
        };
    };
    let (name, value) = (&parameter[..equals], &parameter[equals + 1..]);
    let mut word = Word::default();
    name.iter().for_each(|byte| word.push(*byte));
    out(&parameter[..=equals]);
    match value {
        _ if word.is_secret() => out(MASK),
        _ if value.is_empty() || TELLING_NOTHING.contains(&name) && is_plain(value) => out(value),
        _ => out(CUT),
    }
}

/// The longest name or value of a parameter that is written down as it is, in bytes: those of the specification are shorter,
/// and what is longer is something else.
const PLAIN_BYTES_MAX: usize = 40;

/// Parameters whose values are the same for many.
const TELLING_NOTHING: &[&[u8]] = &[
    b"timeout",
    b"limit",
    b"dir",
    b"set_presence",
    b"full_state",
    b"use_state_after",
    b"width",
    b"height",
    b"method",
    b"animated",
    b"allow_redirect",
    b"allow_remote",
    b"timeout_ms",
    b"max_depth",
    b"suggested_only",
    b"kind",
    b"recurse",
    b"membership",
    b"not_membership",
    b"omit_members",
];

/// The last letters of a name: letters shift in from the right, those of 16 before fall out.
#[derive(Default)]
struct Word {
    letters: u128,
    length: usize,
}

impl Word {
    fn push(&mut self, char: u8) {
        match char {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => {
                self.letters = self.letters << 8 | u128::from(char.to_ascii_lowercase());
                self.length += 1;
            }
            _ => *self = Word::default(),
        }
    }

    fn is_secret(&self) -> bool {
        let ends_like = |(letters, length): &(u128, usize)| {
            self.length >= *length && self.letters & (u128::MAX >> (128 - 8 * length)) == *letters
        };
        SECRET_ENDINGS.iter().any(ends_like)
            || SECRET_NAMES.iter().any(|name| name.1 == self.length && ends_like(name))
    }
}

/// Letters as [`Word`] holds them, and how many.
const fn letters(name: &[u8]) -> (u128, usize) {
    assert!(name.len() <= 16, "a word holds 16 letters");
    let (mut letters, mut at) = (0, 0);
    while at < name.len() {
        letters = letters << 8 | name[at] as u128;
        at += 1;
    }
    (letters, name.len())
}

/// How names of secrets end, in lower case. `access_token`, `loginToken`, `refresh_token`, `id_token_hint`'s relative `id_token`
/// and the `token` of registration and of validation mails; `client_secret`; `new_password`; the `ticket` of CAS and the `code`
/// of OAuth 2.0, with `device_code` and `user_code`.
const SECRET_ENDINGS: [(u128, usize); 7] = [
    letters(b"token"),
    letters(b"secret"),
    letters(b"password"),
    letters(b"passwd"),
    letters(b"ticket"),
    letters(b"code"),
    letters(b"token_hint"),
];

/// Names of other secrets: the session of a validation (`sid`) or of a login (`session`), `state` and `nonce` of OpenID
/// Connect, both of SAML, the signatures of a shared secret (`mac`) and of a consent (`h`), and passwords by their usual names.
const SECRET_NAMES: [(u128, usize); 14] = [
    letters(b"sid"),
    letters(b"session"),
    letters(b"session_id"),
    letters(b"state"),
    letters(b"nonce"),
    letters(b"samlresponse"),
    letters(b"relaystate"),
    letters(b"mac"),
    letters(b"h"),
    letters(b"jwt"),
    letters(b"assertion"),
    letters(b"signature"),
    letters(b"apikey"),
    letters(b"api_key"),
];

/// The character at `at`, out of its percent-encodings (RFC 3986 §2.1), and where the next one stands.
fn decode(bytes: &[u8], at: usize) -> (u8, usize) {
    decode_nested(bytes, at, NESTING_MAX)
}

/// How often an encoding is looked into: a link in a link in a link. Bounds the work for each byte.
const NESTING_MAX: usize = 3;

fn decode_nested(bytes: &[u8], at: usize, nesting: usize) -> (u8, usize) {
    let (mut char, mut next) = (bytes[at], at + 1);
    // `%253D` is `%3D` is `=`, and so is `%25%33%44`.
    for _ in 0..nesting {
        let digit = |at: usize| {
            let (char, next) = (at < bytes.len()).then(|| decode_nested(bytes, at, nesting - 1))?;
            Some((u8::try_from(char::from(char).to_digit(16)?).ok()?, next))
        };
        let digits = || {
            let (high, next) = (char == b'%').then(|| digit(next))??;
            let (low, next) = digit(next)?;
            Some((high << 4 | low, next))
        };
        let Some(decoded) = digits() else { break };
        (char, next) = decoded;
    }
    (char, next)
}

#[cfg(test)]
mod tests;
