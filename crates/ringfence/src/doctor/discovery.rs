//! From a server name to where its homeserver listens, as other servers and as clients find it.
//!
//! Other servers: Server-Server API, "Resolving server names", step by step. Clients: Client-Server API, "Well-known URI".

use ringfence_matrix::{CLIENT_PATH, FEDERATION_PORT, HTTPS_PORT, SERVER_PATH, ServerName};
use rustls::RootCertStore;

use super::{
    certificate,
    http::{Answer, Ask, Endpoint, ask},
    network::{Failure, Network},
    report::excerpt,
};

/// Where other servers connect.
#[derive(Debug)]
pub(super) struct Federation {
    pub(super) endpoint: Endpoint,
    /// By which step.
    pub(super) by: String,
    /// Failures of name servers on the way, which leave open whether another step was meant.
    pub(super) doubt: Option<String>,
}

/// Finds where other servers connect; `delegated` is what the well-known document says.
pub(super) async fn federation(
    network: &Network,
    name: &ServerName,
    delegated: Option<&ServerName>,
) -> Federation {
    let (meant, step) = match delegated {
        Some(delegated) => (delegated, "well-known"),
        None => (name, "server name"),
    };
    if meant.is_address() || meant.port().is_some() {
        let endpoint = Endpoint {
            host_field: meant.to_string(),
            ..Endpoint::https(meant.host(), meant.port().unwrap_or(FEDERATION_PORT))
        };
        return Federation { endpoint, by: format!("{step} {meant}"), doubt: None };
    }
    let mut doubt = None;
    for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
        match network.services(service, meant.host()).await {
            // The certificate and `Host` are for the name, not for what the record points to.
            Ok(records) if !records.is_empty() => {
                let endpoint = Endpoint {
                    host: records[0].host.clone(),
                    port: records[0].port,
                    host_field: meant.host().to_owned(),
                    ..Endpoint::https(meant.host(), records[0].port)
                };
                let old = if service == "_matrix._tcp" { " (deprecated)" } else { "" };
                return Federation { endpoint, by: format!("SRV {service}.{}{old}", meant.host()), doubt };
            }
            Ok(_) => {}
            Err(failure) => doubt = Some(failure.to_string()),
        }
    }
    let endpoint =
        Endpoint { host_field: meant.host().to_owned(), ..Endpoint::https(meant.host(), FEDERATION_PORT) };
    Federation { endpoint, by: format!("{step} {meant} and the default port"), doubt }
}

/// A well-known document, as far as it could be had.
pub(super) enum Document {
    /// The server name is an address or has a port: it is not asked for.
    NotAskedFor,
    /// Nothing can be reached there.
    Unreachable(String),
    /// What is there cannot be believed: the certificate or a redirect is wrong.
    Unbelievable(String),
    /// An answer that is none: other servers go on without it.
    Absent(u16),
    /// It is there.
    Here { answer: Answer, content: Result<String, String>, at: String },
}

/// `m.server` of `/.well-known/matrix/server`.
pub(super) async fn server_document(network: &Network, name: &ServerName, roots: &RootCertStore) -> Document {
    if name.is_address() || name.port().is_some() {
        return Document::NotAskedFor;
    }
    let (at, answer) = match follow(network, name.host(), SERVER_PATH, roots).await {
        Ok(found) => found,
        Err(document) => return document,
    };
    if answer.status != 200 {
        return Document::Absent(answer.status);
    }
    let content = server_of(&answer);
    Document::Here { answer, content, at }
}

fn server_of(answer: &Answer) -> Result<String, String> {
    if answer.is_cut || answer.content.len() > WELL_KNOWN_BYTES_MAX {
        return Err(format!("it is longer than {WELL_KNOWN_BYTES_MAX} bytes, which Synapse does not read"));
    }
    let delegated = string_at(answer, &["m.server"])?;
    match ServerName::parse(&delegated) {
        Ok(_) => Ok(delegated),
        Err(error) => Err(format!("m.server is {}, but {error}", excerpt(&delegated))),
    }
}

/// The longest well-known document that Synapse reads, in bytes (`WELL_KNOWN_MAX_SIZE`).
const WELL_KNOWN_BYTES_MAX: usize = 50 * 1024;

