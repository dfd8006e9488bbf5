//! What other servers see: names, ports, certificates, keys.

use std::time::{SystemTime, UNIX_EPOCH};

use ringfence_matrix::{FEDERATION_PORT, ServerName};
use rustls::RootCertStore;

use super::{
    advice, certificate,
    discovery::{Document, HTTP_PORT},
    http::{self, Ask, Endpoint, ask},
    network::{Failure, Network},
    report::{Check, excerpt},
    signature,
};

/// Whether a host has addresses.
pub(super) async fn names(network: &Network, host: &str, port: u16) -> Check {
    let id = "dns";
    match network.addresses(host, port).await {
        Ok(addresses) => {
            let addresses: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            let by =
                if network.is_overridden(host) { " (by --resolve, no name server was asked)" } else { "" };
            Check::ok(id, format!("{host}: {}{by}", addresses.join(", ")))
        }
        Err(failure @ Failure::NoSuchName(_)) => {
            let what = format!("give {host} an A and an AAAA record with the addresses of the proxy");
            Check::fault(id, failure.to_string(), advice::Advice::only(what))
        }
        Err(failure) => Check::skipped(id, format!("{host}: {failure}")),
    }
}

/// What other servers make of `/.well-known/matrix/server`.
pub(super) fn well_known(document: &Document, name: &ServerName) -> Check {
    let id = "well-known-server";
    let advice = |what: &str| advice::well_known_server(what, name.host());
    match document {
        Document::NotAskedFor => Check::ok(id, format!("not asked for: {name} is an address or has a port")),
        Document::Unreachable(why) => Check::warning(
            id,
            format!("{why}; other servers go on to SRV records and port {FEDERATION_PORT}"),
            advice("nobody can read the document; if the server is delegated by it, it cannot be reached"),
        ),
        Document::Unbelievable(why) => Check::fault(
            id,
            why.clone(),
            advice("other servers ignore the document and go on to SRV records and port 8448"),
        ),
        Document::Absent(status) => Check::ok(
            id,
            format!("none ({status}): other servers go on to SRV records and port {FEDERATION_PORT}"),
        ),
        Document::Here { content: Ok(delegated), at, .. } => Check::ok(id, format!("{at}: {delegated}")),
        Document::Here { content: Err(why), at, .. } => Check::fault(
            id,
            format!("{at}: {why}"),
            advice("other servers ignore the document and go on to SRV records and port 8448"),
        ),
    }
}

/// Whether every address of an endpoint can be connected to.
pub(super) async fn connect(network: &Network, endpoint: &Endpoint, whose: &str, how: &str) -> Check {
    let id = "connect";
    let place = format!("{whose} {}", endpoint.place());
    let addresses = match network.addresses(&endpoint.host, endpoint.port).await {
        Ok(addresses) => addresses,
        Err(failure) => return Check::fault(id, format!("{place}: {failure}"), port_advice(endpoint, how)),
    };
    let (mut reached, mut failures, mut without_ipv6) = (Vec::new(), Vec::new(), false);
    for address in addresses {
        match network.connect(address).await {
            Ok(_) => reached.push(address.ip().to_string()),
            // This machine has no way there; that says nothing about the server.
            Err(Failure::Connect(_, error)) if address.is_ipv6() && is_unroutable(&error) => {
                without_ipv6 = true
            }
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    let note = if without_ipv6 { "; IPv6 was not tried, this machine has none" } else { "" };
    match (reached.is_empty(), failures.is_empty()) {
        (false, true) => Check::ok(id, format!("{place}: {}{note}", reached.join(", "))),
        (false, false) => {
            let what = "some addresses do not answer: peers that take them wait or give up; remove their records or listen there";
            Check::warning(
                id,
                format!("{place}: {} but {}", reached.join(", "), failures.join(", ")),
                port_advice(endpoint, what),
            )
        }
        (true, false) => {
            Check::fault(id, format!("{place}: {}", failures.join(", ")), port_advice(endpoint, how))
        }
        (true, true) => {
            Check::skipped(id, format!("{place}: it has IPv6 addresses only, and this machine has no IPv6"))
        }
    }
}

fn port_advice(endpoint: &Endpoint, what: &str) -> advice::Advice {
    if endpoint.port == FEDERATION_PORT { advice::federation_port(what) } else { advice::client_port(what) }
}

fn is_unroutable(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), AddrNotAvailable | HostUnreachable | NetworkUnreachable)
}

