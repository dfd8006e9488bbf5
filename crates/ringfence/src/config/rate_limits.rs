//! `[rate_limits]`: how often each client address may use each class of endpoints.
//!
//! A value is `"off"` or `"RATE/UNIT burst N"`, as in `"20/min burst 20"`: so many requests in each second (`s`), minute
//! (`min`) or hour (`h`), and so many at once. Addresses of one IPv6 /64 count as one.

use std::{fmt, ops::RangeInclusive, time::Duration};

use ipnet::IpNet;
use ringfence_matrix::EndpointClass;

use super::{
    listener,
    reader::{At, Table},
    schema::{Key, Schema},
};

/// How often one address may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit {
    /// So many requests in each `period`.
    pub(crate) count: u32,
    pub(crate) period: Duration,
    /// So many at once.
    pub(crate) burst: u32,
}

/// As the file has it.
impl fmt::Display for RateLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, period)| *period == self.period).map_or("?", |(name, _)| name);
        write!(formatter, "{}/{unit} burst {}", self.count, self.burst)
    }
}

/// Requests in each unit of time. Once an hour is the least that says anything; beyond a thousand a second the buckets'
/// clock of 1/16 ms is not exact any more.
const RATE: RangeInclusive<u32> = 1..=1000;

/// Requests at once. None would be none at all; 100 000 is more than a homeserver answers in a minute.
const BURST: RangeInclusive<u32> = 1..=100_000;

/// Logging in (POST; to ask which ways there are is free). A person mistypes a password some times, a family or an office
/// behind one address logs in one by one; who guesses passwords gets 28 800 a day instead of as many as the homeserver can
/// hash, which costs it some 0.2 s each.
const LOGIN: Option<RateLimit> = each(20, MINUTE, 20);

/// Creating accounts (POST). One takes two to four requests, with their stages: three people a minute. Those who create
/// accounts in bulk are the ones this is for.
const REGISTER: Option<RateLimit> = each(10, MINUTE, 10);

/// Transactions of other servers. A server sends one at a time and waits for the answer, some 10 a second over a fast
/// line, with up to 50 events in each; hosters have many servers behind one address. One that is refused stays away for
/// minutes (Synapse: ten), so that this has to be far above what is usual.
const FEDERATION_SEND: Option<RateLimit> = each(50, SECOND, 300);

/// What other servers ask for: a join or a gap to be filled takes hundreds of requests at once, and then none.
const FEDERATION_READ: Option<RateLimit> = each(50, SECOND, 300);

/// Signing keys: a server asks once a day for ours, and a notary's clients for some tens at a time.
const KEY_SERVER: Option<RateLimit> = each(20, SECOND, 100);

/// Long polls: what they cost is connections, which have a limit of their own, and an office behind one address has many.
const SYNC: Option<RateLimit> = None;

/// Sending: a client waits for each answer, bots and bridges are busy, and the homeserver limits each user itself.
const SEND: Option<RateLimit> = None;

/// Uploads: what they cost is bytes, not requests.
const MEDIA_UP: Option<RateLimit> = None;

/// Downloads: opening a room takes a thumbnail for each member, hundreds at once, and for each client behind an address.
const MEDIA_DOWN: Option<RateLimit> = None;

/// End-to-end encryption keys: a client that comes back asks for all at once, and messages cannot be read without.
const KEYS: Option<RateLimit> = None;

/// Discovery documents: answered here, for less than it costs to refuse.
const WELL_KNOWN: Option<RateLimit> = None;

/// The rest is too much of a mixture for one number.
const OTHER: Option<RateLimit> = None;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const UNITS: [(&str, Duration); 3] = [("s", SECOND), ("min", MINUTE), ("h", Duration::from_secs(3600))];

const fn each(count: u32, period: Duration, burst: u32) -> Option<RateLimit> {
    Some(RateLimit { count, period, burst })
}

