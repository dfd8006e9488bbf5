//! `[[certificate]]`: a chain and its key, as files.

use std::path::{Path, PathBuf};

use super::{
    problem::Place,
    reader::Table,
    schema::{Key, REQUIRED, Schema},
};

/// Files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// The certificate and those that vouch for it, in PEM.
    pub(crate) chain: PathBuf,
    /// Its private key, in PEM.
    pub(crate) key: PathBuf,
    /// Where faults of these files are told.
    pub(crate) place: Place,
}

pub(crate) const SCHEMA: Schema = Schema {
    heading: "[[certificate]]",
    about: "A certificate, once for each; needed as soon as a listener speaks TLS. It answers for the names that stand in \
        it. The first one also answers peers that name no host, or one that no certificate has: on the federation port \
        many do.",
    keys: &[
        Key::text(
            "chain",
            "file",
            REQUIRED,
            "The certificate and those that vouch for it, in PEM: `fullchain.pem` of an ACME client. A relative path is \
             meant from the folder of the config file.",
        ),
        Key::text("key", "file", REQUIRED, "Its private key, in PEM: `privkey.pem` of an ACME client."),
    ],
};

impl Certificate {
    /// Reads one table; relative paths are meant from `folder`.
    pub(crate) fn read(table: &Table<'_>, folder: &Path) -> Option<Self> {
        let chain =
            path(table, "chain", "add the file of the certificate chain, as in chain = \"fullchain.pem\"");
        let key = path(table, "key", "add the file of the private key, as in key = \"privkey.pem\"");
        Some(Self { chain: folder.join(chain?), key: folder.join(key?), place: table.place })
    }
}

fn path<'a>(table: &Table<'a>, key: &str, advice: &str) -> Option<&'a str> {
    let text = table.required_string(key, advice)?;
    if text.value.is_empty() {
        table.note(text.place, format!("`{key}` is empty; write the path of a file"));
    }
    Some(text.value)
}
