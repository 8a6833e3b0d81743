//! Which faults are set, what waits for them, and how often each has fired.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use fuser::Errno;
use parking_lot::{Condvar, Mutex};

/// What hangs when the disk stalls. Reads never do: what a node reads is mostly in the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stalled {
    /// Syncs of files and folders.
    Syncs,
    /// Syncs, writes, and changes of names.
    Changes,
}

/// A call that may be made to fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Sync,
    Change,
}

#[derive(Default)]
struct Plan {
    /// Syncs to let pass before one fails, and the path that it must lie under.
    sync_failures: Vec<(u64, PathBuf)>,
    all_fail: bool,
    stall: Option<(Stalled, Option<Instant>)>,
    sync_latency: Duration,
    /// The file system ends: whoever waits goes on and fails.
    closed: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Faults {
    plan: Mutex<Plan>,
    changed: Condvar,
    pub(crate) counts: Counts,
}

/// What becomes of a sync.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Sync,
    /// It fails once, and what it should have written is dropped.
    Drop,
    /// It fails, as everything does.
    Fail,
}

impl Faults {
    pub(crate) fn fail_sync(&self, after: u64, under: &Path) {
        self.plan
            .lock()
            .sync_failures
            .push((after, under.to_owned()));
    }

    pub(crate) fn fail_all(&self) {
        self.plan.lock().all_fail = true;
    }

    pub(crate) fn stall(&self, what: Stalled, time: Option<Duration>) {
        self.plan.lock().stall = Some((what, time.map(|time| Instant::now() + time)));
    }

    pub(crate) fn set_sync_latency(&self, latency: Duration) {
        self.plan.lock().sync_latency = latency;
    }

    /// Ends all faults; what is stalled goes on.
    pub(crate) fn heal(&self) {
        *self.plan.lock() = Plan::default();
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        self.plan.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits for as long as the disk is stalled or slow, and fails if everything does.
    pub(crate) fn pass(&self, call: Call) -> Result<(), Errno> {
        let mut plan = self.plan.lock();
        let mut waits = false;
        while let Some((what, until)) = plan.stall
            && (what == Stalled::Changes || call == Call::Sync)
            && until.is_none_or(|until| Instant::now() < until)
            && !plan.closed
        {
            if !waits {
                self.counts.stalled_calls.fetch_add(1, Relaxed);
                waits = true;
            }
            match until {
                Some(until) => _ = self.changed.wait_until(&mut plan, until),
                None => self.changed.wait(&mut plan),
            }
        }
        if call == Call::Sync && !plan.sync_latency.is_zero() && !plan.closed {
            self.counts.delayed_syncs.fetch_add(1, Relaxed);
            let until = Instant::now() + plan.sync_latency;
            while !plan.closed && !self.changed.wait_until(&mut plan, until).timed_out() {}
        }
        if plan.all_fail || plan.closed {
            self.counts.failed_calls.fetch_add(1, Relaxed);
            return Err(Errno::EIO);
        }
        Ok(())
    }

    /// What becomes of a sync of a file that `path` tells of.
    pub(crate) fn judge_sync(&self, path: impl FnOnce() -> Option<PathBuf>) -> Verdict {
        if self.pass(Call::Sync).is_err() {
            return Verdict::Fail;
        }
        let mut plan = self.plan.lock();
        if plan.sync_failures.is_empty() {
            return Verdict::Sync;
        }
        let path = path().unwrap_or_default();
        let mut fails = false;
        plan.sync_failures.retain_mut(|(after, under)| {
            if !path.starts_with(&*under) {
                return true;
            }
            let fires = *after == 0;
            *after = after.saturating_sub(1);
            fails |= fires;
            !fires
        });
        if !fails {
            return Verdict::Sync;
        }
        self.counts.failed_syncs.fetch_add(1, Relaxed);
        Verdict::Drop
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// How often each call came and each fault fired, since the file system was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters { $($(#[$doc])* pub $name: u64),* }

        #[derive(Default)]
        pub(crate) struct Counts { $(pub(crate) $name: AtomicU64),* }

        impl Counts {
            pub(crate) fn get(&self) -> Counters {
                Counters { $($name: self.$name.load(Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Reads that were not answered by the kernel's page cache.
    reads,
    /// Writes to files.
    writes,
    /// Bytes that these wrote.
    written_bytes,
    /// Syncs of files that succeeded.
    file_syncs,
    /// Syncs of folders that succeeded.
    folder_syncs,
    /// Changes of names.
    name_changes,
    /// Syncs that failed once and dropped what they should have written.
    failed_syncs,
    /// Calls that failed because all do.
    failed_calls,
    /// Calls that a stalled disk held up.
    stalled_calls,
    /// Syncs that took longer.
    delayed_syncs,
    /// Calls that were refused or cut short as the disk was full.
    full_calls,
    /// Pieces of files that rotted.
    rotten_pieces,
    /// Times that the power was lost.
    power_losses,
}
