//! How many connections there are, in all and from each address. Shared by all workers, touched when a connection
//! opens and when it closes.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{limits::Limits, respond::Refusal};

/// Counts open connections.
pub(crate) struct Gate {
    total: AtomicUsize,
    /// An address is in one of them, by its hash, so that workers seldom meet.
    shards: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
    hasher: RandomState,
}

const SHARDS: usize = 64;

/// A connection that was let in; dropping it is its end.
pub(crate) struct Pass {
    gate: Arc<Gate>,
    client: IpAddr,
}

impl Gate {
    pub(crate) fn new() -> Arc<Gate> {
        let shards = std::array::from_fn(|_| Mutex::default());
        Arc::new(Gate { total: AtomicUsize::new(0), shards, hasher: RandomState::new() })
    }

    /// Lets a connection in unless a limit is reached; `is_proxy` exempts it from that of its address.
    pub(crate) fn admit(
        self: &Arc<Gate>,
        address: IpAddr,
        is_proxy: bool,
        limits: &Limits,
    ) -> Result<Pass, Refusal> {
        let client = client_of(address);
        self.enter(client, is_proxy, limits)?;
        if self.total.fetch_add(1, Ordering::Relaxed) >= limits.connections_max {
            self.total.fetch_sub(1, Ordering::Relaxed);
            self.leave(client);
            return Err(Refusal::Overloaded);
        }
        Ok(Pass { gate: self.clone(), client })
    }

    fn enter(&self, client: IpAddr, is_proxy: bool, limits: &Limits) -> Result<(), Refusal> {
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        let count = shard.entry(client).or_default();
        // One that is refused has others open, so that nothing is remembered for it.
        if !is_proxy && *count >= limits.connections_per_address_max.max(1) {
            return Err(Refusal::TooManyConnections);
        }
        *count += 1;
        Ok(())
    }

    fn leave(&self, client: IpAddr) {
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = shard.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&client);
            }
        }
    }

    fn shard(&self, client: IpAddr) -> &Mutex<HashMap<IpAddr, usize>> {
        &self.shards[usize::try_from(self.hasher.hash_one(client) % SHARDS as u64).unwrap_or(0)]
    }
}

impl Pass {
    /// Counts the connection as that of another address from now on: the client for whom a balancer has opened it.
    pub(crate) fn hand_to(
        &mut self,
        address: IpAddr,
        is_proxy: bool,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let client = client_of(address);
        self.gate.enter(client, is_proxy, limits)?;
        self.gate.leave(std::mem::replace(&mut self.client, client));
        Ok(())
    }
}

/// A look at who has connections open, for the control plane.
#[derive(Clone)]
pub struct Clients(Arc<Gate>);

impl Clients {
    pub(crate) fn of(gate: &Arc<Gate>) -> Self {
        Clients(gate.clone())
    }

    /// The clients with the most open connections, the one with the most first: at most `count` of them. An IPv6 client is
    /// its /64. Holds up a worker for as long as it takes to look through a 64th of the clients.
    pub fn most_connected(&self, count: usize) -> Vec<(IpAddr, usize)> {
        // The one with the fewest on top, to be displaced.
        let mut most = BinaryHeap::with_capacity(count + 1);
        for shard in &self.0.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (client, open) in shard.iter() {
                if most.len() < count || most.peek().is_some_and(|Reverse((fewest, _))| open > fewest) {
                    most.push(Reverse((*open, *client)));
                }
                if most.len() > count {
                    most.pop();
                }
            }
        }
        most.into_sorted_vec().into_iter().map(|Reverse((open, client))| (client, open)).collect()
    }

    /// How many clients have a connection open.
    pub fn count(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.leave(self.client);
        self.gate.total.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 /64, which is what one household or server has.
fn client_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections_max: usize, connections_per_address_max: usize) -> Limits {
        Limits { connections_max, connections_per_address_max, ..Limits::default() }
    }

    #[test]
    fn an_address_has_its_own_limit_and_gets_its_place_back() {
        let (gate, limits) = (Gate::new(), limits(100, 2));
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let passes = [gate.admit(one, false, &limits).unwrap(), gate.admit(one, false, &limits).unwrap()];
        assert_eq!(gate.admit(one, false, &limits).err(), Some(Refusal::TooManyConnections));
        assert!(gate.admit(other, false, &limits).is_ok());
        assert!(gate.admit(one, true, &limits).is_ok());
        drop(passes);
        assert!(gate.admit(one, false, &limits).is_ok());
    }

    #[test]
    fn a_connection_that_a_balancer_opened_counts_as_its_clients() {
        let (gate, limits) = (Gate::new(), limits(100, 1));
        let (balancer, client) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut passes: Vec<_> = (0..3).map(|_| gate.admit(balancer, true, &limits).unwrap()).collect();
        assert_eq!(passes[0].hand_to(client, false, &limits), Ok(()));
        assert_eq!(passes[1].hand_to(client, false, &limits), Err(Refusal::TooManyConnections));
        assert_eq!(passes[2].hand_to(client, true, &limits), Ok(()));
        assert_eq!(gate.total.load(Ordering::Relaxed), 3);
        passes.clear();
        assert_eq!(gate.total.load(Ordering::Relaxed), 0);
        assert!(gate.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn one_ipv6_network_is_one_client() {
        let (gate, limits) = (Gate::new(), limits(100, 1));
        let _pass = gate.admit("2001:db8::1".parse().unwrap(), false, &limits).unwrap();
        assert!(gate.admit("2001:db8::2".parse().unwrap(), false, &limits).is_err());
        assert!(gate.admit("2001:db8:0:1::1".parse().unwrap(), false, &limits).is_ok());
    }

    #[test]
    fn the_total_is_bounded_and_no_address_is_remembered_for_nothing() {
        let (gate, limits) = (Gate::new(), limits(1, 5));
        let pass = gate.admit("192.0.2.1".parse().unwrap(), false, &limits).unwrap();
        assert_eq!(gate.admit("192.0.2.2".parse().unwrap(), false, &limits).err(), Some(Refusal::Overloaded));
        drop(pass);
        assert_eq!(gate.total.load(Ordering::Relaxed), 0);
        assert!(gate.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn those_with_the_most_connections_are_told_and_no_more_than_asked_for() {
        let (gate, limits) = (Gate::new(), limits(10_000, 1000));
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let _passes: Vec<_> = (1..=100_u8)
            .flat_map(|last| (0..last).map(move |_| last))
            .map(|last| gate.admit(address(last), false, &limits).unwrap())
            .collect();
        let clients = Clients::of(&gate);
        assert_eq!(clients.most_connected(3), [(address(100), 100), (address(99), 99), (address(98), 98)]);
        assert_eq!(clients.most_connected(0), []);
        assert_eq!(clients.most_connected(1000).len(), 100);
        assert_eq!(clients.count(), 100);
    }
}
