//! Heads, parsed as text: each byte becomes the character of the same number.

use std::net::Ipv6Addr;

/// What a head says, in owned text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) start: Start,
    pub(crate) version_minor: u8,
    pub(crate) fields: Vec<Field>,
    pub(crate) framing: Framing,
    pub(crate) closes: bool,
    pub(crate) upgrades: bool,
}

/// The start-line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Request { method: String, target: String, origin_form: String, authority: Option<String>, waits: bool },
    Response { status: u16, reason: String },
}

/// A field line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) line: String,
    pub(crate) is_forwarded: bool,
}

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Where the head ends; `Err` as soon as it cannot become one.
pub(crate) fn end(input: &[u8]) -> Result<Option<usize>, ()> {
    let skipped = if input.starts_with(b"\r\n") { 2 } else { 0 };
    for at in 0..input.len() {
        match input[at] {
            0 => return Err(()),
            b'\n' if at == 0 || input[at - 1] != b'\r' => return Err(()),
            b'\r' if at + 1 < input.len() && input[at + 1] != b'\n' => return Err(()),
            _ => {}
        }
        if input[skipped..].starts_with(b"\r\n") && at > skipped {
            return Err(());
        }
        let seen = &input[..=at];
        if seen.len() > 32 * 1024 {
            return Err(());
        }
        if seen.len() > skipped && seen.ends_with(b"\r\n\r\n") {
            return Ok(Some(seen.len()));
        }
    }
    if input.len() >= 32 * 1024 { Err(()) } else { Ok(None) }
}

/// `None` for a refused request head.
pub(crate) fn request(head: &[u8]) -> Option<Head> {
    let text = text(head)?;
    let text = text.strip_prefix("\r\n").unwrap_or(&text);
    let (line, fields) = lines(text)?;
    let [method, target, version] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let version_minor = version_minor(version)?;
    let options = connection_options(&fields)?;
    let host = one(&fields, "host")?;
    if !is_token(method)
        || (host.is_none() && version_minor == 1)
        || host.is_some_and(|host| !is_authority(host))
    {
        return None;
    }
    let (origin_form, of_target) = target_parts(method, target)?;
    if let (Some(host), Some(authority)) = (host, &of_target)
        && !host.eq_ignore_ascii_case(authority)
    {
        return None;
    }
    let framing = declared_framing(&fields, version_minor)?.unwrap_or(Framing::Length(0));
    let expect = one(&fields, "expect")?;
    if expect.is_some_and(|expect| !expect.eq_ignore_ascii_case("100-continue")) {
        return None;
    }
    let modern_without_body = version_minor == 1 && framing == Framing::Length(0);
    let start = Start::Request {
        method: method.to_owned(),
        target: target.to_owned(),
        origin_form,
        authority: of_target.or(host.map(str::to_owned)),
        waits: expect.is_some() && version_minor == 1 && framing != Framing::Length(0),
    };
    let closes = version_minor == 0 || has(&options, "close");
    let upgrades = modern_without_body && method == "GET" && upgrades(&fields, &options);
    Some(Head { start, version_minor, fields: mark(fields, &options, false), framing, closes, upgrades })
}

/// `None` for a refused response head.
pub(crate) fn response(head: &[u8], to_head: bool) -> Option<Head> {
    let text = text(head)?;
    let (line, fields) = lines(&text)?;
    let (version, rest) = line.split_once(' ')?;
    let version_minor = version_minor(version)?;
    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    if code.len() != 3
        || !code.chars().all(|char| char.is_ascii_digit())
        || !reason.chars().all(is_value_char)
    {
        return None;
    }
    let status: u16 = code.parse().ok().filter(|status| (100..=599).contains(status))?;
    let options = connection_options(&fields)?;
    let declared = declared_framing(&fields, version_minor)?;
    let framing = match status {
        204 if declared == Some(Framing::Length(0)) => Framing::Length(0),
        100..=199 | 204 if declared.is_some() => return None,
        100..=199 | 204 | 304 => Framing::Length(0),
        _ if to_head => Framing::Length(0),
        _ => declared.unwrap_or(Framing::UntilClose),
    };
    let keeps = version_minor == 1 || has(&options, "keep-alive");
    let closes = !keeps || has(&options, "close") || framing == Framing::UntilClose || status == 101;
    let upgrades = status == 101 && upgrades(&fields, &options);
    let start = Start::Response { status, reason: reason.to_owned() };
    Some(Head {
        start,
        version_minor,
        fields: mark(fields, &options, status == 204),
        framing,
        closes,
        upgrades,
    })
}

pub(crate) fn is_tchar(char: char) -> bool {
    char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char)
}

pub(crate) fn is_value_char(char: char) -> bool {
    char == '\t' || (' '..='~').contains(&char) || ('\u{80}'..='\u{ff}').contains(&char)
}

