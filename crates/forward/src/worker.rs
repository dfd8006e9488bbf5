//! What one worker owns: its pools, its counters, its configuration. Nothing here is shared with another thread but
//! the snapshot and the counters.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    ops::{Deref, DerefMut},
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use ringfence_http1::{OutgoingHead, RequestHead, ResponseHead};

use crate::{
    allowance::Allowances,
    buffers::Buffers,
    counters::Counters,
    date::Calendar,
    environment::Environment,
    limits::upstream_idle_max,
    pool::{Line, Pool},
    record::{Log, LogSender},
    request_id::RequestIds,
    shelf::Shelf,
    snapshot::{Server, Snapshot, Upstream, followed},
    transport::Transport,
    wakers::Wakers,
};

/// One worker's state.
pub(crate) struct Worker<E: Environment> {
    pub(crate) env: E,
    pub(crate) buffers: Buffers,
    pub(crate) calendar: Calendar,
    pub(crate) request_ids: RequestIds,
    pub(crate) log: Log,
    pub(crate) counters: Arc<Counters>,
    /// What clients may still ask for; shared by all workers, and kept when the configuration changes.
    pub(crate) allowances: Arc<Allowances>,
    /// The configuration for exchanges that begin now.
    pub(crate) live: RefCell<Rc<Live<E>>>,
    /// Another process accepts connections now: those that are open here end with their next answer.
    pub(crate) handed_over: Cell<bool>,
    /// No new connections and requests; what is in flight goes on.
    pub(crate) draining: Cell<bool>,
    /// The time for draining is over: what is in flight ends now.
    pub(crate) cut: Cell<bool>,
    /// The listener of each socket that is accepted from.
    pub(crate) accepting: RefCell<Vec<usize>>,
    /// Connections being served.
    pub(crate) open: Cell<usize>,
    /// Connections over a limit that are being told so.
    pub(crate) turned_away: Cell<usize>,
    /// Tasks that have to hear of draining.
    pub(crate) wakers: Wakers,
    /// Idle connections that are kept to a server.
    upstream_idle_max: usize,
    response_heads: Shelf<Box<ResponseHead>>,
    outgoing_heads: Shelf<Box<OutgoingHead>>,
    request_heads: Shelf<Box<RequestHead>>,
}

/// A snapshot with what this worker keeps for it.
pub(crate) struct Live<E: Environment> {
    pub(crate) snapshot: Arc<Snapshot>,
    /// One for each upstream of the snapshot.
    pub(crate) pools: Vec<Pool<E::Stream>>,
}

impl<E: Environment> Live<E> {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Rc<Self> {
        let pool = |upstream: &Upstream| Pool::new(upstream, |_| Rc::default(), || line(upstream));
        let pools = snapshot.upstreams.iter().map(pool).collect();
        Rc::new(Live { snapshot, pools })
    }

    /// What follows `self`: servers that stay keep their connections and their record. One that has moved, to none of its
    /// addresses, keeps its idle connections, which are dropped when they end; how the one there has done says nothing of it.
    fn followed_by(&self, snapshot: Arc<Snapshot>) -> Rc<Self> {
        let mut servers =
            followed(&snapshot.upstreams, &self.snapshot.upstreams, Server::is_same).into_iter();
        let mut state = |server: &Server| match servers.next().flatten() {
            Some((upstream, index)) => {
                let known = self.pools[upstream].server(index);
                let before = &self.snapshot.upstreams[upstream].servers[index];
                if server.address.is_elsewhere(&before.address) { Rc::new(known.elsewhere()) } else { known }
            }
            None => Rc::default(),
        };
        let pool = |upstream: &Upstream| {
            let of_before =
                || self.pools.iter().filter_map(Pool::line).find(|line| line.is_part_of(&upstream.queue));
            Pool::new(upstream, &mut state, || of_before().cloned().unwrap_or_else(|| line(upstream)))
        };
        let pools = snapshot.upstreams.iter().map(pool).collect();
        Rc::new(Live { snapshot, pools })
    }
}

/// A line in which nobody waits yet.
fn line(upstream: &Upstream) -> Rc<Line> {
    Rc::new(Line::new(upstream.queue.clone()))
}

impl<E: Environment> Worker<E> {
    pub(crate) fn new(
        env: E,
        snapshot: Arc<Snapshot>,
        log: Option<LogSender>,
        counters: Arc<Counters>,
        allowances: Arc<Allowances>,
        workers: usize,
    ) -> Rc<Self> {
        Rc::new(Worker {
            env,
            buffers: Buffers::new(),
            calendar: Calendar::default(),
            request_ids: RequestIds::new(),
            log: Log::new(log),
            counters,
            allowances,
            live: RefCell::new(Live::new(snapshot)),
            handed_over: Cell::new(false),
            draining: Cell::new(false),
            cut: Cell::new(false),
            accepting: RefCell::default(),
            open: Cell::new(0),
            turned_away: Cell::new(0),
            wakers: Wakers::default(),
            upstream_idle_max: upstream_idle_max(workers),
            response_heads: Shelf::default(),
            outgoing_heads: Shelf::default(),
            request_heads: Shelf::default(),
        })
    }

