//! What can be wrong with a certificate, said so that the operator can repair it.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A fault in a certificate, and the file to look at.
///
/// Shown as one line: file, what is wrong, what to do.
#[derive(Debug)]
pub struct CertificateError {
    file: Option<PathBuf>,
    // Boxed: a Result of a certificate should not grow by the rarest of its faults.
    fault: Box<CertificateFault>,
}

impl CertificateError {
    pub(crate) fn new(file: &Path, fault: CertificateFault) -> CertificateError {
        CertificateError { file: Some(file.to_owned()), fault: Box::new(fault) }
    }

    /// One that is not about a file.
    pub(crate) fn general(fault: CertificateFault) -> CertificateError {
        CertificateError { file: None, fault: Box::new(fault) }
    }

    /// The file at fault: the chain or the key. `None` when the fault is in no file.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// What is wrong.
    pub fn fault(&self) -> &CertificateFault {
        &self.fault
    }

    /// What is wrong, by value.
    pub fn into_fault(self) -> Box<CertificateFault> {
        self.fault
    }

    /// Whether the certificate can be used all the same: a matter of dates, which clients judge.
    pub fn is_warning(&self) -> bool {
        matches!(*self.fault, CertificateFault::Expired { .. } | CertificateFault::NotYetValid { .. })
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(formatter, "{}: {}", file.display(), self.fault),
            None => self.fault.fmt(formatter),
        }
    }
}

impl Error for CertificateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &*self.fault {
            CertificateFault::Unreadable(error) => Some(error),
            CertificateFault::UnusableKey(error)
            | CertificateFault::UnusableCertificate(error)
            | CertificateFault::Setup(error) => Some(error),
            _ => None,
        }
    }
}

/// The kinds of faults. Elements of a chain are counted from 1, the leaf.
#[derive(Debug)]
#[non_exhaustive]
pub enum CertificateFault {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// A PEM section is damaged.
    BrokenPem(String),
    /// No PEM certificate in the chain file.
    NoCertificate {
        /// What is in it instead.
        hint: &'static str,
    },
    /// No PEM certificate in a file of authorities.
    NoAuthority {
        /// What is in it instead.
        hint: &'static str,
    },
    /// No PEM private key in the key file.
    NoKey {
        /// What is in it instead.
        hint: &'static str,
    },
    /// The key needs a password.
    EncryptedKey,
    /// The key is of a kind or size that TLS here cannot sign with.
    UnusableKey(rustls::Error),
    /// An element is no X.509 certificate.
    BrokenCertificate {
        /// Which one.
        element: usize,
        /// What the parser says.
        reason: String,
    },
    /// The leaf is a certificate that cannot be served.
    UnusableCertificate(rustls::Error),
    /// The key belongs to no element of the chain.
    KeyMismatch,
    /// The key belongs to an element that is not the first.
    LeafNotFirst {
        /// Where the leaf is.
        element: usize,
    },
    /// An element did not issue the one before it.
    WrongOrder {
        /// The element that is out of place.
        element: usize,
        /// Its subject.
        subject: String,
        /// The subject that belongs in its place: the issuer of the element before.
        expected: String,
        /// Where that one is, if it is in the chain at all.
        expected_at: Option<usize>,
    },
    /// An element is the same certificate as the one before it.
    Repeated {
        /// The second of the two.
        element: usize,
    },
    /// No longer valid.
    Expired {
        /// Which element.
        element: usize,
        /// The end of its validity.
        at: String,
    },
    /// Not valid yet.
    NotYetValid {
        /// Which element.
        element: usize,
        /// The start of its validity.
        from: String,
    },
    /// There is no certificate to serve.
    NoneConfigured,
    /// The cryptographic library could not be set up.
    Setup(rustls::Error),
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => {
                write!(formatter, "cannot be read: {error}; check the path and its permissions")
            }
            Self::BrokenPem(reason) => {
                write!(formatter, "damaged PEM: {reason}; write the file again from its source")
            }
            Self::NoCertificate { hint } => {
                write!(formatter, "no PEM certificate in it ({hint}); `chain` wants BEGIN CERTIFICATE sections")
            }
            Self::NoAuthority { hint } => write!(
                formatter,
                "no PEM certificate in it ({hint}); write those of the authorities as BEGIN CERTIFICATE sections"
            ),
            Self::NoKey { hint } => {
                write!(formatter, "no PEM private key in it ({hint}); `key` wants a BEGIN PRIVATE KEY section")
            }
            Self::EncryptedKey => formatter.write_str(
                "the private key is encrypted; write it without a password (`openssl pkey -in KEY -out NEW`) \
                 and protect the file by its permissions",
            ),
            Self::UnusableKey(error) => write!(
                formatter,
                "the private key cannot be used ({error}); use ECDSA P-256 or P-384, RSA of 2048 bits or more, or Ed25519"
            ),
            Self::BrokenCertificate { element, reason } => {
                write!(formatter, "element {element} of the chain is no valid certificate: {reason}")
            }
            Self::UnusableCertificate(error) => {
                write!(formatter, "the certificate cannot be served ({error}); have it issued again as X.509 v3")
            }
            Self::KeyMismatch => formatter.write_str(
                "the private key does not match the certificate; give the key that the certificate was requested with",
            ),
            Self::LeafNotFirst { element } => write!(
                formatter,
                "the chain is in the wrong order: the certificate of the private key is element {element}; put it first, \
                 then each issuer"
            ),
            Self::WrongOrder { element, subject, expected, expected_at } => {
                write!(
                    formatter,
                    "the chain is in the wrong order: element {element} is \"{subject}\" but \"{expected}\" issued the \
                     element before it; "
                )?;
                match expected_at {
                    Some(at) => write!(formatter, "move element {at} there"),
                    None => formatter.write_str("put that one there or remove what does not belong"),
                }
            }
            Self::Repeated { element } => {
                write!(formatter, "element {element} of the chain repeats the one before it; remove one of them")
            }
            Self::Expired { element, at } => {
                write!(formatter, "{} expired on {at}; renew it", name_of(*element))
            }
            Self::NotYetValid { element, from } => {
                write!(formatter, "{} is valid only from {from}; check the clock", name_of(*element))
            }
            Self::NoneConfigured => formatter.write_str("no certificate to serve; add one"),
            Self::Setup(error) => write!(formatter, "TLS cannot be set up: {error}"),
        }
    }
}

fn name_of(element: usize) -> String {
    match element {
        1 => "the certificate".to_owned(),
        _ => format!("element {element} of the chain (an issuer)"),
    }
}
