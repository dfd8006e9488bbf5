//! `ringfence doctor`: finds each planted fault by its id, with what to change, and none in a sound deployment.
//!
//! The faults are planted in a deployment made by hand; `tests/planted-faults` plants them in real proxies.

#![forbid(unsafe_code)]

mod deployment;
mod name_server;

use deployment::{Deployment, Manners};
use name_server::NameServer;
use ringfence_tests::examination::{Found, everywhere, examine};
use ringfence_tests::homeserver::{self, Homeserver, KEYS_OF_ANOTHER, TOKEN};
use ringfence_tests::place::Place;
use ringfence_tests::proxy::ringfence;
use ringfence_tests::{Authority, Origin, Proxy};

fn examine_planted(plant: impl FnOnce(&mut Manners)) -> Found {
    let mut manners = Manners::default();
    plant(&mut manners);
    let deployment = Deployment::with(manners);
    examine(&everywhere(deployment.address), &["--token", TOKEN])
}

#[test]
fn a_sound_deployment_has_no_fault() {
    let found = examine_planted(|_| ());
    assert_eq!(
        (found.status, found.ids("fault"), found.ids("warning")),
        (0, vec![], vec![]),
        "{:#}",
        found.json
    );
    assert_eq!(found.ids("skipped"), ["long-poll"]);
    assert!(found.checks("encoded-path").len() == 2 && found.json["proxy"].is_null());
}

#[test]
fn ringfence_in_front_of_a_homeserver_has_no_fault() {
    let homeserver = Homeserver::default();
    let origin = Origin::serving(move |request| homeserver.answer(&request.head));
    let proxy = Proxy::to(&origin).tls().listener("role = \"redirect\"").start();
    let mut ports = everywhere(proxy.address);
    ports.retain(|(_, port, _)| *port != 80);
    ports.push(("matrix.example.com", 80, proxy.addresses[1]));
    let found = examine(&ports, &["--token", TOKEN]);
    assert_eq!(
        (found.status, found.ids("fault"), found.ids("warning")),
        (0, vec![], vec![]),
        "{:#}",
        found.json
    );
    assert_eq!(found.json["proxy"], "ringfence");
    let redirect = found.checks("redirect")[0]["seen"].as_str().expect("a text");
    assert!(redirect.contains("308"), "{redirect}");
}

#[test]
fn decoded_paths_are_found_on_both_sides() {
    let found = examine_planted(|manners| manners.decodes_paths = true);
    found.assert_only("encoded-path", "nginx", "no slash and no path behind the port");
    assert_eq!(found.checks("encoded-path").iter().filter(|check| check["verdict"] == "fault").count(), 2);
}

#[test]
fn an_api_that_is_redirected_is_found() {
    let found = examine_planted(|manners| manners.redirects = true);
    assert_eq!(
        found.ids("fault"),
        ["server-key", "federation-version", "client-versions"],
        "{:#}",
        found.json
    );
    assert_eq!(found.ids("warning"), [""; 0], "{:#}", found.json);
    found.assert_advises("client-versions", "nginx", "remove return 301");
    let seen = found.checks("server-key")[0]["seen"].as_str().expect("a text");
    assert!(seen.contains("301 to \"https://www.example.com/_matrix/key/v2/server\""), "{seen}");
}

#[test]
fn missing_cors_is_found() {
    let found = examine_planted(|manners| manners.origins = 0);
    assert_eq!(found.ids("fault"), ["cors", "cors-preflight", "cors-error"], "{:#}", found.json);
    found.assert_advises("cors", "nginx", "remove proxy_hide_header Access-Control-Allow-Origin");
}

#[test]
fn doubled_cors_is_found() {
    let found = examine_planted(|manners| manners.origins = 2);
    assert_eq!(found.ids("fault"), ["cors", "cors-preflight", "cors-error"], "{:#}", found.json);
    found.assert_advises("cors", "apache", "remove Header add Access-Control-Allow-Origin");
}

