//! A single-threaded executor that polls one woken task at a time, drawn by the seed.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use super::rng::Rng;

/// Tasks and which of them are woken.
#[derive(Default)]
pub(super) struct Executor {
    tasks: RefCell<Vec<Task>>,
    woken: Arc<Mutex<Vec<usize>>>,
    current: Cell<usize>,
    alive: Cell<usize>,
}

/// What a task stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The proxy's serving of a client's connection.
    Connection,
    Client,
    Origin,
    /// The drain.
    Operator,
}

struct Task {
    role: Role,
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    wakening: Arc<Wakening>,
}

struct Wakening {
    index: usize,
    queued: AtomicBool,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Wakening {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.woken.lock().unwrap().push(self.index);
        }
    }
}

impl Executor {
    pub(super) fn spawn(&self, role: Role, future: impl Future<Output = ()> + 'static) -> usize {
        let mut tasks = self.tasks.borrow_mut();
        let index = tasks.len();
        let queued = AtomicBool::new(true);
        let wakening = Arc::new(Wakening { index, queued, woken: self.woken.clone() });
        tasks.push(Task { role, future: Some(Box::pin(future)), wakening });
        self.alive.set(self.alive.get() + 1);
        self.woken.lock().unwrap().push(index);
        index
    }

    /// Polls one of the woken tasks; `false`: none is.
    pub(super) fn step(&self, rng: &Rng) -> bool {
        let index = {
            let mut woken = self.woken.lock().unwrap();
            if woken.is_empty() {
                return false;
            }
            let drawn = rng.below(woken.len());
            woken.swap_remove(drawn)
        };
        let (future, wakening) = {
            let task = &mut self.tasks.borrow_mut()[index];
            (task.future.take(), task.wakening.clone())
        };
        let Some(mut future) = future else { return true };
        // Woken from here on means polled once more.
        wakening.queued.store(false, Ordering::Relaxed);
        self.current.set(index);
        if future.as_mut().poll(&mut Context::from_waker(&Waker::from(wakening))).is_pending() {
            self.tasks.borrow_mut()[index].future = Some(future);
        } else {
            self.alive.set(self.alive.get() - 1);
        }
        true
    }

    /// The task that is being polled, or was last.
    pub(super) fn current(&self) -> usize {
        self.current.get()
    }

    /// How many tasks have not ended.
    pub(super) fn alive(&self) -> usize {
        self.alive.get()
    }

    /// The tasks that have not ended.
    pub(super) fn list_alive(&self) -> Vec<(usize, Role)> {
        let tasks = self.tasks.borrow();
        let alive = tasks.iter().enumerate().filter(|(_, task)| task.future.is_some());
        alive.map(|(index, task)| (index, task.role)).collect()
    }

    /// Drops every task of a role, wherever it stands.
    pub(super) fn cancel(&self, role: Role) {
        let count = self.tasks.borrow().len();
        for index in 0..count {
            let future = {
                let task = &mut self.tasks.borrow_mut()[index];
                if task.role == role { task.future.take() } else { None }
            };
            if future.is_some() {
                self.alive.set(self.alive.get() - 1);
            }
        }
    }
}
