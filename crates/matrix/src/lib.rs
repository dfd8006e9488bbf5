//! What Matrix is, as far as a proxy needs it: endpoints and their classes, administrative paths, error
//! bodies, server names and the well-known documents.
//!
//! Pure: no I/O, no clock. What runs for each request ([`is_admin`], [`classify`]) does not allocate and looks at
//! the raw path only; nothing here ever changes a request target. Source: the Matrix specification v1.11 and
//! Synapse's documentation, named where used.
#![forbid(unsafe_code)]

mod endpoint;
mod error;
mod path;
mod redaction;
mod server_name;
mod well_known;

pub use endpoint::{EndpointClass, classify};
pub use error::{CORS_FIELD_LINES, ErrorCode, JSON_FIELD_LINE, RETRY_CORS_FIELD_LINE, body, limit_body};
pub use path::{ADMIN_PREFIXES, is_admin};
pub use redaction::{without_identifiers, without_secrets};
pub use server_name::{FEDERATION_PORT, HTTPS_PORT, ServerName, ServerNameError};
pub use well_known::{
    CLIENT_PATH, DocumentError, SERVER_PATH, SUPPORT_PATH, client_document, object_document, server_document,
};