fn text(head: &[u8]) -> Option<String> {
    (head.len() <= 32 * 1024).then(|| head.iter().map(|byte| *byte as char).collect())
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_tchar)
}

fn version_minor(version: &str) -> Option<u8> {
    match version {
        "HTTP/1.0" => Some(0),
        "HTTP/1.1" => Some(1),
        _ => None,
    }
}

/// The start-line and the fields.
fn lines(text: &str) -> Option<(&str, Vec<Field>)> {
    let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
    let start = lines.next().filter(|line| !line.contains(['\r', '\n', '\0']))?;
    let fields: Vec<Field> = lines.map(field).collect::<Option<_>>()?;
    (fields.len() <= 100).then_some((start, fields))
}

fn field(line: &str) -> Option<Field> {
    let (name, value) = line.split_once(':')?;
    if !is_token(name) || !value.chars().all(is_value_char) {
        return None;
    }
    let (name, value) = (name.to_owned(), value.trim_matches([' ', '\t']).to_owned());
    Some(Field { name, value, line: format!("{line}\r\n"), is_forwarded: true })
}

fn all<'f>(fields: &'f [Field], name: &str) -> Vec<&'f str> {
    let named = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    named.map(|field| field.value.as_str()).collect()
}

/// `None` when there are several.
fn one<'f>(fields: &'f [Field], name: &str) -> Option<Option<&'f str>> {
    match all(fields, name).as_slice() {
        [] => Some(None),
        [value] => Some(Some(value)),
        _ => None,
    }
}

fn elements(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(|element| element.trim_matches([' ', '\t']))
}

fn connection_options(fields: &[Field]) -> Option<Vec<String>> {
    let values = all(fields, "connection");
    let options = values.iter().flat_map(|value| elements(value)).filter(|option| !option.is_empty());
    let options: Vec<String> = options.map(str::to_ascii_lowercase).collect();
    let bad = |option: &String| {
        !is_token(option) || ["host", "content-length", "transfer-encoding"].contains(&option.as_str())
    };
    (options.len() <= 32 && !options.iter().any(bad)).then_some(options)
}

fn has(options: &[String], option: &str) -> bool {
    options.iter().any(|other| other == option)
}

fn mark(fields: Vec<Field>, options: &[String], without_length: bool) -> Vec<Field> {
    let own = [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let marked = fields.into_iter().map(|mut field| {
        let name = field.name.to_ascii_lowercase();
        let is_length = without_length && name == "content-length";
        field.is_forwarded = !own.contains(&name.as_str()) && !has(options, &name) && !is_length;
        field
    });
    marked.collect()
}

fn upgrades(fields: &[Field], options: &[String]) -> bool {
    has(options, "upgrade")
        && all(fields, "upgrade").iter().map(|value| value.to_lowercase()).eq(["websocket"])
}

fn declared_framing(fields: &[Field], version_minor: u8) -> Option<Option<Framing>> {
    let coding = one(fields, "transfer-encoding")?;
    let length = one(fields, "content-length")?;
    match (coding, length) {
        (None, None) => Some(None),
        (Some(coding), None) => {
            (version_minor == 1 && coding.eq_ignore_ascii_case("chunked")).then_some(Some(Framing::Chunked))
        }
        (None, Some(length)) => {
            let is_number = !length.is_empty() && length.chars().all(|char| char.is_ascii_digit());
            let length = length.parse::<i64>().ok().filter(|_| is_number)?;
            Some(Some(Framing::Length(length.unsigned_abs())))
        }
        (Some(_), Some(_)) => None,
    }
}

/// The target as an origin is sent it, and the authority that it names.
fn target_parts(method: &str, target: &str) -> Option<(String, Option<String>)> {
    let is_visible = target.chars().all(|char| ('!'..='~').contains(&char) && char != '#');
    if !is_visible || target.is_empty() || target.len() > 16 * 1024 {
        return None;
    }
    if method == "CONNECT" {
        let has_port = target.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        return (has_port && is_authority(target)).then(|| (String::new(), Some(target.to_owned())));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Some((target.to_owned(), None));
    }
    let (scheme, rest) = target.split_once("://")?;
    let authority = rest.split(['/', '?']).next().unwrap();
    if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) || !is_authority(authority) {
        return None;
    }
    let path = &rest[authority.len()..];
    let prefix = match (path.starts_with('/'), path, method) {
        (true, _, _) => "",
        (_, "", "OPTIONS") => "*",
        _ => "/",
    };
    Some((format!("{prefix}{path}"), Some(authority.to_owned())))
}

fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| {
        let is_number = port.chars().all(|char| char.is_ascii_digit());
        is_number && port.len() <= 5 && port.parse::<u16>().is_ok_and(|port| port != 0)
    };
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => {
            let is_name_char = |char: char| char.is_ascii_alphanumeric() || "-._~".contains(char);
            !host.is_empty() && host.chars().all(is_name_char)
        }
    };
    is_host && port.is_none_or(is_port)
}
