//! Chunks of snapshots, written to a data folder.
#![no_main]

use flotilla::fuzz::Disk;
use std::cell::RefCell;
use tempfile::TempDir;

/// Inputs that share a data folder. Each leaves it as it was, but for what RocksDB still has to compact.
const SHARING: u32 = 1_000;

thread_local! {
    static DISK: RefCell<Option<(Disk, TempDir, u32)>> = const { RefCell::new(None) };
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| DISK.with_borrow_mut(|disk| {
    let (folder, _, inputs) = disk.get_or_insert_with(|| {
        let folder = tempfile::tempdir().expect("a folder");
        (Disk::new(folder.path()), folder, 0)
    });
    folder.snapshot(data);
    *inputs += 1;
    if *inputs == SHARING {
        *disk = None;
    }
}));