    /// Goes on with another configuration. Exchanges that have begun keep theirs.
    pub(crate) fn apply(&self, snapshot: Arc<Snapshot>) {
        let next = self.live.borrow().followed_by(snapshot);
        let before = self.live.replace(next);
        before.pools.iter().for_each(Pool::followed);
        // There may be more room now.
        before.pools.iter().filter_map(Pool::line).for_each(|line| line.call());
        if self.live.borrow().snapshot.retires_listeners_of(&before.snapshot) {
            // Those that accept for one.
            self.wakers.wake_all();
        }
    }

    /// Stops accepting, and answers whatever comes over connections that are open.
    pub(crate) fn hand_over(&self) {
        self.handed_over.set(true);
        self.wakers.wake_all();
    }

    /// Whether no connection is to be accepted for this listener any more.
    pub(crate) fn is_closed(&self, listener: usize) -> bool {
        self.leaves(listener).is_some()
    }

    /// Why a connection of this listener is to end with its next answer.
    pub(crate) fn leaves(&self, listener: usize) -> Option<&'static str> {
        if self.draining.get() {
            return Some("draining");
        }
        if self.handed_over.get() {
            return Some("upgraded-binary");
        }
        self.live.borrow().snapshot.listeners[listener].retired.then_some("listener-removed")
    }

    /// Whether connections are still accepted for listeners that are configured no more.
    pub(crate) fn accepts_for_retired(&self) -> bool {
        let listeners = &self.live.borrow().snapshot.listeners;
        self.accepting.borrow().iter().any(|listener| listeners[*listener].retired)
    }

    /// Accepts from no socket of this listener any more, or from one less.
    pub(crate) fn has_stopped_accepting(&self, listener: usize) {
        let mut accepting = self.accepting.borrow_mut();
        if let Some(index) = accepting.iter().position(|other| *other == listener) {
            accepting.swap_remove(index);
        }
    }

    /// Whether nothing is accepted and nothing is served any more.
    pub(crate) fn is_done(&self) -> bool {
        self.accepting.borrow().is_empty() && self.open.get() == 0
    }

    /// Writes down what is not counted as it happens.
    pub(crate) fn take_stock(&self) {
        let store =
            |gauge: &std::sync::atomic::AtomicU64, value: usize| gauge.store(value as u64, Ordering::Relaxed);
        store(&self.counters.open, self.open.get());
        let (live, now) = (self.live.borrow(), self.env.recently());
        let stock = live.pools.iter().flat_map(|pool| pool.stock(now));
        for (gauges, stock) in self.counters.servers.iter().zip(stock) {
            store(&gauges.idle, stock.idle);
            store(&gauges.in_flight, stock.in_flight);
            store(&gauges.avoided, usize::from(stock.avoided));
            gauges.dials_failed.store(stock.dials_failed, Ordering::Relaxed);
            gauges.ejections.store(stock.ejections, Ordering::Relaxed);
        }
    }

    /// Stops taking work; idle connections end.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for pool in &self.live.borrow().pools {
            pool.clear();
        }
        self.wakers.wake_all();
    }

    /// Ends what is still in flight when the time for draining is over: clients without an answer get one that says
    /// so, answers that are not complete are visibly cut.
    pub(crate) fn cut(&self) {
        self.cut.set(true);
        self.wakers.wake_all();
    }

    /// Waits for `future`, but gives it up when the worker drains.
    pub(crate) async fn unless_draining<F: Future>(&self, future: F) -> Option<F::Output> {
        let _registration = self.wakers.register().await;
        unless(&self.draining, future).await
    }

    /// Keeps an upstream connection for the next request. Its wait begins now and guards it: when the origin closes,
    /// the next sweep drops it, or the next request passes it over.
    pub(crate) fn check_in(&self, pool: &Pool<E::Stream>, server: usize, stream: E::Stream) {
        if !self.is_told_something(&stream) {
            stream.rested();
            pool.check_in(server, stream, self.env.recently(), self.upstream_idle_max);
        }
    }

    /// Whether something to be read, or the end, has come over a connection that should be quiet, as far as the driver knows.
    pub(crate) fn is_told_something(&self, stream: &E::Stream) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        // A response that filled the last read leaves open whether more has come, and what has come may be the session's own
        // under TLS: the connection is asked.
        stream.poll_readable(cx).is_ready()
            && !(self.env.is_quiet(stream) && stream.poll_readable(cx).is_pending())
    }

    /// Drops pooled connections that the origin closed or nobody needed, and memory that a burst has left.
    pub(crate) fn sweep(&self) {
        self.buffers.trim();
        self.response_heads.trim();
        self.outgoing_heads.trim();
        self.request_heads.trim();
        let (live, now) = (self.live.borrow().clone(), self.env.recently());
        for pool in &live.pools {
            pool.sweep(now, live.snapshot.timeouts.upstream_idle, |stream| self.is_told_something(stream));
        }
    }

    /// An empty head to send, recycled.
    pub(crate) fn outgoing_head(&self) -> Loan<'_, OutgoingHead> {
        let make = || OutgoingHead::with_capacity(FIELD_COUNT_LIKELY, OWNED_BYTES_LIKELY);
        let mut head = Loan::from(&self.outgoing_heads, make);
        head.clear();
        head
    }

    /// Memory for a response head, recycled.
    pub(crate) fn response_head(&self) -> Loan<'_, ResponseHead> {
        Loan::from(&self.response_heads, || ResponseHead::with_capacity(FIELD_COUNT_LIKELY))
    }

    /// Memory for a request head, recycled.
    pub(crate) fn request_head(&self) -> Loan<'_, RequestHead> {
        Loan::from(&self.request_heads, || RequestHead::with_capacity(FIELD_COUNT_LIKELY))
    }
}

