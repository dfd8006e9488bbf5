//! `[[homeserver]]`: names, where they lead, and the discovery documents that say so.

use std::{collections::HashMap, path::Path};

use ringfence_matrix::{HTTPS_PORT, ServerName, client_document, object_document, server_document};

use super::{
    reader::{At, Table},
    schema::{Key, REQUIRED, Schema},
    upstream::{self, Upstream},
};

/// A homeserver behind this proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Homeserver {
    /// The part after the colon in user ids.
    pub(crate) server_name: At<ServerName>,
    /// Where clients connect.
    pub(crate) public_host: At<ServerName>,
    /// Where other servers connect; always with its port.
    pub(crate) federation_host: At<ServerName>,
    /// Where requests go.
    pub(crate) upstream: Upstream,
    /// What `/.well-known/matrix/client` says.
    pub(crate) well_known_client: String,
    /// What `/.well-known/matrix/server` says.
    pub(crate) well_known_server: String,
    /// What `/.well-known/matrix/support` says, if anything.
    pub(crate) well_known_support: Option<String>,
}

pub(crate) const SCHEMA: Schema = Schema {
    heading: "[[homeserver]]",
    about: "A homeserver behind this proxy: the names under which it is reached, and where its requests go. At least one. \
        `/_matrix` and `/_synapse/client` of its hosts go to it; a host that nobody claims goes to the first one.",
    keys: &[
        Key::text(
            "server_name",
            "server name",
            REQUIRED,
            "The part after the colon in its user ids. `/.well-known/matrix/` of this host is answered here.",
        ),
        Key::text(
            "public_host",
            "server name",
            "as `server_name`",
            "Where clients connect; what `/.well-known/matrix/client` says.",
        ),
        Key::text(
            "federation_host",
            "server name",
            "as `public_host`, on its port or on 443",
            "Where other servers connect; what `/.well-known/matrix/server` says. 443 and not 8448, because it is open for \
             clients anyway.",
        ),
        upstream::KEY,
        upstream::CA_KEY,
        upstream::NAME_KEY,
        upstream::VERIFY_KEY,
        upstream::BALANCE_KEY,
        upstream::REQUESTS_MAX_KEY,
        upstream::SEND_PROXY_PROTOCOL_KEY,
        upstream::HEALTH_PATH_KEY,
        Key::text(
            "well_known_client",
            "JSON object",
            "derived from `public_host`",
            "Replaces the whole document, to add further keys to it.",
        ),
        Key::text(
            "well_known_server",
            "JSON object",
            "derived from `federation_host`",
            "Replaces the whole document.",
        ),
        Key::text(
            "well_known_support",
            "JSON object",
            "none: the answer is 404",
            "The document `/.well-known/matrix/support`: whom to write to about this homeserver.",
        ),
    ],
};

impl Homeserver {
    /// Reads one table; `None` where there is not enough to go on. Relative paths are meant from `folder`.
    pub(crate) fn read(table: &Table<'_>, folder: &Path) -> Option<Self> {
        let advice = "add the part after the colon in its user ids, as in server_name = \"example.com\"";
        let server_name =
            table.required_string("server_name", advice).and_then(|text| name(table, "server_name", text));
        let public_host = table.string("public_host").and_then(|text| name(table, "public_host", text));
        let federation_host =
            table.string("federation_host").and_then(|text| name(table, "federation_host", text));
        let upstream = upstream::read_required(table, folder);
        let given_client = document(table, "well_known_client");
        let given_server = document(table, "well_known_server");
        let well_known_support = document(table, "well_known_support");

        let server_name = server_name?;
        let public_host = public_host.unwrap_or_else(|| server_name.clone());
        let federation_host = federation_host.unwrap_or_else(|| default_federation_host(&public_host));
        Some(Self {
            well_known_client: given_client.unwrap_or_else(|| client_document(&public_host.value)),
            well_known_server: given_server.unwrap_or_else(|| server_document(&federation_host.value)),
            well_known_support,
            server_name,
            public_host,
            federation_host,
            upstream: upstream?,
        })
    }

    /// The names under which it is reached, each with the key that gives it.
    pub(crate) fn names(&self) -> [(&'static str, &At<ServerName>); 3] {
        [
            ("server_name", &self.server_name),
            ("public_host", &self.public_host),
            ("federation_host", &self.federation_host),
        ]
    }

    /// The hosts of those names, in lower case and without port.
    pub(crate) fn host_keys(&self) -> impl Iterator<Item = String> + '_ {
        self.names().into_iter().map(|(_, name)| name.value.host_key())
    }
}

/// Notes names that two homeservers claim: a Host has to lead to one of them.
pub(crate) fn check_claims(table: &Table<'_>, homeservers: &[Homeserver]) {
    let mut owners: HashMap<String, usize> = HashMap::new();
    for (index, homeserver) in homeservers.iter().enumerate() {
        for (key, name) in homeserver.names() {
            let owner = *owners.entry(name.value.host_key()).or_insert(index);
            if owner != index {
                let other = &homeservers[owner].server_name.value;
                let message = format!(
                    "`{key}` leads to {}, which is a host of homeserver {other} already; give each homeserver its own hosts",
                    name.value.host()
                );
                table.note(name.place, message);
                // One fault a homeserver: its other names mostly follow from this one.
                break;
            }
        }
    }
}

/// Where servers connect if nothing is said: to the clients' host, on the port that is open anyway.
fn default_federation_host(public_host: &At<ServerName>) -> At<ServerName> {
    let name = &public_host.value;
    At { value: name.with_port(name.port().unwrap_or(HTTPS_PORT)), place: public_host.place }
}

/// A server name, or a note of what is wrong with it.
fn name(table: &Table<'_>, key: &str, text: At<&str>) -> Option<At<ServerName>> {
    match ServerName::parse(text.value) {
        Ok(value) => Some(At { value, place: text.place }),
        Err(error) => {
            let message = format!(
                "`{key}` is {:?}, but {error}; write a host name, with a port if need be",
                text.value
            );
            table.note(text.place, message);
            None
        }
    }
}

/// A discovery document, or a note of what is wrong with it.
fn document(table: &Table<'_>, key: &str) -> Option<String> {
    let text = table.string(key)?;
    match object_document(text.value) {
        Ok(document) => Some(document),
        Err(error) => {
            table.note(
                text.place,
                format!("`{key}` is refused: {error}; write one JSON object in ''' quotes"),
            );
            None
        }
    }
}
