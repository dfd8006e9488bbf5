//! Whom upstream servers over TLS are believed by: the files of a configuration, and what the system trusts.

use std::sync::Arc;

use ringfence_forward::snapshot::{ServerTls, Snapshot};
use ringfence_tls::{Client, Trust};

use crate::{
    config::{Authorities, Config, Problem, Problems, Upstream},
    routing,
};

/// Tells what is wrong with each file of authorities.
pub(crate) fn check_files(config: &Config) -> Result<(), Problems> {
    let fault = |upstream: &Upstream| match &upstream.authorities {
        Authorities::File(file) if upstream.speaks_tls() => {
            let error = Trust::load(&file.value).err()?;
            Some(Problem { place: file.place, message: format!("`upstream_ca`: {error}") })
        }
        _ => None,
    };
    let problems: Vec<_> = routing::upstreams(config).filter_map(fault).collect();
    if problems.is_empty() { Ok(()) } else { Err(Problems::new(&config.file, problems)) }
}

/// How to speak TLS to each upstream of the configuration, if it is spoken there.
///
/// Upstreams that are trusted alike share one [`Client`], also with the snapshot `before`: so their connections and tickets
/// are used on. The system's authorities are read at most once.
pub(crate) fn clients(
    config: &Config,
    before: Option<&Snapshot>,
) -> Result<Vec<Option<Arc<Client>>>, Problems> {
    let mut known: Vec<Arc<Client>> = before.map(clients_of).unwrap_or_default();
    let mut system = None;
    let mut clients = Vec::new();
    for upstream in routing::upstreams(config) {
        if !upstream.speaks_tls() {
            clients.push(None);
            continue;
        }
        let trust = match &upstream.authorities {
            Authorities::System => Ok(system.get_or_insert_with(system_trust).clone()),
            Authorities::File(file) => Trust::load(&file.value).map_err(|error| (file.place, error)),
            Authorities::Nobody => Ok(Trust::Everybody),
        };
        let place = upstream.servers[0].place;
        let client = trust.and_then(|trust| match known.iter().find(|client| *client.trust() == trust) {
            Some(client) => Ok(client.clone()),
            None => Client::new(trust).map(Arc::new).map_err(|error| (place, error)),
        });
        let client = client.map_err(|(place, error)| {
            let message = format!(
                "nobody can vouch for the upstream: {error}; install ca-certificates, or name a file by `upstream_ca`"
            );
            Problems::new(&config.file, vec![Problem { place, message }])
        })?;
        known.push(client.clone());
        clients.push(Some(client));
    }
    Ok(clients)
}

/// One sentence for each server that is believed whatever it shows.
pub(crate) fn warnings(config: &Config) -> impl Iterator<Item = String> + '_ {
    let believed = routing::upstreams(config).filter(|upstream| upstream.authorities == Authorities::Nobody);
    let servers = believed.flat_map(|upstream| {
        upstream.servers.iter().filter(|server| upstream.tls_name(&server.value).is_some())
    });
    servers.map(|server| {
        format!(
            "upstream {} is not verified (upstream_verify = false): who stands between can read and change everything; name \
             who vouches for it by `upstream_ca`",
            server.value
        )
    })
}

fn clients_of(snapshot: &Snapshot) -> Vec<Arc<Client>> {
    let servers = snapshot.upstreams.iter().flat_map(|upstream| &upstream.servers);
    servers.filter_map(|server| server.tls.as_deref()).map(|tls: &ServerTls| tls.client.clone()).collect()
}

fn system_trust() -> Trust {
    Trust::Authorities(rustls_native_certs::load_native_certs().certs)
}
