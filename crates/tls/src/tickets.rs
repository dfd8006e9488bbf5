//! Session tickets (RFC 8446 §4.6.1, RFC 5077) whose keys end when their time is over.
//!
//! rustls' own ticketer makes a new key when a ticket is made after the old one's time, by the wall clock: where no
//! client comes, or the clock is set back, a key lives on and opens tickets of a month ago. Here age is that of the
//! monotonic clock, and it counts for opening too. Time is an argument.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use rustls::{Error, server::ProducesTickets};

/// How long tickets are made with one key. They are accepted for as long again.
///
/// What a stolen key opens is at most a day's sessions, and a client that comes back the same evening resumes.
pub const TICKET_KEY_LIFE: Duration = Duration::from_secs(6 * 3600);

/// Makes and opens tickets with the present key, and opens those of the one before it.
pub(crate) struct Tickets {
    keys: RwLock<Keys>,
    make: MakeKey,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets")
    }
}

struct Keys {
    present: Option<Arc<dyn ProducesTickets>>,
    past: Option<Arc<dyn ProducesTickets>>,
    since: Instant,
}

/// Makes a ticketer with a key of its own.
type MakeKey = fn() -> Result<Arc<dyn ProducesTickets>, Error>;

impl Tickets {
    /// # Errors
    /// When the cryptographic library has no randomness.
    pub(crate) fn new(make: MakeKey, now: Instant) -> Result<Tickets, Error> {
        let keys = Keys { present: Some(make()?), past: None, since: now };
        Ok(Tickets { keys: RwLock::new(keys), make })
    }

    /// Lets `work` use the keys that hold at `now`. Most calls take a read lock.
    fn with_keys<R>(&self, now: Instant, work: impl Fn(&Keys) -> Option<R>) -> Option<R> {
        {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            if now.saturating_duration_since(keys.since) < TICKET_KEY_LIFE {
                return work(&keys);
            }
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_duration_since(keys.since);
        if age >= TICKET_KEY_LIFE {
            let past = keys.present.take().filter(|_| age < TICKET_KEY_LIFE * 2);
            // Without randomness there are no tickets, and every handshake is a full one.
            *keys = Keys { present: (self.make)().ok(), past, since: now };
        }
        work(&keys)
    }

    fn encrypt_at(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.with_keys(now, |keys| keys.present.as_ref()?.encrypt(plain))
    }

    fn decrypt_at(&self, cipher: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.with_keys(now, |keys| {
            [&keys.present, &keys.past].into_iter().flatten().find_map(|key| key.decrypt(cipher))
        })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(TICKET_KEY_LIFE.as_secs() * 2).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, Instant::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(cipher, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::Ticketer;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn tickets() -> (Tickets, Instant) {
        let now = Instant::now();
        (Tickets::new(Ticketer::new, now).unwrap(), now)
    }

    #[test]
    fn a_ticket_opens_until_the_key_after_its_own_is_old() {
        let (tickets, start) = tickets();
        let ticket = tickets.encrypt_at(b"state", start).unwrap();
        for age in [Duration::ZERO, TICKET_KEY_LIFE - MINUTE, TICKET_KEY_LIFE, TICKET_KEY_LIFE * 2 - MINUTE] {
            assert_eq!(tickets.decrypt_at(&ticket, start + age).as_deref(), Some(&b"state"[..]), "{age:?}");
        }
        assert_eq!(tickets.decrypt_at(&ticket, start + TICKET_KEY_LIFE * 2), None);
    }

    #[test]
    fn a_ticket_does_not_outlive_a_quiet_time() {
        let (tickets, start) = tickets();
        let ticket = tickets.encrypt_at(b"state", start).unwrap();
        assert_eq!(tickets.decrypt_at(&ticket, start + TICKET_KEY_LIFE * 2), None);
        assert_eq!(tickets.decrypt_at(&ticket, start + TICKET_KEY_LIFE * 100), None);
    }

    #[test]
    fn without_randomness_there_are_no_tickets_and_later_there_are_again() {
        let (mut tickets, start) = tickets();
        tickets.make = || Err(Error::FailedToGetRandomBytes);
        assert_eq!(tickets.encrypt_at(b"state", start + TICKET_KEY_LIFE), None);
        tickets.make = Ticketer::new;
        assert!(tickets.encrypt_at(b"state", start + TICKET_KEY_LIFE * 2).is_some());
    }
}
