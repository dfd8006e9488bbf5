//! [`is_admin`] against lists of spellings, and against a naive enumeration of the ways to read a path.

use std::collections::BTreeSet;

use super::*;

#[test]
fn plain_administrative_paths_are_closed_on_segment_boundaries() {
    for path in [
        "/_synapse/admin",
        "/_synapse/admin/",
        "/_synapse/admin/v1/users/@a:b",
        "/_synapse/metrics",
        "/_synapse/replication/fed_send_edu/1",
        "/_synapse/mas/sync_devices",
        "/_palpo/admin/v1/rooms",
        "/_dendrite/admin/resetPassword/@a:b",
        "/_dendrite/monitor/up",
        "/_dendrite",
    ] {
        assert!(is_admin(path.as_bytes()), "{path}");
    }
}

#[test]
fn paths_of_matrix_and_of_web_sites_stay_open() {
    for path in [
        "",
        "*",
        "/",
        "/_matrix/client/versions",
        "/_matrix/client/v3/sync",
        "/_matrix/client/v3/admin/whois/@a:b",
        "/_matrix/client/v3/rooms/!r%2Fx:hs.example/send/m.room.message/1.2",
        "/_matrix/client/v3/directory/room/%23a%2F%3F%3B%25b:hs.example",
        "/_matrix/client/v3/rooms/!r:hs/state/m.room.name/",
        "/_matrix/client/v3/rooms/!r:hs/state/x/%2F_synapse%2Fadmin",
        "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
        "/_matrix/client/v3/rooms/!a:b/read_markers",
        "/_matrix/media/v3/download/hs.example/a..b",
        "/_matrix/client/v3/profile/@_discord_1:hs",
        "/_synapse/client/pick_idp",
        "/_synapse/client/oidc/callback",
        "/_synapse",
        "/_synapse/administrator",
        "/_synapse/admin2/x",
        "/_synapse/x/admin",
        "/_palpo/client",
        "/_dendriteX",
        "/admin",
        "/wiki/../admin",
        "/files/_synapse/admin",
    ] {
        assert!(!is_admin(path.as_bytes()), "{path}");
    }
}

#[test]
fn every_spelling_that_some_server_reads_as_administrative_is_closed() {
    for path in [
        // Letters as escapes, once and twice, and in the ways in which a second decoding builds an escape.
        "/%5fsynapse/admin",
        "/%5Fsynapse/%61dmin/v1/users",
        "/%255fsynapse/admin",
        "/%25%35fsynapse/admin",
        "/%%35fsynapse/admin",
        "/%5%66synapse/admin",
        "/_synapse/adm%69n",
        // Separators.
        "//_synapse//admin",
        "/_synapse%2fadmin",
        "/_synapse%2Fadmin%2Fv1",
        "/_synapse%252fadmin",
        "%2f_synapse/admin",
        "/_synapse\\admin",
        "/_synapse%5cadmin",
        "\\_synapse\\admin",
        "/./_synapse/./admin",
        "/%2e/_synapse/%2E/admin",
        // Climbing.
        "/_matrix/../_synapse/admin/v1",
        "/_matrix/%2e%2e/_synapse/admin",
        "/_matrix/%252e%252e/_synapse/admin",
        "/_matrix/..%2f_synapse%2fadmin",
        "/_matrix/client/../../_synapse/admin",
        "/_matrix/x/..\\..\\_synapse\\admin",
        "/_matrix/x/..%5c..%5c_synapse/admin",
        "/_synapse/client/../admin/v1/users",
        "/_synapse/client/%2e%2e/admin",
        "/_synapse//../admin",
        "/_synapse/admin/..",
        "/_synapse/admin/\\..",
        "/%5fsynapse/admin/%5c..",
        "/x/../_dendrite/admin",
        "/../_palpo/admin",
        "/_matrix/..;/_synapse/admin",
        "/_matrix/.%2e/_synapse/admin",
        "/;%5cx/_synapse/admin",
        "/_matrix/..%00/_synapse/admin",
        "/_matrix/.%09./_synapse/admin",
        // Case.
        "/_Synapse/ADMIN",
        "/_PALPO/Admin/v1",
        "/%5FSYNAPSE/admin",
        // Path parameters, and what ends a path for servers that decode first.
        "/_synapse;a=b/admin;c",
        "/_synapse;%2fx/admin",
        "/;/_synapse/admin",
        "/_synapse/admin%3fx=y",
        "/_synapse/admin%23x",
        "/_synapse/admin#x",
        "/_synapse/admin%00",
        "/_synapse/admin%00.html",
        // Bytes that URL parsers drop.
        "/_syn%09apse/admin",
        "/_synapse/adm%0ain",
        "/_synapse/admin%20",
        "/%20_synapse/admin",
        "/_%09synapse/admin",
        "/_synapse/client/.%00./admin",
        "/_synapse/client/..%2F/%00admin%20",
        "/%00_synapse/admin",
        "/_syn%2500apse/admin",
        // What a URL reference takes for an authority.
        "//host/_synapse/admin",
        "/\\host/_palpo/admin",
        "//host:80/x/../_synapse/admin",
        "/%2fhost/_synapse/admin",
        "/;x/host/_synapse/admin",
        "/%09/host/_synapse/admin",
        // Parameters that are cut between two decodings.
        "/_syn%2561pse%3b%252fx/admin",
    ] {
        assert!(is_admin(path.as_bytes()), "{path}");
    }
}

