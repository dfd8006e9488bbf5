//! One exchange: a request for an answer. The page to read first.
//!
//! ```text
//! run: route lookup → answered here, or
//!  └ forward: choose upstream → check out or dial → rewrite fields
//!     └ converse: both at once
//!        ├ upload:   head and body to the origin, then watch for the client leaving
//!        └ download: response head (interim ones first) → rewrite → body to the client
//!  → record
//! ```
//!
//! Generic over the client's transport and the [`Environment`]; knows neither sockets nor TLS nor Matrix. A fault
//! of either side is a [`Failure`], and one table makes it an answer. Once the first byte of a final response is on
//! its way, a failure cuts the connection visibly: nothing incomplete ever looks complete.

mod announcement;
mod download;
mod limited;
mod local;
mod queue;
mod tunnel;
mod upload;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    net::IpAddr,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use ringfence_http1::{BodyFraming, RequestHead};

use crate::{
    counters::{CLASSES_MAX, ExchangeKind, add, method_index},
    environment::Environment,
    failure::Failure,
    fields::{self, Client, Forwarded},
    inbox::Inbox,
    pace::Pace,
    peer::Peer,
    pool::{Asking, Choice, Order},
    record::{Agent, Record},
    request_id::RequestId,
    route::{self, Decision, Forward},
    snapshot::Snapshot,
    transport::Transport,
    worker::{Live, Worker, unless},
};

/// What becomes of the client's connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It waits for the next request.
    Continue,
    /// It is closed in order; everything sent was read.
    Close(&'static str),
    /// It is closed in order, but the client may still be sending and has to be read from so that it sees its answer.
    Linger(&'static str),
    /// It is cut, so that the client sees that its answer is not complete.
    Abort(&'static str),
}

impl Next {
    fn reason(self) -> Option<&'static str> {
        match self {
            Next::Continue => None,
            Next::Close(reason) | Next::Linger(reason) | Next::Abort(reason) => Some(reason),
        }
    }
}

/// How fast a client is while it is busy, in both directions.
pub(crate) struct Paces {
    sends: Pace,
    takes: Pace,
}

impl Paces {
    pub(crate) fn new(snapshot: &Snapshot) -> Paces {
        let pace = || Pace::owing(snapshot.timeouts.downstream_silence, snapshot.limits.data_rate_min);
        Paces { sends: pace(), takes: pace() }
    }
}

/// The fixed surroundings of an exchange.
pub(crate) struct Exchange<'a, E: Environment, T> {
    pub(crate) worker: &'a Worker<E>,
    pub(crate) live: &'a Live<E>,
    pub(crate) peer: &'a Peer,
    pub(crate) client: &'a T,
    pub(crate) paces: &'a Paces,
    pub(crate) head: &'a RequestHead,
    pub(crate) request_id: RequestId,
    pub(crate) started: Instant,
    progress: Progress,
}

/// What the two directions of an exchange tell each other, and what is logged of them.
#[derive(Default)]
struct Progress {
    status: Cell<Option<u16>>,
    /// Request content that went upstream, in bytes.
    bytes_in: Cell<u64>,
    /// Response content that went to the client, in bytes.
    bytes_out: Cell<u64>,
    /// Bytes of the inbox that belong to this request; known when its body has ended.
    request_length: Cell<Option<usize>>,
    /// Body bytes have left the inbox: the request cannot be sent a second time.
    streamed: Cell<bool>,
    /// When request bytes last went upstream.
    uploaded_at: Cell<Option<Instant>>,
    /// The client was sent an interim response: it waits no longer for 100 (Continue).
    invited: Cell<bool>,
    /// A final response head is on its way to the client.
    response_started: Cell<bool>,
    /// The head of the request is with the origin's kernel: what comes now may be an answer to it.
    head_sent: Cell<bool>,
    /// All of the request is with the origin's kernel.
    request_sent: Cell<bool>,
    /// When it is told that there was no room, if it has ever waited for it.
    queue_until: Cell<Option<Instant>>,
    /// The server asked (upstream and server index), when, and the time from there to its response head.
    server: Cell<Option<(usize, usize)>>,
    asked_at: Cell<Option<Instant>>,
    answered: Cell<Option<Duration>>,
    /// What [`Snapshot::classify`] says, if somebody has asked.
    class: Cell<Option<u8>>,
}

