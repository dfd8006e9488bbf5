//! Administrative paths against every way in which a server may read a path, and classes against the paths spelled
//! out.
//!
//! A reading is what comes of any of the steps below in any order, after decoding as often as `matrix` says that it is
//! reckoned with. If one of them is administrative, so is the path for us. The other way round, what is closed has to
//! hold the name of an administrative path.

use std::collections::BTreeSet;

use ringfence_matrix::{ADMIN_PREFIXES, EndpointClass, classify, is_admin};

/// Longest path that is looked at, in bytes: the readings grow with it.
const PATH_BYTES_MAX: usize = 96;

/// Decodings that servers in a row may make.
const DECODINGS_MAX: usize = 2;

/// The path is what follows the first byte, which picks the method.
pub fn matrix_path(input: &[u8]) {
    let Some((method, path)) = input.split_first() else { return };
    let path = &path[..path.len().min(PATH_BYTES_MAX)];
    let method = METHODS[usize::from(*method) % METHODS.len()];
    check_admin(path);
    assert_eq!(
        classify(method, path),
        class(method, path),
        "{} {}",
        method.escape_ascii(),
        path.escape_ascii()
    );
}

const METHODS: [&[u8]; 8] = [b"GET", b"PUT", b"POST", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"get"];

fn check_admin(path: &[u8]) {
    let views: Vec<_> = (0..=DECODINGS_MAX).map(|times| decode_times(path, times)).collect();
    let reading = views.iter().flat_map(|view| readings(view)).find(|reading| is_plainly_admin(reading));
    match (is_admin(path), reading) {
        (false, Some(reading)) => panic!("{} can be read as {}", path.escape_ascii(), reading.escape_ascii()),
        (true, None) => {
            assert!(views.iter().any(|view| names_admin(view)), "{} is closed", path.escape_ascii())
        }
        _ => {}
    }
}

/// Every reading of a path that needs no decoding any more.
fn readings(path: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut readings = BTreeSet::from([path.to_ascii_lowercase()]);
    let mut fresh: Vec<_> = readings.iter().cloned().collect();
    while let Some(reading) = fresh.pop() {
        // What servers do to a path besides decoding it.
        for step in [
            drop_blanks,
            drop_nul,
            end_at_nul,
            turn_backslashes,
            end_at_query,
            cut_parameters,
            merge_slashes,
            resolve_dots,
            leave_authority,
        ] {
            let changed = step(&reading);
            if readings.insert(changed.clone()) {
                fresh.push(changed);
            }
        }
    }
    readings
}

fn drop_blanks(path: &[u8]) -> Vec<u8> {
    path.iter().copied().filter(|byte| *byte == 0 || !(*byte <= b' ' || *byte == 0x7f)).collect()
}

fn drop_nul(path: &[u8]) -> Vec<u8> {
    path.iter().copied().filter(|byte| *byte != 0).collect()
}

/// Behind a NUL a string of C ends.
fn end_at_nul(path: &[u8]) -> Vec<u8> {
    path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

fn turn_backslashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect()
}

fn end_at_query(path: &[u8]) -> Vec<u8> {
    path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default().to_vec()
}

fn cut_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let cut = segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default());
    cut.collect::<Vec<_>>().join(&b'/')
}

fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let mut merged = path.to_vec();
    merged.dedup_by(|next, before| *next == b'/' && *before == b'/');
    merged
}

/// RFC 3986 §5.2.4, on whole segments; an empty one counts as a segment.
fn resolve_dots(path: &[u8]) -> Vec<u8> {
    let mut resolved: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/') {
        match segment {
            b"." => {}
            b".." => {
                if resolved.len() > 1 {
                    resolved.pop();
                }
            }
            other => resolved.push(other),
        }
    }
    resolved.join(&b'/')
}

/// Two slashes at the start of a URL reference introduce an authority (RFC 3986 §4.2).
fn leave_authority(path: &[u8]) -> Vec<u8> {
    let Some(rest) = path.strip_prefix(b"//") else { return path.to_vec() };
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    rest[end..].to_vec()
}