#[test]
fn every_reading_of_every_short_path_is_covered() {
    for_each_path(&TOKENS, 3, &mut |path| check_against_readings(path));
}

#[test]
fn every_reading_of_random_paths_is_covered() {
    let seed = 0x5eed_0012;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for _ in 0..20_000 {
        let mut path = Vec::new();
        for _ in 0..random.below(14) {
            path.extend_from_slice(TOKENS[random.below(TOKENS.len())].as_bytes());
        }
        check_against_readings(&path);
    }
}

#[test]
fn the_sieve_only_passes_what_the_walk_passes() {
    let seed = 0x5eed_0013;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for _ in 0..50_000 {
        let mut path = b"/_matrix/".to_vec();
        for _ in 0..random.below(12) {
            path.extend_from_slice(TOKENS[random.below(TOKENS.len())].as_bytes());
        }
        if is_plain_matrix(&path) {
            let raw = path.iter().copied();
            let text = String::from_utf8_lossy(&path);
            assert!(!leads_to_admin(raw.clone()), "{text}");
            assert!(!leads_to_admin(Decoded(raw.clone())), "{text}");
            assert!(!leads_to_admin(Decoded(Decoded(raw))), "{text}");
        }
    }
}

/// Pieces out of which tests build paths.
const TOKENS: [&str; 24] = [
    "/",
    "/_synapse",
    "_synapse",
    "/admin",
    "admin",
    "_dendrite",
    "/_matrix",
    "/x",
    "..",
    "/..",
    ".",
    "\\",
    "%2f",
    "%5c",
    "%2e",
    "%5f",
    "%25",
    "5f",
    "2e",
    ";",
    "%00",
    "%09",
    "S",
    "%3f",
];

/// If some reading finds an administrative path, so must we; and where we do, a reading must, or the path climbs or has backslashes.
fn check_against_readings(path: &[u8]) {
    let text = String::from_utf8_lossy(path);
    let by_reading = readings(path).iter().any(|reading| is_plainly_admin(reading));
    let ours = is_admin(path);
    assert!(ours || !by_reading, "a reading of {text} is administrative");
    let ambiguous = (0..3).any(|times| {
        let view = String::from_utf8_lossy(&decode_times(path, times)).replace('\t', "");
        let cut = cut_segments(view.as_bytes());
        let mut leading =
            cut.split(|byte| *byte == b'/').take_while(|segment| matches!(*segment, b"" | b"."));
        view.contains("..") || view.contains(['\\', ';', '?', '#', '\0']) || leading.nth(1).is_some()
    });
    assert!(!ours || by_reading || ambiguous, "no reading of {text} is administrative");
}

