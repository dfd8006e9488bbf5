//! Faults of a deployment: one changed line in the sound configuration of a real proxy, or another certificate.

use std::net::SocketAddr;

use ringfence_tests::authority::Certificate;
use ringfence_tests::examination::{Found, everywhere, examine};
use ringfence_tests::homeserver::{Homeserver, TOKEN};
use ringfence_tests::other_proxy::{OtherProxy, Software};
use ringfence_tests::place::Place;
use ringfence_tests::proxy::ProxyBuilder;
use ringfence_tests::{Authority, Origin, Proxy, SECOND, pause};

use crate::{Case, Finding};

/// A fault of a proxy of others.
struct Fault {
    software: Software,
    name: &'static str,
    planted: Planted,
    /// The checks that tell it; no others may.
    checks: &'static [&'static str],
    /// What the advice names of the line.
    line: &'static str,
}

/// What is done to a sound deployment.
#[derive(Clone, Copy)]
enum Planted {
    /// Nothing.
    Nothing,
    /// This text of the configuration is replaced.
    Line(&'static str, &'static str),
    /// Another certificate is shown.
    Certificate(fn() -> Certificate),
    /// Nobody listens on port 8448.
    NoFederationPort,
    /// As a line, for a fault that shows in a long poll only.
    Patience(&'static str, &'static str),
}

/// Every fault, with the control of each proxy before those of it.
pub(crate) fn cases() -> Vec<Case> {
    let faults = NGINX.iter().chain(HAPROXY).chain(CADDY).chain(APACHE);
    let cases = faults.map(|fault| Case {
        name: format!("{}: {}", fault.software.as_str(), fault.name),
        look: Box::new(|| fault.look()),
    });
    cases.chain(ringfence_cases()).collect()
}

impl Fault {
    fn look(&self) -> Result<Finding, String> {
        if self.software.program().is_none() {
            return Err(format!("{} is not installed", self.software.as_str()));
        }
        let origin = homeserver();
        let config = self.config()?.replace("ORIGIN", &origin.address().to_string());
        let certificate = match self.planted {
            Planted::Certificate(issue) => issue(),
            _ => Authority::shared().certificate(&NAMES),
        };
        let proxy = OtherProxy::start(self.software, &certificate, &config, &DOCUMENTS);
        let is_slow = matches!(self.planted, Planted::Patience(..));
        let has_8448 = !matches!(self.planted, Planted::NoFederationPort);
        let found = look_from_outside(proxy.address, has_8448, is_slow, Some(self.software));
        judge(&found, self.checks, self.software.as_str(), self.line)
    }

    fn config(&self) -> Result<String, String> {
        let sound = match self.software {
            Software::Nginx => NGINX_CONFIG,
            Software::Haproxy => HAPROXY_CONFIG,
            Software::Caddy => CADDY_CONFIG,
            Software::Apache => APACHE_CONFIG,
        };
        match self.planted {
            Planted::Line(from, to) | Planted::Patience(from, to) => match sound.matches(from).count() {
                1 => Ok(sound.replace(from, to)),
                count => Err(format!("the sound configuration has {from:?} {count} times")),
            },
            _ => Ok(sound.to_owned()),
        }
    }
}

/// The stand-in for a homeserver; only a long poll that goes on from somewhere is kept waiting.
fn homeserver() -> Origin {
    let homeserver = Homeserver::default();
    Origin::serving(move |request| {
        if request.head.target().contains("&since=") {
            pause(LONG_POLL_SECONDS * SECOND);
        }
        homeserver.answer(&request.head)
    })
}

/// Longer than the patience that is planted, and shorter than that of the harness, in seconds.
const LONG_POLL_SECONDS: u32 = 5;

fn look_from_outside(
    address: SocketAddr,
    has_8448: bool,
    is_slow: bool,
    software: Option<Software>,
) -> Found {
    let closed = Place::v4();
    let mut ports = everywhere(address);
    if !has_8448 {
        let close = |(_, port, address): &mut (&str, u16, SocketAddr)| {
            if *port == 8448 {
                *address = closed.address();
            }
        };
        ports.iter_mut().for_each(close);
    }
    let mut more = vec!["--token", TOKEN];
    more.extend(is_slow.then_some("--slow"));
    // It is the one that does not name itself.
    if software == Some(Software::Haproxy) {
        more.extend(["--proxy", "haproxy"]);
    }
    examine(&ports, &more)
}

