//! Hearing from the device when a submit is done: a thread polls it, so that no executor's thread has to wait, and another
//! watches how long that takes.
//!
//! Polls have no timeout of their own: when one runs out in wgpu 30 while another thread finds the queue empty, wgpu panics.
//!
//! Where no thread can be started there are two cases, and the same code serves both: in a browser polling does nothing and
//! the event loop calls back; elsewhere the caller's thread polls, without a deadline.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_channel::oneshot;
use web_time::Instant;

use super::lock;
use crate::{Error, ErrorKind, Result};

/// The known faults of a device.
#[derive(Default)]
pub(super) struct Trouble {
    fault: Mutex<Option<Error>>,
    lost: AtomicBool,
    /// Tests pretend with this that no submit is ever done.
    stalled: AtomicBool,
}

impl Trouble {
    /// Takes an error up unless there was one before.
    pub fn report(&self, error: Error) {
        lock(&self.fault).get_or_insert(error);
    }

    /// The device is lost, for the reason that `error` gives.
    pub fn lose(&self, error: Error) {
        self.lost.store(true, Ordering::Relaxed);
        self.report(error);
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    pub fn check(&self) -> Result<()> {
        lock(&self.fault).clone().map_or(Ok(()), Err)
    }

    /// The device does not answer any more.
    fn hang(&self, deadline: Duration) {
        self.lose(Error::new(
            ErrorKind::Device,
            format!(
                "the GPU has not finished a piece of work within {} s (`deadline`): it hangs, or is far too slow for this model; load \
                 the model again to go on",
                deadline.as_secs_f64()
            ),
        ));
    }

    #[cfg(test)]
    pub fn stall(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }
}

/// Lets the callbacks of a device be called, from a thread of its own where that can be.
pub(super) struct Poller {
    shared: Arc<Shared>,
    /// Started when they are first needed; `None` where there are no threads.
    threads: OnceLock<Option<Threads>>,
}

struct Threads {
    polls: JoinHandle<()>,
    /// The second thread, which may be missing; then no deadline is kept.
    watches: Option<JoinHandle<()>>,
}

/// When the callbacks of a submit will have been called.
pub(super) enum Heard {
    /// Nobody has asked for it yet.
    Unasked,
    /// The thread will tell; it tells nothing where the device is in trouble.
    Asked(oneshot::Receiver<()>),
    /// Already, but for those that the event loop or another thread is about to call.
    Called,
}

/// The state that the threads and the handles share.
struct Shared {
    device: wgpu::Device,
    deadline: Duration,
    trouble: Arc<Trouble>,
    requests: Mutex<Requests>,
    /// Signals that there is something to poll for, or an end to it.
    asked: Condvar,
    /// Polling has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Requests {
    waiting: VecDeque<Request>,
    /// Since when the device is polled, and for whom.
    under_way: Option<(Instant, oneshot::Sender<()>)>,
    /// The last handle is gone.
    closing: bool,
    /// The deadline is over.
    hung: bool,
    /// The thread that polls has ended.
    ended: bool,
}

struct Request {
    submission: wgpu::SubmissionIndex,
    /// Told when the submit is done and its callbacks have been called; dropped if that is not to be.
    done: oneshot::Sender<()>,
}

impl Requests {
    /// Takes all that is to be told to nobody. To be dropped without the lock: that wakes tasks.
    #[must_use]
    fn given_up(&mut self) -> (VecDeque<Request>, Option<(Instant, oneshot::Sender<()>)>) {
        (std::mem::take(&mut self.waiting), self.under_way.take())
    }
}

impl Poller {
    pub fn new(device: wgpu::Device, deadline: Duration, trouble: Arc<Trouble>) -> Self {
        let (requests, asked, ended) = Default::default();
        Self {
            shared: Arc::new(Shared { device, deadline, trouble, requests, asked, ended }),
            threads: OnceLock::new(),
        }
    }