/// The limit of a class of which the file says nothing.
const fn default(class: EndpointClass) -> Option<RateLimit> {
    match class {
        EndpointClass::Sync => SYNC,
        EndpointClass::Send => SEND,
        EndpointClass::MediaUpload => MEDIA_UP,
        EndpointClass::MediaDownload => MEDIA_DOWN,
        EndpointClass::Keys => KEYS,
        EndpointClass::Login => LOGIN,
        EndpointClass::Register => REGISTER,
        EndpointClass::FederationSend => FEDERATION_SEND,
        EndpointClass::FederationRead => FEDERATION_READ,
        EndpointClass::KeyServer => KEY_SERVER,
        EndpointClass::WellKnown => WELL_KNOWN,
        EndpointClass::Other => OTHER,
    }
}

/// The limits of all classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RateLimits {
    /// In the order of [`EndpointClass::ALL`]; `None` is off.
    of_class: [Option<RateLimit>; EndpointClass::ALL.len()],
    /// Networks that no limit is for, that of connections included.
    pub(crate) exempt: Vec<IpNet>,
}

pub(crate) const SCHEMA: Schema = Schema {
    heading: "[rate_limits]",
    about: "How often each client address (IPv6: each /64) may use each class of endpoints: so many requests in each second (`s`), \
            minute (`min`) or hour (`h`), and so many at once. More is answered 429 `M_LIMIT_EXCEEDED` with `Retry-After`.",
    keys: &[
        Key::text(
            "exempt",
            "list of networks",
            "[]",
            "Networks that no limit is for, nor that of connections from one address.",
        ),
        Key::text(
            "sync",
            FORM,
            "\"off\"",
            "Long polls: what they cost is connections, which have a limit of their own, and an office behind one address has many.",
        ),
        Key::text(
            "send",
            FORM,
            "\"off\"",
            "Sending: a client waits for each answer, bots and bridges are busy, and the homeserver limits each user itself.",
        ),
        Key::text("media_up", FORM, "\"off\"", "Uploads: what they cost is bytes, not requests."),
        Key::text(
            "media_down",
            FORM,
            "\"off\"",
            "Downloads: opening a room takes a thumbnail for each member, hundreds at once, and for each client behind an address.",
        ),
        Key::text(
            "keys",
            FORM,
            "\"off\"",
            "End-to-end encryption keys: a client that comes back asks for all at once, and messages cannot be read without.",
        ),
        Key::text(
            "login",
            FORM,
            "\"20/min burst 20\"",
            "Logging in (POST only). A person mistypes a password some times, a family or an office behind one address logs in one by one; who guesses passwords gets 28 800 a day instead of as many as the homeserver can hash.",
        ),
        Key::text(
            "register",
            FORM,
            "\"10/min burst 10\"",
            "Creating accounts (POST only). One takes two to four requests: three people a minute.",
        ),
        Key::text(
            "federation_send",
            FORM,
            "\"50/s burst 300\"",
            "Transactions of other servers. A server sends one at a time, some 10 a second; hosters have many servers behind one address. One that is refused stays away for minutes, so this is far above what is usual.",
        ),
        Key::text(
            "federation_read",
            FORM,
            "\"50/s burst 300\"",
            "What other servers ask for: a join or a gap to be filled takes hundreds of requests at once, and then none.",
        ),
        Key::text(
            "key_server",
            FORM,
            "\"20/s burst 100\"",
            "Signing keys: a server asks once a day for ours, and a notary for some tens at a time.",
        ),
        Key::text(
            "well_known",
            FORM,
            "\"off\"",
            "Discovery documents: answered here, for less than it costs to refuse.",
        ),
        Key::text("other", FORM, "\"off\"", "The rest is too much of a mixture for one number."),
    ],
};

/// How a limit is written.
const FORM: &str = "`\"RATE/UNIT burst N\"` or `\"off\"`";

