//! Who reloads and upgrades, by command and by signal, and sometimes makes a mistake.
#![forbid(unsafe_code)]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ringfence_tests::{MS, Proxy, SECOND, pause, proxy};
use rustix::process::Signal;

use crate::{Plan, tally::Tally};

pub(crate) struct Operator<'a> {
    proxy: &'a Proxy,
    files: &'a Mutex<()>,
    /// The config file as it was first.
    config: String,
    /// The listener that comes and goes.
    spare: SocketAddr,
    spare_is_there: bool,
    body_mib: u64,
    workers: usize,
    tally: &'a Tally,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(
        proxy: &'a Proxy,
        files: &'a Mutex<()>,
        spare: SocketAddr,
        tally: &'a Tally,
    ) -> Operator<'a> {
        let config = proxy.config();
        Operator { proxy, files, config, spare, spare_is_there: false, body_mib: 64, workers: 2, tally }
    }

    /// Does all of it, evenly spread.
    pub(crate) fn run(mut self, plan: Plan) {
        let steps = plan.reloads + plan.upgrades;
        let begun = Instant::now();
        let (mut reloads, mut upgrades) = (0, 0);
        for step in 0..steps {
            let due = begun + plan.time.mul_f64(step as f64 / steps as f64);
            pause(due.saturating_duration_since(Instant::now()));
            let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            if (step + 1) * plan.upgrades / steps > upgrades {
                self.upgrade(upgrades);
                upgrades += 1;
            } else {
                self.reload(reloads);
                reloads += 1;
            }
        }
    }

    fn reload(&mut self, number: u64) {
        if number % 6 == 5 {
            self.reload_broken(number / 6);
        }
        match number % 3 {
            0 => self.spare_is_there = !self.spare_is_there,
            1 => self.body_mib = 32 + number,
            _ => {}
        }
        self.proxy.set_config(&self.good_config());
        let done = if number.is_multiple_of(2) { self.reload_by_signal() } else { self.command("reload") };
        match done {
            Ok(()) => Tally::add(&self.tally.reloads, 1),
            Err(error) => self.tally.fault(format!("reload {number}: {error}")),
        }
    }

    /// Nothing may change, and the message names file, line and reason.
    fn reload_broken(&self, number: u64) {
        let (lines, reason) = [
            ("bogus = 1", "bogus"),
            ("this is no TOML", "TOML"),
            ("[[certificate]]\nchain = \"gone.pem\"\nkey = \"gone.pem\"", "gone.pem"),
            ("[[listener]]\naddress = \"192.0.2.1:18080\"\ntls = false", "192.0.2.1:18080"),
        ][usize::try_from(number % 4).unwrap_or(0)];
        let broken = format!("{}\n{lines}\n", self.good_config());
        self.proxy.set_config(&broken);
        let Err(told) = self.command("reload") else {
            return self.tally.fault(format!("{lines:?} was taken"));
        };
        // An address that cannot be bound is found out by binding it: no line is to blame.
        let names_line = told.contains("ringfence.toml:") || reason.starts_with("192");
        if !told.contains(reason) || !names_line {
            self.tally.fault(format!("{lines:?} is told as {told:?}"));
        }
        Tally::add(&self.tally.reloads_refused, 1);
    }

    fn upgrade(&mut self, number: u64) {
        if number == 1 {
            self.upgrade_in_vain("exit 1", &self.good_config());
            self.upgrade_in_vain("", &format!("{}\nbogus = 1\n", self.good_config()));
        }
        match number % 3 {
            0 => self.replace_binary(),
            1 => self.workers = self.workers % 3 + 1,
            _ => {}
        }
        self.proxy.set_config(&self.good_config());
        let begun = Instant::now();
        let before = self.proxy.followers().len();
        let done = match number % 2 {
            0 => self.command("upgrade"),
            _ => {
                self.proxy.signal_newest(Signal::USR2);
                self.until("the upgrade", || self.proxy.followers().len() > before)
            }
        };
        match done {
            Ok(()) => self.tally.handed_over(begun),
            Err(error) => self.tally.fault(format!("upgrade {number}: {error}")),
        }
    }

    /// The process that serves goes on.
    fn upgrade_in_vain(&self, script: &str, config: &str) {
        let newest = self.proxy.newest();
        if !script.is_empty() {
            self.replace_by(|path| {
                fs::write(path, format!("#!/bin/sh\n{script}\n"))?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            });
        }
        self.proxy.set_config(config);
        if self.command("upgrade").is_ok() || self.proxy.newest() != newest {
            self.tally.fault("an upgrade succeeded that could not".to_owned());
        }
        self.replace_binary();
        Tally::add(&self.tally.upgrades_failed, 1);
    }

    fn replace_binary(&self) {
        self.replace_by(|path| fs::copy(proxy::binary(), path).map(drop));
    }

    /// As a package manager does: written beside and renamed.
    fn replace_by(&self, write: impl Fn(&std::path::Path) -> std::io::Result<()>) {
        let beside = self.proxy.folder().join("beside");
        let replaced = write(&beside).and_then(|()| fs::rename(&beside, self.proxy.binary()));
        replaced.expect("the binary can be replaced");
    }

    fn good_config(&self) -> String {
        let body = format!("body_bytes_max = \"{} MiB\"", self.body_mib);
        let config = self.config.replace("body_bytes_max = \"64 MiB\"", &body);
        let config = config.replace("workers = 2", &format!("workers = {}", self.workers));
        let spare = format!("\n[[listener]]\naddress = \"{}\"\ntls = false\nrole = \"client\"\n", self.spare);
        if self.spare_is_there { config + &spare } else { config }
    }

    fn command(&self, command: &str) -> Result<(), String> {
        let output = self.proxy.command(command);
        let told = || String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(told()) }
    }

    fn reload_by_signal(&self) -> Result<(), String> {
        let of = |result: &str| self.proxy.metric(&format!("ringfence_reloads_total{{result=\"{result}\"}}"));
        let (done, refused) = (of("done"), of("refused"));
        self.proxy.signal_newest(Signal::HUP);
        self.until("the reload", || of("done") > done || of("refused") > refused)?;
        if of("refused") > refused { Err("it was refused".to_owned()) } else { Ok(()) }
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + 10 * SECOND;
        while !holds() {
            if Instant::now() > deadline {
                return Err(format!("{what} does not come about"));
            }
            pause(10 * MS);
        }
        Ok(())
    }
}
