//! nginx, as Synapse's documentation has it, and what guides make of it.
#![forbid(unsafe_code)]

use ringfence_tests::other_proxy::Software;

use super::{
    BELIEVED_BY_NOBODY, Deployment, Fault, Planted, certificate_of_another_name, certificate_of_the_past,
    certificate_with_its_chain, certificate_without_its_chain, fault,
};

pub(super) const NGINX: Deployment = Deployment { software: Software::Nginx, config: CONFIG, faults: FAULTS };

const FAULTS: &[Fault] = &[
    fault("sound", Planted::Nothing, &[], ""),
    fault(
        "a sound certificate with an intermediate",
        Planted::Certificate(certificate_with_its_chain),
        &[],
        "",
    ),
    fault(
        "a slash in proxy_pass",
        Planted::Line(
            "location ~ ^(/_matrix|/_synapse/client) {\n      proxy_pass http://ORIGIN;",
            "location /_matrix/ {\n      proxy_pass http://ORIGIN/_matrix/;",
        ),
        &["encoded-path"],
        "proxy_pass http://127.0.0.1:8008;  # no slash",
    ),
    fault(
        "a rewrite before proxy_pass",
        Planted::Line("proxy_pass http://ORIGIN;", "rewrite ^/(.*)$ /$1 break; proxy_pass http://ORIGIN;"),
        &["encoded-path"],
        "no rewrite before it",
    ),
    fault(
        "$proxy_add_x_forwarded_for",
        Planted::Line("X-Forwarded-For $remote_addr", "X-Forwarded-For $proxy_add_x_forwarded_for"),
        &["forwarded-for"],
        "proxy_set_header X-Forwarded-For $remote_addr;  # not $proxy_add_x_forwarded_for",
    ),
    fault(
        "no X-Forwarded-Proto",
        Planted::Line("proxy_set_header X-Forwarded-Proto $scheme;", ""),
        &["forwarded-proto"],
        "proxy_set_header X-Forwarded-Proto $scheme;",
    ),
    fault(
        "Host is not passed",
        Planted::Line("proxy_set_header Host $host:$server_port;", ""),
        &["forwarded-proto"],
        "proxy_set_header Host $host",
    ),
    fault(
        "no client_max_body_size",
        Planted::Line("client_max_body_size 50M;", ""),
        &["upload-limit"],
        "client_max_body_size 50M;",
    ),
    fault(
        "the 413 has no CORS",
        Planted::Line("error_page 413 @too_large;", ""),
        &["cors-413"],
        "error_page 413 @too_large;",
    ),
    fault(
        "well-known without CORS",
        Planted::Line("add_header Access-Control-Allow-Origin * always; return 200", "return 200"),
        &["well-known-client"],
        "add_header Access-Control-Allow-Origin * always",
    ),
    fault(
        "well-known of another content type",
        Planted::Line("default_type application/json; add_header", "default_type text/html; add_header"),
        &["well-known-client"],
        "default_type application/json;",
    ),
    fault(
        "well-known that is a page",
        Planted::Line(
            "return 200 '{\"m.server\":\"matrix.example.com:8448\"}'",
            "return 200 '<h1>It works!</h1>'",
        ),
        &["well-known-server"],
        "location = /.well-known/matrix/server",
    ),
    fault(
        "CORS is hidden",
        Planted::Line("proxy_pass http", "proxy_hide_header Access-Control-Allow-Origin; proxy_pass http"),
        &["cors", "cors-error", "cors-preflight"],
        "proxy_hide_header Access-Control-Allow-Origin",
    ),
    fault(
        "CORS is added to the homeserver's",
        Planted::Line("proxy_pass http", "add_header Access-Control-Allow-Origin * always; proxy_pass http"),
        &["cors", "cors-error", "cors-preflight"],
        "remove add_header Access-Control-Allow-Origin",
    ),
    fault(
        "OPTIONS is answered by nginx",
        Planted::Line(
            "proxy_pass http",
            "if ($request_method = OPTIONS) { add_header Access-Control-Allow-Origin *; return 204; } proxy_pass http",
        ),
        &["cors-preflight"],
        "if ($request_method = OPTIONS)",
    ),
    fault(
        "errors are answered by nginx",
        Planted::Line(
            "proxy_pass http",
            "proxy_intercept_errors on; error_page 401 403 404 = @page; proxy_pass http",
        ),
        &["cors-error"],
        "proxy_intercept_errors",
    ),
    fault(
        "everything is proxied",
        Planted::Line("location ~ ^(/_matrix|/_synapse/client) {", "location / {"),
        &["admin-closed"],
        "location ~ ^(/_matrix|/_synapse/client)",
    ),
    fault(
        "a 301 before the API",
        Planted::Line("proxy_pass http", "return 301 https://www.example.com$request_uri; proxy_pass http"),
        &["server-key", "federation-version", "client-versions"],
        "return 301",
    ),
    fault(
        "handshakes without a name are rejected",
        Planted::Line(
            "server {\n    listen",
            "server { listen ADDRESS ssl default_server; ssl_reject_handshake on; }\n  server {\n    listen",
        ),
        &["no-sni", "unknown-host"],
        "no ssl_reject_handshake",
    ),
    fault(
        "a short proxy_read_timeout",
        Planted::Patience("proxy_read_timeout 300s;", "proxy_read_timeout 2s;"),
        &["long-poll"],
        "proxy_read_timeout 300s;",
    ),
    fault("no listener on 8448", Planted::NoFederationPort, &["connect"], "listen 8448 ssl;"),
    fault(
        "a certificate of another name",
        Planted::Certificate(certificate_of_another_name),
        &["certificate"],
        "ssl_certificate /etc/letsencrypt/live/matrix.example.com/fullchain.pem;",
    ),
    fault(
        "an expired certificate",
        Planted::Certificate(certificate_of_the_past),
        BELIEVED_BY_NOBODY,
        "ssl_certificate ",
    ),
    fault(
        "a certificate without its chain",
        Planted::Certificate(certificate_without_its_chain),
        BELIEVED_BY_NOBODY,
        "fullchain.pem",
    ),
];

const CONFIG: &str = r#"
# One process: a worker of its own would outlive the kill.
daemon off; master_process off; pid FOLDER/pid; error_log stderr crit;
events {}
http {
  access_log off; client_body_temp_path FOLDER/a; proxy_temp_path FOLDER/b; fastcgi_temp_path FOLDER/c;
  uwsgi_temp_path FOLDER/d; scgi_temp_path FOLDER/e;
  server {
    listen ADDRESS ssl reuseport;
    server_name example.com matrix.example.com;
    ssl_certificate FOLDER/c.chain.pem; ssl_certificate_key FOLDER/c.key.pem;
    location = /.well-known/matrix/server {
      default_type application/json; return 200 '{"m.server":"matrix.example.com:8448"}';
    }
    location = /.well-known/matrix/client {
      default_type application/json; add_header Access-Control-Allow-Origin * always; return 200 '{"m.homeserver":{"base_url":"https://matrix.example.com"}}';
    }
    location ~ ^(/_matrix|/_synapse/client) {
      proxy_pass http://ORIGIN;
      proxy_set_header Host $host:$server_port;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_read_timeout 300s;
      client_max_body_size 50M;
      error_page 413 @too_large;
    }
    location @too_large {
      add_header Access-Control-Allow-Origin * always; return 413 '{"errcode":"M_TOO_LARGE"}';
    }
    location @page { return 404 '<h1>Not found</h1>'; }
  }
}
"#;