#[test]
fn a_certificate_for_another_name_is_found() {
    let found = examine_planted(|manners| {
        manners.certificate = Authority::shared().certificate(&["example.com", "www.example.com"]);
    });
    found.assert_only("certificate", "haproxy", "matrix.example.com.pem");
    let seen = found.checks("certificate")[0]["seen"].as_str().expect("a text");
    assert!(seen.contains("is for example.com, www.example.com, not for matrix.example.com"), "{seen}");
    // Nobody is sent a secret there.
    assert!(found.ids("skipped").contains(&"forwarded-for"), "{:#}", found.json);
}

#[test]
fn an_expired_certificate_is_found() {
    let found = examine_planted(|manners| {
        let names = ["example.com", "matrix.example.com"];
        manners.certificate = Authority::shared().certificate_like(&names, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 4, 1);
        });
    });
    assert!(found.ids("fault").contains(&"certificate"), "{:#}", found.json);
    found.assert_advises("certificate", "ringfence", "[[certificate]]");
    // Nor does anybody believe what it says of others.
    found.assert_advises("well-known-server", "nginx", "/.well-known/matrix/server");
}

#[test]
fn a_closed_federation_port_is_found() {
    let deployment = Deployment::with(Manners { server_document: None, ..Manners::default() });
    let closed = Place::v4();
    let mut ports = everywhere(deployment.address);
    ports.retain(|(_, port, _)| *port != 8448);
    ports.push(("example.com", 8448, closed.address()));
    let found = examine(&ports, &[]);
    found.assert_only("connect", "ringfence", "role = \"federation\"");
    let seen = found.checks("connect")[0]["seen"].as_str().expect("a text");
    assert!(seen.starts_with("federation example.com:8448: no connection"), "{seen}");
}

#[test]
fn a_delegation_that_leads_nowhere_is_found() {
    let document = r#"{"m.server":"matrix.example.com:9448"}"#;
    let deployment = Deployment::with(Manners { server_document: Some(document), ..Manners::default() });
    let closed = Place::v4();
    let mut ports = everywhere(deployment.address);
    ports.push(("matrix.example.com", 9448, closed.address()));
    let found = examine(&ports, &[]);
    assert_eq!(found.ids("fault"), ["connect"], "{:#}", found.json);
    let what = found.checks("connect")[0]["advice"]["what"].as_str().expect("a text");
    assert!(what.contains("by well-known matrix.example.com:9448"), "{what}");
}

