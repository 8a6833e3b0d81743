//! A file system for tests, whose disk loses power, fails, stalls and fills up on command.
//!
//! [`FaultFs::mount`] serves an empty folder through FUSE, from threads of this process. Programs under test, real processes
//! too, work in it as in any other. Meanwhile the test calls the methods of [`FaultFs`]: lose the power and drop or tear
//! what was not synced, fail a sync, stall, fill up, let bits rot. Each fault that fires is counted, so that a test can
//! demand that it did.
//!
//! The contents of files lie in nameless files of the machine's temporary folder, and their names in memory (`image`), so
//! nothing is left over when a test ends, however it ends. `content` has what a power loss does to a file, `image` what it
//! does to names, `faults` the other faults, and `serve` translates FUSE's calls.
//!
//! What is modelled: a disk with a volatile cache that writes sectors of 512 bytes in any order, under a file system that
//! keeps names and contents apart and promises what POSIX does. Not modelled: times, rights and owners are durable or lost
//! with their file; extended attributes, symbolic links, and writing to mapped memory before `msync`.

mod content;
mod faults;
mod image;
mod serve;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use fuser::{BackgroundSession, INodeNo};
use parking_lot::Mutex;
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use faults::Faults;
pub use faults::{Counters, Stalled};
use image::{Image, Maker};
use serve::Server;

/// Threads that answer the kernel. More than a node has threads that wait for its disk at the same time, as a stalled call
/// keeps one of them.
const THREADS: usize = 24;
const NAME: &str = "flotilla-faultfs";

/// What survives of the changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerLoss {
    /// Nothing.
    DropAll,
    /// Everything.
    KeepAll,
    /// Each sector, and each change of names, or not. Any subset may survive, as on a disk with a volatile cache.
    RandomSubset,
    /// Of each file the first sectors that were changed, of the names the first changes.
    TornTail,
}

impl PowerLoss {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::DropAll,
        Self::KeepAll,
        Self::RandomSubset,
        Self::TornTail,
    ];
}

/// What a loss of power did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// Sectors that were not synced, or dropped by a failed sync, and are gone.
    pub sectors_lost: u64,
    /// Sectors that were not synced and are there.
    pub sectors_kept: u64,
    /// Files that some unsynced sectors of are there and some are not.
    pub files_torn: u64,
    /// Changes of names that did not happen.
    pub steps_lost: u64,
    /// Changes of names that nobody synced and that happened.
    pub steps_kept: u64,
}