/// How a conversation with the origin ended well.
enum Answered {
    /// The response is with the client.
    Whole {
        /// The connection to the origin can carry another request.
        reusable: bool,
        /// Why the client's connection ends now.
        close: Option<&'static str>,
    },
    /// Both sides speak another protocol from here on; these bytes of the origin came with its 101.
    Upgraded(crate::relay::Leftover),
}

impl<'a, E: Environment, T: Transport> Exchange<'a, E, T> {
    /// Prepares the exchange of a request whose head starts `inbox`.
    pub(crate) fn new(
        worker: &'a Worker<E>,
        live: &'a Live<E>,
        peer: &'a Peer,
        client: &'a T,
        paces: &'a Paces,
        head: &'a RequestHead,
        started: Instant,
    ) -> Self {
        let request_id = worker.request_ids.next();
        Exchange {
            worker,
            live,
            peer,
            client,
            paces,
            head,
            request_id,
            started,
            progress: Progress::default(),
        }
    }

    /// Serves the request and uses up its bytes in `inbox`.
    pub(crate) async fn run(&self, inbox: &mut Inbox) -> Next {
        let listener = &self.live.snapshot.listeners[self.peer.listener];
        let head_bytes = &inbox.bytes()[..self.head.head_len()];
        if self.head.framing().is_empty() {
            self.progress.request_length.set(Some(self.head.head_len()));
        }
        let snapshot = &self.live.snapshot;
        let (peer, trusted) = (self.peer, &snapshot.trusted_proxies);
        let client = fields::client(peer.address.ip(), peer.scheme(), trusted, self.head, head_bytes);
        let decision = route::decide(snapshot, listener, client, self.head, head_bytes);
        let limited = decision.limited_style().zip(self.over_rate(client, head_bytes));
        let next = match decision {
            _ if let Some((style, wait)) = limited => {
                Box::pin(self.refuse_over_rate(inbox, style, wait)).await
            }
            Decision::Refuse(refusal, style) => self.refuse(refusal, style).await,
            Decision::Redirect => self.answer(&route::redirect(snapshot, self.head, head_bytes)).await,
            Decision::Answer(answer, _) => self.answer(answer).await,
            Decision::Forward(way) => self.forward(inbox, way, client).await,
        };
        self.record(inbox.bytes(), client.address, next);
        inbox.consume(self.progress.request_length.get().unwrap_or(self.head.head_len()));
        next
    }

    async fn forward(&self, inbox: &mut Inbox, way: Forward<'_>, client: Client) -> Next {
        let Forward { upstream, host, content_max, refusal_style } = way;
        let forwarded = Forwarded { client, request_id: &self.request_id, host };
        // Pinned here: passed on by value, it would take its size twice.
        let conversation = pin!(self.converse_with_one(inbox, upstream, content_max, &forwarded));
        match unless(&self.worker.cut, conversation).await.unwrap_or(Err(Failure::Cut)) {
            Ok(close) => self.next(close),
            Err(failure) => self.fail(failure, refusal_style).await,
        }
    }

    /// What a complete answer leaves the connection in.
    fn next(&self, close: Option<&'static str>) -> Next {
        match close {
            None => Next::Continue,
            Some(reason) if self.progress.request_length.get().is_none() => Next::Linger(reason),
            Some(reason) => Next::Close(reason),
        }
    }

