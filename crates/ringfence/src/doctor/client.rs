//! What clients see: discovery, CORS, limits, and what the homeserver is told of them.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    advice,
    discovery::Document,
    http::{Announced, Answer, Ask, Endpoint, announce, ask},
    network::{Failure, Network},
    paths::escaped,
    report::{Check, Verdict, excerpt},
};

/// What asking came to.
pub(super) type Outcome<T> = Result<T, Failure>;

/// What clients make of `/.well-known/matrix/client`.
pub(super) fn well_known(document: &Document, host: &str) -> Check {
    let id = "well-known-client";
    let advice = |what: &str| advice::well_known_client(what, host);
    match document {
        Document::NotAskedFor => Check::ok(id, "not asked for"),
        Document::Unreachable(why) => Check::warning(
            id,
            why.clone(),
            advice("people have to type the address of the homeserver themselves"),
        ),
        Document::Unbelievable(why) => {
            Check::fault(id, why.clone(), advice("clients cannot read the document and refuse to log in"))
        }
        Document::Absent(status) => Check::warning(
            id,
            format!("none ({status})"),
            advice("people have to type the address of the homeserver themselves"),
        ),
        Document::Here { content: Err(why), at, .. } => {
            Check::fault(id, format!("{at}: {why}"), advice("clients refuse to log in to this server name"))
        }
        Document::Here { content: Ok(url), at, answer } => {
            let origins = answer.values("access-control-allow-origin");
            let type_is_json =
                answer.value("content-type").is_some_and(|value| value.to_ascii_lowercase().contains("json"));
            match origins.as_slice() {
                [] => Check::fault(
                    id,
                    format!("{at}: no Access-Control-Allow-Origin"),
                    advice("web clients cannot read the document"),
                ),
                [one] if one.trim() == "*" && type_is_json => Check::ok(id, format!("{at}: {url}")),
                [one] if one.trim() == "*" => Check::warning(
                    id,
                    format!("{at}: the content type is not application/json"),
                    advice("some clients refuse the document"),
                ),
                [one] => Check::fault(
                    id,
                    format!("{at}: Access-Control-Allow-Origin is {}, not *", excerpt(one)),
                    advice("web clients of others cannot read the document"),
                ),
                several => Check::fault(
                    id,
                    format!("{at}: {} Access-Control-Allow-Origin lines", several.len()),
                    advice(
                        "browsers refuse answers with more than one; web clients cannot read the document",
                    ),
                ),
            }
        }
    }
}

/// Whether there is a homeserver for clients.
pub(super) fn versions(answer: &Outcome<Answer>, endpoint: &Endpoint) -> Check {
    let id = "client-versions";
    let place = format!("{}{}/_matrix/client/versions", endpoint.place(), endpoint.prefix);
    let what = "clients find no homeserver at the base URL: the path does not reach it, or it is down";
    match answer {
        Ok(answer) => {
            match answer.json().filter(|json| answer.status == 200 && json["versions"].is_array()) {
                Some(_) => Check::ok(id, place),
                None => Check::fault(
                    id,
                    format!("{place}: {}", answer.summary()),
                    advice::elsewhere(answer.redirect().as_deref(), what),
                ),
            }
        }
        Err(failure) => Check::fault(id, format!("{place}: {failure}"), advice::wrong_homeserver(what)),
    }
}

/// Whether web clients of other origins may read an answer of the homeserver, an error of it, and may ask at all.
pub(super) async fn cors(network: &Network, endpoint: &Endpoint) -> Vec<Check> {
    let preflight = [
        ("Origin", super::http::ORIGIN),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type"),
    ];
    let login = "/_matrix/client/v3/login";
    let cases = [
        ("cors", Ask::from_elsewhere("GET", "/_matrix/client/versions")),
        ("cors-preflight", Ask { fields: &preflight, ..Ask::to("OPTIONS", login) }),
        (
            "cors-error",
            Ask::from_elsewhere("GET", "/_matrix/client/v3/ringfence_doctor_knows_no_such_endpoint"),
        ),
    ];
    let mut checks = Vec::new();
    for (id, request) in cases {
        let place = format!("{} {} {}", endpoint.place(), request.method, request.target);
        checks.push(match ask(network, endpoint, request).await {
            Ok(answer) => cors_of(id, &place, &answer),
            Err(failure) => Check::skipped(id, format!("{place}: {failure}")),
        });
    }
    checks
}

