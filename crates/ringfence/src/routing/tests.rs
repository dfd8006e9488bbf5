use std::path::Path;

use super::*;
use crate::config;

const TWO_HOMESERVERS: &str = r#"
[[homeserver]]
server_name = "a.example"
public_host = "matrix.a.example"
upstream = "http://127.0.0.1:8001"
[[homeserver]]
server_name = "b.example"
federation_host = "fed.b.example:9448"
upstream = "http://127.0.0.1:8002"
well_known_support = '{"support_page":"https://b.example/help"}'
[[route]]
hosts = ["a.example", "chat.example"]
path = "/"
upstream = "http://127.0.0.1:8080"
[[route]]
path = "/_matrix/client/unstable/custom"
upstream = "http://127.0.0.1:8003"
[[listener]]
address = "127.0.0.1:0"
tls = false
"#;

fn config(text: &str) -> Config {
    config::parse(Path::new("test.toml"), text).unwrap()
}

fn paths<'a>(sites: &'a [Site<'_>], host: &str) -> Vec<(&'a str, Target<'a>)> {
    let site = sites.iter().find(|site| site.hosts.iter().any(|key| key == host)).unwrap();
    site.entries.iter().map(|entry| (entry.path, entry.target)).collect()
}

#[test]
fn hosts_that_are_served_alike_share_a_site() {
    let config = config(TWO_HOMESERVERS);
    let hosts: Vec<_> = sites(&config).into_iter().map(|site| site.hosts.join(" ")).collect();
    assert_eq!(hosts, ["matrix.a.example", "a.example", "b.example fed.b.example", "chat.example"]);
}

#[test]
fn an_unclaimed_host_goes_to_the_first_homeserver_without_the_routes_of_other_hosts() {
    let config = config(TWO_HOMESERVERS);
    let sites = sites(&config);
    assert_eq!(sites[0].host, "matrix.a.example");
    assert!(sites[0].entries.iter().any(|entry| entry.target == Target::Homeserver(0)));
    assert!(sites[0].entries.iter().all(|entry| entry.path != "/"));
}

#[test]
fn a_host_that_only_routes_name_has_only_routes() {
    let config = config(TWO_HOMESERVERS);
    let sites = sites(&config);
    let expected = [("/_matrix/client/unstable/custom", Target::Route(1)), ("/", Target::Route(0))];
    assert_eq!(paths(&sites, "chat.example"), expected);
}

#[test]
fn longer_paths_come_first_and_routes_before_what_is_built_in() {
    let mut text = TWO_HOMESERVERS.to_owned();
    text.push_str("[[route]]\npath = \"/_matrix\"\nupstream = \"http://127.0.0.1:8004\"\n");
    let config = config(&text);
    let sites = sites(&config);
    let paths = paths(&sites, "b.example");
    assert!(paths.is_sorted_by_key(|(path, _)| std::cmp::Reverse(path.len())), "{paths:?}");
    let matrix: Vec<_> =
        paths.iter().filter(|(path, _)| *path == "/_matrix").map(|(_, target)| *target).collect();
    assert_eq!(matrix, [Target::Route(2), Target::Homeserver(1)]);
}

#[test]
fn a_route_for_one_host_comes_before_one_for_every_host() {
    let text = r#"
[[homeserver]]
server_name = "a.example"
upstream = "http://127.0.0.1:8001"
[[route]]
path = "/"
upstream = "http://127.0.0.1:8080"
[[route]]
hosts = ["a.example"]
path = "/"
upstream = "http://127.0.0.1:8081"
[[listener]]
address = "127.0.0.1:0"
tls = false
"#;
    let config = config(text);
    let sites = sites(&config);
    let at_root: Vec<_> = paths(&sites, "a.example").into_iter().filter(|(path, _)| *path == "/").collect();
    assert_eq!(at_root, [("/", Target::Route(1)), ("/", Target::Route(0))]);
}

#[test]
fn each_homeserver_answers_its_own_documents() {
    let config = config(TWO_HOMESERVERS);
    let sites = sites(&config);
    let document = |host, path| {
        paths(&sites, host).into_iter().find_map(|(found, target)| (found == path).then_some(target)).unwrap()
    };
    assert_eq!(document("a.example", SUPPORT_PATH), Target::Document(None));
    let support = r#"{"support_page":"https://b.example/help"}"#;
    assert_eq!(document("b.example", SUPPORT_PATH), Target::Document(Some(support)));
    let server = r#"{"m.server":"fed.b.example:9448"}"#;
    assert_eq!(document("b.example", SERVER_PATH), Target::Document(Some(server)));
}

#[test]
fn upstreams_are_numbered_homeservers_first() {
    let config = config(TWO_HOMESERVERS);
    let names: Vec<_> = upstreams(&config).map(|upstream| upstream.servers[0].value.to_string()).collect();
    assert_eq!(names, ["127.0.0.1:8001", "127.0.0.1:8002", "127.0.0.1:8080", "127.0.0.1:8003"]);
    assert_eq!(Target::Route(1).upstream_index(&config), Some(3));
    assert_eq!(Target::Admin(1).upstream_index(&config), Some(1));
    assert_eq!(Target::Document(None).upstream_index(&config), None);
}