    /// Talks to the first server that can be reached. A pooled connection that turns out to be dead is nobody's
    /// fault: what may be sent twice is sent again, once, on a fresh one to the same server, whose slot it keeps.
    async fn converse_with_one(
        &self,
        inbox: &mut Inbox,
        upstream: usize,
        content_max: u64,
        forwarded: &Forwarded<'_>,
    ) -> Result<Option<&'static str>, Failure> {
        let announcement = self.announcement(upstream, forwarded.client);
        let (mut order, mut kept) = (self.live.pools[upstream].order(), None);
        loop {
            let link = self.connect(inbox, upstream, &mut order, kept, announcement.as_deref()).await?;
            let asked_at = self.worker.env.now();
            self.progress.asked_at.set(Some(asked_at));
            let underway = self.worker.env.underway().begin(asked_at);
            self.progress.head_sent.set(false);
            self.progress.request_sent.set(false);
            match self.converse(inbox, &link, content_max, forwarded).await {
                Ok(Answered::Upgraded(leftover)) => {
                    drop(underway);
                    self.tunnel(&link.stream, inbox, leftover).await;
                    return Ok(Some("upgraded"));
                }
                Ok(Answered::Whole { reusable, close }) => {
                    if reusable && announcement.is_none() && !self.worker.draining.get() {
                        self.worker.check_in(&self.live.pools[upstream], link.asking.server, link.stream);
                    }
                    return Ok(close);
                }
                Err(Failure::UpstreamClosed) if link.pooled && self.may_be_sent_again() => {
                    kept = Some(link.asking);
                }
                Err(failure) => {
                    let is_silence = failure == Failure::UpstreamSilent;
                    if is_silence || (failure == Failure::UpstreamClosed && !link.pooled) {
                        link.asking.unanswered(self.worker.env.recently());
                    }
                    return Err(failure);
                }
            }
        }
    }

    fn may_be_sent_again(&self) -> bool {
        self.head.method().is_idempotent()
            && !self.progress.streamed.get()
            && !self.progress.response_started.get()
    }

    /// Both bodies in flight at once; the response's end, or a failure of either side, ends it.
    async fn converse(
        &self,
        inbox: &mut Inbox,
        link: &Link<'_, E::Stream>,
        content_max: u64,
        forwarded: &Forwarded<'_>,
    ) -> Result<Answered, Failure> {
        let origin = &link.stream;
        self.progress.uploaded_at.set(Some(self.worker.env.recently()));
        let mut upload = pin!(self.upload(inbox, origin, forwarded, content_max));
        let mut download = pin!(self.download(link));
        let mut uploading = true;
        poll_fn(|cx| {
            // Once the request is sent, what comes is mostly the answer: then its end is all there is to see, and what
            // watches the client is not touched. Nothing of that is in the processor's cache where clients are many.
            let answer_first = self.progress.request_sent.get();
            if answer_first && let Poll::Ready(answered) = download.as_mut().poll(cx) {
                return Poll::Ready(answered);
            }
            if uploading {
                match upload.as_mut().poll(cx) {
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    // The origin takes no more of the request: it says why in its response, or closes.
                    Poll::Ready(Ok(())) => uploading = false,
                    Poll::Pending => {}
                }
            }
            if uploading && !self.progress.head_sent.get() {
                // What an origin says before it has been asked is no answer; mostly it is the end of a pooled connection.
                if origin.poll_readable(cx).is_ready() {
                    if !self.worker.env.is_quiet(origin) {
                        return Poll::Ready(Err(Failure::UpstreamClosed));
                    }
                    // Nothing had come. What is told now is asked after anew.
                    if origin.poll_readable(cx).is_ready() {
                        cx.waker().wake_by_ref();
                    }
                }
                return Poll::Pending;
            }
            if answer_first { Poll::Pending } else { download.as_mut().poll(cx) }
        })
        .await
    }

    /// A connection to the first server that has one, pooled or fresh, and room for a request. `kept`: the request is with this
    /// server already, and now only a fresh one will do.
    async fn connect(
        &self,
        inbox: &mut Inbox,
        upstream: usize,
        order: &mut Order<'a, E::Stream>,
        mut kept: Option<Asking<'a, E::Stream>>,
        announcement: Option<&[u8]>,
    ) -> Result<Link<'a, E::Stream>, Failure> {
        let env = &self.worker.env;
        let (pool, servers) = (&self.live.pools[upstream], &self.live.snapshot.upstreams[upstream].servers);
        let pooled_allowed = announcement.is_none() && kept.is_none();
        let mut failure = Failure::ConnectFailed;
        loop {
            let choice = kept.take().map(Choice::Server);
            let asking = match choice.unwrap_or_else(|| order.next(env.recently(), false)) {
                Choice::Server(asking) => asking,
                Choice::Nobody => return Err(failure),
                // Boxed: what waiting takes is not carried by every exchange.
                Choice::Wait => {
                    let waiting = Box::pin(self.wait_for_room(pool, order));
                    match self.unless_client_leaves(inbox, waiting).await?? {
                        Some(asking) => asking,
                        None => return Err(failure),
                    }
                }
            };
            let server = asking.server;
            self.progress.server.set(Some((upstream, server)));
            while pooled_allowed && let Some(stream) = pool.check_out(server) {
                if self.is_usable(&stream, inbox) {
                    return Ok(Link { stream, asking, pooled: true });
                }
            }
            let limit = self.live.snapshot.timeouts.upstream_connect;
            // Boxed: what dialling takes is not carried by every exchange.
            let dialling = Box::pin(env.connect(&servers[server], announcement, &self.worker.buffers, limit));
            match self.unless_client_leaves(inbox, dialling).await? {
                Ok(stream) => {
                    asking.dialled();
                    return Ok(Link { stream, asking, pooled: false });
                }
                Err(error) => {
                    tracing::debug!(server = servers[server].name, %error, "no connection to the upstream");
                    failure = match error.kind() {
                        io::ErrorKind::TimedOut => Failure::ConnectTimeout,
                        _ => Failure::ConnectFailed,
                    };
                }
            }
            asking.dial_failed(env.recently());
        }
    }

    /// Waits for `future`, unless nobody wants to know any more.
    async fn unless_client_leaves<F: Future>(
        &self,
        inbox: &mut Inbox,
        future: F,
    ) -> Result<F::Output, Failure> {
        let (mut future, mut leaving) = (pin!(future), pin!(self.watch(inbox)));
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => leaving.as_mut().poll(cx).map(Err),
        })
        .await
    }

    /// Whether a pooled connection is still open as far as can be known. The driver's knowledge costs nothing and
    /// suffices for what can be sent again, which takes that its content has come whole; for the rest the socket itself is asked.
    fn is_usable(&self, stream: &E::Stream, inbox: &Inbox) -> bool {
        if self.worker.is_told_something(stream) {
            return false;
        }
        let behind = inbox.bytes().len() - self.head.head_len();
        let is_here = matches!(self.head.framing(), BodyFraming::Length(length) if length <= behind as u64);
        (self.head.method().is_idempotent() && is_here) || self.worker.env.is_quiet(stream)
    }

    fn record(&self, head_bytes: &[u8], client: IpAddr, next: Next) {
        let (snapshot, progress, log) = (&self.live.snapshot, &self.progress, &self.worker.log);
        let total = self.worker.env.now() - self.started;
        if !snapshot.measures && !log.is_on() {
            return;
        }
        let method = self.head.method_span().of(head_bytes);
        let class = self.class(head_bytes);
        if snapshot.measures {
            self.measure(class, total);
        }
        if !log.is_on() {
            return;
        }
        let agent = log.tells_agent().then(|| Agent::of(self.head, head_bytes));
        let server = progress
            .server
            .get()
            .map(|(upstream, server)| &*snapshot.upstreams[upstream].servers[server].name);
        log.write(
            &self.worker.calendar,
            &Record {
                peer: self.peer.address,
                client,
                listener: snapshot.listeners[self.peer.listener].address,
                class,
                method,
                target: self.head.target().of(head_bytes),
                version: self.head.version(),
                agent: agent.unwrap_or_default(),
                status: progress.status.get(),
                bytes_in: progress.bytes_in.get(),
                bytes_out: progress.bytes_out.get(),
                upstream: server.map(|name| (name, progress.answered.get())),
                total,
                request_id: &self.request_id,
                tls: self.peer.tls,
                close: next.reason(),
            },
        );
    }
}

