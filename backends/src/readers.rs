//! A few threads for reads that have to wait for the disk.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use ravel_store::{Operation, StoreError};
use tokio::sync::oneshot;

use crate::committer::caught;

/// The threads; dropping this finishes what is queued and waits for them to end.
#[derive(Debug)]
pub(crate) struct Readers {
    queue: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(crate) fn start(name: &str, count: usize) -> Result<Self, StoreError> {
        let (queue, jobs) = channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let threads = (0..count.max(1))
            .map(|_| {
                let jobs = Arc::clone(&jobs);
                thread::Builder::new().name(format!("{name} read")).spawn(move || run(&jobs))
            })
            .collect::<Result<_, _>>()
            .map_err(|error| StoreError::from_io(Operation::Open, error))?;
        Ok(Self { queue: Some(queue), threads })
    }

    /// Runs a read on one of the threads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Who gave up waiting does not need the disk to be read.
            if !reply.is_closed() {
                let _ = reply.send(caught(read).unwrap_or_else(Err));
            }
        });
        self.queue.as_ref().and_then(|queue| queue.send(job).ok()).ok_or(StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

fn run(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while waiting for a job, never while running one.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
