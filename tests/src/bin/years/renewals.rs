//! Who renews certificates, as ACME clients do, and sometimes leaves broken files.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringfence_tests::authority::Certificate;
use ringfence_tests::client::HOST;
use ringfence_tests::{Authority, Client, MS, Proxy, pause};

use crate::{Plan, tally::Tally};

pub(crate) struct Renewals<'a> {
    proxy: &'a Proxy,
    files: &'a Mutex<()>,
    tally: &'a Tally,
}

impl<'a> Renewals<'a> {
    pub(crate) fn new(proxy: &'a Proxy, files: &'a Mutex<()>, tally: &'a Tally) -> Renewals<'a> {
        Renewals { proxy, files, tally }
    }

    /// Renews one after the other.
    pub(crate) fn run(&self, plan: Plan) {
        for number in 0..plan.swaps {
            if number % BROKEN_EVERY == 1 {
                self.leave_broken(number / BROKEN_EVERY);
            }
            let certificate = issue();
            {
                let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
                self.put(number, &certificate);
            }
            if self.is_seen(&certificate) {
                Tally::add(&self.tally.swaps, 1);
            } else {
                self.tally.fault(format!("certificate {number} is not served after {SWAP_TIME_MAX:?}"));
            }
        }
    }

    fn put(&self, number: u64, certificate: &Certificate) {
        let folder = self.proxy.folder();
        for (part, content) in [("key", &certificate.key_pem), ("chain", &certificate.chain_pem)] {
            let place = folder.join(format!("c0.{part}.pem"));
            match number % 3 {
                // lego, acme.sh.
                0 => rename_into(&place, |beside| fs::write(beside, content)),
                // certbot.
                1 => {
                    let archived = folder.join(format!("archive.{number}.{part}.pem"));
                    fs::write(&archived, content).expect("a file can be written");
                    rename_into(&place, |beside| symlink(&archived, beside));
                }
                // A script that copies one and then the other. What certbot has linked is not written through.
                _ => {
                    rename_into(&place, |beside| fs::copy(&place, beside).map(drop));
                    fs::write(&place, content).expect("a file can be written");
                    pause(50 * MS);
                }
            }
        }
    }

    /// Whether new handshakes are shown this certificate, soon.
    fn is_seen(&self, certificate: &Certificate) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < SWAP_TIME_MAX {
            if self.shown().as_deref() == Some(certificate.der.as_ref()) {
                return true;
            }
            pause(50 * MS);
        }
        false
    }

    fn shown(&self) -> Option<Vec<u8>> {
        let made = Client::tls_with(self.proxy.addresses[0], HOST, Authority::shared().client_config());
        let mut client = made.map_err(|error| self.tally.fault(format!("handshake: {error}"))).ok()?;
        Tally::add(&self.tally.connections, 1);
        client.session().peer_certificates().map(|chain| chain[0].to_vec())
    }

    /// Files that are no pair are refused, logged and counted; what was served is served on.
    fn leave_broken(&self, number: u64) {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.proxy.folder();
        let paths = ["chain", "key"].map(|part| folder.join(format!("c0.{part}.pem")));
        let good = paths.each_ref().map(|path| fs::read(path).expect("the file is there"));
        let before = self.shown();
        let (next, other) = (issue(), issue());
        let (chain, key) = match number % 3 {
            0 => (next.chain_pem.clone(), other.key_pem),
            1 => (next.chain_pem[..next.chain_pem.len() / 2].to_owned(), next.key_pem),
            _ => ("rubbish".to_owned(), "rubbish".to_owned()),
        };
        let refused = || self.proxy.metric("ringfence_certificate_swaps_total{result=\"refused\"}");
        let refused_before = refused();
        let write = |contents: [&[u8]; 2]| {
            for (path, content) in paths.iter().zip(contents) {
                rename_into(path, |beside| fs::write(beside, content));
            }
        };
        write([chain.as_bytes(), key.as_bytes()]);
        let begun = Instant::now();
        while refused() <= refused_before {
            if begun.elapsed() > SWAP_TIME_MAX {
                self.tally.fault(format!("broken certificate {number} is not refused"));
                break;
            }
            pause(50 * MS);
        }
        if self.shown() != before {
            self.tally.fault("a broken certificate has changed what is served".to_owned());
        }
        Tally::add(&self.tally.swaps_refused, 1);
        write(good.each_ref().map(Vec::as_slice));
    }
}

fn issue() -> Certificate {
    Authority::shared().certificate(&[HOST, "example.com"])
}

fn rename_into(place: &Path, make: impl Fn(&Path) -> std::io::Result<()>) {
    let beside = place.with_extension("beside");
    make(&beside).and_then(|()| fs::rename(&beside, place)).expect("a file can be replaced");
}

/// Every how many renewals one is broken: each takes as long as a renewal, and reloads wait for it.
const BROKEN_EVERY: u64 = 5;

/// How soon a renewed certificate has to be served: the files are looked at every two seconds, and twice.
const SWAP_TIME_MAX: Duration = Duration::from_secs(10);