#[test]
fn well_known_documents_that_are_none_are_found() {
    for document in
        ["<html>It works!</html>", r#"{"server":"matrix.example.com"}"#, r#"{"m.server":"https://a/"}"#]
    {
        let found = examine_planted(|manners| manners.server_document = Some(document));
        found.assert_only("well-known-server", "caddy", "respond /.well-known/matrix/server");
    }
    for document in
        ["<html>", r#"{"m.homeserver":{}}"#, r#"{"m.homeserver":{"base_url":"matrix.example.com"}}"#]
    {
        let found = examine_planted(|manners| manners.client_document = document);
        assert!(found.ids("fault").contains(&"well-known-client"), "{document}: {:#}", found.json);
    }
    for origins in [0, 2] {
        let found = examine_planted(|manners| manners.client_document_origins = origins);
        found.assert_only("well-known-client", "nginx", "add_header Access-Control-Allow-Origin * always");
    }
}

#[test]
fn an_open_admin_api_is_found() {
    let found = examine_planted(|manners| manners.closes_admin = false);
    found.assert_only("admin-closed", "nginx", "location ~ ^(/_matrix|/_synapse/client)");
}

#[test]
fn an_upload_limit_below_the_homeservers_is_found() {
    let found = examine_planted(|manners| manners.upload_bytes_max = 10 * 1024 * 1024);
    found.assert_only("upload-limit", "nginx", "client_max_body_size 50M;");

    // Without a token the homeserver's limit is not known, but Synapse's default is.
    let manners = Manners { upload_bytes_max: 10 * 1024 * 1024, ..Manners::default() };
    let deployment = Deployment::with(manners);
    let found = examine(&everywhere(deployment.address), &[]);
    assert_eq!((found.status, found.ids("warning")), (0, vec!["upload-limit"]), "{:#}", found.json);
}

#[test]
fn an_invented_client_address_that_is_believed_is_found() {
    let found = examine_planted(|manners| manners.appends_forwarded_for = true);
    found.assert_only("forwarded-for", "nginx", "proxy_set_header X-Forwarded-For $remote_addr;");
}

#[test]
fn a_lost_scheme_is_found() {
    let found = examine_planted(|manners| manners.sends_scheme = false);
    found.assert_only("forwarded-proto", "haproxy", "set-header X-Forwarded-Proto https");
}

#[test]
fn keys_of_another_server_are_found() {
    let found = examine_planted(|manners| manners.keys = KEYS_OF_ANOTHER);
    found.assert_only("server-key", "ringfence", "server_name");

    let changed = homeserver::KEYS.replace("4102444800000", "4102444800001");
    let found = examine_planted(|manners| manners.keys = changed.leak());
    let seen = found.checks("server-key")[0]["seen"].as_str().expect("a text").to_owned();
    assert!(found.status == 1 && seen.contains("something changed the document"), "{seen}");
}

#[test]
fn a_server_that_takes_connections_and_says_nothing_is_found() {
    let place = Place::v4();
    let _listening = place.listen();
    let found = examine(&everywhere(place.address()), &["--timeout", "0.5"]);
    assert_eq!((found.status, found.ids("fault")), (1, vec!["certificate"]), "{:#}", found.json);
    let seen = found.checks("certificate")[0]["seen"].as_str().expect("a text");
    assert!(seen.contains("no TLS handshake within 0.5 s"), "{seen}");
}

#[test]
fn servers_are_found_by_their_srv_records() {
    for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
        let deployment = Deployment::with(Manners::default());
        let records = NameServer::start(&format!("{service}.example.com"), deployment.address.port());
        // Nothing else of it is to be had: its name leads to an address where nobody listens.
        let found = examine(&[], &["--name-server", &records.address.to_string()]);
        let place = format!("srv.example.com:{}", deployment.address.port());
        for id in ["server-key", "federation-version", "certificate"] {
            let check = found.checks(id)[0];
            let seen = check["seen"].as_str().expect("a text");
            assert!(check["verdict"] == "ok" && seen.contains(&place), "{id}: {:#}", found.json);
        }
    }
}

#[test]
fn without_a_name_server_nothing_could_be_checked() {
    let nobody = Place::v4();
    let found = examine(&[], &["--timeout", "1", "--name-server", &nobody.address().to_string()]);
    assert_eq!((found.status, found.ids("skipped")), (2, vec!["dns"]), "{:#}", found.json);
    assert_eq!(ringfence(&["doctor", "https://example.com"]).status.code(), Some(2));
    assert_eq!(ringfence(&["doctor", "example.com", "--ca", "/nowhere"]).status.code(), Some(2));
}

#[test]
fn a_person_gets_one_line_a_check_and_the_line_to_change() {
    let deployment = Deployment::with(Manners { decodes_paths: true, ..Manners::default() });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, Authority::shared().pem()).expect("a file in the temporary folder");
    let resolve: Vec<String> = everywhere(deployment.address)
        .iter()
        .map(|(host, port, address)| format!("--resolve={host}:{port}:{address}"))
        .collect();
    let mut arguments = vec!["doctor", "example.com", "--proxy", "nginx", "--ca"];
    arguments.push(authority.to_str().expect("a path in UTF-8"));
    arguments.extend(resolve.iter().map(String::as_str));
    let output = ringfence(&arguments);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("\nfault    encoded-path        clients matrix.example.com:443: a path with %2F"),
        "{text}"
    );
    assert!(text.contains("\n  nginx      proxy_pass http://127.0.0.1:8008;  # no slash"), "{text}");
    assert!(!text.contains("haproxy") && !text.contains('\x1b'), "{text}");
}