/// Whether those checks and no others found something, and the advice for `proxy` names the line.
fn judge(found: &Found, checks: &[&str], proxy: &str, line: &str) -> Result<Finding, String> {
    let mut ids = [found.ids("fault"), found.ids("warning")].concat();
    ids.sort_unstable();
    ids.dedup();
    let mut expected = checks.to_vec();
    expected.sort_unstable();
    let seen = || {
        let checks: Vec<_> = ids.iter().flat_map(|id| found.checks(id)).collect();
        checks.iter().map(|check| format!("\n         {} {}", check["id"], check["seen"])).collect::<String>()
    };
    if found.json["proxy"] != proxy {
        return Err(format!("the proxy is taken for {}{}", found.json["proxy"], seen()));
    }
    if ids != expected {
        return Err(format!("{ids:?} tell something, and {expected:?} should{}", seen()));
    }
    let Some(first) = checks.first() else {
        let skipped = found.ids("skipped").join(", ");
        return Ok(Finding { by: format!("nothing is found (skipped: {skipped})"), advice: String::new() });
    };
    let advice = found.line(first, proxy);
    match advice.contains(line) {
        true => Ok(Finding { by: checks.join(", "), advice: advice.to_owned() }),
        false => Err(format!("{first}: the advice is {advice:?}, which does not name {line:?}")),
    }
}

/// For the one that does not answer by itself: the discovery documents.
const DOCUMENTS: [(&str, &str); 2] = [
    ("matrix-server", r#"{"m.server":"matrix.example.com:8448"}"#),
    ("matrix-client", r#"{"m.homeserver":{"base_url":"https://matrix.example.com"}}"#),
];

const NAMES: [&str; 2] = ["example.com", "matrix.example.com"];

fn certificate_of_another_name() -> Certificate {
    Authority::shared().certificate(&["example.com", "www.example.com"])
}

fn certificate_of_the_past() -> Certificate {
    Authority::shared().certificate_like(&NAMES, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 4, 1);
    })
}

/// As `cert.pem` of certbot: without what vouches for it.
fn certificate_without_its_chain() -> Certificate {
    Authority::shared().intermediate().certificate(&NAMES)
}

/// As `fullchain.pem`.
fn certificate_with_its_chain() -> Certificate {
    let intermediate = Authority::shared().intermediate();
    let leaf = intermediate.certificate(&NAMES);
    Certificate { chain_pem: leaf.chain_pem + &intermediate.pem(), ..leaf }
}

/// What a certificate breaks that nobody believes, for the server name too: the base URL is not known then, so that clients are
/// looked at where the server name leads, which is not `public_baseurl`.
const BELIEVED_BY_NOBODY: &[&str] =
    &["certificate", "well-known-client", "well-known-server", "forwarded-proto"];

/// What ringfence's own file can do to a deployment.
fn ringfence_cases() -> impl Iterator<Item = Case> {
    type Plant = fn(ProxyBuilder) -> ProxyBuilder;
    let faults: [(&str, Plant, &[&str], &str); 7] = [
        ("sound", |proxy| proxy, &[], ""),
        (
            "everyone in trusted_proxies",
            |proxy| proxy.top("trusted_proxies = [\"0.0.0.0/0\"]"),
            &["forwarded-for"],
            "trusted_proxies",
        ),
        (
            "everyone in admin_from",
            |proxy| proxy.first_listener("admin_from = [\"0.0.0.0/0\"]"),
            &["admin-closed"],
            "admin_from",
        ),
        (
            "body_bytes_max below m.upload.size",
            |proxy| proxy.limits("body_bytes_max = \"10 MiB\""),
            &["upload-limit"],
            "body_bytes_max = \"50 MiB\"",
        ),
        (
            "upstream_first_byte below a long poll",
            |proxy| proxy.timeouts("upstream_first_byte = \"2s\""),
            &["long-poll"],
            "upstream_first_byte",
        ),
        ("strict_hosts", |proxy| proxy.top("strict_hosts = true"), &["unknown-host"], "strict_hosts = false"),
        (
            "federation_host without a listener",
            |proxy| proxy.extra("federation_host = \"matrix.example.com:8448\""),
            &["connect"],
            "role = \"federation\"",
        ),
    ];
    faults.into_iter().map(|(name, plant, checks, line)| Case {
        name: format!("ringfence: {name}"),
        look: Box::new(move || {
            let origin = homeserver();
            let proxy = plant(Proxy::to(&origin).tls()).start();
            let (has_8448, is_slow) = (!checks.contains(&"connect"), checks.contains(&"long-poll"));
            let found = look_from_outside(proxy.address, has_8448, is_slow, None);
            judge(&found, checks, "ringfence", line)
        }),
    })
}

