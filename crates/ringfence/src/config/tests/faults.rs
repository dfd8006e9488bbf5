//! Files that are refused, and what is said of them.

use super::*;

/// Three lines that every file below starts with, so that it has no other fault.
const BASE: &str = "homeserver = [{ server_name = \"example.com\", upstream = \"http://127.0.0.1:8008\" }]\n\
    certificate = [{ chain = \"chain.pem\", key = \"key.pem\" }]\n\n";

/// The only fault of a file that is `BASE` and `text`; line 4 is the first line of `text`.
#[track_caller]
fn fault(text: &str) -> String {
    let mut found = faults(&format!("{BASE}{text}"));
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

/// The only fault of a file with one homeserver, whose keys begin on line 2.
#[track_caller]
fn homeserver_fault(keys: &str) -> String {
    let tail = "[[certificate]]\nchain = \"chain.pem\"\nkey = \"key.pem\"\n";
    let mut found = faults(&format!("[[homeserver]]\n{keys}\n{tail}"));
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

#[test]
fn the_base_of_these_tests_is_sound() {
    sound(BASE);
}

#[test]
fn every_fault_of_a_file_is_told_at_once_in_its_order() {
    let text = r#"
strict_host = true
[server]
workers = "four"
[[homeserver]]
server_name = "https://example.com"
upstream = "127.0.0.1:8008"
[[listener]]
address = "443"
[limits]
body_bytes_max = "50 MB"
[timeouts]
drain = 30
"#;
    let found = faults(text);
    let places: Vec<_> = found.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["2:1", "4:11", "6:15", "7:12", "9:11", "11:18", "13:9"], "{found:#?}");
    assert!(found.iter().all(|fault| fault.contains("; ")), "each says what to do: {found:#?}");
}

#[test]
fn what_is_not_toml_is_told_with_every_place() {
    let found = faults("a = \nb = 1\nb = 2\n");
    assert!(found.iter().any(|fault| fault.starts_with("1:")), "{found:#?}");
    assert!(
        found.iter().any(|fault| fault.starts_with("3:1: this is not TOML: duplicate key")),
        "{found:#?}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told_by_name() {
    let problems = load(Path::new("does/not/exist.toml")).unwrap_err();
    assert!(
        problems.to_string().starts_with("does/not/exist.toml:1:1: cannot be read: No such file"),
        "{problems}"
    );
}

#[test]
fn an_empty_file_is_told_what_it_needs() {
    let found = faults("");
    assert_eq!(
        found,
        [
            "1:1: no [[homeserver]]; add one with `server_name` and `upstream`",
            "1:1: [::]:443 speaks TLS, but there is no [[certificate]]; add one with `chain` and `key`, or set tls = false",
        ]
    );
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    for (text, expected) in [
        (
            "strict_host = true",
            "4:1: unknown key `strict_host` in the part above the first table; the nearest known one is `strict_hosts`",
        ),
        ("[limts]", "4:2: unknown table [limts]; the nearest known one is `limits`"),
        ("[[listeners]]", "4:3: unknown table [[listeners]]; the nearest known one is `listener`"),
        (
            "[limits]\nbody_max = 1",
            "5:1: unknown key `body_max` in [limits]; the nearest known one is `body_bytes_max`",
        ),
        (
            "[timeouts]\nheader = \"1s\"",
            "5:1: unknown key `header` in [timeouts]; the nearest known one is `header_read`",
        ),
        ("[server]\nworker = 1", "5:1: unknown key `worker` in [server]; the nearest known one is `workers`"),
    ] {
        assert_eq!(fault(text), expected);
    }
    let expected = "4:1: unknown key `pubic_host` in [[homeserver]]; the nearest known one is `public_host`";
    let keys = "server_name = \"a.example\"\nupstream = \"http://h\"\npubic_host = \"b.example\"";
    assert_eq!(homeserver_fault(keys), expected);
}

#[test]
fn known_keys_in_the_wrong_table_are_told_where_they_belong() {
    let keys = "server_name = \"a.example\"\nupstream = \"http://h\"\nstrict_hosts = true";
    let expected =
        "4:1: unknown key `strict_hosts` in [[homeserver]]; it belongs to the part above the first table";
    assert_eq!(homeserver_fault(keys), expected);
    assert_eq!(
        fault("body_bytes_max = \"1 MiB\""),
        "4:1: unknown key `body_bytes_max` in the part above the first table; it belongs to [limits]"
    );
    assert!(fault("[server]\ndrain = \"1s\"").ends_with("it belongs to [timeouts]"));
}

#[test]
fn wrong_kinds_of_values_say_what_to_write() {
    for (text, expected) in [
        ("strict_hosts = \"yes\"", "4:16: `strict_hosts` is a string; write true or false, without quotes"),
        (
            "trusted_proxies = \"10.0.0.0/8\"",
            "4:19: `trusted_proxies` is a string; write a list of strings, as in [\"a\", \"b\"]",
        ),
        ("trusted_proxies = [10]", "4:20: `trusted_proxies` is the number 10; write a string in quotes"),
        ("server = 1", "4:10: `server` is the number 1; write [server] once, with its keys below"),
        ("[[limits]]", "4:1: `limits` is a list; write [limits] once, with its keys below"),
        ("[server]\nlog = true", "5:7: `log` is true; write a string in quotes"),
        (
            "[server]\nworkers = 1.5",
            "5:11: `workers` is a number with a fraction; write a whole number from 0 to 1024",
        ),
        ("[server]\nworkers = -1", "5:11: `workers` is the number -1; write a whole number from 0 to 1024"),
        ("[server]\nuser = 1979-05-27", "5:8: `user` is a date; write a string in quotes"),
    ] {
        assert_eq!(fault(text), expected);
    }
    let found = faults("homeserver = { server_name = \"a.example\" }\n");
    let expected = "1:14: `homeserver` is a table; write [[homeserver]] with double brackets, once for each";
    assert!(found.contains(&expected.to_owned()), "{found:#?}");
}

#[test]
fn missing_keys_are_told_at_their_table() {
    let found = faults("\n[[homeserver]]\n[[certificate]]\n[[listener]]\n[[route]]\n");
    let beginnings = [
        "2:1: [[homeserver]] has no `server_name`; add",
        "2:1: [[homeserver]] has no `upstream`; add",
        "3:1: [[certificate]] has no `chain`; add",
        "3:1: [[certificate]] has no `key`; add",
        "4:1: [[listener]] has no `address`; add",
        "5:1: [[route]] has no `path`; add",
        "5:1: [[route]] has no `upstream`; add",
    ];
    assert_eq!(found.len(), beginnings.len(), "{found:#?}");
    for (fault, beginning) in found.iter().zip(beginnings) {
        assert!(fault.starts_with(beginning), "{fault}");
    }
}

#[test]
fn bad_names_say_why() {
    for (value, why) in [
        (
            "https://a.example",
            "2:15: `server_name` is \"https://a.example\", but it has a scheme; write a host name, with a port if need be",
        ),
        (
            "a_b.example",
            "2:15: `server_name` is \"a_b.example\", but '_' cannot be part of a host name; write a host name, with a port if need be",
        ),
        ("", "2:15: `server_name` is \"\", but the host is empty; write a host name, with a port if need be"),
    ] {
        assert_eq!(homeserver_fault(&format!("server_name = \"{value}\"\nupstream = \"http://h\"")), why);
    }
    for key in ["public_host", "federation_host"] {
        let keys = format!("server_name = \"a.example\"\nupstream = \"http://h\"\n{key} = \"::1\"");
        let fault = homeserver_fault(&keys);
        assert!(fault.starts_with("4:") && fault.contains(key) && fault.contains("[2001:db8::1]"), "{fault}");
    }
}

#[test]
fn bad_upstreams_say_what_to_write() {
    for (value, place, advice) in [
        ("\"https://127.0.0.1/_matrix\"", "3:12", "write https://127.0.0.1"),
        ("\"http://127.0.0.1:8008/_matrix\"", "3:12", "write http://127.0.0.1:8008"),
        ("[\"http://a:1\", \"b:2\"]", "3:27", "write http://HOST:PORT, https://HOST:PORT or unix:/PATH"),
        ("[\"http://a:1\", \"http://a:1\"]", "3:27", "is listed twice; remove one"),
        ("[]", "3:12", "write at least one URL"),
        ("8008", "3:12", "write a string in quotes"),
    ] {
        let fault = homeserver_fault(&format!("server_name = \"a.example\"\nupstream = {value}"));
        assert!(fault.starts_with(place) && fault.contains(advice), "{fault}");
    }
}

#[test]
fn keys_about_tls_that_do_not_fit_the_upstream_are_told() {
    for (value, key, advice) in [
        ("http://h", "upstream_ca = \"ca.pem\"", "names none; write https://HOST:PORT there, or remove it"),
        ("http://h", "upstream_name = \"a.example\"", "names none; write https://"),
        ("unix:/x", "upstream_verify = true", "names none; write https://"),
        ("https://h", "upstream_ca = \"\"", "is empty; write the path of a file"),
        ("https://h", "upstream_ca = 1", "write a string in quotes"),
        ("https://h", "upstream_name = \"a b\"", "write the host name or IP address"),
        ("https://h", "upstream_name = \"a.example:443\"", "write the host name or IP address"),
        ("https://h", "upstream_verify = \"no\"", "write true or false"),
        ("https://h", "upstream_ca = \"ca.pem\"\nupstream_verify = false", "remove one of them"),
    ] {
        let fault = homeserver_fault(&format!("server_name = \"a.example\"\nupstream = \"{value}\"\n{key}"));
        assert!(fault.starts_with("4:") && fault.contains(advice), "{key}: {fault}");
    }
}

#[test]
fn bad_documents_say_where_the_json_breaks() {
    for (key, value, advice) in [
        ("well_known_client", "'''[]'''", "it is not a JSON object; write one JSON object"),
        (
            "well_known_server",
            "'''{\"m.server\":}'''",
            "it is not JSON (expected value at its line 1, column 13)",
        ),
        ("well_known_support", "''", "it is not JSON"),
    ] {
        let fault = homeserver_fault(&format!(
            "server_name = \"a.example\"\nupstream = \"http://h\"\n{key} = {value}"
        ));
        assert!(fault.starts_with("4:") && fault.contains(key) && fault.contains(advice), "{fault}");
    }
}

#[test]
fn a_host_belongs_to_one_homeserver() {
    let homeserver = |name: &str, more: &str| {
        format!("[[homeserver]]\nserver_name = \"{name}\"\nupstream = \"http://h\"\n{more}\n")
    };
    let tail = "[[certificate]]\nchain = \"c\"\nkey = \"k\"\n";
    let twice = faults(&format!("{}{}{tail}", homeserver("a.example", ""), homeserver("A.example", "")));
    assert_eq!(
        twice,
        ["6:15: `server_name` leads to A.example, which is a host of homeserver a.example already; \
          give each homeserver its own hosts"]
    );
    let second = homeserver("b.example", "public_host = \"a.example:8443\"");
    let shared = faults(&format!("{}{second}{tail}", homeserver("a.example", "")));
    assert_eq!(shared.len(), 1);
    assert!(shared[0].starts_with("8:15: `public_host` leads to a.example, "), "{shared:#?}");
}

#[test]
fn bad_addresses_say_what_to_write() {
    for (value, advice) in [
        ("443", "write an IP address and a port"),
        (":443", "write \"[::]:443\" for every address"),
        ("*:443", "write \"[::]:443\" for every address"),
        ("::1", "add a port"),
        ("0.0.0.0", "add a port"),
        ("localhost:443", "write an IP address and a port"),
        ("127.0.0.1:70000", "write an IP address and a port"),
        ("", "write an IP address and a port"),
    ] {
        let fault = fault(&format!("[[listener]]\naddress = \"{value}\""));
        assert!(fault.starts_with("5:11: `address` is ") && fault.contains(advice), "{fault}");
    }
}

#[test]
fn two_listeners_at_one_port_are_refused() {
    for (first, second) in [
        ("[::]:443", "[::]:443"),
        ("[::]:443", "0.0.0.0:443"),
        ("0.0.0.0:443", "[::]:443"),
        ("[::1]:1", "[::1]:1"),
    ] {
        let text = format!("[[listener]]\naddress = \"{first}\"\n[[listener]]\naddress = \"{second}\"");
        let expected = format!("7:11: {second} and {first} are the same port; remove one of them");
        assert_eq!(fault(&text), expected);
    }
}

#[test]
fn roles_are_words() {
    assert_eq!(
        fault("[[listener]]\naddress = \"[::]:80\"\nrole = \"web\""),
        "6:8: `role` is \"web\"; write \"client\" or \"federation\" or \"redirect\""
    );
}

#[test]
fn a_redirect_has_no_tls_and_no_admins() {
    let redirect = "[[listener]]\naddress = \"[::]:80\"\nrole = \"redirect\"\n";
    let tls = fault(&format!("{redirect}tls = true"));
    assert!(tls.starts_with("7:7: a redirect leads from plain http to https; remove `tls`"), "{tls}");
    let admin = fault(&format!("{redirect}admin_from = [\"10.0.0.0/8\"]"));
    assert!(admin.starts_with("7:14: `admin_from` has no effect on a redirect"), "{admin}");
}

#[test]
fn bad_networks_say_what_to_write() {
    for (value, advice) in [
        ("10.0.0.1/8", "write \"10.0.0.0/8\", or an address without /"),
        ("10.0.0.0/33", "write an address or a network"),
        ("localhost", "write an address or a network"),
    ] {
        let fault = fault(&format!("trusted_proxies = [\"{value}\"]"));
        assert!(fault.starts_with("4:20: `trusted_proxies` has ") && fault.contains(advice), "{fault}");
    }
    let fault = fault("[[listener]]\naddress = \"[::]:80\"\nadmin_from = [\"::1\", \"x\"]");
    assert!(fault.starts_with("6:22: `admin_from` has \"x\""), "{fault}");
}

#[test]
fn a_listener_with_tls_needs_a_certificate() {
    let text = "[[homeserver]]\nserver_name = \"a.example\"\nupstream = \"http://h\"\n\
        [[listener]]\naddress = \"[::]:80\"\ntls = false\n[[listener]]\naddress = \"[::]:443\"\n";
    let expected = "8:11: [::]:443 speaks TLS, but there is no [[certificate]]; \
        add one with `chain` and `key`, or set tls = false";
    assert_eq!(faults(text), [expected]);
}

#[test]
fn certificates_need_paths() {
    let found = faults(
        "[[homeserver]]\nserver_name = \"a.example\"\nupstream = \"http://h\"\n[[certificate]]\nchain = \"\"\nkey = 1\n",
    );
    assert_eq!(
        found,
        [
            "5:9: `chain` is empty; write the path of a file",
            "6:7: `key` is the number 1; write a string in quotes"
        ]
    );
}

#[test]
fn routes_are_checked() {
    let route = |keys: &str| format!("[[route]]\nupstream = \"http://h\"\n{keys}");
    for (keys, place, advice) in [
        ("path = \"wiki\"", "6:8", "write \"/wiki\""),
        (
            "path = \"/wiki/\"",
            "6:8",
            "which ends with a slash; write \"/wiki\", which means itself and everything below it",
        ),
        (
            "path = \"//\"",
            "6:8",
            "which ends with a slash; write \"/\", which means itself and everything below it",
        ),
        ("path = \"/a?b\"", "6:8", "no query"),
        ("path = \"/ä\"", "6:8", "only ASCII"),
        ("path = \"/\"\nhosts = []", "7:9", "name at least one host"),
        ("path = \"/\"\nhosts = [\"a.example:443\"]", "7:10", "remove the port"),
        ("path = \"/\"\nhosts = [\"*.example\"]", "7:10", "'*' cannot be part of a host name"),
        ("path = \"/\"\nhosts = [\"a.example\", \"A.example\"]", "7:23", "twice; remove one"),
        ("path = \"/\"\nbody_bytes_max = \"1 B\"", "7:18", "it may be from 1 KiB to 1024 GiB"),
    ] {
        let fault = fault(&route(keys));
        assert!(fault.starts_with(place) && fault.contains(advice), "{fault}");
    }
    let twice = fault(&format!("{}\n{}", route("path = \"/a\""), route("path = \"/a\"")));
    assert_eq!(twice, "9:8: there is a route for /a of this host already; remove one of them");
}

#[test]
fn the_process_is_checked() {
    for (text, expected) in [
        (
            "[server]\naccess_log_format = \"xml\"",
            "5:21: `access_log_format` is \"xml\"; write \"text\" or \"json\" or \"combined\"",
        ),
        (
            "[server]\naccess_log_targets = \"none\"",
            "5:22: `access_log_targets` is \"none\"; write \"short\" or \"full\"",
        ),
        (
            "[server]\naccess_log = \"\"",
            "5:14: `access_log` is empty; write \"off\", \"stdout\" or the path of a file",
        ),
        ("[server]\nuser = \"a:b\"", "5:8: `user` is \"a:b\"; write the name of a system user, or remove it"),
        ("[server]\nworkers = 2000", "5:11: `workers` is 2000; it may be from 0 to 1024"),
    ] {
        assert_eq!(fault(text), expected);
    }
    let log = fault("[server]\nlog = \"ringfence=loud\"");
    assert!(log.starts_with("5:7: `log` is \"ringfence=loud\": "), "{log}");
}

#[test]
fn every_limit_has_a_least_and_a_greatest_value() {
    for (key, below, above) in [
        // There is no least one: 0 is none.
        ("data_rate_min", "\"65 KiB\"", "\"1 MiB\""),
        ("head_bytes_max", "\"1 KiB\"", "\"257 KiB\""),
        ("field_count_max", "15", "257"),
        ("body_bytes_max", "1023", "\"1025 GiB\""),
        ("connections_max", "15", "1_000_001"),
        ("connections_per_address_max", "0", "1_000_001"),
    ] {
        for value in [below, above] {
            let fault = fault(&format!("[limits]\n{key} = {value}"));
            assert!(fault.starts_with("5:") && fault.contains("; it may be from "), "{fault}");
        }
    }
    assert_eq!(
        fault("[limits]\nhead_bytes_max = 1024"),
        "5:18: `head_bytes_max` is 1 KiB; it may be from 4 KiB to 256 KiB"
    );
}

#[test]
fn every_timeout_has_a_least_and_a_greatest_value() {
    for key in limits::TIMEOUTS_SCHEMA.keys {
        let key = key.name;
        for value in ["0s", "9ms", "25h"] {
            let fault = fault(&format!("[timeouts]\n{key} = \"{value}\""));
            // Who asks more often than this asks for trouble.
            let least = if key == "health_interval" { "100ms" } else { "10ms" };
            let expected = format!("; it may be from {least} to ");
            assert!(fault.starts_with("5:") && fault.contains(&expected), "{fault}");
        }
    }
}

#[test]
fn a_health_path_is_what_can_be_asked_for() {
    for (path, advice) in [
        ("health", "which does not begin with a slash; write \"/health\""),
        ("", "which does not begin with a slash; write \"/\""),
        ("/a b", "but a path has only visible ASCII"),
        ("/\u{fc}", "but a path has only visible ASCII"),
        ("/a\\r\\nb", "but a path has only visible ASCII"),
        ("/a#b", "but a path has only visible ASCII"),
    ] {
        let text = format!("[[route]]\npath = \"/x\"\nupstream = \"http://[::1]\"\nhealth_path = \"{path}\"");
        let fault = fault(&text);
        assert!(fault.starts_with("7:15: `health_path` is ") && fault.contains(advice), "{fault}");
    }
}

#[test]
fn an_answer_may_take_no_longer_than_the_interval() {
    assert_eq!(
        fault("[timeouts]\nhealth_interval = \"1s\"\nhealth_wait = \"2s\""),
        "6:15: `health_wait` is 2s; it may be up to `health_interval`, which is 1s"
    );
}

#[test]
fn sizes_and_durations_need_their_units() {
    for (text, expected) in [
        (
            "[limits]\nbody_bytes_max = \"50 MB\"",
            "5:18: `body_bytes_max` is \"50 MB\"; write a number of bytes, or",
        ),
        (
            "[limits]\nbody_bytes_max = 1.5",
            "5:18: `body_bytes_max` is a number with a fraction; write a number of bytes",
        ),
        (
            "[timeouts]\nlinger = 30",
            "5:10: `linger` is the number 30; write a whole number with ms, s, min or h",
        ),
        (
            "[timeouts]\nlinger = \"30 sec\"",
            "5:10: `linger` is \"30 sec\"; write a whole number with ms, s, min or h",
        ),
    ] {
        let fault = fault(text);
        assert!(fault.starts_with(expected), "{fault}");
    }
}

#[test]
fn rate_limits_that_cannot_be_read_are_told() {
    assert_eq!(
        fault("[rate_limits]\nlogin = \"20/min\""),
        "5:9: `login` is \"20/min\"; write \"off\", or a rate and a burst, as in \"20/min burst 20\""
    );
    assert_eq!(
        fault("[rate_limits]\nexempt = [\"10.0.0.1/8\"]"),
        "5:11: `exempt` has \"10.0.0.1/8\", which is no network; write \"10.0.0.0/8\", or an address without /"
    );
    assert_eq!(
        fault("[rate_limits]\nlogins = \"off\""),
        "5:1: unknown key `logins` in [rate_limits]; the nearest known one is `login`"
    );
}

#[test]
fn a_listener_that_believes_no_balancer_is_told() {
    assert_eq!(
        fault("[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol_from = []"),
        "6:23: `proxy_protocol_from` is empty, so that nobody could connect; name the balancers, or remove it"
    );
}
