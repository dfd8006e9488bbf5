//! One request for each expression of Synapse's worker documentation, group by group, and what is in no group.

use super::{EndpointClass::*, *};

#[track_caller]
fn check(class: EndpointClass, requests: &[&str]) {
    for request in requests {
        let (method, path) = request.split_once(' ').unwrap();
        assert_eq!(classify(method.as_bytes(), path.as_bytes()), class, "{request}");
    }
}

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