impl RateLimits {
    pub(crate) fn read(table: &Table<'_>) -> Self {
        Self {
            of_class: EndpointClass::ALL.map(|class| read_limit(table, class)),
            exempt: listener::networks(table, "exempt"),
        }
    }

    /// The limit of a class; `None` is off.
    pub(crate) fn of(&self, class: EndpointClass) -> Option<RateLimit> {
        self.of_class[class as usize]
    }
}

/// The limit of a class: what the file says, or else the default.
fn read_limit(table: &Table<'_>, class: EndpointClass) -> Option<RateLimit> {
    let key = class.as_str();
    let Some(At { value: text, place }) = table.string(key) else { return default(class) };
    parse(text).unwrap_or_else(|fault| {
        table.note(place, format!("`{key}` is {text:?}{fault}"));
        default(class)
    })
}

/// Reads a limit; the error goes on after the text, with what is wrong and what to do.
fn parse(text: &str) -> Result<Option<RateLimit>, String> {
    if text == "off" {
        return Ok(None);
    }
    let shape = || "; write \"off\", or a rate and a burst, as in \"20/min burst 20\"".to_owned();
    let (rate, burst) = text.split_once(" burst ").ok_or_else(shape)?;
    let (count, unit) = rate.split_once('/').ok_or_else(shape)?;
    let (count, burst) = (number(count).ok_or_else(shape)?, number(burst.trim_start()).ok_or_else(shape)?);
    let Some((_, period)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
        return Err(format!(", whose unit {unit:?} is unknown; write s, min or h behind the slash"));
    };
    for (what, found, range) in [("rate", count, RATE), ("burst", burst, BURST)] {
        if !range.contains(&found) {
            return Err(format!("; the {what} may be from {} to {}", range.start(), range.end()));
        }
    }
    Ok(Some(RateLimit { count, period, burst }))
}

/// The value of some digits; those of a number that is too large to be any limit are told by the range.
fn number(digits: &str) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        for (text, count, seconds, burst) in
            [("20/min burst 20", 20, 60, 20), ("50/s burst 300", 50, 1, 300), ("1/h burst 1", 1, 3600, 1)]
        {
            let limit = RateLimit { count, period: Duration::from_secs(seconds), burst };
            assert_eq!(parse(text), Ok(Some(limit)), "{text}");
            assert_eq!(limit.to_string(), text);
        }
        assert_eq!(parse("off"), Ok(None));
    }

    #[test]
    fn what_is_no_limit_says_what_to_write() {
        for (text, advice) in [
            ("", "as in \"20/min burst 20\""),
            ("20", "as in \"20/min burst 20\""),
            ("20/min", "as in \"20/min burst 20\""),
            ("20/min burst", "as in \"20/min burst 20\""),
            ("-1/s burst 1", "as in \"20/min burst 20\""),
            ("+1/s burst 1", "as in \"20/min burst 20\""),
            ("1.5/s burst 1", "as in \"20/min burst 20\""),
            ("1/s burst 1 ", "as in \"20/min burst 20\""),
            ("20/minute burst 20", "whose unit \"minute\" is unknown; write s, min or h"),
            ("20/ min burst 20", "whose unit \" min\" is unknown; write s, min or h"),
            ("0/s burst 1", "the rate may be from 1 to 1000"),
            ("1001/s burst 1", "the rate may be from 1 to 1000"),
            ("99999999999/s burst 1", "the rate may be from 1 to 1000"),
            ("1/s burst 0", "the burst may be from 1 to 100000"),
            ("1/s burst 100001", "the burst may be from 1 to 100000"),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(fault.contains(advice), "{text:?}: {fault}");
        }
    }

    #[test]
    fn every_class_has_a_key() {
        let keys: Vec<_> = EndpointClass::ALL.into_iter().map(EndpointClass::as_str).collect();
        assert_eq!(keys, SCHEMA.keys[1..].iter().map(|key| key.name).collect::<Vec<_>>());
    }
}