/// The base URL of `/.well-known/matrix/client`. A web page follows redirects as well.
pub(super) async fn client_document(network: &Network, name: &ServerName, roots: &RootCertStore) -> Document {
    let (at, answer) = match follow(network, name.host(), CLIENT_PATH, roots).await {
        Ok(found) => found,
        Err(document) => return document,
    };
    if answer.status != 200 {
        return Document::Absent(answer.status);
    }
    let content = string_at(&answer, &["m.homeserver", "base_url"]);
    Document::Here { answer, content, at }
}

fn string_at(answer: &Answer, keys: &[&str]) -> Result<String, String> {
    let text = || excerpt(&String::from_utf8_lossy(&answer.content));
    let json = answer.json().ok_or_else(|| format!("it is not JSON but {}", text()))?;
    let found = keys.iter().try_fold(&json, |value, key| value.get(key));
    let found = found.and_then(|value| value.as_str());
    found.map(str::to_owned).ok_or_else(|| format!("it has no {} but is {}", keys.join("."), text()))
}

/// Where a base URL leads.
pub(super) fn base_endpoint(url: &str) -> Result<Endpoint, String> {
    let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(format!("{} is no http(s) URL", excerpt(url))),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let name =
        ServerName::parse(authority).map_err(|error| format!("{} is no URL: {error}", excerpt(url)))?;
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
        return Err(format!("{} has more than a path", excerpt(url)));
    }
    let default = if tls { HTTPS_PORT } else { HTTP_PORT };
    let endpoint = Endpoint::https(name.host(), name.port().unwrap_or(default));
    let host_field = if endpoint.port == default { name.host().to_owned() } else { endpoint.place() };
    Ok(Endpoint { tls, host_field, prefix: path.trim_end_matches('/').to_owned(), ..endpoint })
}

/// The port of an `http` URL that names none (RFC 9110 §4.2.1).
pub(super) const HTTP_PORT: u16 = 80;

/// Reads a document of a host, along redirects; the error says why nobody would believe it.
async fn follow(
    network: &Network,
    host: &str,
    path: &str,
    roots: &RootCertStore,
) -> Result<(String, Answer), Document> {
    let mut endpoint = Endpoint::https(host, HTTPS_PORT);
    let mut target = path.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let at = format!("https://{}{target}", endpoint.host_field);
        let answer = ask(network, &endpoint, Ask::from_elsewhere("GET", &target))
            .await
            .map_err(|failure: Failure| Document::Unreachable(format!("{at}: {failure}")))?;
        let chain = answer.shown.as_ref().map(|shown| shown.chain.as_slice()).unwrap_or_default();
        let judgement =
            certificate::judge(chain, &endpoint.certificate_name, roots, std::time::SystemTime::now());
        if let Some((what, _)) = judgement.faults.first() {
            return Err(Document::Unbelievable(format!("{at} is not believed: {what}")));
        }
        let Some(location) = answer.redirect() else { return Ok((at, answer)) };
        match location.strip_prefix("https://") {
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let name = ServerName::parse(authority).map_err(|error| {
                    Document::Unbelievable(format!("{at} redirects to {}: {error}", excerpt(&location)))
                })?;
                endpoint = Endpoint::https(name.host(), name.port().unwrap_or(HTTPS_PORT));
                target = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
            }
            None if location.starts_with('/') => target = location,
            None => {
                let why = format!("{at} redirects to {}, which is not https", excerpt(&location));
                return Err(Document::Unbelievable(why));
            }
        }
    }
    Err(Document::Unbelievable(format!(
        "more than {REDIRECTS_MAX} redirects, the last to {}",
        excerpt(&target)
    )))
}

/// Redirects that are followed for one document. The specification only says to bound them; a sound one has one or two.
const REDIRECTS_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_leads_to_its_host_port_and_prefix() {
        for (url, place, host_field, prefix) in [
            ("https://matrix.example.com", "matrix.example.com:443", "matrix.example.com", ""),
            ("https://matrix.example.com:8443/", "matrix.example.com:8443", "matrix.example.com:8443", ""),
            ("https://example.com/hs/", "example.com:443", "example.com", "/hs"),
            ("http://[::1]", "[::1]:80", "[::1]", ""),
        ] {
            let endpoint = base_endpoint(url).unwrap();
            assert_eq!(endpoint.place(), place);
            assert_eq!((endpoint.host_field.as_str(), endpoint.prefix.as_str()), (host_field, prefix));
        }
        for url in
            ["", "matrix.example.com", "ftp://a", "https://", "https://a b", "https://a/?x", "https://a:0x"]
        {
            assert!(base_endpoint(url).is_err(), "{url}");
        }
    }
}
