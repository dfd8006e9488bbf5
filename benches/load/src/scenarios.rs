//! The scenarios: tables of who asks for what, how often and over which connections. To be read, and to be changed.
//!
//! Rates are arrivals a second of the whole crowd, sizes bytes. They are round numbers of ours, chosen for the shape of
//! such traffic and not measured at a homeserver: change them to what yours sees. `--scale` multiplies peers and rates.

use std::ops::RangeInclusive;

use crate::crowd::Pick;
use crate::slot::Handshake;

/// A homeserver's traffic.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) crowds: &'static [Peers],
}

/// Peers that do the same.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
    /// How many, by how they use connections.
    pub(crate) peers: &'static [(usize, Handshake)],
    pub(crate) activity: Activity,
    /// What they ask for, and how often beside the others.
    pub(crate) mix: &'static [(u32, Kind)],
}

/// Which URL they go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Federation,
}

/// When they ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activity {
    /// All the time, any of them; connections that stay are open before the measurement begins.
    Steady { per_second: f64 },
    /// In turn, from no connections at all: at `first_per_second` for `first_seconds`, then steadily.
    Burst { first_seconds: f64, first_per_second: f64, per_second: f64 },
    /// Each again as soon as it was answered.
    LongPoll,
    /// Once, and then they only hold their connection.
    Idle,
}

/// A kind of request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `PUT /_matrix/federation/v1/send/{txnId}` with so many PDUs in so many bytes.
    Transaction { pdus: RangeInclusive<u64>, bytes: RangeInclusive<u64> },
    /// `GET /_matrix/key/v2/server`
    Keys,
    /// `GET /_matrix/federation/v1/state_ids/{roomId}`
    StateIds,
    /// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
    MakeJoin,
    /// `GET /_matrix/client/v3/sync`, waiting up to 30 s.
    Sync,
    /// `PUT /_matrix/client/v3/rooms/{roomId}/send/m.room.message/{txnId}`
    Send,
    /// `POST /_matrix/media/v3/upload`
    Upload { bytes: RangeInclusive<u64> },
    /// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}`; the size is what our origin answers with.
    Download { bytes: RangeInclusive<u64> },
    /// `GET /_matrix/client/versions`, what every client and every monitor begins with.
    Versions,
}

impl Kind {
    /// Its name in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kind::Transaction { .. } => "transaction",
            Kind::Keys => "keys",
            Kind::StateIds => "state_ids",
            Kind::MakeJoin => "make_join",
            Kind::Sync => "sync",
            Kind::Send => "send",
            Kind::Upload { .. } => "upload",
            Kind::Download { .. } => "download",
            Kind::Versions => "versions",
        }
    }
}

/// Transactions: one event most of the time, 50 at most by the specification.
const TRANSACTION: Kind = Kind::Transaction { pdus: 1..=50, bytes: 1024..=64 * KIB };

/// What was missed during an outage comes in full transactions.
const CATCH_UP: Kind = Kind::Transaction { pdus: 20..=50, bytes: 16 * KIB..=64 * KIB };

/// What remote servers ask for beside delivering events.
const FEDERATION: &[(u32, Kind)] =
    &[(80, TRANSACTION), (8, Kind::Keys), (10, Kind::StateIds), (2, Kind::MakeJoin)];

/// What clients do beside waiting.
const CHAT: &[(u32, Kind)] = &[
    (50, Kind::Send),
    (44, Kind::Download { bytes: 2 * KIB..=200 * KIB }),
    (6, Kind::Upload { bytes: 20 * KIB..=2 * MIB }),
];

