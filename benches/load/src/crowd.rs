//! Peers under load: a closed loop, where each begins its next request when the last has ended, or an open one, where
//! requests arrive when they arrive and wait for a free peer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::arrivals::{Arrivals, Timer};
use crate::fault::Fault;
use crate::random::Random;
use crate::request::Request;
use crate::response::Response;
use crate::slot::Slot;
use crate::worker::Worker;

/// Which idle peer takes the next arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// Any.
    Random,
    /// The one that was idle for longest, so that all of them have their turn.
    InTurn,
}

/// Makes the next request of a peer, of the kind with this index.
pub(crate) type Make = Rc<dyn Fn(&Slot, usize, &mut Random, &mut Request)>;

/// Peers that share arrivals.
pub(crate) struct Crowd {
    worker: Rc<Worker>,
    make: Make,
    /// The statistics of each kind of request.
    classes: Vec<usize>,
    pick: Pick,
    idle: RefCell<VecDeque<Slot>>,
    waiting: RefCell<VecDeque<Arrival>>,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    due: Instant,
    /// Which of the crowd's kinds of requests.
    kind: usize,
}

/// How many requests are still to be begun in a closed loop.
pub(crate) type Budget = Rc<Cell<u64>>;

/// Opens the connections of `slots`, or has each make a first request that is not counted so that it holds a ticket.
pub(crate) async fn open_all(
    slots: Vec<Slot>,
    worker: &Rc<Worker>,
    first: Option<&Make>,
) -> Result<Vec<Slot>, String> {
    let count = slots.len();
    let queue = Rc::new(RefCell::new(VecDeque::from(slots)));
    let opened = Rc::new(RefCell::new(Vec::with_capacity(count)));
    let fault = Rc::new(RefCell::new(None));
    for _ in 0..OPENING_MAX.min(count) {
        let (queue, opened, fault) = (queue.clone(), opened.clone(), fault.clone());
        let (worker, first) = (worker.clone(), first.cloned());
        drop(monoio::spawn(async move {
            while fault.borrow().is_none() {
                let Some(mut slot) = queue.borrow_mut().pop_front() else { break };
                match open_one(&mut slot, &worker, first.as_ref()).await {
                    Ok(()) => opened.borrow_mut().push(slot),
                    Err(what) => *fault.borrow_mut() = Some(what),
                }
            }
        }));
    }
    let mut progress = (0, Instant::now());
    while opened.borrow().len() < count {
        if let Some(fault) = fault.borrow_mut().take() {
            return Err(format!("after {} of {count} connections: {fault}", opened.borrow().len()));
        }
        if opened.borrow().len() > progress.0 {
            progress = (opened.borrow().len(), Instant::now());
        } else if progress.1.elapsed() > OPENING_STALL {
            return Err(format!("{} of {count} connections, and no more for {OPENING_STALL:?}", progress.0));
        }
        monoio::time::sleep(crate::worker::LOOK).await;
    }
    let mut slots = opened.take();
    slots.sort_by_key(|slot: &Slot| slot.number);
    Ok(slots)
}

async fn open_one(slot: &mut Slot, worker: &Worker, first: Option<&Make>) -> Result<(), String> {
    let Some(make) = first else { return slot.open(worker).await.map_err(|fault| fault.kind()) };
    let mut request = worker.request();
    make(slot, 0, &mut worker.random.borrow_mut(), &mut request);
    let response = slot.perform(&request, worker).await.map_err(|fault| fault.kind())?;
    worker.put_request(request);
    if !worker.accepts(response.status) {
        return Err(Fault::Status(response.status).kind());
    }
    slot.settle(&response, worker).await;
    Ok(())
}

/// Has a peer begin its next request when the last has ended, until the budget or the time is used up.
pub(crate) fn begin_closed_loop(
    slot: Slot,
    worker: &Rc<Worker>,
    make: &Make,
    budget: &Budget,
    until: Instant,
) {
    // Counted before it runs, so that nobody takes the time before its first turn for its end.
    worker.busy.set(worker.busy.get() + 1);
    drop(monoio::spawn(closed_loop(slot, worker.clone(), make.clone(), budget.clone(), until)));
}

async fn closed_loop(mut slot: Slot, worker: Rc<Worker>, make: Make, budget: Budget, until: Instant) {
    let mut request = Request::default();
    make(&slot, 0, &mut worker.random.borrow_mut(), &mut request);
    loop {
        let began = Instant::now();
        if began > until {
            break;
        }
        if worker.records(began) {
            let Some(left) = budget.get().checked_sub(1) else { break };
            budget.set(left);
        }
        let outcome = slot.perform(&request, &worker).await;
        let ended = Instant::now();
        worker.record(0, ended, status(&outcome), Some(ended - began));
        match outcome {
            Ok(response) => slot.settle(&response, &worker).await,
            Err(_) => monoio::time::sleep(RETRY_PAUSE).await,
        }
    }
    worker.busy.set(worker.busy.get() - 1);
}

/// A client that asks for news, first after `delay` and again as soon as it was told some. Not part of [`Worker::busy`]: it never ends.
pub(crate) async fn long_poll(mut slot: Slot, worker: Rc<Worker>, make: Make, class: usize, delay: Duration) {
    monoio::time::sleep(delay).await;
    loop {
        let mut request = worker.request();
        make(&slot, 0, &mut worker.random.borrow_mut(), &mut request);
        let outcome = slot.perform(&request, &worker).await;
        let ended = Instant::now();
        worker.put_request(request);
        let latency = outcome.as_ref().ok().and_then(since_woken);
        worker.record(class, ended, status(&outcome), latency);
        if !status(&outcome).is_ok_and(|status| worker.accepts(status)) {
            monoio::time::sleep(POLL_PAUSE).await;
        }
        if let Ok(response) = outcome {
            slot.settle(&response, &worker).await;
        }
    }
}

