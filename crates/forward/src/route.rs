//! From a request to the rule that decides what happens to it. Pure.

use bytes::Bytes;
use ringfence_http1::{BodyFraming, Method, RequestHead, TargetForm};

use crate::{
    fields::{self, Client},
    respond::{Answer, Refusal},
    snapshot::{Action, Listener, MethodMatch, Rule, Site, Snapshot, contains},
};

/// What happens to a request.
pub(crate) enum Decision<'s> {
    /// It is refused, in this style.
    Refuse(Refusal, usize),
    /// It is sent to the same target on `https`.
    Redirect,
    /// It is answered here; errors look in this style.
    Answer(&'s Answer, usize),
    /// It goes to a server.
    Forward(Forward<'s>),
}

impl Decision<'_> {
    /// For what a client may not do too often: how its refusal looks.
    pub(crate) fn limited_style(&self) -> Option<usize> {
        match self {
            Decision::Refuse(..) | Decision::Redirect => None,
            Decision::Answer(_, style) => Some(*style),
            Decision::Forward(way) => Some(way.refusal_style),
        }
    }
}

/// Where a request goes, and what it may bring.
#[derive(Clone, Copy)]
pub(crate) struct Forward<'s> {
    /// Index into [`Snapshot::upstreams`].
    pub(crate) upstream: usize,
    /// What is sent as `Host` if the client named none.
    pub(crate) host: &'s [u8],
    /// Largest request body, in bytes of content.
    pub(crate) content_max: u64,
    /// How errors look here.
    pub(crate) refusal_style: usize,
}

/// Decides about a request that arrived through `listener` from `client`. `head_bytes` is what `head` was parsed from.
pub(crate) fn decide<'s>(
    snapshot: &'s Snapshot,
    listener: &Listener,
    client: Client,
    head: &RequestHead,
    head_bytes: &[u8],
) -> Decision<'s> {
    let forwards = fields::max_forwards(head, head_bytes);
    match lookup(snapshot, listener, client, head, head_bytes) {
        Err(refusal @ Refusal::MisdirectedHost) => Decision::Refuse(refusal, 0),
        _ if listener.redirect => Decision::Redirect,
        // It asks about the way, and has come as far as it may go (RFC 9110 §7.6.2).
        _ if forwards == Ok(Some(0)) => Decision::Answer(&FORWARDS_SPENT, 0),
        _ if forwards.is_err() => Decision::Refuse(Refusal::Malformed, 0),
        Err(refusal) => Decision::Refuse(refusal, 0),
        Ok(Routed { rule, site }) => match &rule.action {
            Action::Answer(answer) => Decision::Answer(answer, rule.refusal_style),
            Action::Forward(upstream) => forward(snapshot, site, rule, *upstream, head),
        },
    }
}

fn forward<'s>(
    snapshot: &Snapshot,
    site: &'s Site,
    rule: &Rule,
    upstream: usize,
    head: &RequestHead,
) -> Decision<'s> {
    let content_max = rule.body_bytes_max.unwrap_or(snapshot.limits.body_bytes_max);
    let refusal_style = rule.refusal_style;
    if matches!(head.framing(), BodyFraming::Length(length) if length > content_max) {
        return Decision::Refuse(Refusal::ContentTooLarge, refusal_style);
    }
    Decision::Forward(Forward { upstream, host: &site.host, content_max, refusal_style })
}

/// What an OPTIONS or a TRACE is told that may not be forwarded any more.
pub(crate) static FORWARDS_SPENT: Answer =
    Answer { status: 200, field_lines: Bytes::new(), content: Bytes::new() };

/// What routing found.
#[derive(Clone, Copy)]
pub(crate) struct Routed<'s> {
    pub(crate) site: &'s Site,
    pub(crate) rule: &'s Rule,
}

/// Looks up the rule for a request that arrived through `listener` from `client`. `head_bytes` is what `head` was
/// parsed from.
pub(crate) fn lookup<'s>(
    snapshot: &'s Snapshot,
    listener: &Listener,
    client: Client,
    head: &RequestHead,
    head_bytes: &[u8],
) -> Result<Routed<'s>, Refusal> {
    if head.target_form() == TargetForm::Authority {
        return Err(Refusal::NotImplemented);
    }
    let site = &snapshot.sites[site(snapshot, head.authority().map(|span| span.of(head_bytes)))?];
    let path = path(head, head_bytes);
    site.rules
        .iter()
        .find(|rule| judge(rule, listener, client, head.method(), path) == Verdict::Taken)
        .map(|rule| Routed { site, rule })
        .ok_or(Refusal::Unrouted)
}

/// What a rule says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It decides.
    Taken,
    /// It is about other methods.
    OtherMethod,
    /// It is about other paths.
    OtherPath,
    /// It is about those who have no privilege on this listener.
    Privileged,
}

