//! A store that fails or waits on demand, to test what its users do then.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use crate::{Batch, Committed, Description, Keyspace, Operation, Page, Scan, Store, StoreError, StoreFuture, Watch};

/// Passes everything on to another store, except for the calls it was told to fail or to hold.
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: S,
    plans: Arc<Mutex<Vec<Plan>>>,
    held: Mutex<Vec<(Operation, Arc<Held>)>>,
}

/// Calls that wait until they are let through.
#[derive(Debug)]
pub struct Held {
    come: watch::Sender<usize>,
    permits: Semaphore,
}

impl Held {
    /// Waits until so many calls have come, from the first one on that was held.
    pub async fn come(&self, count: usize) {
        // This is the sender, so there is one.
        let _ = self.come.subscribe().wait_for(|come| *come >= count).await;
    }

    /// Lets so many calls through, in the order in which they came, or come.
    pub fn let_through(&self, count: usize) {
        self.permits.add_permits(count);
    }

    async fn pass(&self) {
        self.come.send_modify(|come| *come += 1);
        // It is never closed.
        if let Ok(permit) = self.permits.acquire().await {
            permit.forget();
        }
    }
}

/// What a call has to fail with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error of the disk; nothing was done.
    Failed,
    /// A full disk; nothing was done.
    Full,
    /// An error of the disk, after all was done: what a lost acknowledgement looks like.
    DoneButFailed,
}

impl<S: Store> FaultyStore<S> {
    /// Wraps a store; nothing fails yet.
    pub fn new(inner: S) -> Self {
        Self { inner, plans: Arc::default(), held: Mutex::default() }
    }

    /// Lets all calls of a kind wait from now on.
    pub fn hold(&self, operation: Operation) -> Arc<Held> {
        let held = Arc::new(Held { come: watch::Sender::new(0), permits: Semaphore::new(0) });
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push((operation, Arc::clone(&held)));
        held
    }

    fn held(&self, operation: Operation) -> Option<Arc<Held>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|(held, _)| *held == operation).map(|(_, held)| Arc::clone(held))
    }

    /// Lets the `n`-th call from now on (1 is the next one) of this kind fail, once.
    pub fn fail(&self, operation: Operation, n: u64, fault: Fault) {
        self.plans().push(Plan { operation, calls_left: n, fault });
    }

    /// Returns the wrapped store.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Unwraps the store.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn plans(&self) -> std::sync::MutexGuard<'_, Vec<Plan>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self, operation: Operation) -> Option<Fault> {
        let mut due = None;
        self.plans().retain_mut(|plan| {
            if plan.operation != operation {
                return true;
            }
            plan.calls_left = plan.calls_left.saturating_sub(1);
            if plan.calls_left == 0 {
                due = Some(plan.fault);
            }
            plan.calls_left > 0
        });
        due
    }

    async fn run<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        if let Some(held) = self.held(operation) {
            held.pass().await;
        }
        match self.due(operation) {
            None => call.await,
            Some(Fault::Failed) => Err(StoreError::from_io(operation, io::Error::other("a fault that was asked for"))),
            Some(Fault::Full) => Err(StoreError::from_io(operation, io::ErrorKind::StorageFull.into())),
            Some(Fault::DoneButFailed) => {
                call.await?;
                Err(StoreError::from_io(
                    operation,
                    io::Error::other("a fault that was asked for, after the work was done"),
                ))
            }
        }
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        Box::pin(self.run(Operation::Commit, self.inner.commit(batch)))
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.run(Operation::Flush, self.inner.flush()))
    }

    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        Box::pin(self.run(Operation::Get, self.inner.get_many(keyspace, keys)))
    }

    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        Box::pin(self.run(Operation::Scan, self.inner.scan(scan)))
    }

    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        self.inner.watch(keyspace, prefix)
    }

    fn describe(&self) -> StoreFuture<'_, Description> {
        Box::pin(self.run(Operation::Describe, self.inner.describe()))
    }

    fn compact(&self) -> StoreFuture<'_, ()> {
        self.inner.compact()
    }
}

#[derive(Debug)]
struct Plan {
    operation: Operation,
    calls_left: u64,
    fault: Fault,
}
