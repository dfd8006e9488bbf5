//! The way of a body between two plain sockets that leaves it in the kernel: out of one into a pipe, out of the pipe into
//! the other (splice(2)).
//!
//! For bytes that nobody has to look at: those of a body of known length, passed on as it came. Counting, paces and faults
//! are the same as on the way through a buffer, and so is that nothing behind the body is taken.

use std::future::poll_fn;

use super::{Body, Coding, Fault, Terms, stock_of};
use crate::{
    environment::Environment,
    kernel_pipes::{KernelPipe, KernelPipes},
    limits::{BULK_AFTER_BYTES, KERNEL_PIPE_BYTES, SPLICE_AFTER_BYTES},
    pace::Pace,
    transport::{Transport, socket::Socket},
};

/// Two plain sockets.
pub(super) struct Lane<'a> {
    from: &'a Socket,
    to: &'a Socket,
}

impl<'a> Lane<'a> {
    /// `None`: the bytes have to be looked at on the way, or are none of the kernel's.
    pub(super) fn between(
        from: &'a impl Transport,
        to: &'a impl Transport,
        coding: Coding,
    ) -> Option<Lane<'a>> {
        let (from, to) = from.plain_socket().zip(to.plain_socket())?;
        (coding == Coding::AsItCame).then_some(Lane { from, to })
    }

    /// A pipe for the next piece of `body`, of which `moved` bytes have moved, if that is worth one.
    pub(super) fn enter<'p>(
        &self,
        pipes: &'p KernelPipes,
        body: &Body,
        moved: usize,
    ) -> Option<KernelPipe<'p>> {
        let is_worth_it = body.left().is_some_and(|left| left >= SPLICE_AFTER_BYTES);
        if is_worth_it { pipes.take(moved >= BULK_AFTER_BYTES) } else { None }
    }

    /// Takes a piece; returns how many bytes that are. Zero: reading has to find out what is the matter. That can be a byte
    /// sent as urgent, which stops splice(2) for ever; what recv(2) does is to leave it out.
    pub(super) fn take(
        &self,
        pipe: &mut KernelPipe<'_>,
        body: &mut Body,
        terms: Terms<'_>,
    ) -> Result<usize, Fault> {
        let taken = self.from.fill(pipe, body.wanted(KERNEL_PIPE_BYTES));
        body.pass(taken as u64)?;
        terms.sender.moved(taken);
        Ok(taken)
    }

    /// Gives the piece to the receiver, as long as it keeps its pace.
    pub(super) async fn give<E: Environment>(
        &self,
        env: &E,
        pipe: &mut KernelPipe<'_>,
        pace: &Pace,
    ) -> Result<(), Fault> {
        while pipe.held() > 0 {
            let step = poll_fn(|cx| self.to.poll_drain(cx, pipe));
            let step = pace.wait_watching(env, step, stock_of(self.to)).await;
            let given = step.map_err(|_| Fault::ReceiverSilent)?.map_err(|_| Fault::ReceiverClosed)?;
            pace.moved(given);
        }
        Ok(())
    }
}