/// Whether a rule decides about such a request.
pub(crate) fn judge(
    rule: &Rule,
    listener: &Listener,
    client: Client,
    method: Method,
    path: &[u8],
) -> Verdict {
    if !rule.methods.matches(method) {
        Verdict::OtherMethod
    } else if !rule.paths.matches(path) {
        Verdict::OtherPath
    } else if rule.unprivileged_only && is_privileged(listener, client) {
        Verdict::Privileged
    } else {
        Verdict::Taken
    }
}

/// Who it is must be known: an address that a trusted proxy could not spell is nobody's.
fn is_privileged(listener: &Listener, client: Client) -> bool {
    client.is_certain && contains(&listener.privileged_networks, client.address)
}

/// The raw path: the target up to the query. What is asked of the server as a whole (`*`) is looked up as its root.
pub(crate) fn path<'b>(head: &RequestHead, head_bytes: &'b [u8]) -> &'b [u8] {
    if head.target_form() == TargetForm::Asterisk || head.path_prefix() == b"*" {
        return b"/";
    }
    let path = head.path().of(head_bytes);
    if path.is_empty() { b"/" } else { path }
}

impl MethodMatch {
    fn matches(self, method: Method) -> bool {
        match self {
            MethodMatch::Any => true,
            MethodMatch::Read => matches!(method, Method::Get | Method::Head),
            MethodMatch::Options => method == Method::Options,
        }
    }
}

/// Index of the site of a Host.
pub(crate) fn site(snapshot: &Snapshot, authority: Option<&[u8]>) -> Result<usize, Refusal> {
    match claimed_site(snapshot, authority) {
        Some(index) => Ok(index),
        None if snapshot.strict_hosts => Err(Refusal::MisdirectedHost),
        None => Ok(0),
    }
}

/// Index of the site that claims a Host, if one does.
pub(crate) fn claimed_site(snapshot: &Snapshot, authority: Option<&[u8]>) -> Option<usize> {
    let host = without_port(authority.unwrap_or_default());
    // `example.com.` is the same host, said to be absolute (RFC 3986 §3.2.2).
    let host = host.strip_suffix(b".").unwrap_or(host);
    // Nearly always it is in lower case already.
    let index = snapshot.hosts.get(host).or_else(|| {
        let mut lower = [0; HOST_BYTES_MAX];
        // A longer host is in no table.
        let lower = lower.get_mut(..host.len())?;
        lower.copy_from_slice(host);
        lower.make_ascii_lowercase();
        snapshot.hosts.get(&*lower)
    });
    index.copied()
}

/// The answer that sends a client to the same target on `https` (RFC 9110 §15.4.9).
pub(crate) fn redirect(snapshot: &Snapshot, head: &RequestHead, head_bytes: &[u8]) -> Answer {
    let fallback = &snapshot.sites[0].host[..];
    let host = without_port(head.authority().map_or(fallback, |span| span.of(head_bytes)));
    let target = match head.target_form() {
        TargetForm::Origin | TargetForm::Absolute => head.path_and_query().of(head_bytes),
        TargetForm::Authority | TargetForm::Asterisk => b"/",
    };
    let slash = head.path_prefix();
    let field_lines = [b"Location: https://", host, slash, target, b"\r\n"].concat().into();
    Answer { status: 308, field_lines, content: Bytes::new() }
}

/// `host` of a well-formed `host[:port]`; the brackets of an IPv6 address stay.
fn without_port(authority: &[u8]) -> &[u8] {
    // Most name no port, and end with a letter.
    if authority.last().is_some_and(u8::is_ascii_alphabetic) {
        return authority;
    }
    match authority.iter().rposition(|byte| matches!(byte, b':' | b']')) {
        Some(at) if authority[at] == b':' => &authority[..at],
        _ => authority,
    }
}

/// The longest host name of DNS, in bytes, and room for a trailing dot.
const HOST_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use ringfence_http1::Authority;

    use crate::snapshot::PathMatch;

    #[test]
    fn a_port_is_taken_off_as_the_parser_would_do_it() {
        for authority in
            ["example.com", "example.com:443", "example.com.", "[::1]", "[::1]:8448", "192.0.2.1:80", ""]
        {
            let host = Authority::split(authority.as_bytes()).map_or(&b""[..], |authority| authority.host);
            assert_eq!(super::without_port(authority.as_bytes()), host, "{authority}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let prefix = PathMatch::Prefix((*b"/_matrix").into());
        for (path, matches) in [
            ("/_matrix", true),
            ("/_matrix/", true),
            ("/_matrix/a", true),
            ("/_matrixa", false),
            ("/_Matrix", false),
        ] {
            assert_eq!(prefix.matches(path.as_bytes()), matches, "{path}");
        }
        assert!(PathMatch::Prefix((*b"/").into()).matches(b"/anything"));
    }
}
