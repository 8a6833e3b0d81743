//! What clients asked and were told, as the judge reads it, and how many of it at which time, as people do.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use flotilla_history::{Answer, Call, ClientId, History, OpId};

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
        let now = self.now();
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

    /// Everything so far: the history, the timeline in buckets, and answers that no answer may be.
    pub(crate) fn take(&self) -> (History, Vec<Counts>, Vec<String>) {
        let inner = std::mem::take(&mut *self.lock());
        (inner.history, inner.timeline, inner.wrong)
    }
}
