//! Things that are used again: taken, given back, and let go when nobody has needed them for a while.

use std::cell::{Cell, RefCell};

/// Idle things of one kind.
pub(crate) struct Shelf<T> {
    idle: RefCell<Vec<T>>,
    /// The fewest that lay idle since the last [`trim`](Self::trim): so many were not needed.
    idle_min: Cell<usize>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf { idle: RefCell::default(), idle_min: Cell::new(0) }
    }
}

impl<T> Shelf<T> {
    /// The one given back last, whose memory is warm.
    pub(crate) fn take(&self) -> Option<T> {
        let mut idle = self.idle.borrow_mut();
        let item = idle.pop();
        self.idle_min.set(self.idle_min.get().min(idle.len()));
        item
    }

    /// Keeps `item` for the next taker, unless `idle_max` are there already.
    pub(crate) fn give(&self, item: T, idle_max: usize) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < idle_max {
            idle.push(item);
        }
    }

    /// Lets go of half of what nobody needed since the last call: after a burst the memory goes back within some
    /// calls, while steady traffic finds everything in its place.
    pub(crate) fn trim(&self) {
        let mut idle = self.idle.borrow_mut();
        idle.drain(..self.idle_min.get().div_ceil(2));
        self.idle_min.set(idle.len());
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.idle.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steady_traffic_uses_stays_and_what_a_burst_left_goes() {
        let shelf = Shelf::default();
        (0..100).for_each(|item| shelf.give(item, 1000));
        shelf.trim();
        for _ in 0..10 {
            let taken: Vec<_> = (0..10).map_while(|_| shelf.take()).collect();
            assert_eq!(taken.len(), 10);
            taken.into_iter().for_each(|item| shelf.give(item, 1000));
            shelf.trim();
        }
        assert_eq!(shelf.len(), 10);
        (0..10).for_each(|_| shelf.trim());
        assert_eq!(shelf.len(), 0);
    }
}