impl<E: Environment, T: Transport> Exchange<'_, E, T> {
    /// The class of the request.
    fn class(&self, head_bytes: &[u8]) -> u8 {
        self.progress.class.get().unwrap_or_else(|| {
            let (method, path) = (self.head.method_span().of(head_bytes), route::path(self.head, head_bytes));
            let class = (self.live.snapshot.classify)(method, path);
            self.progress.class.set(Some(class));
            class
        })
    }

    /// Counts the exchange by what it was.
    fn measure(&self, class: u8, total: Duration) {
        let (progress, counters) = (&self.progress, &self.worker.counters);
        counters.exchanges.record(ExchangeKind {
            listener: u16::try_from(self.peer.listener).unwrap_or(u16::MAX),
            class,
            method: method_index(self.head.method()),
            status: progress.status.get().unwrap_or(0),
        });
        let of_class = &counters.classes[usize::from(class) % CLASSES_MAX];
        of_class.total.record(total);
        if let Some(answered) = progress.answered.get() {
            of_class.upstream.record(answered);
        }
        add(&of_class.bytes_in, progress.bytes_in.get());
        add(&of_class.bytes_out, progress.bytes_out.get());
    }
}

/// A connection to a server.
struct Link<'p, S> {
    stream: S,
    /// The request with its server: what it does is told here, and its end.
    asking: Asking<'p, S>,
    /// It carried a request before: the server may have closed it meanwhile.
    pooled: bool,
}