/// What those who mean an endpoint make of its TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// They believe that it is the one.
    Believed,
    /// They do not, and would go no further.
    Doubted,
    /// There is no TLS to be had, and so nothing behind it.
    Unreachable,
}

/// Whether those who mean an endpoint believe its certificate.
pub(super) async fn believed(
    network: &Network,
    endpoint: &Endpoint,
    whose: &str,
    roots: &RootCertStore,
) -> (Check, Trust) {
    let id = "certificate";
    let (place, name) = (format!("{whose} {}", endpoint.place()), &endpoint.certificate_name);
    let shown = match network.connect_to(&endpoint.host, endpoint.port).await {
        Ok(stream) => network.handshake(stream, name, true).await.map(|stream| http::shown(&stream)),
        Err(failure) => Err(failure),
    };
    let shown = match shown {
        Ok(shown) => shown,
        Err(Failure::Tls(error)) => {
            let what = "TLS 1.2 or 1.3 with a certificate for the name has to be spoken there";
            let check =
                Check::fault(id, format!("{place}: no TLS: {error}"), advice::certificate(what, name));
            return (check, Trust::Unreachable);
        }
        Err(failure) => {
            let what = "it has to answer: connections are taken, and nothing comes back";
            let check = Check::fault(id, format!("{place}: {failure}"), port_advice(endpoint, what));
            return (check, Trust::Unreachable);
        }
    };
    let judgement = certificate::judge(&shown.chain, name, roots, SystemTime::now());
    let seen = format!("{place}: {}, {}", judgement.summary, shown.version);
    match judgement.faults.as_slice() {
        [] if judgement.ends_soon => {
            let what = "it should have been renewed by now: see why renewal fails, and have the proxy load the new one";
            (Check::warning(id, seen, advice::certificate(what, name)), Trust::Believed)
        }
        [] => (Check::ok(id, seen), Trust::Believed),
        faults => {
            let whats: Vec<_> = faults.iter().map(|(what, _)| what.as_str()).collect();
            let advices: Vec<_> = faults.iter().map(|(_, advice)| advice.as_str()).collect();
            let check = Check::fault(
                id,
                format!("{place}: {}", whats.join("; ")),
                advice::certificate(&advices.join("; "), name),
            );
            (check, Trust::Doubted)
        }
    }
}