/// The prefixes, on segments, with or without the slash in front.
fn is_plainly_admin(path: &[u8]) -> bool {
    ADMIN_PREFIXES.iter().any(|prefix| {
        let rest =
            path.strip_prefix(prefix.as_bytes()).or_else(|| path.strip_prefix(&prefix.as_bytes()[1..]));
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

/// Whether the first segment of a prefix occurs.
fn names_admin(view: &[u8]) -> bool {
    let text = drop_nul(&drop_blanks(&view.to_ascii_lowercase()));
    [&b"_synapse"[..], b"_palpo", b"_dendrite"]
        .iter()
        .any(|name| text.windows(name.len()).any(|part| part == *name))
}

fn decode_times(path: &[u8], times: usize) -> Vec<u8> {
    (0..times).fold(path.to_vec(), |path, _| decode(&path))
}

/// Percent-decoding (RFC 3986 §2.1); what is no escape stays.
fn decode(path: &[u8]) -> Vec<u8> {
    let digit = |at: usize| path.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut at) = (Vec::new(), 0);
    while let Some(byte) = path.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.extend(u8::try_from(high * 16 + low));
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    decoded
}

/// The class, by the segments spelled out (Synapse's worker documentation).
fn class(method: &[u8], path: &[u8]) -> EndpointClass {
    use EndpointClass as Class;
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let (reads, writes) =
        (matches!(method, b"GET" | b"HEAD"), matches!(method, b"POST" | b"PUT" | b"DELETE"));
    if method == b"OPTIONS" {
        return Class::Other;
    }
    match &segments[..] {
        [b"", b"_matrix", b"client", rest @ ..] => client_class(behind_version(rest), reads, writes),
        [b"", b"_matrix", b"federation", rest @ ..] if !rest.is_empty() => match behind_version(rest) {
            [b"send", _] if writes => Class::FederationSend,
            [b"media", ..] if reads => Class::MediaDownload,
            _ => Class::FederationRead,
        },
        [b"", b"_matrix", b"media", rest @ ..] if !rest.is_empty() && reads => Class::MediaDownload,
        [b"", b"_matrix", b"media", rest @ ..] if !rest.is_empty() && writes => Class::MediaUpload,
        [b"", b"_matrix", b"key", rest @ ..] if !rest.is_empty() => Class::KeyServer,
        [b"", b".well-known", b"matrix", _, ..] => Class::WellKnown,
        [b"", b"_synapse", b"client", rest @ ..] => match rest {
            [b"pick_idp" | b"new_user_consent" | b"sso_register"] => Class::Login,
            [b"pick_username", ..] | [b"oidc", b"callback"] | [b"saml2", b"authn_response"] => Class::Login,
            _ => Class::Other,
        },
        _ => Class::Other,
    }
}

fn client_class(rest: &[&[u8]], reads: bool, writes: bool) -> EndpointClass {
    use EndpointClass as Class;
    match rest {
        [b"sync" | b"events" | b"initialSync"] | [b"rooms", _, b"initialSync"] => Class::Sync,
        [b"rooms", _, b"send" | b"redact" | b"state", ..] if writes => Class::Send,
        [b"rooms", _, b"join" | b"invite" | b"leave" | b"ban" | b"unban" | b"kick"] if writes => Class::Send,
        [b"join" | b"knock", _] | [b"profile", ..] if writes => Class::Send,
        [b"keys" | b"room_keys", ..] => Class::Keys,
        [b"login", ..] => Class::Login,
        [b"register", ..] => Class::Register,
        [b"media", ..] if reads => Class::MediaDownload,
        [b"media", ..] if writes => Class::MediaUpload,
        _ => Class::Other,
    }
}

/// Without the version: `v3`, `api/v1`, or `unstable/org.example.feature`.
fn behind_version<'p>(segments: &'p [&'p [u8]]) -> &'p [&'p [u8]] {
    match segments {
        [b"api", _, rest @ ..] => rest,
        [b"unstable", feature, rest @ ..] if feature.contains(&b'.') => rest,
        [_, rest @ ..] => rest,
        [] => &[],
    }
}