const NGINX: &[Fault] = &[
    nginx("sound", Planted::Nothing, &[], ""),
    nginx(
        "a sound certificate with an intermediate",
        Planted::Certificate(certificate_with_its_chain),
        &[],
        "",
    ),
    nginx(
        "a slash in proxy_pass",
        Planted::Line(
            "location ~ ^(/_matrix|/_synapse/client) {\n      proxy_pass http://ORIGIN;",
            "location /_matrix/ {\n      proxy_pass http://ORIGIN/_matrix/;",
        ),
        &["encoded-path"],
        "proxy_pass http://127.0.0.1:8008;  # no slash",
    ),
    nginx(
        "a rewrite before proxy_pass",
        Planted::Line("proxy_pass http://ORIGIN;", "rewrite ^/(.*)$ /$1 break; proxy_pass http://ORIGIN;"),
        &["encoded-path"],
        "no rewrite before it",
    ),
    nginx(
        "$proxy_add_x_forwarded_for",
        Planted::Line("X-Forwarded-For $remote_addr", "X-Forwarded-For $proxy_add_x_forwarded_for"),
        &["forwarded-for"],
        "proxy_set_header X-Forwarded-For $remote_addr;  # not $proxy_add_x_forwarded_for",
    ),
    nginx(
        "no X-Forwarded-Proto",
        Planted::Line("proxy_set_header X-Forwarded-Proto $scheme;", ""),
        &["forwarded-proto"],
        "proxy_set_header X-Forwarded-Proto $scheme;",
    ),
    nginx(
        "Host is not passed",
        Planted::Line("proxy_set_header Host $host:$server_port;", ""),
        &["forwarded-proto"],
        "proxy_set_header Host $host",
    ),
    nginx(
        "no client_max_body_size",
        Planted::Line("client_max_body_size 50M;", ""),
        &["upload-limit"],
        "client_max_body_size 50M;",
    ),
    nginx(
        "the 413 has no CORS",
        Planted::Line("error_page 413 @too_large;", ""),
        &["cors-413"],
        "error_page 413 @too_large;",
    ),
    nginx(
        "well-known without CORS",
        Planted::Line("add_header Access-Control-Allow-Origin * always; return 200", "return 200"),
        &["well-known-client"],
        "add_header Access-Control-Allow-Origin * always",
    ),
    nginx(
        "well-known of another content type",
        Planted::Line("default_type application/json; add_header", "default_type text/html; add_header"),
        &["well-known-client"],
        "default_type application/json;",
    ),
    nginx(
        "well-known that is a page",
        Planted::Line(
            "return 200 '{\"m.server\":\"matrix.example.com:8448\"}'",
            "return 200 '<h1>It works!</h1>'",
        ),
        &["well-known-server"],
        "location = /.well-known/matrix/server",
    ),
    nginx(
        "CORS is hidden",
        Planted::Line("proxy_pass http", "proxy_hide_header Access-Control-Allow-Origin; proxy_pass http"),
        &["cors", "cors-error", "cors-preflight"],
        "proxy_hide_header Access-Control-Allow-Origin",
    ),
    nginx(
        "CORS is added to the homeserver's",
        Planted::Line("proxy_pass http", "add_header Access-Control-Allow-Origin * always; proxy_pass http"),
        &["cors", "cors-error", "cors-preflight"],
        "remove add_header Access-Control-Allow-Origin",
    ),
    nginx(
        "OPTIONS is answered by nginx",
        Planted::Line(
            "proxy_pass http",
            "if ($request_method = OPTIONS) { add_header Access-Control-Allow-Origin *; return 204; } proxy_pass http",
        ),
        &["cors-preflight"],
        "if ($request_method = OPTIONS)",
    ),
    nginx(
        "errors are answered by nginx",
        Planted::Line(
            "proxy_pass http",
            "proxy_intercept_errors on; error_page 401 403 404 = @page; proxy_pass http",
        ),
        &["cors-error"],
        "proxy_intercept_errors",
    ),
    nginx(
        "everything is proxied",
        Planted::Line("location ~ ^(/_matrix|/_synapse/client) {", "location / {"),
        &["admin-closed"],
        "location ~ ^(/_matrix|/_synapse/client)",
    ),
    nginx(
        "a 301 before the API",
        Planted::Line("proxy_pass http", "return 301 https://www.example.com$request_uri; proxy_pass http"),
        &["server-key", "federation-version", "client-versions"],
        "return 301",
    ),
    nginx(
        "handshakes without a name are rejected",
        Planted::Line(
            "server {\n    listen",
            "server { listen ADDRESS ssl default_server; ssl_reject_handshake on; }\n  server {\n    listen",
        ),
        &["no-sni", "unknown-host"],
        "no ssl_reject_handshake",
    ),
    nginx(
        "a short proxy_read_timeout",
        Planted::Patience("proxy_read_timeout 300s;", "proxy_read_timeout 2s;"),
        &["long-poll"],
        "proxy_read_timeout 300s;",
    ),
    nginx("no listener on 8448", Planted::NoFederationPort, &["connect"], "listen 8448 ssl;"),
    nginx(
        "a certificate of another name",
        Planted::Certificate(certificate_of_another_name),
        &["certificate"],
        "ssl_certificate /etc/letsencrypt/live/matrix.example.com/fullchain.pem;",
    ),
    nginx(
        "an expired certificate",
        Planted::Certificate(certificate_of_the_past),
        BELIEVED_BY_NOBODY,
        "ssl_certificate ",
    ),
    nginx(
        "a certificate without its chain",
        Planted::Certificate(certificate_without_its_chain),
        BELIEVED_BY_NOBODY,
        "fullchain.pem",
    ),
];