fn cors_of(id: &'static str, place: &str, answer: &Answer) -> Check {
    let origins = answer.values("access-control-allow-origin");
    let list = |name: &str| answer.values(name).join(",").to_ascii_lowercase();
    match origins.as_slice() {
        [] => {
            let what = "web clients cannot read it: the homeserver's Access-Control-Allow-Origin is lost";
            Check::fault(
                id,
                format!("{place}: {}, no Access-Control-Allow-Origin", answer.status),
                advice::cors_missing(what),
            )
        }
        [one] if one.trim() != "*" => {
            let what = "web clients of others cannot read it";
            Check::fault(
                id,
                format!("{place}: Access-Control-Allow-Origin is {}, not *", excerpt(one)),
                advice::cors_doubled(what),
            )
        }
        [_] if id == "cors-preflight" && !(200..300).contains(&answer.status) => {
            let what = "browsers do not go on after a preflight that fails: web clients cannot log in";
            Check::fault(id, format!("{place}: {}", answer.summary()), advice::cors_missing(what))
        }
        [_] if id == "cors-preflight" && !allows(&list("access-control-allow-headers"), "authorization") => {
            let what =
                "web clients cannot send their token: Access-Control-Allow-Headers has no Authorization";
            Check::fault(id, format!("{place}: Authorization is not allowed"), advice::cors_missing(what))
        }
        [_] => Check::ok(id, format!("{place}: {}, one Access-Control-Allow-Origin", answer.status)),
        several => {
            let what = "browsers refuse an answer with more than one Access-Control-Allow-Origin: web clients cannot read it";
            Check::fault(
                id,
                format!("{place}: {} Access-Control-Allow-Origin lines", several.len()),
                advice::cors_doubled(what),
            )
        }
    }
}

fn allows(list: &str, name: &str) -> bool {
    list.split(',').any(|allowed| matches!(allowed.trim(), "*") || allowed.trim() == name)
}

/// Which scheme and Host the homeserver saw, where it shows that.
///
/// Synapse sends a single sign-on that did not come to its `public_baseurl` there first, and it compares scheme and Host as
/// it saw them. Whoever came to that very URL is sent round in a circle.
pub(super) async fn scheme(network: &Network, endpoint: &Endpoint) -> Check {
    let id = "forwarded-proto";
    let flows = ask(network, endpoint, Ask::to("GET", "/_matrix/client/v3/login")).await;
    let flows = flows.ok().and_then(|answer| answer.json());
    let has_sso = flows.is_some_and(|json| {
        json["flows"].as_array().is_some_and(|flows| flows.iter().any(|flow| flow["type"] == "m.login.sso"))
    });
    if !has_sso {
        return Check::skipped(
            id,
            "cannot be seen from outside: the homeserver has no single sign-on, which would show it",
        );
    }
    let target =
        "/_matrix/client/v3/login/sso/redirect?redirectUrl=https%3A%2F%2Fringfence-doctor.invalid%2F";
    let location = match ask(network, endpoint, Ask::to("GET", target)).await {
        Ok(answer) => answer.value("location"),
        Err(failure) => return Check::skipped(id, format!("{}: {failure}", endpoint.place())),
    };
    let here = format!("https://{}{}", endpoint.host_field, endpoint.prefix);
    match location {
        None => Check::skipped(id, "cannot be seen from outside: single sign-on does not redirect"),
        Some(location) if location.starts_with(&format!("{here}/_matrix/client/v3/login/sso/redirect")) => {
            let what = "the homeserver does not see https or not the Host that clients use: single sign-on goes round in a circle";
            Check::fault(
                id,
                format!("{}: single sign-on is sent to where it came from", endpoint.place()),
                advice::scheme(what),
            )
        }
        Some(location) if location.contains("/_matrix/client/v3/login/sso/redirect") => {
            let what = "public_baseurl of the homeserver is not the base URL that clients are given; make them equal";
            let seen = format!("{}: single sign-on is sent to {}", endpoint.place(), excerpt(&location));
            Check::warning(id, seen, advice::Advice::only(what))
        }
        Some(_) => Check::ok(id, format!("{}: the homeserver sees https and its Host", endpoint.place())),
    }
}

