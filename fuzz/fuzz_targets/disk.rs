//! Data folders for targets that work in one.

use std::cell::RefCell;

use flotilla::fuzz::Disk;
use tempfile::TempDir;

/// Inputs that share a data folder. Each leaves it as it was, but for what RocksDB still has to compact.
const SHARING: u32 = 1_000;

thread_local! {
    static DISK: RefCell<Option<(Disk, TempDir, u32)>> = const { RefCell::new(None) };
}

/// Runs one input in a folder.
pub fn with_disk(input: impl FnOnce(&mut Disk)) {
    DISK.with_borrow_mut(|disk| {
        let (folder, _, inputs) = disk.get_or_insert_with(|| {
            let folder = tempfile::tempdir().expect("a folder");
            (Disk::new(folder.path()), folder, 0)
        });
        input(folder);
        *inputs += 1;
        if *inputs == SHARING {
            *disk = None;
        }
    });
}
