//! What goes where, and what the proxy answers by itself: default deny, well-known documents, admin paths, redirects.

use ringfence_tests::matrix::{assert_cors, assert_error};
use ringfence_tests::message::{self, Framing};
use ringfence_tests::place::Place;
use ringfence_tests::{Client, Message, Origin, Proxy};

fn mirror() -> Origin {
    Origin::serving(|request| message::ok(request.head.target()))
}

fn ask(client: &mut Client, host: &str, target: &str) -> Message {
    client.request(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
}

fn json(response: &Message) -> serde_json::Value {
    assert_eq!(response.status(), 200, "{}", response.text());
    assert_eq!(response.head.value("content-type"), Some("application/json"));
    assert_cors(response);
    serde_json::from_slice(&response.body).expect("JSON")
}

/// A proxy whose only upstream refuses connections.
fn without_homeserver(extra: &str) -> (Place, Proxy) {
    let nobody = Place::v4();
    let proxy = Proxy::builder().upstream(&format!("http://{}", nobody.address())).extra(extra).start();
    (nobody, proxy)
}

#[test]
fn matrix_paths_reach_the_homeserver() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for target in [
        "/_matrix/client/versions",
        "/_matrix/federation/v1/version",
        "/_matrix/key/v2/server",
        "/_matrix/media/v3/download/a/b",
        "/_matrix",
        "/_matrix?x",
        "/_synapse/client/pick_username",
        "/_synapse/client",
    ] {
        assert_eq!(client.get(target).text(), target);
    }
}

#[test]
fn everything_else_is_an_unrecognized_request() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for target in [
        "/",
        "/index.html",
        "/_matrixx",
        "/_Matrix/x",
        "/x/_matrix/x",
        "/_synapse",
        "/_synapse/clients",
        "//_matrix",
        "/.well-known/matrix/other",
        "/.well-known/matrix",
        "/?/_matrix/x",
    ] {
        assert_error(&client.get(target), 404, "M_UNRECOGNIZED");
    }
    // The connection goes on: nothing was wrong with these requests.
    assert_eq!(client.get("/_matrix/x").text(), "/_matrix/x");
    assert_eq!(origin.request_lines(), ["GET /_matrix/x HTTP/1.1"]);
}

#[test]
fn an_unrouted_upload_is_refused_and_its_body_is_no_request() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let smuggled = "GET /_matrix/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", smuggled.len());
    assert_error(&client.request(format!("{head}{smuggled}")), 404, "M_UNRECOGNIZED");
    if client.try_send("GET /_matrix/next HTTP/1.1\r\nHost: a\r\n\r\n").is_ok()
        && let Ok(next) = client.try_response_to("GET")
    {
        assert_eq!(next.text(), "/_matrix/next");
    }
    assert!(!origin.received().concat().contains("smuggled"));
}

#[test]
fn the_well_known_documents_follow_from_the_names() {
    let (_nobody, proxy) = without_homeserver("");
    let mut client = proxy.client();
    let document = json(&client.get("/.well-known/matrix/client"));
    assert_eq!(document["m.homeserver"]["base_url"], "https://matrix.example.com");
    let document = json(&client.get("/.well-known/matrix/server"));
    assert_eq!(document["m.server"], "matrix.example.com:443");
    assert_error(&client.get("/.well-known/matrix/support"), 404, "M_NOT_FOUND");
}

#[test]
fn the_federation_host_is_what_the_server_document_says() {
    let (_nobody, proxy) = without_homeserver("federation_host = \"matrix-fed.example.com:9448\"");
    let document = json(&proxy.client().get("/.well-known/matrix/server"));
    assert_eq!(document["m.server"], "matrix-fed.example.com:9448");
}

#[test]
fn the_well_known_documents_can_be_given() {
    let (_nobody, proxy) = without_homeserver(
        "well_known_client = '''{\"m.homeserver\":{\"base_url\":\"https://h\"},\"org.matrix.msc4143.rtc_foci\":[{\"type\":\"livekit\"}]}'''\n\
         well_known_server = '''{\"m.server\":\"f:1\"}'''\n\
         well_known_support = '''{\"contacts\":[{\"role\":\"m.role.admin\",\"email_address\":\"admin@example.com\"}]}'''",
    );
    let mut client = proxy.client();
    let document = json(&client.get("/.well-known/matrix/client"));
    assert_eq!(document["org.matrix.msc4143.rtc_foci"][0]["type"], "livekit");
    assert_eq!(json(&client.get("/.well-known/matrix/server"))["m.server"], "f:1");
    let document = json(&client.get("/.well-known/matrix/support"));
    assert_eq!(document["contacts"][0]["role"], "m.role.admin");
}