const fn nginx(
    name: &'static str,
    planted: Planted,
    checks: &'static [&'static str],
    line: &'static str,
) -> Fault {
    Fault { software: Software::Nginx, name, planted, checks, line }
}

const NGINX_CONFIG: &str = r#"
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

const HAPROXY: &[Fault] = &[
    haproxy("sound", Planted::Nothing, &[], ""),
    haproxy(
        "a decoded set-path",
        Planted::Line("default_backend", "http-request set-path %[path,url_dec]\n  default_backend"),
        &["encoded-path"],
        "set-path",
    ),
    haproxy(
        "option forwardfor",
        Planted::Line("http-request set-header X-Forwarded-For %[src]", "option forwardfor"),
        &["forwarded-for"],
        "http-request set-header X-Forwarded-For %[src]  # instead of option forwardfor",
    ),
    haproxy(
        "no X-Forwarded-Proto",
        Planted::Line("http-request set-header X-Forwarded-Proto https\n", "\n"),
        &["forwarded-proto"],
        "http-request set-header X-Forwarded-Proto https",
    ),
    haproxy(
        "well-known without CORS",
        Planted::Line("hdr Access-Control-Allow-Origin * ", ""),
        &["well-known-client"],
        "hdr Access-Control-Allow-Origin *",
    ),
    haproxy(
        "CORS is deleted",
        Planted::Line(
            "default_backend",
            "http-response del-header Access-Control-Allow-Origin\n  default_backend",
        ),
        &["cors", "cors-error", "cors-preflight"],
        "remove http-response del-header Access-Control-Allow-Origin",
    ),
    haproxy(
        "CORS is added to the homeserver's",
        Planted::Line(
            "default_backend",
            "http-response add-header Access-Control-Allow-Origin *\n  default_backend",
        ),
        &["cors", "cors-error", "cors-preflight"],
        "remove http-response add-header Access-Control-Allow-Origin",
    ),
    haproxy(
        "everything is proxied",
        Planted::Line("http-request deny unless { path_beg /_matrix/ /_synapse/client/ }", ""),
        &["admin-closed"],
        "http-request deny unless { path_beg /_matrix/",
    ),
    haproxy(
        "strict-sni",
        Planted::Line("alpn http/1.1", "alpn http/1.1 strict-sni"),
        &["no-sni"],
        "without strict-sni",
    ),
    haproxy(
        "a short timeout server",
        Planted::Patience("timeout server 300s", "timeout server 2s"),
        &["long-poll"],
        "timeout server 300s",
    ),
    haproxy(
        "a certificate without its chain",
        Planted::Certificate(certificate_without_its_chain),
        BELIEVED_BY_NOBODY,
        "the full chain and its key in one file",
    ),
];

const fn haproxy(
    name: &'static str,
    planted: Planted,
    checks: &'static [&'static str],
    line: &'static str,
) -> Fault {
    Fault { software: Software::Haproxy, name, planted, checks, line }
}

const HAPROXY_CONFIG: &str = r#"
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