/// Why there is no file system. The test that wants it can't be done here.
#[derive(Debug, thiserror::Error)]
#[error(
    "no FUSE file system can be mounted here: {0}. It needs /dev/fuse, and root or the program fusermount3 (Debian's \
     package fuse3)"
)]
pub struct Unavailable(#[from] io::Error);

/// What the server and the test share.
struct Shared {
    image: Mutex<Image>,
    faults: Faults,
}

/// A mounted file system. Unmounted when dropped; programs that still use it get errors from then on.
pub struct FaultFs {
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
    mount_point: TempDir,
}

impl FaultFs {
    /// Mounts an empty file system without faults at a new temporary folder.
    ///
    /// # Errors
    /// This machine or user has no FUSE.
    pub fn mount() -> Result<Self, Unavailable> {
        remove_left_over();
        let mount_point = tempfile::Builder::new().prefix("faultfs-").tempdir()?;
        let owner = Maker {
            mode: 0o755,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let shared = Shared {
            image: Mutex::new(Image::new(&std::env::temp_dir(), owner)),
            faults: Faults::default(),
        };
        let mut mounted = Self {
            shared: Arc::new(shared),
            session: None,
            mount_point,
        };
        mounted.serve()?;
        Ok(mounted)
    }

    /// As [`FaultFs::mount`], for tests that can't be done without: where there is no FUSE it says so on the terminal, past
    /// the test harness, and returns `None`.
    ///
    /// # Panics
    /// There is no FUSE and the environment says `CI=true`: there nothing may go untested.
    #[must_use]
    pub fn mount_or_say_not_tested(test: &str) -> Option<Self> {
        match Self::mount() {
            Ok(mounted) => Some(mounted),
            Err(error) => {
                let text = format!("NOT TESTED: {test}: {error}\n");
                // The macros' output is swallowed by the harness for tests that pass.
                let said = io::Write::write_all(&mut io::stderr(), text.as_bytes());
                let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
                assert!(!ci && said.is_ok(), "{text}");
                None
            }
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut config = fuser::Config::default();
        config.mount_options = vec![
            fuser::MountOption::FSName(format!("{NAME}-{}", std::process::id())),
            fuser::MountOption::DefaultPermissions,
            fuser::MountOption::NoAtime,
            fuser::MountOption::Exec,
        ];
        config.n_threads = Some(THREADS);
        let server = Server::new(Arc::clone(&self.shared));
        self.session = Some(fuser::spawn_mount(server, self.path(), &config)?);
        Ok(())
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mount_point.path()
    }

    /// The power fails and returns. What survives is drawn from the seed, is durable, and is all that is there afterwards;
    /// all other faults have ended. Programs that still use the file system get errors: kill them before.
    ///
    /// # Errors
    /// The machine's own file system failed.
    pub fn power_loss(&mut self, how: PowerLoss, seed: u64) -> io::Result<Loss> {
        self.unmount();
        self.shared.faults.heal();
        self.shared.faults.counts.power_losses.fetch_add(1, Relaxed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let loss = self.shared.image.lock().lose_power(how, &mut rng)?;
        self.serve()?;
        Ok(loss)
    }

    /// Lets `after` syncs of files pass that lie under a path of this file system, and fails the next one: it returns EIO,
    /// drops what it should have written, and later ones succeed. Who reads sees what was dropped until the power is
    /// lost, as on ext4.
    pub fn fail_sync(&self, after: u64, under: impl AsRef<Path>) {
        self.shared.faults.fail_sync(after, under.as_ref());
    }

    /// Fails all writes, syncs and changes of names with EIO until [`FaultFs::heal`].
    pub fn fail_all(&self) {
        self.shared.faults.fail_all();
    }

    /// Holds calls up for a time, or until [`FaultFs::heal`]. A process with a call that is held up can't be killed: like any
    /// process that waits for its disk, it ends when the disk answers.
    pub fn stall(&self, what: Stalled, time: Option<Duration>) {
        self.shared.faults.stall(what, time);
    }

    /// Makes each sync take longer by so much, until [`FaultFs::heal`].
    pub fn set_sync_latency(&self, latency: Duration) {
        self.shared.faults.set_sync_latency(latency);
    }

    /// Ends all faults but for a full disk.
    pub fn heal(&self) {
        self.shared.faults.heal();
    }

    /// Gives the disk so many bytes, or as many as anybody wants.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.image.lock().set_capacity(bytes);
    }

    /// Takes all free space away; [`FaultFs::set_capacity`] returns it.
    pub fn fill_up(&self) {
        let mut image = self.shared.image.lock();
        let used = image.used();
        image.set_capacity(Some(used));
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.shared.image.lock().used()
    }

    /// Changes one bit of a file, as rot does: on the disk, and in the page cache, as if it had been read anew.
    ///
    /// # Errors
    /// There is no such file, or it is shorter.
    pub fn flip_bit(&self, file: impl AsRef<Path>, byte: u64, bit: u8) -> io::Result<()> {
        self.rot(file.as_ref(), byte..byte + 1, byte, |data| {
            data[0] ^= 1 << (bit % 8)
        })
    }

    /// Copies a piece of a file to another place in it, as a misdirected write does.
    ///
    /// # Errors
    /// There is no such file, or it is shorter.
    pub fn copy_piece(
        &self,
        file: impl AsRef<Path>,
        from: u64,
        to: u64,
        length: u64,
    ) -> io::Result<()> {
        self.rot(file.as_ref(), from..from + length, to, |_| {})
    }

    fn rot(
        &self,
        file: &Path,
        from: std::ops::Range<u64>,
        to: u64,
        change: impl FnOnce(&mut [u8]),
    ) -> io::Result<()> {
        let length = from.end - from.start;
        let ino = {
            let mut image = self.shared.image.lock();
            let ino = image.find(file).map_err(system_error)?;
            let content = image.content(ino).map_err(system_error)?;
            if from.end.max(to + length) > content.size() {
                let size = content.size();
                let text = format!("{} has {size} bytes: no bytes {from:?}", file.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            let mut data = vec![0; length as usize];
            content::read_upto(&content.object(), &mut data, from.start)?;
            change(&mut data);
            content.rot(to, &data)?;
            ino
        };
        self.shared
            .faults
            .counts
            .rotten_pieces
            .fetch_add(1, Relaxed);
        let Some(session) = &self.session else {
            return Ok(());
        };
        match session.notifier().inval_inode(INodeNo(ino), 0, 0) {
            // The kernel has nothing of it in memory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Every file, relative to [`FaultFs::path`], with its size.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.shared.image.lock().files()
    }

    /// How often each call came and each fault fired.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.faults.counts.get()
    }

    /// Ends the service, whoever uses it. Nothing runs on behalf of it afterwards.
    fn unmount(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        self.shared.faults.close();
        // Force ends the connection, so that no call waits for an answer; detach removes it in spite of open files.
        if rustix::mount::unmount(self.path(), UnmountFlags::FORCE | UnmountFlags::DETACH).is_ok() {
            // What a server thread ended with tells nothing: the connection is cut under it.
            let _ = session.join();
        }
        // Else fusermount3 does it as the session is dropped, and the threads end when the last file is closed.
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Removes mounts of processes that were killed.
fn remove_left_over() {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else {
        return;
    };
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let process = fields
            .next()
            .and_then(|source| source.strip_prefix(NAME)?.strip_prefix('-'));
        let (Some(process), Some(path)) = (process, fields.next()) else {
            continue;
        };
        if !Path::new("/proc").join(process).exists()
            && rustix::mount::unmount(path, UnmountFlags::DETACH).is_ok()
        {
            // Nobody else knows of the folder.
            let _ = fs::remove_dir(path);
        }
    }
}

fn system_error(error: fuser::Errno) -> io::Error {
    io::Error::from_raw_os_error(error.into())
}