fn status(outcome: &Result<Response, Fault>) -> Result<u16, &Fault> {
    outcome.as_ref().map(|response| response.status)
}

/// How long ago our origin stopped waiting; another origin does not say.
fn since_woken(response: &Response) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(now.saturating_sub(Duration::from_micros(response.woken_at_us?)))
}

impl Crowd {
    /// Idle peers; `classes` has, for each kind of request, the index of its statistics.
    pub(crate) fn new(
        slots: Vec<Slot>,
        worker: Rc<Worker>,
        make: Make,
        classes: Vec<usize>,
        pick: Pick,
    ) -> Rc<Crowd> {
        let waiting = RefCell::default();
        Rc::new(Crowd { worker, make, classes, pick, idle: RefCell::new(slots.into()), waiting })
    }

    /// Lets requests arrive from `begin` until `until`; `rate` says how many a second at a time after `begin`, and
    /// `kind` which kind the next one is.
    pub(crate) async fn arrive(
        self: Rc<Crowd>,
        begin: Instant,
        until: Instant,
        rate: impl Fn(Duration) -> f64,
        kind: impl Fn(&mut Random) -> usize,
    ) -> std::io::Result<()> {
        let timer = Timer::new()?;
        let seed = self.worker.random.borrow_mut().bits();
        let mut arrivals = Arrivals::new(begin, Random::new(seed));
        let mut due = begin;
        let mut without_turn = 0;
        loop {
            due = arrivals.next(rate(due.duration_since(begin)));
            if due > until {
                return Ok(());
            }
            without_turn += 1;
            // What is overdue begins at once; but responses have to be read meanwhile.
            if Instant::now() < due || without_turn >= BURST_MAX {
                timer.until(due).await?;
                without_turn = 0;
            }
            let kind = kind(&mut self.worker.random.borrow_mut());
            self.begin(Arrival { due, kind });
        }
    }

    /// Gives an arrival to an idle peer, or lets it wait.
    fn begin(self: &Rc<Crowd>, arrival: Arrival) {
        if let Some(slot) = self.idle_slot() {
            self.worker.busy.set(self.worker.busy.get() + 1);
            drop(monoio::spawn(self.clone().serve(slot, arrival)));
        } else if self.waiting.borrow().len() < WAITING_MAX {
            self.waiting.borrow_mut().push_back(arrival);
        } else {
            self.record(arrival, Err(&Fault::Overflow), None);
        }
    }

    fn idle_slot(&self) -> Option<Slot> {
        let mut idle = self.idle.borrow_mut();
        match self.pick {
            Pick::InTurn => idle.pop_front(),
            Pick::Random if idle.is_empty() => None,
            Pick::Random => {
                let index = self.worker.random.borrow_mut().below(idle.len());
                idle.swap_remove_back(index)
            }
        }
    }

    /// Has a peer take this arrival and then those that wait, until none does.
    async fn serve(self: Rc<Crowd>, mut slot: Slot, first: Arrival) {
        let mut next = Some(first);
        while let Some(arrival) = next {
            self.perform(&mut slot, arrival).await;
            next = self.waiting.borrow_mut().pop_front();
        }
        self.worker.busy.set(self.worker.busy.get() - 1);
        self.idle.borrow_mut().push_back(slot);
    }

    async fn perform(&self, slot: &mut Slot, arrival: Arrival) {
        let worker = &*self.worker;
        if arrival.due.elapsed() > crate::stats::LATE {
            worker.count(|counters| counters.late += 1);
        }
        let mut request = worker.request();
        (self.make)(slot, arrival.kind, &mut worker.random.borrow_mut(), &mut request);
        let outcome = slot.perform(&request, worker).await;
        let latency = arrival.due.elapsed();
        worker.put_request(request);
        self.record(arrival, status(&outcome), Some(latency));
        if let Ok(response) = outcome {
            slot.settle(&response, worker).await;
        }
    }

    fn record(&self, arrival: Arrival, outcome: Result<u16, &Fault>, latency: Option<Duration>) {
        self.worker.record(self.classes[arrival.kind], arrival.due, outcome, latency);
    }

    /// Arrivals that still wait are not going to be answered: each is an error.
    pub(crate) fn give_up(&self) {
        for arrival in self.waiting.borrow_mut().drain(..) {
            self.record(arrival, Err(&Fault::Unfinished), None);
        }
    }
}

/// Connections being opened at the same time: below every listener's backlog.
const OPENING_MAX: usize = 64;

/// How long opening may make no progress before the run is given up.
const OPENING_STALL: Duration = Duration::from_secs(20);

/// Arrivals that may wait for a free peer, in requests: beyond it the run measures nothing but its own queue.
const WAITING_MAX: usize = 64 * 1024;

/// Overdue arrivals that begin without a look at what has come meanwhile, in requests.
const BURST_MAX: u32 = 32;

/// After a failure in a closed loop, which would otherwise spin where nobody listens.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// After a failed long poll: clients wait before they ask again.
const POLL_PAUSE: Duration = Duration::from_millis(500);