/// Which client address the homeserver saw. Only an account shows that: its own list of sessions.
pub(super) async fn address(
    network: &Network,
    endpoint: &Endpoint,
    token: Option<&str>,
    invented: IpAddr,
) -> Check {
    let id = "forwarded-for";
    let Some(token) = token else {
        return Check::skipped(id, "cannot be seen from outside; --token of any account shows it");
    };
    match addresses_seen(network, endpoint, token, invented).await {
        Err(why) => Check::skipped(id, format!("{}: {why}", endpoint.place())),
        Ok(seen) if seen.contains(&invented) => {
            let what = "a client can claim any address: rate limits and bans by address do not hold. The proxy appends to \
                        X-Forwarded-For, and the homeserver takes the first of the list";
            Check::fault(
                id,
                format!("{}: the homeserver believes an invented X-Forwarded-For", endpoint.place()),
                advice::client_address(what),
            )
        }
        Ok(seen)
            if !seen.is_empty()
                && seen.iter().all(IpAddr::is_loopback)
                && !is_local(network, endpoint).await =>
        {
            let what = "the homeserver takes everyone for the proxy: one client's limit is everyone's; it needs X-Forwarded-For, \
                        and x_forwarded: true on its listener";
            Check::fault(
                id,
                format!("{}: the homeserver sees {}", endpoint.place(), seen[0]),
                advice::scheme(what),
            )
        }
        Ok(seen) => {
            // An account keeps what was invented in earlier runs.
            let real = seen.iter().filter(|ip| !is_invented(**ip)).take(ADDRESSES_TOLD_MAX);
            let real: Vec<_> = real.map(ToString::to_string).collect();
            Check::ok(
                id,
                format!(
                    "{}: the homeserver saw {}, not what was invented",
                    endpoint.place(),
                    real.join(", ")
                ),
            )
        }
    }
}

/// An address that nobody has (2001:db8::/32, RFC 3849), another one for each nonce.
pub(super) fn invented_address(nonce: u64) -> IpAddr {
    Ipv6Addr::from((0x2001_0db8_u128 << 96) | u128::from(nonce)).into()
}

fn is_invented(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.segments()[..2] == [0x2001, 0x0db8])
}

/// Addresses of an account that are told.
const ADDRESSES_TOLD_MAX: usize = 3;

/// Whether we are on the deployment's own machine, and come from a loopback address ourselves.
async fn is_local(network: &Network, endpoint: &Endpoint) -> bool {
    let addresses = network.addresses(&endpoint.host, endpoint.port).await.unwrap_or_default();
    addresses.iter().any(|address| address.ip().is_loopback())
}

