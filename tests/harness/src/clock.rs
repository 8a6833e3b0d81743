//! Wall clocks that are stepped while processes run, by Debian's `libfaketime`, which stands between a process and libc.
//!
//! Only the wall clock: the monotonic one goes on as ever, as the systems that Flotilla runs on promise.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

/// How long a step may take to be felt: the library reads its file once a second.
pub const FELT_WITHIN: Duration = Duration::from_secs(3);

/// Why clocks can't be stepped. What needs it can't be tested here.
#[derive(Debug, thiserror::Error)]
#[error(
    "the library libfaketimeMT.so.1 is not in /usr/lib/*/faketime (Debian's package libfaketime; scripts/setup installs it)"
)]
pub struct Unavailable;

/// The library. See the module.
#[derive(Clone, Debug)]
pub struct Clocks {
    library: PathBuf,
}

impl Clocks {
    /// Finds the library.
    ///
    /// # Errors
    /// It is not installed.
    pub fn find() -> Result<Self, Unavailable> {
        let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
        let library = libraries.find(|library| library.exists());
        library.map(|library| Self { library }).ok_or(Unavailable)
    }

    /// Puts a process under a clock that a file sets.
    pub(crate) fn apply(&self, command: &mut Command, file: &Path) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", file)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
    }
}

/// Sets a clock to so many seconds before or after the machine's.
pub(crate) fn set(file: &Path, seconds: i64) -> io::Result<()> {
    // As a whole: a process may read it at any moment.
    let part = file.with_extension("part");
    fs::write(&part, format!("{seconds:+}\n"))?;
    fs::rename(part, file)
}

/// Removes what the library leaves of a process that was killed.
pub(crate) fn sweep(process: u32) {
    for name in ["faketime_shm_", "sem.faketime_sem_"] {
        // There is none where the process ran without it, or ended by itself.
        let _ = fs::remove_file(format!("/dev/shm/{name}{process}"));
    }
}

/// The moment at the beginning of a line of a node's log.
pub(crate) fn logged_at(line: &str) -> Option<SystemTime> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    humantime::parse_rfc3339(line.get("timestamp")?.as_str()?).ok()
}

#[test]
fn the_moment_of_a_line_is_read_and_nothing_else_is_taken_for_one() {
    let line = r#"{"timestamp":"1970-01-02T00:00:00.500000Z","level":"INFO","message":"ready"}"#;
    let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(24 * 3600 * 1000 + 500);
    assert_eq!(logged_at(line), Some(moment));
    for other in ["", "{}", r#"{"timestamp":7}"#, "error: the disk is full"] {
        assert_eq!(logged_at(other), None, "{other}");
    }
}

#[test]
fn a_process_is_told_the_time_that_was_set() {
    let Ok(clocks) = Clocks::find() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("clock");
    for hours in [-30, 0, 48] {
        set(&file, hours * 3600).expect("the folder is writable");
        let mut date = Command::new("date");
        clocks.apply(date.arg("+%s"), &file);
        let said = date.output().expect("coreutils are there").stdout;
        let said: i64 = String::from_utf8_lossy(&said)
            .trim()
            .parse()
            .expect("a number");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.expect("it is later than 1970").as_secs() as i64;
        assert!((said - now - hours * 3600).abs() < 60, "{said} at {now}");
    }
}
