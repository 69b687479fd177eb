//! Scratch for tasks that run at the same time.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::plan::Plan;
use crate::state::{Extras, Scratch};

/// A scratch for each task that can run at a time. What is in them never matters: a panic cannot have left one broken,
/// and a clone may take it along.
pub(super) struct Pool(Vec<Mutex<Scratch>>);

impl Pool {
    pub(super) fn new(plan: &Plan, extras: Extras, tasks: usize) -> Self {
        Pool((0..tasks).map(|_| Mutex::new(Scratch::new(plan, extras))).collect())
    }

    /// One that nobody computes in.
    pub(super) fn free(&self, index: usize) -> MutexGuard<'_, Scratch> {
        let free = self.0.iter().find_map(|scratch| match scratch.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        });
        free.unwrap_or_else(|| lock(&self.0[index % self.0.len()]))
    }

    /// All of them, while nobody computes.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Scratch> {
        self.0.iter_mut().map(|scratch| scratch.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|scratch| lock(scratch).bytes()).sum()
    }
}

impl Clone for Pool {
    fn clone(&self) -> Self {
        Pool(self.0.iter().map(|scratch| Mutex::new(lock(scratch).clone())).collect())
    }
}

fn lock(scratch: &Mutex<Scratch>) -> MutexGuard<'_, Scratch> {
    scratch.lock().unwrap_or_else(PoisonError::into_inner)
}
