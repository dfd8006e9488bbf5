//! Apache, as Synapse's documentation has it, and what guides make of it.
#![forbid(unsafe_code)]

use ringfence_tests::other_proxy::Software;

use super::{Deployment, Fault, Planted, fault};

pub(super) const APACHE: Deployment =
    Deployment { software: Software::Apache, config: CONFIG, faults: FAULTS };

const FAULTS: &[Fault] = &[
    fault("sound", Planted::Nothing, &[], ""),
    fault(
        "ProxyPass without nocanon",
        Planted::Line(
            "ProxyPass /_matrix http://ORIGIN/_matrix nocanon",
            "ProxyPass /_matrix http://ORIGIN/_matrix",
        ),
        &["encoded-path"],
        "nocanon",
    ),
    fault(
        "no AllowEncodedSlashes",
        Planted::Line("AllowEncodedSlashes NoDecode", ""),
        &["encoded-path"],
        "AllowEncodedSlashes NoDecode",
    ),
    fault(
        "X-Forwarded-For is appended",
        Planted::Line("RequestHeader unset X-Forwarded-For early", ""),
        &["forwarded-for"],
        "RequestHeader unset X-Forwarded-For early",
    ),
    fault(
        "no ProxyPreserveHost",
        Planted::Line("ProxyPreserveHost on", ""),
        &["forwarded-proto"],
        "ProxyPreserveHost on",
    ),
    fault(
        "CORS is added to the homeserver's",
        Planted::Line(
            "ProxyPreserveHost on",
            "ProxyPreserveHost on\n  <Location /_matrix>\n    Header add Access-Control-Allow-Origin *\n  </Location>",
        ),
        &["cors", "cors-error", "cors-preflight"],
        "remove Header add Access-Control-Allow-Origin",
    ),
    fault(
        "a short ProxyTimeout",
        Planted::Patience("ProxyTimeout 300", "ProxyTimeout 2"),
        &["long-poll"],
        "ProxyTimeout 300",
    ),
];

const CONFIG: &str = r#"
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
