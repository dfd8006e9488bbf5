use super::*;

fn masked(target: &str) -> String {
    let mut written = Vec::new();
    without_secrets(target.as_bytes(), &mut |piece| written.extend_from_slice(piece));
    String::from_utf8(written).unwrap()
}

fn cut(target: &str) -> String {
    let mut written = Vec::new();
    without_identifiers(target.as_bytes(), &mut |piece| written.extend_from_slice(piece));
    String::from_utf8(written).unwrap()
}

/// Each parameter of the specification that carries a secret, and Synapse's own.
const SECRETS: [&str; 19] = [
    "access_token",
    "loginToken",
    "token",
    "refresh_token",
    "client_secret",
    "sid",
    "session",
    "code",
    "state",
    "ticket",
    "SAMLResponse",
    "RelayState",
    "nonce",
    "mac",
    "h",
    "password",
    "id_token_hint",
    "device_code",
    "user_code",
];

/// All bytes in percent-encoding.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[test]
fn a_secret_never_gets_through_however_its_name_is_spelled() {
    for name in SECRETS {
        for spelled in [
            name.to_owned(),
            name.to_uppercase(),
            encoded(name),
            encoded(&encoded(name)),
            name.replace('_', "%5F"),
        ] {
            for target in [
                format!("/_matrix/x?{spelled}=SEKRIT"),
                format!("/_matrix/x?a=1&{spelled}=SEKRIT&b=2"),
                format!("/_matrix/x?a=1;{spelled}=SEKRIT;b=2"),
                format!("/_matrix/x?a?{spelled}=SEKRIT"),
                format!("/_matrix/x&{spelled}=SEKRIT"),
                format!("/_matrix/x;{spelled}=SEKRIT"),
                format!("/_matrix/x#{spelled}=SEKRIT"),
                format!("/?{spelled}=SEKRIT"),
                format!("/element/;{spelled}=SEKRIT/x"),
                format!("http://example.com/x?{spelled}=SEKRIT"),
                format!("http://example.com?{spelled}=SEKRIT"),
                format!("/x?redirectUrl=https%3A%2F%2Fa%2F%3F{spelled}%3DSEKRIT%26b%3D1&c=2"),
                format!("/x?redirectUrl={}&c=2", encoded(&format!("https://a/?{spelled}=SEKRIT"))),
                format!("/x?a={}", encoded(&encoded(&format!("https://a/?{spelled}=SEKRIT")))),
                format!("/x?{spelled}%3dSEKRIT"),
            ] {
                for written in [masked(&target), cut(&target)] {
                    assert!(!written.contains("SEKRIT"), "{target} became {written}");
                    assert!(!written.contains(&encoded("SEKRIT")), "{target} became {written}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_secret_stays_byte_for_byte() {
    for target in [
        "/_matrix/client/v3/sync?since=s72594_4483_1934&timeout=30000&filter=%7B%22room%22%3A1%7D",
        "/_matrix/client/v3/rooms/!a%3Ab/messages?from=t1-2&dir=b&limit=50",
        "/_matrix/a%2F?b=\"c\"",
        "/%",
        "/%2",
        "/x?%25",
        "/x?=&&=",
        "*",
        "",
    ] {
        assert_eq!(masked(target), target);
    }
}

#[test]
fn the_mask_stands_for_the_value_alone() {
    assert_eq!(
        masked("/_matrix/client/v3/sync?access_token=syt_abc&timeout=0"),
        "/_matrix/client/v3/sync?access_token=<redacted>&timeout=0"
    );
    assert_eq!(masked("/x?a=1&access%5ftoken=b"), "/x?a=1&access%5ftoken=<redacted>");
    assert_eq!(
        masked("/sso?redirectUrl=https%3A%2F%2Fe%2F%3FloginToken%3Dx%26y"),
        "/sso?redirectUrl=https%3A%2F%2Fe%2F%3FloginToken%3D<redacted>"
    );
}

#[test]
fn targets_without_identifiers_tell_the_endpoint_and_nobody() {
    for (target, expected) in [
        (
            "/_matrix/client/v3/rooms/!r:hs/send/m.room.message/m1700.1",
            "/_matrix/client/v3/rooms/*/send/m.room.message/*",
        ),
        (
            "/_matrix/client/v3/rooms/%21r%3Ahs/state/m.room.member/@u:hs",
            "/_matrix/client/v3/rooms/*/state/m.room.member/*",
        ),
        ("/_matrix/client/v3/rooms/!r:hs/state/org.example.private/", "/_matrix/client/v3/rooms/*/state/*/"),
        (
            "/_matrix/client/v3/sync?since=s7_2&timeout=30000&set_presence=offline",
            "/_matrix/client/v3/sync?since=*&timeout=30000&set_presence=offline",
        ),
        (
            "/_matrix/client/v3/sync?filter={\"room\":1}&access_token=x",
            "/_matrix/client/v3/sync?filter=*&access_token=<redacted>",
        ),
        ("/_matrix/client/v3/keys/upload/JLAFKJWSCS", "/_matrix/client/v3/keys/upload/*"),
        ("/_matrix/client/v3/devices/my-laptop", "/_matrix/client/v3/devices/*"),
        (
            "/_matrix/client/unstable/org.matrix.msc3575/sync",
            "/_matrix/client/unstable/org.matrix.msc3575/sync",
        ),
        (
            "/_matrix/client/v1/media/download/matrix.org/AbCdEf?timeout_ms=20000",
            "/_matrix/client/v1/media/download/*/*?timeout_ms=20000",
        ),
        (
            "/_matrix/media/v3/thumbnail/hs/AbC?width=96&height=96&method=crop",
            "/_matrix/media/v3/thumbnail/*/*?width=96&height=96&method=crop",
        ),
        ("/_matrix/federation/v1/send/1700000000000", "/_matrix/federation/v1/send/*"),
        ("/_matrix/federation/v2/send_join/!r:hs/$e", "/_matrix/federation/v2/send_join/*/*"),
        ("/_matrix/key/v2/server", "/_matrix/key/v2/server"),
        ("/_matrix/client/v3/user/@u:hs/filter/5", "/_matrix/client/v3/user/*/filter/*"),
        (
            "/_matrix/client/v3/pushrules/global/override/.m.rule.master/enabled",
            "/_matrix/client/v3/pushrules/global/override/.m.rule.master/enabled",
        ),
        ("/_matrix/client/v3/profile/@u:hs/displayname", "/_matrix/client/v3/profile/*/displayname"),
        ("/.well-known/matrix/client", "/.well-known/matrix/client"),
        ("/.well-known/acme-challenge/LoqXcYV8", "/.well-known/acme-challenge/*"),
        (
            "/_synapse/client/oidc/callback?code=c&state=s",
            "/_synapse/client/oidc/callback?code=<redacted>&state=<redacted>",
        ),
        ("//_matrix/client/v3/devices/LAPTOP", "//_matrix/client/v3/devices/*"),
        ("/%5Fmatrix/client/v3/devices/LAPTOP", "/*/client/v3/devices/*"),
        ("/", "/"),
        ("*", "*"),
        ("/bundles/app.0123abc.js", "/bundles/app.0123abc.js"),
        ("/wp-login.php?a=b&c", "/wp-login.php?a=*&*"),
        ("/a//b/", "/a//b/"),
        ("/!room:example.org", "/*"),
        ("/to/%40user:example.org", "/to/*"),
        (
            "http://matrix.example.com/_matrix/client/v3/join/x",
            "http://matrix.example.com/_matrix/client/v3/join/*",
        ),
        ("http://user:pass@example.com/x", "*/x"),
        ("https://app.element.io/", "https://app.element.io/"),
    ] {
        assert_eq!(cut(target), expected, "{target}");
    }
}

#[test]
fn no_identifier_gets_through_in_any_segment() {
    for identifier in [
        "!room:hs",
        "@user:hs",
        "$event",
        "#alias:hs",
        "DEVICE",
        "AbCdEfGhIjKl",
        "m1234.5",
        "laptop",
        "hs.example.org",
    ] {
        for id in [identifier.to_owned(), encoded(identifier), encoded(&encoded(identifier))] {
            for target in [
                format!("/_matrix/client/v3/rooms/{id}/join"),
                format!("/_matrix/client/v3/devices/{id}"),
                format!("/_matrix/client/v3/{id}"),
                format!("/_matrix/{id}/{id}/{id}?{id}={id}&{id}&user_id={id}&via={id}"),
                format!("/_synapse/admin/v1/{id}"),
                format!("//_matrix/{id}"),
                format!("/./_matrix/{id}"),
            ] {
                let written = cut(&target);
                // A plain name of a parameter stays.
                let written = written.replace(&format!("?{id}=*"), "");
                assert!(!written.contains(&id), "{target} became {written}");
            }
        }
    }
}

#[test]
fn words_are_in_their_order() {
    assert!(WORDS.is_sorted_by(|one, next| (one.len(), one) < (next.len(), next)));
    for word in WORDS {
        assert!(is_word(word.as_bytes(), b""), "{word}");
    }
}

#[test]
fn what_is_nearly_a_word_is_none() {
    for word in WORDS {
        for at in 0..word.len() {
            let mut other = word.as_bytes().to_vec();
            for byte in [b'a', b'Z', b'_', b'0', 0xff] {
                other[at] = byte;
                assert_eq!(is_known(&other), WORDS.iter().any(|word| word.as_bytes() == other), "{other:?}");
            }
            let (front, back) = word.split_at(at);
            for part in [front, back] {
                assert_eq!(is_known(part.as_bytes()), WORDS.contains(&part), "{part}");
            }
        }
    }
}

#[test]
fn the_work_grows_with_the_length_alone() {
    let begun = std::time::Instant::now();
    for piece in ["%", "%2", "%25", "%25%32", "%25%32%35", "%2525%32", "=%3D", "a="] {
        let _ = masked(&piece.repeat(8192 / piece.len()));
        let _ = cut(&format!("/x/{}", piece.repeat(8192 / piece.len())));
    }
    // 16 targets of the largest length: some ten milliseconds in a debug build, minutes if it were quadratic.
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

#[test]
fn any_bytes_are_taken() {
    let all: Vec<u8> = (0..=255).collect();
    for length in 0..all.len() {
        for write in [without_secrets, without_identifiers] {
            let mut bytes = 0;
            write(&all[length..], &mut |piece| bytes += piece.len());
            assert!(bytes > 0);
        }
    }
}