/// All of them.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "small-homeserver",
        about: "a family's or a club's: 30 clients, 150 remote servers, some 15 requests a second",
        crowds: &[
            Peers {
                name: "servers",
                side: Side::Federation,
                peers: &[(50, Handshake::Keep), (80, Handshake::Resumed), (20, Handshake::New)],
                activity: Activity::Steady { per_second: 10.0 },
                mix: FEDERATION,
            },
            Peers {
                name: "clients waiting",
                side: Side::Client,
                peers: &[(30, Handshake::Keep)],
                activity: Activity::LongPoll,
                mix: &[(1, Kind::Sync)],
            },
            Peers {
                name: "clients talking",
                side: Side::Client,
                peers: &[(30, Handshake::Keep)],
                activity: Activity::Steady { per_second: 4.0 },
                mix: CHAT,
            },
            Peers {
                name: "visitors",
                side: Side::Client,
                peers: &[(4, Handshake::New)],
                activity: Activity::Steady { per_second: 1.0 },
                mix: &[(1, Kind::Versions)],
            },
        ],
    },
    Scenario {
        name: "busy-homeserver",
        about: "a public one: 2000 clients waiting, 3000 remote servers, some 1000 requests a second",
        crowds: &[
            Peers {
                name: "servers",
                side: Side::Federation,
                peers: &[(1000, Handshake::Keep), (1500, Handshake::Resumed), (500, Handshake::New)],
                activity: Activity::Steady { per_second: 600.0 },
                mix: FEDERATION,
            },
            Peers {
                name: "clients waiting",
                side: Side::Client,
                peers: &[(2000, Handshake::Keep)],
                activity: Activity::LongPoll,
                mix: &[(1, Kind::Sync)],
            },
            Peers {
                name: "clients talking",
                side: Side::Client,
                peers: &[(500, Handshake::Keep)],
                activity: Activity::Steady { per_second: 200.0 },
                mix: CHAT,
            },
            Peers {
                name: "visitors",
                side: Side::Client,
                peers: &[(50, Handshake::New), (50, Handshake::Resumed)],
                activity: Activity::Steady { per_second: 40.0 },
                mix: &[(1, Kind::Versions)],
            },
        ],
    },
    Scenario {
        name: "federation-burst",
        about: "back after an outage: 4000 servers connect within four seconds and deliver what was missed",
        crowds: &[
            Peers {
                name: "servers",
                side: Side::Federation,
                peers: &[(4000, Handshake::Keep)],
                activity: Activity::Burst { first_seconds: 4.0, first_per_second: 1000.0, per_second: 300.0 },
                mix: &[(70, CATCH_UP), (20, Kind::Keys), (10, Kind::StateIds)],
            },
            Peers {
                name: "clients talking",
                side: Side::Client,
                peers: &[(50, Handshake::Keep)],
                activity: Activity::Steady { per_second: 20.0 },
                mix: &[(1, Kind::Send)],
            },
        ],
    },
    Scenario {
        name: "idle-10k",
        about: "10 000 connections that say nothing, beside light traffic",
        crowds: &[
            Peers {
                name: "idle servers",
                side: Side::Federation,
                peers: &[(5000, Handshake::Keep)],
                activity: Activity::Idle,
                mix: &[(1, Kind::Keys)],
            },
            Peers {
                name: "idle clients",
                side: Side::Client,
                peers: &[(5000, Handshake::Keep)],
                activity: Activity::Idle,
                mix: &[(1, Kind::Versions)],
            },
            Peers {
                name: "servers",
                side: Side::Federation,
                peers: &[(100, Handshake::Keep), (50, Handshake::Resumed)],
                activity: Activity::Steady { per_second: 100.0 },
                mix: FEDERATION,
            },
        ],
    },
    Scenario {
        name: "media",
        about: "pictures and films in and out, and chat that has to get through",
        crowds: &[
            Peers {
                name: "clients with media",
                side: Side::Client,
                peers: &[(100, Handshake::Keep), (50, Handshake::Resumed)],
                activity: Activity::Steady { per_second: 60.0 },
                mix: &[
                    (70, Kind::Download { bytes: 2 * KIB..=200 * KIB }),
                    (18, Kind::Download { bytes: 200 * KIB..=10 * MIB }),
                    (10, Kind::Upload { bytes: 50 * KIB..=5 * MIB }),
                    (2, Kind::Upload { bytes: 5 * MIB..=20 * MIB }),
                ],
            },
            Peers {
                name: "clients talking",
                side: Side::Client,
                peers: &[(100, Handshake::Keep)],
                activity: Activity::Steady { per_second: 50.0 },
                mix: &[(1, Kind::Send)],
            },
        ],
    },
];

impl Activity {
    /// Which idle peer takes the next request.
    pub(crate) fn pick(self) -> Pick {
        if matches!(self, Activity::Burst { .. }) { Pick::InTurn } else { Pick::Random }
    }

    /// Requests a second at this time, in seconds from the beginning.
    pub(crate) fn rate(self, seconds: f64) -> f64 {
        match self {
            Activity::Steady { per_second } => per_second,
            Activity::Burst { first_seconds, first_per_second, .. } if seconds < first_seconds => {
                first_per_second
            }
            Activity::Burst { per_second, .. } => per_second,
            Activity::LongPoll | Activity::Idle => 0.0,
        }
    }
}

/// One KiB, in bytes.
const KIB: u64 = 1024;

/// One MiB, in bytes.
const MIB: u64 = 1024 * KIB;
