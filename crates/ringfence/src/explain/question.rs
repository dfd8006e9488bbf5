//! From the command line to the bytes of a request. What stands in them is judged by the proxy's own parser.

use std::net::{IpAddr, SocketAddr};

use ringfence_forward::explain::Question;
use ringfence_matrix::{HTTPS_PORT, ServerName};

use crate::{
    cli::Explain,
    config::{Config, Role},
};

/// A request as somebody would send it.
#[derive(Debug)]
pub(super) struct Asked {
    /// From the request line to the empty line.
    pub(super) head: Vec<u8>,
    /// The method.
    pub(super) method: String,
    /// Index of its listener, and why that one.
    pub(super) listener: usize,
    pub(super) listener_reason: &'static str,
    pub(super) tls: bool,
    pub(super) peer: IpAddr,
    /// What `Host` says.
    pub(super) host: String,
}

impl Asked {
    pub(super) fn question(&self) -> Question<'_> {
        Question { head: &self.head, listener: self.listener, tls: self.tls, peer: self.peer }
    }
}

/// Reads a request; the error says what to write instead.
pub(super) fn read(request: &Explain, config: &Config) -> Result<Asked, String> {
    check_line("the method", &request.method)?;
    check_line("the URL", &request.url)?;
    let url = Url::parse(&request.url)?;
    let (listener, listener_reason) = match &request.listener {
        Some(wanted) => (named_listener(config, wanted)?, "as asked for"),
        None => listener_of(config, &url)?,
    };
    let given_host = given_host(&request.header)?;
    let host = match (&given_host, &url.authority) {
        (Some(host), _) => host.clone(),
        (None, Some(authority)) => (*authority).to_owned(),
        (None, None) => config.homeservers[0].public_host.value.to_string(),
    };
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, url.target);
    if given_host.is_none() {
        head += &format!("Host: {host}\r\n");
    }
    for line in &request.header {
        head += &format!("{line}\r\n");
    }
    head += "\r\n";
    Ok(Asked {
        head: head.into_bytes(),
        method: request.method.clone(),
        listener,
        listener_reason,
        tls: config.listeners[listener].tls,
        peer: request.client.to_canonical(),
        host,
    })
}

/// A shell lets line breaks into an argument; they would begin another line of the head.
fn check_line(what: &str, text: &str) -> Result<(), String> {
    match text.chars().find(|char| matches!(char, '\r' | '\n' | '\0')) {
        Some(char) => Err(format!("{what} has {char:?} in it; write it in one line")),
        None if text.is_empty() => Err(format!("{what} is empty; see `ringfence explain --help`")),
        None => Ok(()),
    }
}

/// The value of `Host` among the field lines, which have to be field lines.
fn given_host(lines: &[String]) -> Result<Option<String>, String> {
    let mut host = None;
    for line in lines {
        check_line("a header", line)?;
        let Some((name, value)) = line.split_once(':') else {
            return Err(format!("the header {line:?} has no colon; write 'Name: value'"));
        };
        if name.eq_ignore_ascii_case("host") {
            host = Some(value.trim().to_owned());
        }
    }
    Ok(host)
}

/// The parts of a URL that a request is made of. The target is never decoded, resolved or encoded.
struct Url<'a> {
    tls: Option<bool>,
    authority: Option<&'a str>,
    port: Option<u16>,
    target: String,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let scheme = |scheme: &str| {
            text.get(..scheme.len())
                .filter(|start| start.eq_ignore_ascii_case(scheme))
                .map(|_| &text[scheme.len()..])
        };
        let (tls, rest) = match (scheme("https://"), scheme("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) if text.starts_with('/') || text == "*" => {
                return Ok(Self { tls: None, authority: None, port: None, target: target(text)? });
            }
            (None, None) => {
                return Err(format!(
                    "{text:?} is no URL; write https://HOST/PATH, or a target beginning with a slash"
                ));
            }
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("the URL has a user name; remove everything up to the @".to_owned());
        }
        let name = ServerName::parse(authority).map_err(|error| {
            format!("the URL's host is {authority:?}, but {error}; write https://HOST/PATH")
        })?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        let target = target(&format!("{slash}{path}"))?;
        Ok(Self { tls: Some(tls), authority: Some(authority), port: name.port(), target })
    }
}

fn target(text: &str) -> Result<String, String> {
    match text.split_once('#') {
        Some((sent, _)) => {
            Err(format!("what stands behind # is never sent; write {sent}, or %23 for the character"))
        }
        None => Ok(text.to_owned()),
    }
}

fn named_listener(config: &Config, wanted: &str) -> Result<usize, String> {
    let wanted = wanted.strip_prefix(':').unwrap_or(wanted);
    let is_meant = |address: SocketAddr| match wanted.parse::<u16>() {
        Ok(port) => address.port() == port,
        Err(_) => wanted.parse() == Ok(address),
    };
    let found = config.listeners.iter().position(|listener| is_meant(listener.address.value));
    found.ok_or_else(|| format!("there is no listener {wanted}; {}", choices(config)))
}

/// The listener that such a URL leads to.
fn listener_of(config: &Config, url: &Url<'_>) -> Result<(usize, &'static str), String> {
    let find = |meant: &dyn Fn(SocketAddr, bool) -> bool| {
        config.listeners.iter().position(|listener| meant(listener.address.value, listener.tls))
    };
    if let Some(port) = url.port {
        let found = find(&|address, _| address.port() == port);
        return found.map(|index| (index, "by the URL's port")).ok_or_else(|| {
            format!("there is no listener on port {port}; choose one with --listener: {}", choices(config))
        });
    }
    let Some(tls) = url.tls else {
        let first = config.listeners.iter().position(|listener| listener.role != Role::Redirect);
        return Ok((first.unwrap_or(0), "the first"));
    };
    let port = if tls { HTTPS_PORT } else { HTTP_PORT };
    let by_port = find(&|address, _| address.port() == port).map(|index| (index, "by the URL's scheme"));
    let by_scheme =
        || find(&|_, speaks| speaks == tls).map(|index| (index, "the first that speaks the URL's scheme"));
    Ok(by_port.or_else(by_scheme).unwrap_or((0, "the first, as none speaks the URL's scheme")))
}

/// The port of an `http` URL that names none (RFC 9110 §4.2.1).
const HTTP_PORT: u16 = 80;

fn choices(config: &Config) -> String {
    let addresses: Vec<_> =
        config.listeners.iter().map(|listener| listener.address.value.to_string()).collect();
    format!("there is {}", addresses.join(", "))
}
