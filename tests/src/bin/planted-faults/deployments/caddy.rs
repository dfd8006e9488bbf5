//! Caddy, as Synapse's documentation has it, and what guides make of it.
#![forbid(unsafe_code)]

use ringfence_tests::other_proxy::Software;

use super::{Deployment, Fault, Planted, fault};

pub(super) const CADDY: Deployment = Deployment { software: Software::Caddy, config: CONFIG, faults: FAULTS };

const FAULTS: &[Fault] = &[
    fault("sound", Planted::Nothing, &[], ""),
    fault(
        "handle_path and a rewrite back",
        Planted::Line(
            "reverse_proxy /_matrix/* ORIGIN",
            "handle_path /_matrix/* {\n    rewrite * /_matrix{path}\n    reverse_proxy ORIGIN\n  }",
        ),
        &["encoded-path"],
        "no handle_path",
    ),
    fault(
        "everyone in trusted_proxies",
        Planted::Line(
            "reverse_proxy /_matrix/* ORIGIN",
            "reverse_proxy /_matrix/* ORIGIN {\n    trusted_proxies 0.0.0.0/0\n  }",
        ),
        &["forwarded-for"],
        "trusted_proxies",
    ),
    fault(
        "well-known without CORS",
        Planted::Line("header /.well-known/matrix/* Access-Control-Allow-Origin *", ""),
        &["well-known-client"],
        "header /.well-known/matrix/client Access-Control-Allow-Origin *",
    ),
    fault(
        "CORS is removed",
        Planted::Line(
            "reverse_proxy /_matrix/* ORIGIN",
            "reverse_proxy /_matrix/* ORIGIN {\n    header_down -Access-Control-Allow-Origin\n  }",
        ),
        &["cors", "cors-error", "cors-preflight"],
        "remove header_down -Access-Control-Allow-Origin",
    ),
    fault(
        "everything is proxied",
        Planted::Line("reverse_proxy /_matrix/* ORIGIN", "reverse_proxy ORIGIN"),
        &["admin-closed"],
        "reverse_proxy /_matrix/*",
    ),
    fault(
        "a short response_header_timeout",
        Planted::Patience(
            "reverse_proxy /_matrix/* ORIGIN",
            "reverse_proxy /_matrix/* ORIGIN {\n    transport http {\n      response_header_timeout 2s\n    }\n  }",
        ),
        &["long-poll"],
        "response_header_timeout",
    ),
];

const CONFIG: &str = r#"
{
  admin off
  auto_https off
  default_sni matrix.example.com
}
https://:PORT {
  bind 127.0.0.1
  tls FOLDER/c.chain.pem FOLDER/c.key.pem
  header /.well-known/matrix/* Content-Type application/json
  header /.well-known/matrix/* Access-Control-Allow-Origin *
  respond /.well-known/matrix/server `{"m.server":"matrix.example.com:8448"}`
  respond /.well-known/matrix/client `{"m.homeserver":{"base_url":"https://matrix.example.com"}}`
  reverse_proxy /_matrix/* ORIGIN
  reverse_proxy /_synapse/client/* ORIGIN
}
"#;