    /// Lets the callbacks of `submission`, and those before it, be called.
    pub fn hear(&self, submission: &wgpu::SubmissionIndex) -> Heard {
        if self.threads.get_or_init(|| Threads::start(&self.shared)).is_none() {
            self.shared.poll(submission);
            return Heard::Called;
        }
        let (done, heard) = oneshot::channel();
        let mut requests = lock(&self.shared.requests);
        // Where nobody polls any more the request is dropped, which is an answer.
        if !requests.hung && !requests.ended {
            requests.waiting.push_back(Request { submission: submission.clone(), done });
            self.shared.asked.notify_one();
        }
        Heard::Asked(heard)
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let Some(Some(Threads { polls, watches })) = self.threads.take() else { return };
        let mut requests = lock(&self.shared.requests);
        requests.closing = true;
        self.shared.asked.notify_one();
        // The last handle may have gone with a task that one of the threads has woken.
        let own = [Some(&polls), watches.as_ref()].into_iter().flatten();
        if own.map(|handle| handle.thread().id()).any(|id| id == thread::current().id()) {
            return;
        }
        // Otherwise they are awaited, since a driver must not be in use when the program ends; but not one that hangs.
        while !requests.ended && !requests.hung {
            requests = wait(&self.shared.ended, requests);
        }
        let hung = requests.hung;
        drop(requests);
        if !hung {
            let _ = polls.join();
            let _ = watches.map(JoinHandle::join);
        }
    }
}

impl Threads {
    fn start(shared: &Arc<Shared>) -> Option<Self> {
        let [polling, watching] = [0, 1].map(|_| Arc::clone(shared));
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let polls = named("foretoken-poll").spawn(move || polling.serve()).ok()?;
        let watches = named("foretoken-watch").spawn(move || watching.watch()).ok();
        Some(Self { polls, watches })
    }
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Tells when the thread that polls has ended, be it in a panic.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut requests = lock(&self.0.requests);
        requests.ended = true;
        let given_up = requests.given_up();
        drop(requests);
        self.0.ended.notify_all();
        drop(given_up);
    }
}

impl Shared {
    /// Polls for one request after the other.
    fn serve(&self) {
        let _end = End(self);
        while let Some(submission) = self.next() {
            self.poll(&submission);
            let told = lock(&self.requests).under_way.take();
            if let Some((_, done)) = told {
                // The asking future may have been dropped meanwhile.
                let _ = done.send(());
            }
        }
    }

    fn next(&self) -> Option<wgpu::SubmissionIndex> {
        let mut requests = lock(&self.requests);
        loop {
            if requests.closing || requests.hung {
                return None;
            }
            if let Some(Request { submission, done }) = requests.waiting.pop_front() {
                requests.under_way = Some((Instant::now(), done));
                return Some(submission);
            }
            requests = wait(&self.asked, requests);
        }
    }

    /// Blocks until `submission` is done and its callbacks have been called.
    fn poll(&self, submission: &wgpu::SubmissionIndex) {
        if self.trouble.stalled.load(Ordering::Relaxed) {
            let mut requests = lock(&self.requests);
            while !requests.closing && !requests.hung {
                requests = wait(&self.asked, requests);
            }
            return;
        }
        let wait = wgpu::PollType::Wait { submission_index: Some(submission.clone()), timeout: None };
        // An error here is a lost device, which the callback has recorded.
        let _ = self.device.poll(wait);
    }

    /// Sees to it that no poll takes longer than the deadline. It need not be woken for each: when it looks up, it sees how
    /// long the present one may still take.
    fn watch(&self) {
        let mut requests = lock(&self.requests);
        while !requests.ended {
            let left = match requests.under_way {
                Some((started, _)) => self.deadline.saturating_sub(started.elapsed()),
                None => self.deadline.max(Duration::from_millis(1)),
            };
            if left.is_zero() {
                self.trouble.hang(self.deadline);
                requests.hung = true;
                let given_up = requests.given_up();
                drop(requests);
                self.asked.notify_one();
                self.ended.notify_all();
                drop(given_up);
                return;
            }
            requests = self.ended.wait_timeout(requests, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests;