#[test]
fn well_known_documents_answer_head_and_options_too() {
    let (_nobody, proxy) = without_homeserver("");
    for path in ["client", "server"] {
        let mut client = proxy.client();
        let body = client.get(&format!("/.well-known/matrix/{path}")).body;
        let head = client.request(format!("HEAD /.well-known/matrix/{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((head.status(), head.body.len()), (200, 0));
        assert_eq!(head.head.value("content-length"), Some(body.len().to_string().as_str()));
        assert_cors(&head);
        let options = client.request(format!(
            "OPTIONS /.well-known/matrix/{path} HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example\r\n\
             Access-Control-Request-Method: GET\r\n\r\n"
        ));
        assert!(matches!(options.status(), 200 | 204), "{:?}", options.head);
        assert_cors(&options);
        assert_eq!(client.get(&format!("/.well-known/matrix/{path}?x=y")).body, body);
    }
}

#[test]
fn a_preflight_of_a_matrix_path_is_the_homeservers_to_answer() {
    let origin = Origin::serving(|request| {
        message::response("200 OK", "Access-Control-Allow-Origin: https://theirs\r\n", request.head.method())
    });
    let proxy = Proxy::to(&origin).start();
    let response = proxy.client().request("OPTIONS /_matrix/x HTTP/1.1\r\nHost: a\r\nOrigin: b\r\n\r\n");
    assert_eq!(response.text(), "OPTIONS");
    assert_eq!(response.head.values("access-control-allow-origin"), ["https://theirs"]);
}

#[test]
fn several_homeservers_are_chosen_by_host() {
    let (first, second) = (Origin::answering("first"), Origin::answering("second"));
    let proxy = Proxy::to(&first)
        .extra(&format!(
            "[[homeserver]]\nserver_name = \"other.org\"\npublic_host = \"chat.other.org\"\n\
             federation_host = \"fed.other.org:9448\"\nupstream = \"{}\"",
            second.url()
        ))
        .start();
    let mut client = proxy.client();
    for (host, answer) in [
        ("matrix.example.com", "first"),
        ("example.com", "first"),
        ("EXAMPLE.com:8448", "first"),
        ("other.org", "second"),
        ("chat.other.org", "second"),
        ("CHAT.Other.org:443", "second"),
        ("fed.other.org:9448", "second"),
        ("127.0.0.1:8448", "first"),
        ("[::1]:8448", "first"),
        ("unknown.example.net", "first"),
    ] {
        assert_eq!(ask(&mut client, host, "/_matrix/x").text(), answer, "for Host {host}");
    }
    let document = json(&ask(&mut client, "other.org", "/.well-known/matrix/server"));
    assert_eq!(document["m.server"], "fed.other.org:9448");
}

#[test]
fn an_absolute_form_target_chooses_the_homeserver() {
    let (first, second) = (Origin::answering("first"), Origin::answering("second"));
    let extra = format!("[[homeserver]]\nserver_name = \"other.org\"\nupstream = \"{}\"", second.url());
    let proxy = Proxy::to(&first).extra(&extra).start();
    let response = ask(&mut proxy.client(), "other.org", "http://other.org/_matrix/x");
    assert_eq!(response.text(), "second");
}

#[test]
fn strict_hosts_refuse_a_host_that_nobody_claims() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).top("strict_hosts = true").start();
    let mut client = proxy.client();
    assert_eq!(ask(&mut client, "matrix.example.com", "/_matrix/x").status(), 200);
    for host in ["unknown.example.net", "127.0.0.1:8448", "xmatrix.example.com"] {
        assert_error(&ask(&mut proxy.client(), host, "/_matrix/x"), 421, "M_UNRECOGNIZED");
    }
    assert_eq!(origin.received().concat().matches("GET ").count(), 1);
}

/// Ways to spell admin paths; every one leads a homeserver there that decodes, merges or resolves.
const ADMIN: &[&str] = &[
    "/_synapse/admin",
    "/_synapse/admin/",
    "/_synapse/admin/v1/users/@a:b",
    "/_synapse/admin/v2/users?from=0",
    "/_palpo/admin/v1/x",
    "/_dendrite/admin/x",
    "/_synapse/metrics",
    "/_synapse/%61dmin/v1/users",
    "/_synapse/%61%64%6D%69%6e",
    "/%5fsynapse/admin",
    "/%5Fsynapse%2Fadmin/v1",
    "/_synapse%2fadmin/v1",
    "//_synapse/admin",
    "/_synapse//admin/v1",
    "/_synapse/./admin/v1",
    "/./_synapse/admin",
    "/_matrix/../_synapse/admin/v1",
    "/_matrix/%2e%2e/_synapse/admin/v1",
    "/_matrix/%2E./_synapse/admin/v1",
    "/_matrix/..%2f_synapse%2fadmin",
    "/_matrix/client/../../_synapse/admin",
    "/_synapse/client/../admin/v1/users",
    "/_synapse/client/..%2Fadmin",
    "/_synapse/client/%2e%2e/admin",
    "/_synapse/client//../admin",
    "/_synapse/%2561dmin",
    "/_Synapse/Admin",
    "/_synapse/admin;x=y/v1",
];