/// The keys that other servers check its signatures by.
pub(super) async fn keys(network: &Network, endpoint: &Endpoint, name: &ServerName) -> Check {
    let id = "server-key";
    let place = format!("{}/_matrix/key/v2/server", endpoint.place());
    let wrong = |seen: String, what: &str| {
        Check::fault(id, format!("{place}: {seen}"), advice::wrong_homeserver(what))
    };
    let answer = match ask(network, endpoint, Ask::to("GET", "/_matrix/key/v2/server")).await {
        Ok(answer) => answer,
        Err(failure) => {
            return wrong(
                failure.to_string(),
                "other servers get no answer: look at the homeserver and its proxy",
            );
        }
    };
    let Some(document) = answer.json().filter(|_| answer.status == 200) else {
        let what = "other servers cannot read the keys: the path does not reach the homeserver";
        let advice = advice::elsewhere(answer.redirect().as_deref(), what);
        return Check::fault(id, format!("{place}: {}", answer.summary()), advice);
    };
    let said = document["server_name"].as_str().unwrap_or_default();
    if said != name.to_string() {
        let what = format!(
            "another homeserver answers there, or server_name in its own configuration is not {name}"
        );
        return wrong(format!("the keys are those of {}, not of {name}", excerpt(said)), &what);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    if document["valid_until_ts"].as_u64().is_none_or(|until| u128::from(until) < now) {
        let what = "other servers refuse keys of the past: something keeps old answers, or a clock is wrong";
        return wrong(format!("the keys were valid until {}", document["valid_until_ts"]), what);
    }
    match signature::check_key_document(&document, said) {
        Ok(count) => Check::ok(id, format!("{place}: {count} of {name}, signed")),
        Err(fault) => {
            wrong(fault, "other servers refuse the keys: something on the way changes the document")
        }
    }
}

/// Whether the federation API answers.
pub(super) async fn version(network: &Network, endpoint: &Endpoint) -> Check {
    let id = "federation-version";
    let place = format!("{}/_matrix/federation/v1/version", endpoint.place());
    match ask(network, endpoint, Ask::to("GET", "/_matrix/federation/v1/version")).await {
        Ok(answer) => match answer.json().filter(|_| answer.status == 200) {
            Some(json) => {
                let said = |key: &str| json["server"][key].as_str().unwrap_or("?").to_owned();
                let told = excerpt(&format!("{} {}", said("name"), said("version")));
                Check::ok(id, format!("{place}: {told}"))
            }
            None => {
                let what = "the federation API does not answer: its path does not reach the homeserver, or it is off there";
                let advice = advice::elsewhere(answer.redirect().as_deref(), what);
                Check::fault(id, format!("{place}: {}", answer.summary()), advice)
            }
        },
        Err(failure) => {
            let what = "other servers get no answer: look at the homeserver and its proxy";
            Check::fault(id, format!("{place}: {failure}"), advice::wrong_homeserver(what))
        }
    }
}

/// Whether peers get through that name no host, or one that the proxy does not know.
pub(super) async fn strangers(network: &Network, endpoint: &Endpoint) -> Vec<Check> {
    let target = "/_matrix/federation/v1/version";
    let place = endpoint.place();
    let stranger = Endpoint { host_field: "ringfence-doctor.invalid".to_owned(), ..endpoint.clone() };
    let nameless = ask(network, endpoint, Ask { sni: false, ..Ask::to("GET", target) }).await;
    let elsewhere = ask(network, &stranger, Ask::to("GET", target)).await;
    let no_sni = advice::no_sni(
        "peers without a name in their TLS handshake, such as those that know it by address, do not get through",
    );
    let unknown_host = advice::unknown_host(
        "peers that send another Host, such as the name before its delegation, do not get through",
    );
    [("no-sni", nameless, no_sni), ("unknown-host", elsewhere, unknown_host)]
        .into_iter()
        .map(|(id, answer, advice)| match answer {
            Ok(answer) if answer.status == 200 => Check::ok(id, format!("{place}: answered all the same")),
            Ok(answer) => Check::warning(id, format!("{place}: {}", answer.summary()), advice),
            Err(failure) => Check::warning(id, format!("{place}: {failure}"), advice),
        })
        .collect()
}

/// What those find who come without TLS.
pub(super) async fn redirect(network: &Network, host: &str) -> Check {
    let id = "redirect";
    let endpoint = Endpoint { tls: false, host_field: host.to_owned(), ..Endpoint::https(host, HTTP_PORT) };
    let place = endpoint.place();
    match ask(network, &endpoint, Ask::to("GET", "/_matrix/client/versions")).await {
        Err(_) => Check::ok(id, format!("{place}: nobody listens, which is fine")),
        Ok(answer) => match answer.value("location") {
            Some(location) if location.starts_with("https://") => {
                Check::ok(id, format!("{place}: {} to {}", answer.status, excerpt(&location)))
            }
            _ if answer.status == 200 => {
                let what = "Matrix is served without TLS: tokens and messages can be read on the way";
                Check::warning(id, format!("{place}: {}", answer.summary()), advice::plain_http(what))
            }
            _ => Check::ok(id, format!("{place}: {}", answer.summary())),
        },
    }
}
