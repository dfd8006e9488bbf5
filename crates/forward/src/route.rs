//! From a request to the rule that decides what happens to it. Pure.

use ringfence_http1::{Method, RequestHead, TargetForm};

use crate::{
    fields::Client,
    respond::Refusal,
    snapshot::{Listener, MethodMatch, Rule, Site, Snapshot, contains},
};

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
    let site = site(snapshot, head.authority().map(|span| span.of(head_bytes)))?;
    let path = path(head, head_bytes);
    site.rules
        .iter()
        .find(|rule| {
            rule.methods.matches(head.method())
                && rule.paths.matches(path)
                && !(rule.unprivileged_only && is_privileged(listener, client))
        })
        .map(|rule| Routed { site, rule })
        .ok_or(Refusal::Unrouted)
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
    let target = head.path_and_query().of(head_bytes);
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
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

fn site<'s>(snapshot: &'s Snapshot, authority: Option<&[u8]>) -> Result<&'s Site, Refusal> {
    let mut lower = [0; HOST_BYTES_MAX];
    let host = without_port(authority.unwrap_or_default());
    // `example.com.` is the same host, said to be absolute (RFC 3986 §3.2.2).
    let host = host.strip_suffix(b".").unwrap_or(host);
    // A longer host is in no table.
    let index = lower.get_mut(..host.len()).and_then(|lower| {
        lower.copy_from_slice(host);
        lower.make_ascii_lowercase();
        snapshot.hosts.get(&*lower)
    });
    match index {
        Some(index) => Ok(&snapshot.sites[*index]),
        None if snapshot.strict_hosts => Err(Refusal::MisdirectedHost),
        None => Ok(&snapshot.sites[0]),
    }
}

/// `host` of a well-formed `host[:port]`; the brackets of an IPv6 address stay.
pub(crate) fn without_port(authority: &[u8]) -> &[u8] {
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
        for authority in ["example.com", "example.com:443", "[::1]", "[::1]:8448", "192.0.2.1:80", ""] {
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
