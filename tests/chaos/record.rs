//! What clients asked and were told, as the judge reads it, and how many of it at which time, as people do.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use flotilla_history::{Answer, Call, ClientId, History, OpId};

use crate::times::Times;

/// Length of one bucket of the timeline.
pub(crate) const BUCKET: Duration = Duration::from_millis(250);

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Ok(Answer),
    /// It had no effect and will have none.
    Failed,
    Unknown,
    /// It was answered in a way that no answer may have.
    Wrong(String),
}

/// Operations by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ok: u32,
    pub(crate) failed: u32,
    pub(crate) unknown: u32,
}

/// What became of requests that had to succeed in time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prompt {
    pub(crate) times: Times,
    pub(crate) failed: usize,
    /// The first that failed.
    pub(crate) errors: Vec<String>,
}

impl Prompt {
    const ERRORS_MAX: usize = 5;

    pub(crate) fn add(&mut self, time: Duration, error: Option<String>) {
        self.times.add(time);
        if let Some(error) = error {
            self.failed += 1;
            if self.errors.len() < Self::ERRORS_MAX {
                self.errors.push(error);
            }
        }
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.times.extend(&other.times);
        self.failed += other.failed;
        let room = Self::ERRORS_MAX - self.errors.len();
        self.errors.extend(other.errors.into_iter().take(room));
    }
}

/// See the module. Shared by all clients.
pub(crate) struct Record {
    begin: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    history: History,
    timeline: Vec<Counts>,
    wrong: Vec<String>,
    /// While one is kept: of what was asked since when, in microseconds, and what became of it.
    prompt: Option<(u64, Prompt)>,
    /// Everything was taken; what comes later is nobody's.
    closed: bool,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            begin: Instant::now(),
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic")
    }

    /// Since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// To be called before a request can leave.
    pub(crate) fn invoke(&self, client: ClientId, call: Call) -> OpId {
        let mut inner = self.lock();
        let now = self.now().as_micros() as u64;
        inner.history.invoke(client, call, now)
    }

    /// To be called after the answer has come. What was asked of one node alone is no figure of the cluster's, and is not
    /// counted where it fails.
    pub(crate) fn end(&self, id: OpId, end: End, pinned: bool) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        let now = self.now();
        if !pinned {
            inner.note_prompt(id, &end, now);
        }
        let at = (now.as_nanos() / BUCKET.as_nanos()) as usize;
        if inner.timeline.len() <= at {
            inner.timeline.resize(at + 1, Counts::default());
        }
        let counts = &mut inner.timeline[at];
        match end {
            End::Ok(answer) => {
                counts.ok += 1;
                inner.history.ok(id, answer, now.as_micros() as u64);
            }
            End::Failed => {
                counts.failed += u32::from(!pinned);
                inner.history.failed(id);
            }
            End::Unknown => {
                counts.unknown += u32::from(!pinned);
                inner.history.unknown(id);
            }
            End::Wrong(what) => {
                counts.unknown += 1;
                let operation = inner.history.operation(id).to_string();
                inner.wrong.push(format!("{operation}: {what}"));
            }
        }
    }

    /// Something that no answer may be, to what is no operation of the history.
    pub(crate) fn wrong(&self, what: String) {
        self.lock().wrong.push(what);
    }

    /// From now on, notes what becomes of each request that is made from now on, and how long it takes.
    pub(crate) fn begin_prompt(&self) {
        let mut inner = self.lock();
        inner.prompt = Some((self.now().as_micros() as u64, Prompt::default()));
    }

    /// What was noted since.
    pub(crate) fn end_prompt(&self) -> Prompt {
        let kept = self.lock().prompt.take();
        kept.map(|(_, prompt)| prompt).unwrap_or_default()
    }

    /// Everything: the history, the timeline in buckets, and answers that no answer may be. What still comes is dropped.
    pub(crate) fn close(&self) -> (History, Vec<Counts>, Vec<String>) {
        let closed = Inner {
            closed: true,
            ..Inner::default()
        };
        let inner = std::mem::replace(&mut *self.lock(), closed);
        (inner.history, inner.timeline, inner.wrong)
    }
}

impl Inner {
    fn note_prompt(&mut self, id: OpId, end: &End, now: Duration) {
        let Some((since, prompt)) = &mut self.prompt else {
            return;
        };
        let operation = self.history.operation(id);
        if operation.invoked.at < *since {
            return;
        }
        let time = now.saturating_sub(Duration::from_micros(operation.invoked.at));
        let error = match end {
            End::Ok(_) => None,
            End::Failed | End::Unknown | End::Wrong(_) => Some(format!("{operation}: {end:?}")),
        };
        // Of what takes several requests, how long one of them took is not known.
        let one = matches!(
            operation.call,
            Call::Get { .. } | Call::Put { .. } | Call::Delete { .. } | Call::Batch { .. }
        );
        if one || error.is_some() {
            prompt.add(time, error);
        }
    }
}
