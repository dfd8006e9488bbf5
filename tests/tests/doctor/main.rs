//! `ringfence doctor`: finds each planted fault by its id, with what to change, and none in a sound deployment.
//!
//! Most faults are planted in a deployment made by hand; nginx itself, where it is installed, plants the frequent ones as
//! operators do.

#![forbid(unsafe_code)]

mod deployment;
mod homeserver;
mod name_server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use deployment::{Deployment, Manners};
use homeserver::{Homeserver, KEYS_OF_ANOTHER, TOKEN};
use name_server::NameServer;
use ringfence_tests::place::Place;
use ringfence_tests::proxy::ringfence;
use ringfence_tests::{Authority, Origin, PATIENCE, Proxy, wait_until};
use serde_json::Value;

/// What was found.
struct Found {
    json: Value,
    status: i32,
}

impl Found {
    fn checks(&self, id: &str) -> Vec<&Value> {
        let checks = self.json["checks"].as_array().expect("a list of checks");
        checks.iter().filter(|check| check["id"] == id).collect()
    }

    /// Every id with this verdict, once.
    fn ids(&self, verdict: &str) -> Vec<&str> {
        let checks = self.json["checks"].as_array().expect("a list of checks");
        let mut ids: Vec<_> = checks.iter().filter(|check| check["verdict"] == verdict).collect();
        ids.dedup_by_key(|check| check["id"].clone());
        ids.iter().filter_map(|check| check["id"].as_str()).collect()
    }

    /// There is this fault and no other, and the advice for `proxy` has this text.
    fn assert_only(&self, id: &str, proxy: &str, advice: &str) {
        assert_eq!(self.status, 1, "{:#}", self.json);
        let mut faults = self.ids("fault");
        faults.dedup();
        assert!(
            !faults.is_empty() && faults.iter().all(|fault| *fault == id),
            "{faults:?} in {:#}",
            self.json
        );
        self.assert_advises(id, proxy, advice);
    }

    fn assert_advises(&self, id: &str, proxy: &str, advice: &str) {
        let is_faulty = |check: &&&Value| check["verdict"] == "fault" || check["verdict"] == "warning";
        let checks = self.checks(id);
        let lines = checks.iter().find(is_faulty).map(|check| &check["advice"]["lines"][proxy]);
        let line = lines.and_then(|line| line.as_str()).unwrap_or_default();
        assert!(line.contains(advice), "{id}: {proxy} is told {line:?}, not {advice:?}: {:#}", self.json);
    }
}

/// Examines `example.com` where these ports of it are.
fn examine(ports: &[(&str, u16, SocketAddr)], more: &[&str]) -> Found {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, Authority::shared().pem()).expect("a file in the temporary folder");
    let resolve: Vec<String> =
        ports.iter().map(|(host, port, address)| format!("{host}:{port}:{address}")).collect();
    let mut arguments = vec!["doctor", "example.com", "--json", "--ca"];
    arguments.push(authority.to_str().expect("a path in UTF-8"));
    arguments.extend(resolve.iter().flat_map(|resolve| ["--resolve", resolve]));
    arguments.extend(more);
    let output = ringfence(&arguments);
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    Found { json, status: output.status.code().expect("an exit status") }
}

/// Every port of both names at one address; port 80 is where nobody listens.
fn everywhere(address: SocketAddr) -> Vec<(&'static str, u16, SocketAddr)> {
    let nobody = Place::v4();
    let hosts = ["example.com", "matrix.example.com"];
    let mut ports: Vec<_> =
        hosts.iter().flat_map(|host| [443, 8448].map(|port| (*host, port, address))).collect();
    ports.push(("matrix.example.com", 80, nobody.address()));
    ports
}

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

