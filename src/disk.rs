//! Watches the free space of the data folder's file system, so that writes are refused before the disk is full: a node
//! that still can write its log can hand leaderships over, compact and recover by itself; one that cannot, has to stop.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use flotilla_metrics::Metrics;

use crate::config::Size;
use crate::events::{Event, Events};

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What it has left for this process.
    pub free: u64,
    /// All that it has.
    pub size: u64,
}

/// Bytes of the file system of `path`.
///
/// # Errors
/// The path does not exist or cannot be asked.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        size: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Whether writes are refused: from the moment when less than the reserve is free, until a quarter more than the
/// reserve is, so that the answer does not flutter.
fn is_low(was_low: bool, free: u64, reserve: u64) -> bool {
    if was_low {
        free < reserve.saturating_add(reserve / 4)
    } else {
        free < reserve
    }
}

/// The free space of one data folder.
#[derive(Debug)]
pub struct DiskWatch {
    folder: PathBuf,
    reserve: Size,
    low: AtomicBool,
    free: AtomicU64,
    events: Arc<Events>,
}

/// Too little disk space is left for writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of this node is nearly full: {free} free, storage.disk_reserve = {reserve}; writes are refused until there \
     is more, reads go on"
)]
pub struct DiskLow {
    /// What was free when it was last looked at.
    pub free: Size,
    /// What must stay free.
    pub reserve: Size,
}

/// Bytes per second that no node fills its disk with.
const FILLED_AT_MOST: u64 = 8 << 30;
/// The pause between two looks where there is room enough.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long the next look can wait: so much `room` beyond the reserve is not filled meanwhile.
fn pause(room: u64, interval: Duration) -> Duration {
    let filled_in = Duration::from_millis(room.saturating_mul(1000) / FILLED_AT_MOST);
    filled_in.clamp(interval, PAUSE_MAX.max(interval))
}

impl DiskWatch {
    /// Looks for the first time; when the answer to [`DiskWatch::check`] changes, that is noted among `events`.
    ///
    /// # Errors
    /// The folder does not exist or cannot be asked.
    pub fn new(folder: &Path, reserve: Size, events: Arc<Events>) -> io::Result<Self> {
        let watch = Self {
            folder: folder.to_owned(),
            reserve,
            low: AtomicBool::new(false),
            free: AtomicU64::new(0),
            events,
        };
        watch.look()?;
        Ok(watch)
    }

    /// Looks again, and returns what is there. Says so in the log when the answer to [`DiskWatch::check`] changes.
    ///
    /// # Errors
    /// The folder cannot be asked; the last answer stays.
    pub fn look(&self) -> io::Result<Space> {
        let space = space(&self.folder)?;
        self.judge(space.free);
        Ok(space)
    }

    fn judge(&self, free: u64) {
        self.free.store(free, Ordering::Relaxed);
        let was_low = self.low.load(Ordering::Relaxed);
        let low = is_low(was_low, free, self.reserve.bytes());
        self.low.store(low, Ordering::Relaxed);
        let (folder, free, reserve) = (self.folder.display(), Size(free), self.reserve);
        match (was_low, low) {
            (false, true) => {
                tracing::error!(%folder, %free, %reserve, "the disk is nearly full: writes are refused, reads go on");
                self.events.note(Event::DiskLow { free });
            }
            (true, false) => {
                tracing::info!(%folder, %free, %reserve, "the disk has room again: writes are taken");
                self.events.note(Event::DiskHasRoom { free });
            }
            _ => {}
        }
    }

    /// Whether there is room for a write; one load.
    ///
    /// # Errors
    /// What is free and what must stay free.
    pub fn check(&self) -> Result<(), DiskLow> {
        if self.low.load(Ordering::Relaxed) {
            Err(DiskLow {
                free: Size(self.free.load(Ordering::Relaxed)),
                reserve: self.reserve,
            })
        } else {
            Ok(())
        }
    }

    /// Looks every `interval` for as long as the task lives, and less often where nothing could fill the room meanwhile.
    pub async fn watch(self: Arc<Self>, interval: Duration, metrics: Arc<Metrics>) {
        let mut reported = false;
        loop {
            let free = self.free.load(Ordering::Relaxed);
            let room = free.saturating_sub(self.reserve.bytes());
            tokio::time::sleep(pause(room, interval)).await;
            match self.look() {
                Ok(Space { free, size }) => {
                    let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
                    metrics.disk_free_bytes.set(gauge(free));
                    metrics.disk_size_bytes.set(gauge(size));
                    reported = false;
                }
                Err(error) if !reported => {
                    tracing::error!(folder = %self.folder.display(), %error, "cannot ask for the free disk space");
                    reported = true;
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stop_below_the_reserve_and_return_a_quarter_above_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let watch = DiskWatch::new(folder.path(), Size(0), Arc::default()).expect("look");
        assert_eq!(watch.check(), Ok(()));

        let watch = DiskWatch {
            reserve: Size(400),
            ..watch
        };
        for (free, room) in [
            (401, true),
            (400, true),
            (399, false),
            (499, false),
            (500, true),
            (499, true),
        ] {
            watch.judge(free);
            assert_eq!(watch.check().is_ok(), room, "with {free} free");
        }
        watch.judge(100);
        let message = watch.check().expect_err("low").to_string();
        assert!(
            message.contains("100B free, storage.disk_reserve = 400B"),
            "{message}"
        );
    }

    #[test]
    fn the_more_room_there_is_the_less_often_it_is_looked_at() {
        let interval = Duration::from_millis(100);
        for (room, millis) in [
            (0, 100),
            (1 << 29, 100),
            (2 << 30, 250),
            (8 << 30, 1000),
            (u64::MAX, 1000),
        ] {
            assert_eq!(
                pause(room, interval),
                Duration::from_millis(millis),
                "{room}"
            );
        }
        assert_eq!(pause(u64::MAX, PAUSE_MAX * 2), PAUSE_MAX * 2);
    }

    #[test]
    fn the_system_is_asked() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let Space { free, size } = space(folder.path()).expect("it is there");
        assert!(free > 0 && free <= size, "{free} of {size}");
        assert!(space(&folder.path().join("missing")).is_err());
        let impossible =
            DiskWatch::new(folder.path(), Size(u64::MAX), Arc::default()).expect("look");
        assert!(impossible.check().is_err());
    }
}
