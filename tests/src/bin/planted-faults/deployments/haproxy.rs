//! HAProxy, as Synapse's documentation has it, and what guides make of it.
#![forbid(unsafe_code)]

use ringfence_tests::other_proxy::Software;

use super::{BELIEVED_BY_NOBODY, Deployment, Fault, Planted, certificate_without_its_chain, fault};

pub(super) const HAPROXY: Deployment =
    Deployment { software: Software::Haproxy, config: CONFIG, faults: FAULTS };

const FAULTS: &[Fault] = &[
    fault("sound", Planted::Nothing, &[], ""),
    fault(
        "a decoded set-path",
        Planted::Line("default_backend", "http-request set-path %[path,url_dec]\n  default_backend"),
        &["encoded-path"],
        "set-path",
    ),
    fault(
        "option forwardfor",
        Planted::Line("http-request set-header X-Forwarded-For %[src]", "option forwardfor"),
        &["forwarded-for"],
        "http-request set-header X-Forwarded-For %[src]  # instead of option forwardfor",
    ),
    fault(
        "no X-Forwarded-Proto",
        Planted::Line("http-request set-header X-Forwarded-Proto https\n", "\n"),
        &["forwarded-proto"],
        "http-request set-header X-Forwarded-Proto https",
    ),
    fault(
        "well-known without CORS",
        Planted::Line("hdr Access-Control-Allow-Origin * ", ""),
        &["well-known-client"],
        "hdr Access-Control-Allow-Origin *",
    ),
    fault(
        "CORS is deleted",
        Planted::Line(
            "default_backend",
            "http-response del-header Access-Control-Allow-Origin\n  default_backend",
        ),
        &["cors", "cors-error", "cors-preflight"],
        "remove http-response del-header Access-Control-Allow-Origin",
    ),
    fault(
        "CORS is added to the homeserver's",
        Planted::Line(
            "default_backend",
            "http-response add-header Access-Control-Allow-Origin *\n  default_backend",
        ),
        &["cors", "cors-error", "cors-preflight"],
        "remove http-response add-header Access-Control-Allow-Origin",
    ),
    fault(
        "everything is proxied",
        Planted::Line("http-request deny unless { path_beg /_matrix/ /_synapse/client/ }", ""),
        &["admin-closed"],
        "http-request deny unless { path_beg /_matrix/",
    ),
    fault(
        "strict-sni",
        Planted::Line("alpn http/1.1", "alpn http/1.1 strict-sni"),
        &["no-sni"],
        "without strict-sni",
    ),
    fault(
        "a short timeout server",
        Planted::Patience("timeout server 300s", "timeout server 2s"),
        &["long-poll"],
        "timeout server 300s",
    ),
    fault(
        "a certificate without its chain",
        Planted::Certificate(certificate_without_its_chain),
        BELIEVED_BY_NOBODY,
        "the full chain and its key in one file",
    ),
];

const CONFIG: &str = r#"
global
  maxconn 500
defaults
  mode http
  timeout connect 3s
  timeout client 300s
  timeout server 300s
frontend edge
  bind ADDRESS ssl crt FOLDER/c.pem alpn http/1.1
  http-request return status 200 content-type application/json string '{"m.server":"matrix.example.com:8448"}' if { path /.well-known/matrix/server }
  http-request return status 200 content-type application/json hdr Access-Control-Allow-Origin * string '{"m.homeserver":{"base_url":"https://matrix.example.com"}}' if { path /.well-known/matrix/client }
  http-request deny unless { path_beg /_matrix/ /_synapse/client/ }
  http-request set-header X-Forwarded-Proto https
  http-request set-header X-Forwarded-For %[src]
  default_backend homeserver
backend homeserver
  server one ORIGIN
"#;