/// nginx in front of a homeserver, as the frequent guides have it.
struct Nginx {
    address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
    _place: Place,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nginx {
    /// None where nginx is not installed. `proxying` stands in the location that is proxied.
    fn start(origin: &Origin, proxying: &str) -> Option<Nginx> {
        let Some(binary) = nginx() else {
            eprintln!("skipped: nginx is not installed");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (place, at) = (Place::v4(), folder.path().display());
        Authority::shared().certificate(&["example.com", "matrix.example.com"]).write(folder.path(), "c");
        let proxying = proxying.replace("ORIGIN", &origin.address().to_string());
        let address = place.address();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {at}/{name}; "))
            .collect();
        // One process: a worker of its own would outlive the kill.
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log; events {{}}
             http {{ access_log off; {temporary}
               server {{
                 listen {address} ssl reuseport; server_name example.com matrix.example.com;
                 ssl_certificate {at}/c.chain.pem; ssl_certificate_key {at}/c.key.pem;
                 location = /.well-known/matrix/server {{
                   default_type application/json; return 200 '{{\"m.server\":\"matrix.example.com:443\"}}';
                 }}
                 location = /.well-known/matrix/client {{
                   default_type application/json; add_header Access-Control-Allow-Origin *;
                   return 200 '{{\"m.homeserver\":{{\"base_url\":\"https://matrix.example.com\"}}}}';
                 }}
                 {proxying}
               }}
             }}"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).expect("a file in the temporary folder");
        let mut command = Command::new(binary);
        command.arg("-p").arg(folder.path()).arg("-c").arg(&file);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("nginx starts");
        wait_until("nginx listens", PATIENCE, || std::net::TcpStream::connect(address).is_ok());
        Some(Nginx { address, child, _folder: folder, _place: place })
    }
}

fn nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([Path::new("/usr/sbin").to_owned()]);
    folders.map(|folder| folder.join("nginx")).find(|binary| binary.is_file())
}

/// What a sound location has.
const SOUND: &str = "proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme; client_max_body_size 50M;
    error_page 413 @too_large;";

/// What the homeserver is not asked about.
const TOO_LARGE: &str = "location @too_large { add_header Access-Control-Allow-Origin * always; return 413 '{\"errcode\":\"M_TOO_LARGE\"}'; }";

fn examine_nginx(proxying: &str) -> Option<Found> {
    let homeserver = Homeserver::default();
    let origin = Origin::serving(move |request| homeserver.answer(&request.head));
    let nginx = Nginx::start(&origin, &format!("{proxying}\n{TOO_LARGE}"))?;
    let found = examine(&everywhere(nginx.address), &["--token", TOKEN]);
    assert_eq!(found.json["proxy"], "nginx");
    Some(found)
}

#[test]
fn nginx_with_the_raw_target_has_no_fault() {
    let location = format!("location ~ ^(/_matrix|/_synapse/client) {{ proxy_pass http://ORIGIN; {SOUND} }}");
    let Some(found) = examine_nginx(&location) else { return };
    assert_eq!((found.status, found.ids("fault")), (0, vec![]), "{:#}", found.json);
}

#[test]
fn nginx_with_a_slash_in_proxy_pass_is_found() {
    for (path, pass) in [("/_matrix/", "http://ORIGIN/_matrix/"), ("/_matrix", "http://ORIGIN/_matrix")] {
        let location = format!("location {path} {{ proxy_pass {pass}; {SOUND} }}");
        let Some(found) = examine_nginx(&location) else { return };
        found.assert_only("encoded-path", "nginx", "proxy_pass http://127.0.0.1:8008;  # no slash");
        assert!(
            found.checks("encoded-path")[0]["advice"]["lines"].get("caddy").is_none(),
            "{:#}",
            found.json
        );
    }
}

#[test]
fn nginx_as_careless_guides_have_it_is_found() {
    let location = "location / {
        proxy_pass http://ORIGIN; proxy_set_header Host $host; proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; add_header Access-Control-Allow-Origin *;
    }";
    let Some(found) = examine_nginx(location) else { return };
    for id in ["cors", "admin-closed", "forwarded-for", "upload-limit"] {
        assert!(found.ids("fault").contains(&id), "{id} is missing in {:#}", found.json);
    }
    assert!(!found.ids("fault").contains(&"encoded-path"), "{:#}", found.json);
}