#[test]
fn admin_paths_are_closed_however_they_are_spelled() {
    let origin = mirror();
    let route = format!("[[route]]\npath = \"/\"\nupstream = \"{}\"", origin.url());
    let proxy = Proxy::to(&origin).extra(&route).start();
    let mut client = proxy.client();
    for target in ADMIN {
        let response = client.get(target);
        assert_eq!(response.status(), 403, "{target} was answered {}", response.text());
        assert_error(&response, 403, "M_FORBIDDEN");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"] {
        let request =
            format!("{method} /_synapse/admin/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.request(request).status(), 403, "{method}");
    }
    let absolute = ask(&mut proxy.client(), "matrix.example.com", "http://matrix.example.com/_synapse/admin");
    assert_eq!(absolute.status(), 403);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn paths_that_only_resemble_admin_paths_pass() {
    let origin = mirror();
    let route = format!("[[route]]\npath = \"/\"\nupstream = \"{}\"", origin.url());
    let proxy = Proxy::to(&origin).extra(&route).start();
    let mut client = proxy.client();
    for target in [
        "/_matrix/client/v3/rooms/!r:hs/state/_synapse/admin",
        "/_synapse/administration",
        "/_matrix/x?path=/_synapse/admin",
        "/x_synapse/admin",
        "/_synapse/client/admin",
    ] {
        assert_eq!(client.get(target).text(), target);
    }
}

#[test]
fn admin_from_opens_admin_paths_to_its_networks() {
    let origin = mirror();
    let proxy = Proxy::to(&origin)
        .first_listener("admin_from = [\"127.0.0.5/32\", \"::1/128\"]")
        .listener("role = \"federation\"")
        .start();
    let target = "/_synapse/admin/v1/users/@a:b";
    let from = |ip: &str, listener: usize| {
        Client::connect_from(ip.parse().unwrap(), proxy.addresses[listener]).get(target)
    };
    assert_eq!(from("127.0.0.5", 0).text(), target);
    assert_eq!(from("127.0.0.6", 0).status(), 403);
    assert_eq!(from("127.0.0.5", 1).status(), 403, "the other listener opens nothing");
    let forged = format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.5\r\n\r\n");
    assert_eq!(
        Client::connect_from("127.0.0.6".parse().unwrap(), proxy.address).request(forged).status(),
        403
    );
}

#[test]
fn routes_take_what_is_below_their_prefix() {
    let (homeserver, web, app) = (mirror(), Origin::answering("web"), Origin::answering("app"));
    let proxy = Proxy::to(&homeserver)
        .extra(&format!(
            "[[route]]\nhosts = [\"example.com\"]\npath = \"/\"\nupstream = \"{}\"\n\
             [[route]]\nhosts = [\"example.com\"]\npath = \"/app\"\nupstream = \"{}\"",
            web.url(),
            app.url()
        ))
        .start();
    let mut client = proxy.client();
    for (host, target, answer) in [
        ("example.com", "/", "web"),
        ("example.com", "/index.html?x", "web"),
        ("example.com", "/application", "web"),
        ("example.com", "/app", "app"),
        ("example.com", "/app/x", "app"),
        ("example.com", "/app?x", "app"),
        ("example.com", "/_matrix/x", "/_matrix/x"),
    ] {
        assert_eq!(ask(&mut client, host, target).text(), answer, "for {host}{target}");
    }
    assert_eq!(ask(&mut client, "matrix.example.com", "/").status(), 404, "another host has no such route");
    let document = json(&ask(&mut client, "example.com", "/.well-known/matrix/server"));
    assert_eq!(document["m.server"], "matrix.example.com:443");
}

#[test]
fn errors_of_a_route_off_matrix_are_whole_answers_too() {
    let nobody = Place::v4();
    let homeserver = mirror();
    let route = format!("[[route]]\npath = \"/web\"\nupstream = \"http://{}\"", nobody.address());
    let proxy = Proxy::to(&homeserver).extra(&route).start();
    let response = proxy.client().get("/web/x");
    assert_eq!(response.status(), 502);
    assert!(response.is_complete() && matches!(response.framing, Framing::Length(_)));
}

#[test]
fn the_redirect_listener_sends_to_https_with_the_raw_target() {
    let (_nobody, proxy) = {
        let nobody = Place::v4();
        let builder = Proxy::builder().upstream(&format!("http://{}", nobody.address()));
        (nobody, builder.listener("role = \"redirect\"").start())
    };
    let mut client = Client::connect(proxy.addresses[1]);
    for target in ["/", "/_matrix/x/%2f..//?a=%zz&b", "/x?[]{}|^"] {
        for host in ["matrix.example.com", "matrix.example.com:80"] {
            let response = ask(&mut client, host, target);
            assert_eq!(response.status(), 308);
            assert_eq!(
                response.head.value("location"),
                Some(format!("https://matrix.example.com{target}").as_str())
            );
            assert!(matches!(response.framing, Framing::Length(_)));
        }
    }
    assert_eq!(ask(&mut Client::connect(proxy.addresses[1]), "a", "/#").status(), 400);
}

#[test]
fn federation_listeners_serve_the_same_paths() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).listener("role = \"federation\"").start();
    let mut client = Client::connect(proxy.addresses[1]);
    assert_eq!(client.get("/_matrix/federation/v1/version").text(), "/_matrix/federation/v1/version");
    assert_eq!(client.get("/.well-known/matrix/server").status(), 200);
}