/// The prefix rule on a path that needs no interpretation any more.
fn is_plainly_admin(path: &[u8]) -> bool {
    let path = path.to_ascii_lowercase();
    ADMIN_PREFIXES.iter().any(|prefix| {
        path.strip_prefix(prefix.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

/// What a path may mean: after no, one or two decodings, and after each of these steps or without it.
fn readings(path: &[u8]) -> BTreeSet<Vec<u8>> {
    let starts = [Some(path.to_vec()), without_authority(path)];
    let mut readings: BTreeSet<_> =
        starts.iter().flatten().flat_map(|start| (0..3).map(|times| decode_times(start, times))).collect();
    for step in [
        drop_blanks,
        drop_nul,
        separate_at_backslashes,
        end_at_query,
        cut_segments,
        merge_slashes,
        resolve_dots,
    ] {
        let changed: Vec<_> = readings.iter().map(|reading| step(reading)).collect();
        readings.extend(changed);
    }
    readings
}

/// RFC 3986 §5.2.2: what begins with two slashes has an authority, up to the next one.
fn without_authority(path: &[u8]) -> Option<Vec<u8>> {
    let path = separate_at_backslashes(path);
    let rest = path.strip_prefix(b"//")?;
    let authority = rest.split(|byte| *byte == b'/').next()?.len();
    Some(rest[authority..].to_vec())
}

fn drop_nul(path: &[u8]) -> Vec<u8> {
    path.iter().copied().filter(|byte| *byte != 0).collect()
}

/// NUL stays: it ends a string of C.
fn drop_blanks(path: &[u8]) -> Vec<u8> {
    path.iter().copied().filter(|byte| *byte > b' ' || *byte == 0).collect()
}

fn separate_at_backslashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect()
}

fn end_at_query(path: &[u8]) -> Vec<u8> {
    path.split(|byte| matches!(byte, b'?' | b'#' | 0)).next().unwrap().to_vec()
}

fn cut_segments(path: &[u8]) -> Vec<u8> {
    let ends = |byte: &u8| matches!(byte, b';' | b'?' | b'#' | 0);
    let segments: Vec<_> =
        path.split(|byte| *byte == b'/').map(|segment| segment.split(ends).next().unwrap()).collect();
    segments.join(&b'/')
}

fn merge_slashes(path: &[u8]) -> Vec<u8> {
    rooted(path.split(|byte| *byte == b'/'))
}

fn resolve_dots(path: &[u8]) -> Vec<u8> {
    let mut resolved = Vec::new();
    for segment in path.split(|byte| *byte == b'/') {
        match segment {
            b"." => {}
            b".." => drop(resolved.pop()),
            other => resolved.push(other),
        }
    }
    rooted(resolved.into_iter())
}

fn rooted<'a>(segments: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    segments.filter(|segment| !segment.is_empty()).flat_map(|segment| [b"/", segment].concat()).collect()
}

fn decode_times(path: &[u8], times: u32) -> Vec<u8> {
    let mut path = path.to_vec();
    for _ in 0..times {
        path = decode_naively(&path);
    }
    path
}

fn decode_naively(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let digits = path.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let is_hex = |digits: &&str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        match digits.filter(is_hex) {
            Some(digits) if path[at] == b'%' => {
                decoded.push(u8::from_str_radix(digits, 16).unwrap());
                at += 3;
            }
            _ => {
                decoded.push(path[at]);
                at += 1;
            }
        }
    }
    decoded
}

/// Calls `check` with every concatenation of up to `tokens_max` tokens.
fn for_each_path(tokens: &[&str], tokens_max: u32, check: &mut impl FnMut(&[u8])) {
    let base = tokens.len();
    for length in 0..=tokens_max {
        for number in 0..base.pow(length) {
            let mut path = Vec::new();
            let mut rest = number;
            for _ in 0..length {
                path.extend_from_slice(tokens[rest % base].as_bytes());
                rest /= base;
            }
            check(&path);
        }
    }
}

/// xorshift64*: enough for tests, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(mixed).unwrap() % bound
    }
}