/// Makes a request with an invented address, and returns every address that the account was seen from.
async fn addresses_seen(
    network: &Network,
    endpoint: &Endpoint,
    token: &str,
    invented: IpAddr,
) -> Result<Vec<IpAddr>, String> {
    let authorization = format!("Bearer {token}");
    let invented = invented.to_string();
    let fields = [("Authorization", authorization.as_str()), ("X-Forwarded-For", invented.as_str())];
    let answer = ask(
        network,
        endpoint,
        Ask { fields: &fields, ..Ask::to("GET", "/_matrix/client/v3/account/whoami") },
    );
    let answer = answer.await.map_err(|failure| failure.to_string())?;
    let user = answer.json().and_then(|json| json["user_id"].as_str().map(str::to_owned));
    let user = user.ok_or_else(|| format!("the token is not taken: {}", answer.summary()))?;
    let target = format!("/_matrix/client/v3/admin/whois/{}", escaped(&user));
    let answer = ask(network, endpoint, Ask { fields: &fields[..1], ..Ask::to("GET", &target) });
    let answer = answer.await.map_err(|failure| failure.to_string())?;
    let json = answer.json().filter(|_| answer.status == 200);
    let json = json.ok_or_else(|| format!("the homeserver does not tell: {}", answer.summary()))?;
    let mut seen = Vec::new();
    collect_addresses(&json, &mut seen);
    Ok(seen)
}

/// Every `ip` anywhere in the answer.
fn collect_addresses(json: &Value, seen: &mut Vec<IpAddr>) {
    match json {
        Value::Object(object) => {
            let ip = object.get("ip").and_then(Value::as_str).and_then(|ip| ip.parse::<IpAddr>().ok());
            seen.extend(ip);
            object.values().for_each(|value| collect_addresses(value, seen));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_addresses(item, seen)),
        _ => {}
    }
}

/// Whether the proxy takes what the homeserver takes.
pub(super) async fn upload(network: &Network, endpoint: &Endpoint, token: Option<&str>) -> Vec<Check> {
    let known = match token {
        Some(token) => upload_size(network, endpoint, token).await,
        None => Err("--token shows what the homeserver takes".to_owned()),
    };
    let mut checks = vec![match &known {
        Ok(size) => known_limit(network, endpoint, *size).await,
        Err(why) => likely_limits(network, endpoint, why).await,
    }];
    // Larger than anybody's limit, to see how a refusal looks.
    if let Ok(Announced::Answered { status: 413, origins }) = announce(network, endpoint, HUGE_BYTES).await {
        let place = format!("{} 413 (Content Too Large)", endpoint.place());
        checks.push(match origins {
            1 => Check::ok("cors-413", format!("{place}: one Access-Control-Allow-Origin")),
            _ => {
                let what = "web clients are told of a network failure where the file is too large";
                let seen = format!("{place}: {origins} Access-Control-Allow-Origin lines");
                Check::warning("cors-413", seen, advice::cors_on_refusals(what))
            }
        });
    } else {
        checks.push(Check::skipped(
            "cors-413",
            format!("{}: no upload is refused by its length", endpoint.place()),
        ));
    }
    checks
}

/// One exbibyte.
const HUGE_BYTES: u64 = 1 << 60;

async fn upload_size(network: &Network, endpoint: &Endpoint, token: &str) -> Result<u64, String> {
    let authorization = format!("Bearer {token}");
    let fields = [("Authorization", authorization.as_str())];
    let mut why = String::new();
    // The second is what homeservers have that do not know authenticated media.
    for target in ["/_matrix/client/v1/media/config", "/_matrix/media/v3/config"] {
        match ask(network, endpoint, Ask { fields: &fields, ..Ask::to("GET", target) }).await {
            Ok(answer) => match answer.json().and_then(|json| json["m.upload.size"].as_u64()) {
                Some(size) => return Ok(size),
                None => why = format!("the homeserver does not tell its limit: {}", answer.summary()),
            },
            Err(failure) => why = failure.to_string(),
        }
    }
    Err(why)
}

async fn known_limit(network: &Network, endpoint: &Endpoint, size: u64) -> Check {
    let id = "upload-limit";
    let place = endpoint.place();
    match announce(network, endpoint, size).await {
        Ok(Announced::Answered { status: 413, .. }) => {
            let what =
                format!("uploads fail that the homeserver would take: it takes {size} bytes, the proxy less");
            Check::fault(
                id,
                format!("{place}: 413 for m.upload.size of {size} bytes"),
                advice::upload_limit(&what, size),
            )
        }
        Ok(_) => Check::ok(id, format!("{place}: m.upload.size of {size} bytes is not refused")),
        Err(failure) => Check::skipped(id, format!("{place}: {failure}")),
    }
}

