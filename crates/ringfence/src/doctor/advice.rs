//! What to change: for each fault one line of ringfence's config, and of the proxy that answers.

/// Proxies whose configuration lines are known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Software {
    Ringfence,
    Nginx,
    Caddy,
    Haproxy,
    Apache,
}

impl Software {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Software::Ringfence => "ringfence",
            Software::Nginx => "nginx",
            Software::Caddy => "caddy",
            Software::Haproxy => "haproxy",
            Software::Apache => "apache",
        }
    }
}

/// What to do about a fault.
#[derive(Debug)]
pub(super) struct Advice {
    /// What is wrong with it, and for whom.
    pub(super) what: String,
    /// Lines of configuration.
    lines: Vec<(Software, String)>,
}

impl Advice {
    /// Without a line of any proxy: what is to be changed stands elsewhere.
    pub(super) fn only(what: impl Into<String>) -> Self {
        Self { what: what.into(), lines: Vec::new() }
    }

    /// Lines in the order of ringfence, nginx, Caddy, HAProxy, Apache.
    fn new(what: impl Into<String>, lines: [&str; 5]) -> Self {
        let software =
            [Software::Ringfence, Software::Nginx, Software::Caddy, Software::Haproxy, Software::Apache];
        let lines = software.into_iter().zip(lines.map(str::to_owned)).collect();
        Self { what: what.into(), lines }
    }

    /// The lines for a deployment behind `software`: its own and ringfence's, or all if it is not known.
    pub(super) fn lines_for(&self, software: Option<Software>) -> Vec<(Software, String)> {
        let is_wanted = |of: Software| of == Software::Ringfence || software.is_none_or(|known| known == of);
        self.lines.iter().filter(|(of, _)| is_wanted(*of)).cloned().collect()
    }
}