const CADDY: &[Fault] = &[
    caddy("sound", Planted::Nothing, &[], ""),
    caddy(
        "handle_path and a rewrite back",
        Planted::Line(
            "reverse_proxy /_matrix/* ORIGIN",
            "handle_path /_matrix/* {\n    rewrite * /_matrix{path}\n    reverse_proxy ORIGIN\n  }",
        ),
        &["encoded-path"],
        "no handle_path",
    ),
    caddy(
        "everyone in trusted_proxies",
        Planted::Line(
            "reverse_proxy /_matrix/* ORIGIN",
            "reverse_proxy /_matrix/* ORIGIN {\n    trusted_proxies 0.0.0.0/0\n  }",
        ),
        &["forwarded-for"],
        "trusted_proxies",
    ),
    caddy(
        "well-known without CORS",
        Planted::Line("header /.well-known/matrix/* Access-Control-Allow-Origin *", ""),
        &["well-known-client"],
        "header /.well-known/matrix/client Access-Control-Allow-Origin *",
    ),
    caddy(
        "CORS is removed",
        Planted::Line(
            "reverse_proxy /_matrix/* ORIGIN",
            "reverse_proxy /_matrix/* ORIGIN {\n    header_down -Access-Control-Allow-Origin\n  }",
        ),
        &["cors", "cors-error", "cors-preflight"],
        "remove header_down -Access-Control-Allow-Origin",
    ),
    caddy(
        "everything is proxied",
        Planted::Line("reverse_proxy /_matrix/* ORIGIN", "reverse_proxy ORIGIN"),
        &["admin-closed"],
        "reverse_proxy /_matrix/*",
    ),
    caddy(
        "a short response_header_timeout",
        Planted::Patience(
            "reverse_proxy /_matrix/* ORIGIN",
            "reverse_proxy /_matrix/* ORIGIN {\n    transport http {\n      response_header_timeout 2s\n    }\n  }",
        ),
        &["long-poll"],
        "response_header_timeout",
    ),
];

const fn caddy(
    name: &'static str,
    planted: Planted,
    checks: &'static [&'static str],
    line: &'static str,
) -> Fault {
    Fault { software: Software::Caddy, name, planted, checks, line }
}

const CADDY_CONFIG: &str = r#"
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

const APACHE: &[Fault] = &[
    apache("sound", Planted::Nothing, &[], ""),
    apache(
        "ProxyPass without nocanon",
        Planted::Line(
            "ProxyPass /_matrix http://ORIGIN/_matrix nocanon",
            "ProxyPass /_matrix http://ORIGIN/_matrix",
        ),
        &["encoded-path"],
        "nocanon",
    ),
    apache(
        "no AllowEncodedSlashes",
        Planted::Line("AllowEncodedSlashes NoDecode", ""),
        &["encoded-path"],
        "AllowEncodedSlashes NoDecode",
    ),
    apache(
        "X-Forwarded-For is appended",
        Planted::Line("RequestHeader unset X-Forwarded-For early", ""),
        &["forwarded-for"],
        "RequestHeader unset X-Forwarded-For early",
    ),
    apache(
        "no ProxyPreserveHost",
        Planted::Line("ProxyPreserveHost on", ""),
        &["forwarded-proto"],
        "ProxyPreserveHost on",
    ),
    apache(
        "CORS is added to the homeserver's",
        Planted::Line(
            "ProxyPreserveHost on",
            "ProxyPreserveHost on\n  <Location /_matrix>\n    Header add Access-Control-Allow-Origin *\n  </Location>",
        ),
        &["cors", "cors-error", "cors-preflight"],
        "remove Header add Access-Control-Allow-Origin",
    ),
    apache(
        "a short ProxyTimeout",
        Planted::Patience("ProxyTimeout 300", "ProxyTimeout 2"),
        &["long-poll"],
        "ProxyTimeout 300",
    ),
];

const fn apache(
    name: &'static str,
    planted: Planted,
    checks: &'static [&'static str],
    line: &'static str,
) -> Fault {
    Fault { software: Software::Apache, name, planted, checks, line }
}

const APACHE_CONFIG: &str = r#"
ServerRoot FOLDER
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
PidFile FOLDER/pid
ErrorLog FOLDER/log
DefaultRuntimeDir FOLDER
ServerName matrix.example.com
User www-data
Group www-data
Listen ADDRESS
<VirtualHost ADDRESS>
  SSLEngine on
  SSLCertificateFile FOLDER/c.chain.pem
  SSLCertificateKeyFile FOLDER/c.key.pem
  AllowEncodedSlashes NoDecode
  ProxyTimeout 300
  ProxyPreserveHost on
  RequestHeader unset X-Forwarded-For early
  RequestHeader set X-Forwarded-Proto expr=%{REQUEST_SCHEME}
  Alias /.well-known/matrix/ FOLDER/matrix-
  <Location /.well-known/matrix/>
    ForceType application/json
    Header always set Access-Control-Allow-Origin "*"
  </Location>
  ProxyPass /_matrix http://ORIGIN/_matrix nocanon
  ProxyPass /_synapse/client http://ORIGIN/_synapse/client nocanon
</VirtualHost>
"#;