/// Without the homeserver's own limit: what hardly any homeserver refuses, and Synapse's default.
async fn likely_limits(network: &Network, endpoint: &Endpoint, why: &str) -> Check {
    let id = "upload-limit";
    let place = endpoint.place();
    for (size, verdict, whose) in [
        (2 * MIB, Verdict::Fault, "less than any homeserver's limit, as nginx refuses by default"),
        (50 * MIB, Verdict::Warning, "less than the 50 MiB that Synapse takes by default"),
    ] {
        match announce(network, endpoint, size).await {
            Ok(Announced::Answered { status: 413, .. }) => {
                let what = format!("the proxy refuses uploads of {} MiB: {whose}", size / MIB);
                let check = Check::fault(
                    id,
                    format!("{place}: 413 for {} MiB", size / MIB),
                    advice::upload_limit(&what, 50 * MIB),
                );
                return Check { verdict, ..check };
            }
            Ok(_) => {}
            Err(failure) => return Check::skipped(id, format!("{place}: {failure}")),
        }
    }
    Check::skipped(id, format!("{place}: 50 MiB are not refused; {why}"))
}

/// Bytes in a mebibyte.
const MIB: u64 = 1024 * 1024;

/// Whether a long poll of over a minute is answered.
pub(super) async fn long_poll(
    network: &Network,
    endpoint: &Endpoint,
    token: Option<&str>,
    slow: bool,
) -> Check {
    let id = "long-poll";
    let (Some(token), true) = (token, slow) else {
        return Check::skipped(id, "takes over a minute: --slow and --token look at it");
    };
    let authorization = format!("Bearer {token}");
    let fields = [("Authorization", authorization.as_str())];
    let place = endpoint.place();
    let first = ask(network, endpoint, Ask { fields: &fields, ..Ask::to("GET", &sync_target(None)) }).await;
    let since = match first {
        Ok(answer) => match answer.json().and_then(|json| json["next_batch"].as_str().map(str::to_owned)) {
            Some(since) => since,
            None => return Check::skipped(id, format!("{place}: no /sync: {}", answer.summary())),
        },
        Err(failure) => return Check::skipped(id, format!("{place}: no /sync: {failure}")),
    };
    let target = sync_target(Some(&since));
    let begun = Instant::now();
    let request =
        Ask { fields: &fields, timeout: Some(LONG_POLL + network.timeout), ..Ask::to("GET", &target) };
    let answer = ask(network, endpoint, request).await;
    let after = begun.elapsed().as_secs();
    match answer {
        Ok(answer) if answer.status == 200 && begun.elapsed() + Duration::from_secs(2) >= LONG_POLL => {
            Check::ok(id, format!("{place}: answered after {after} s"))
        }
        Ok(answer) if answer.status == 200 => Check::skipped(
            id,
            format!("{place}: something happened to the account after {after} s; try again"),
        ),
        Ok(answer) => {
            Check::fault(id, format!("{place}: {} after {after} s", answer.summary()), advice::long_poll())
        }
        Err(failure) => Check::fault(id, format!("{place}: {failure} after {after} s"), advice::long_poll()),
    }
}

/// Longer than the 60 s at which proxies cut by default.
const LONG_POLL: Duration = Duration::from_secs(70);

/// A sync of nothing: a filter that lets no event pass keeps the answer small.
fn sync_target(since: Option<&str>) -> String {
    let filter = r#"{"room":{"rooms":[]},"presence":{"types":[]},"account_data":{"types":[]}}"#;
    let since = since.map(|since| format!("&since={}", escaped(since))).unwrap_or_default();
    let wait = if since.is_empty() { 0 } else { LONG_POLL.as_millis() };
    format!("/_matrix/client/v3/sync?set_presence=offline&timeout={wait}&filter={}{since}", escaped(filter))
}