pub(super) fn well_known_server(what: &str, server_name: &str) -> Advice {
    let document = format!(r#"{{"m.server": "matrix.{server_name}:443"}}"#);
    let path = "/.well-known/matrix/server";
    Advice::new(
        format!(
            "{what} (matrix.{server_name}:443 stands for the host and port that other servers connect to)"
        ),
        [
            &format!(
                r#"[[homeserver]] federation_host = "matrix.{server_name}:443"  # the document is made of it"#
            ),
            &format!("location = {path} {{ default_type application/json; return 200 '{document}'; }}"),
            &format!("header {path} Content-Type application/json  and  respond {path} `{document}`"),
            &format!(
                "http-request return status 200 content-type application/json string '{document}' if {{ path {path} }}"
            ),
            &format!(
                "Alias {path} /var/www/matrix-server.json  with <Location {path}> ForceType application/json"
            ),
        ],
    )
}

pub(super) fn well_known_client(what: &str, server_name: &str) -> Advice {
    let document = format!(r#"{{"m.homeserver": {{"base_url": "https://matrix.{server_name}"}}}}"#);
    let path = "/.well-known/matrix/client";
    Advice::new(
        format!("{what} (https://matrix.{server_name} stands for where clients connect)"),
        [
            &format!(
                r#"[[homeserver]] public_host = "matrix.{server_name}"  # the document and its CORS are made of it"#
            ),
            &format!(
                "location = {path} {{ default_type application/json; add_header Access-Control-Allow-Origin * always; return 200 '{document}'; }}"
            ),
            &format!("header {path} Access-Control-Allow-Origin *  and  respond {path} `{document}`"),
            &format!(
                "http-request return status 200 content-type application/json hdr Access-Control-Allow-Origin * string '{document}' if {{ path {path} }}"
            ),
            &format!(
                "<Location {path}> Header always set Access-Control-Allow-Origin \"*\"  and  ForceType application/json"
            ),
        ],
    )
}

pub(super) fn federation_port(what: &str) -> Advice {
    Advice::new(
        what,
        [
            r#"[[listener]] address = "[::]:8448"  and  role = "federation""#,
            "listen 8448 ssl; listen [::]:8448 ssl;",
            "example.com:8448 { reverse_proxy 127.0.0.1:8008 }",
            "bind :::8448 v4v6 ssl crt /etc/haproxy/certs/",
            "Listen 8448  and  <VirtualHost *:8448>",
        ],
    )
}

pub(super) fn client_port(what: &str) -> Advice {
    Advice::new(
        what,
        [
            r#"[[listener]] address = "[::]:443"  and  role = "client""#,
            "listen 443 ssl; listen [::]:443 ssl;",
            "matrix.example.com { reverse_proxy /_matrix/* 127.0.0.1:8008 }",
            "bind :::443 v4v6 ssl crt /etc/haproxy/certs/",
            "Listen 443  and  <VirtualHost *:443>",
        ],
    )
}

pub(super) fn certificate(what: &str, host: &str) -> Advice {
    let chain = format!("/etc/letsencrypt/live/{host}/fullchain.pem");
    Advice::new(
        what,
        [
            &format!(r#"[[certificate]] chain = "{chain}""#),
            &format!("ssl_certificate {chain};"),
            &format!("{host} {{ … }}  # a site of that name; Caddy gets the certificate itself"),
            &format!(
                "bind … ssl crt /etc/haproxy/certs/{host}.pem  # the full chain and its key in one file"
            ),
            &format!("SSLCertificateFile {chain}"),
        ],
    )
}

pub(super) fn wrong_homeserver(what: &str) -> Advice {
    Advice::new(
        what,
        [
            r#"[[homeserver]] server_name and upstream = "http://127.0.0.1:8008"  # those of one homeserver"#,
            "proxy_pass http://127.0.0.1:8008;  # in the server block of that name",
            "reverse_proxy 127.0.0.1:8008  # in the site of that name",
            "use_backend homeserver if { hdr(host) -i HOST }",
            "ProxyPass /_matrix http://127.0.0.1:8008/_matrix nocanon  # in the VirtualHost of that name",
        ],
    )
}

/// Where the API answers with something that is not Matrix: a redirect, as for people's pages, or another server's answer.
pub(super) fn elsewhere(redirect: Option<&str>, what: &str) -> Advice {
    match redirect {
        Some(_) => redirected(
            "requests of the API are redirected as if they were for pages: other servers do not follow that, and clients lose their request",
        ),
        None => wrong_homeserver(what),
    }
}

fn redirected(what: &str) -> Advice {
    Advice::new(
        what,
        [
            "[[listener]] role = \"client\" or \"federation\"  # role = \"redirect\" is for port 80 only",
            "remove return 301, return 302 and rewrite … redirect where /_matrix is proxied, and before it",
            "remove redir where /_matrix is proxied: redir /_matrix/* is wrong on https",
            "http-request redirect … unless { path_beg /_matrix/ /_synapse/client/ }",
            "remove Redirect, RedirectMatch and RewriteRule … [R] where /_matrix is proxied",
        ],
    )
}

pub(super) fn encoded_path(what: &str) -> Advice {
    Advice::new(
        what,
        [
            "nothing to set: request targets are passed on byte for byte",
            "proxy_pass http://127.0.0.1:8008;  # no slash and no path behind the port, no rewrite before it",
            "handle /_matrix/* { reverse_proxy 127.0.0.1:8008 }  # no handle_path, no uri, no rewrite",
            "remove http-request normalize-uri, set-path and replace-path",
            "AllowEncodedSlashes NoDecode  and  ProxyPass /_matrix http://127.0.0.1:8008/_matrix nocanon",
        ],
    )
}

pub(super) fn cors_missing(what: &str) -> Advice {
    Advice::new(
        what,
        [
            "nothing to set: the homeserver's CORS lines pass, and ringfence's own answers have them",
            "remove proxy_hide_header Access-Control-Allow-Origin, proxy_intercept_errors, and any `if ($request_method = OPTIONS)`",
            "remove header_down -Access-Control-Allow-Origin, and whatever answers OPTIONS",
            "remove http-response del-header Access-Control-Allow-Origin",
            "remove Header unset Access-Control-Allow-Origin",
        ],
    )
}

pub(super) fn cors_doubled(what: &str) -> Advice {
    Advice::new(
        what,
        [
            "nothing to set: nothing is added to the homeserver's answers",
            "remove add_header Access-Control-Allow-Origin where /_matrix is proxied: the homeserver sends it",
            "remove header Access-Control-Allow-Origin where /_matrix is proxied: the homeserver sends it",
            "remove http-response add-header Access-Control-Allow-Origin: the homeserver sends it",
            "remove Header add Access-Control-Allow-Origin where /_matrix is proxied: the homeserver sends it",
        ],
    )
}

pub(super) fn cors_on_refusals(what: &str) -> Advice {
    Advice::new(
        what,
        [
            "nothing to set: errors on Matrix paths are JSON with CORS",
            "error_page 413 @too_large; location @too_large { add_header Access-Control-Allow-Origin * always; return 413 '{\"errcode\":\"M_TOO_LARGE\"}'; }",
            "handle_errors { header Access-Control-Allow-Origin * }",
            "http-after-response set-header Access-Control-Allow-Origin * if { status 413 }",
            "Header always setifempty Access-Control-Allow-Origin \"*\"",
        ],
    )
}

pub(super) fn admin_open(what: &str) -> Advice {
    Advice::new(
        what,
        [
            r#"[[listener]] admin_from = ["10.0.0.0/8"]  # your own network only, or leave it out"#,
            "location ~ ^(/_matrix|/_synapse/client) { … }  # instead of location /",
            "reverse_proxy /_matrix/* 127.0.0.1:8008  and  reverse_proxy /_synapse/client/* 127.0.0.1:8008  # no others",
            "http-request deny unless { path_beg /_matrix/ /_synapse/client/ /.well-known/matrix/ }",
            "ProxyPass /_matrix … and /_synapse/client … only, none for / or /_synapse",
        ],
    )
}

pub(super) fn scheme(what: &str) -> Advice {
    Advice::new(
        what,
        [
            "nothing to set: X-Forwarded-Proto, -For and Host are sent",
            "proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Host $host:$server_port;",
            "nothing to set: Caddy sends X-Forwarded-Proto, -For and Host; remove header_up lines that change them",
            "http-request set-header X-Forwarded-Proto https if { ssl_fc }  and  http-request set-header X-Forwarded-For %[src]",
            "RequestHeader set X-Forwarded-Proto expr=%{REQUEST_SCHEME}  and  ProxyPreserveHost on",
        ],
    )
}

pub(super) fn client_address(what: &str) -> Advice {
    Advice::new(
        what,
        [
            r#"trusted_proxies = []  # or your own proxies only; the homeserver is told one address, which nobody invents"#,
            "proxy_set_header X-Forwarded-For $remote_addr;  # not $proxy_add_x_forwarded_for",
            "nothing to set: X-Forwarded-For of clients is dropped unless trusted_proxies names them; narrow that",
            "http-request set-header X-Forwarded-For %[src]  # instead of option forwardfor",
            "RequestHeader unset X-Forwarded-For early  # mod_proxy then sends the client's address alone",
        ],
    )
}

pub(super) fn upload_limit(what: &str, bytes: u64) -> Advice {
    let mebibytes = bytes.div_ceil(MIB);
    Advice::new(
        what,
        [
            &format!(r#"[limits] body_bytes_max = "{mebibytes} MiB""#),
            &format!("client_max_body_size {mebibytes}M;"),
            &format!("request_body {{ max_size {mebibytes}MiB }}"),
            "HAProxy has no such limit of its own; look for http-request deny with req.body_size",
            &format!("LimitRequestBody {}", mebibytes * MIB),
        ],
    )
}

/// Bytes in a mebibyte.
const MIB: u64 = 1024 * 1024;

pub(super) fn long_poll() -> Advice {
    Advice::new(
        "a long poll is cut before the homeserver answers it: clients reconnect all the time and show themselves offline",
        [
            r#"[timeouts] upstream_first_byte = "5min""#,
            "proxy_read_timeout 300s;",
            "reverse_proxy … { transport http { response_header_timeout 5m } }  # or leave it out",
            "timeout server 300s",
            "ProxyTimeout 300",
        ],
    )
}

pub(super) fn plain_http(what: &str) -> Advice {
    Advice::new(
        what,
        [
            r#"[[listener]] address = "[::]:80"  and  role = "redirect""#,
            "return 308 https://$host$request_uri;",
            "nothing to set: Caddy redirects by itself; remove the http:// site",
            "http-request redirect scheme https code 308 unless { ssl_fc }",
            "Redirect permanent / https://HOST/",
        ],
    )
}

pub(super) fn no_sni(what: &str) -> Advice {
    Advice::new(
        what,
        [
            "nothing to set: peers that name no host get the first [[certificate]]",
            "listen 8448 ssl default_server;  and no ssl_reject_handshake there",
            "{ default_sni HOST }",
            "bind … ssl crt …  # without strict-sni",
            "SSLStrictSNIVHostCheck off",
        ],
    )
}

pub(super) fn unknown_host(what: &str) -> Advice {
    Advice::new(
        what,
        [
            "strict_hosts = false",
            "listen 8448 ssl default_server;",
            ":8448 { reverse_proxy 127.0.0.1:8008 }  # a site without a name",
            "default_backend homeserver",
            "<VirtualHost *:8448> of the homeserver first",
        ],
    )
}
