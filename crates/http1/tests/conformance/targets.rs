//! Request targets from Matrix and from hell: kept byte for byte, or refused (RFC 9112 §3.2).

use ringfence_http1::{HeadError, HeadLimits, RequestHead};

/// Each stands in a head and has to come out as the same bytes, as target and as what the origin is sent.
#[test]
fn targets_are_kept_byte_for_byte() {
    for target in TARGETS.iter().map(|target| (*target).to_owned()).chain([long_target()]) {
        let head = head("GET", target.as_bytes());
        let mut request = RequestHead::with_capacity(8);
        assert_eq!(request.parse(&head, &HeadLimits::default()), Ok(()), "{target}");
        assert_eq!(request.target().of(&head), target.as_bytes());
        assert_eq!(request.path_and_query().of(&head), target.as_bytes());
        assert_eq!(request.path_prefix(), b"");
        assert_eq!(request.start_line().of(&head), format!("GET {target} HTTP/1.1\r\n").as_bytes());
    }
    assert!(TARGETS.len() >= 60);
}

#[test]
fn every_visible_byte_but_the_fragment_passes_and_every_other_is_refused() {
    for byte in 0..=u8::MAX {
        let head = head("GET", &[b'/', byte, b'x']);
        let verdict = RequestHead::default().parse(&head, &HeadLimits::default());
        assert_eq!(verdict.is_ok(), byte.is_ascii_graphic() && byte != b'#', "{byte:#x}");
    }
}

#[test]
fn targets_in_a_form_that_the_method_does_not_take_are_refused() {
    for (method, target, error) in [
        ("GET", "*", HeadError::TargetForm),
        ("GET", "a", HeadError::TargetForm),
        ("GET", "h:443", HeadError::TargetForm),
        ("OPTIONS", "**", HeadError::TargetForm),
        ("CONNECT", "/", HeadError::TargetAuthority),
        ("CONNECT", "*", HeadError::TargetAuthority),
        ("CONNECT", "http://h/", HeadError::TargetAuthority),
        ("GET", "http://u@h/", HeadError::TargetAuthority),
        ("GET", "http:/h/", HeadError::TargetForm),
        ("GET", "http://h/#", HeadError::TargetFragment),
        ("GET", "http://i/", HeadError::HostMismatch),
    ] {
        let verdict = RequestHead::default().parse(&head(method, target.as_bytes()), &HeadLimits::default());
        assert_eq!(verdict, Err(error), "{method} {target}");
    }
}

fn head(method: &str, target: &[u8]) -> Vec<u8> {
    [method.as_bytes(), b" ", target, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat()
}

fn long_target() -> String {
    format!("/_matrix/client/v3/sync?filter={}", "%7B".repeat(2_720))
}

const TARGETS: &[&str] = &[
    "/",
    "/_matrix/client/versions",
    "/_matrix/client/v3/login",
    "/_matrix/client/v3/sync?timeout=30000&since=s72595_4483_1934&filter=0",
    "/_matrix/client/v3/sync?filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A20%7D%7D%7D",
    "/_matrix/client/v3/sync?filter={\"room\":{\"timeline\":{\"limit\":20}}}",
    "/_matrix/client/v3/rooms/!room:hs/messages?dir=b&from=t1-2_3",
    "/_matrix/client/v3/rooms/%21room%3Ahs/messages",
    "/_matrix/client/v3/rooms/!room:example.com/state/m.room.name/",
    "/_matrix/client/v3/rooms/!room:example.com/state/m.room.member/@user:example.com",
    "/_matrix/client/v3/rooms/!room:example.com/state/m.room.member/%40user%3Aexample.com",
    "/_matrix/client/v3/rooms/!r:hs/state/a.type/key%2Fwith%2fslashes",
    "/_matrix/client/v3/rooms/!r:hs/send/m.room.message/txn%25id",
    "/_matrix/client/v3/rooms/!r:hs/redact/$event%2Fid+with/plus",
    "/_matrix/client/v3/rooms/!r:hs/event/$15163622445EBvZJ:localhost",
    "/_matrix/client/v3/directory/room/%23alias%3Aexample.com",
    "/_matrix/client/v3/directory/room/%23a%2Fb%3Fc%3Bd%25e%3Aexample.com",
    "/_matrix/client/v3/profile/@us%C3%A9r:hs/displayname",
    "/_matrix/client/v3/join/%23room%3Ahs?server_name=a&server_name=b",
    "/_matrix/client/v3/join/!r:hs?via=a.example&via=b.example",
    "/_matrix/client/v3/user/@u:hs/rooms/!r:hs/tags/u.work%20home",
    "/_matrix/client/v3/pushrules/global/override/.m.rule.master/enabled",
    "/_matrix/client/v3/keys/changes?from=s1&to=s2",
    "/_matrix/client/v1/media/download/hs/AbC-_123",
    "/_matrix/client/v1/media/thumbnail/hs/id?width=96&height=96&method=crop",
    "/_matrix/client/v1/media/download/hs/id/file%20name%2Epng",
    "/_matrix/media/v3/download/hs/id/..%2f..%2fetc",
    "/_matrix/client/unstable/org.matrix.msc3575/sync?pos=1%3A2",
    "/_matrix/federation/v1/version",
    "/_matrix/federation/v1/send/1700000000000",
    "/_matrix/federation/v1/state/%21r%3Ahs?event_id=%24abc%2Fdef",
    "/_matrix/federation/v1/make_join/!r:hs/@u:hs?ver=1&ver=2&ver=11",
    "/_matrix/federation/v2/send_join/%21r%3Ahs/%24e%2B1",
    "/_matrix/federation/v1/query/directory?room_alias=%23a%2Fb:hs",
    "/_matrix/federation/v1/query/profile?user_id=%40u%3Ahs&field=displayname",
    "/_matrix/key/v2/server/",
    "/_matrix/key/v2/server/ed25519%3Aauto",
    "/_synapse/client/oidc/callback?state=x&code=a/b+c==",
    "/.well-known/matrix/server",
    "/%2e%2e/%2E%2E/_synapse/admin",
    "/_matrix/../_synapse/admin/v1/users",
    "/_matrix/./client//versions",
    "//",
    "//_matrix//client",
    "///",
    "/..",
    "/.",
    "/a/..;/b",
    "/;a=b;c",
    "/?",
    "/??",
    "/?a?b?",
    "/?&&==&",
    "/?a=b&a=c",
    "/[]{}|^",
    "/`\"<>\\",
    "/%00",
    "/%zz",
    "/%",
    "/%2",
    "/%0d%0aX:%20y",
    "/%C0%AF",
    "/%FF%fe",
    "/!$&'()*+,;=:@-._~",
    "/*",
    "/http://example.com/",
    "/@:80",
    "/a%20b+c",
    "/%E2%98%83",
    "/%23%3F%2F%3B%25",
];