/// Waits for `future`, but gives it up when `flag` is set; who sets it wakes the task.
pub(crate) async fn unless<F: Future>(flag: &Cell<bool>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if flag.get() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Field lines for which room is made at first; a head with more grows it once.
const FIELD_COUNT_LIKELY: usize = 24;
/// Bytes of our own in a head: the forwarding lines are the longest.
const OWNED_BYTES_LIKELY: usize = 256;
/// Recycled pieces of one kind that a worker keeps: one for each of many busy connections, some 2 KiB each.
const IDLE_MAX: usize = 1024;

/// Something on loan from a worker; dropping it gives it back. Boxed, so that lending it moves a pointer.
pub(crate) struct Loan<'a, T> {
    item: Option<Box<T>>,
    home: &'a Shelf<Box<T>>,
}

impl<'a, T> Loan<'a, T> {
    fn from(home: &'a Shelf<Box<T>>, make: impl FnOnce() -> T) -> Self {
        let item = home.take().unwrap_or_else(|| Box::new(make()));
        Loan { item: Some(item), home }
    }
}

impl<T> Deref for Loan<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.item.as_ref().expect("is there until dropped")
    }
}

impl<T> DerefMut for Loan<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.item.as_mut().expect("is there until dropped")
    }
}

impl<T> Drop for Loan<'_, T> {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            self.home.give(item, IDLE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{environment::Ring, pool::Choice, simulation::any_snapshot, snapshot::ServerAddress};

    fn at(addresses: &[&str]) -> Arc<Snapshot> {
        let mut snapshot = any_snapshot();
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let upstream = &mut Arc::make_mut(&mut snapshot).upstreams[0];
        upstream.servers.truncate(1);
        upstream.servers[0].address = ServerAddress::Tcp(addresses);
        snapshot
    }

    #[test]
    fn a_server_that_has_moved_is_not_held_for_what_it_was() {
        let now = Instant::now();
        let here = Live::<Ring>::new(at(&["192.0.2.1:1", "192.0.2.2:1"]));
        let Choice::Server(asking) = here.pools[0].order().next(now, false) else { panic!("full") };
        asking.dial_failed(now);
        drop(asking);
        let is_avoided = |live: &Live<Ring>| live.pools[0].stock(now).next().unwrap().avoided;
        assert!(is_avoided(&here));
        for (addresses, expected) in [
            (&["192.0.2.1:1", "192.0.2.2:1"][..], true),
            (&["192.0.2.2:1", "192.0.2.3:1"], true),
            (&["192.0.2.3:1"], false),
        ] {
            assert_eq!(is_avoided(&here.followed_by(at(addresses))), expected, "{addresses:?}");
        }
    }

    #[test]
    fn listeners_are_retired_once() {
        let mut retired = any_snapshot();
        Arc::make_mut(&mut retired).listeners[0].retired = true;
        let open = any_snapshot();
        assert!(retired.retires_listeners_of(&open));
        assert!(!retired.retires_listeners_of(&retired.clone()) && !open.retires_listeners_of(&retired));
        assert!(!open.retires_listeners_of(&open.clone()));
    }
}
