//! Each fault does what it says, seen through ordinary calls of the operating system, and each is counted.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Seek as _, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use flotilla_faultfs::{FaultFs, PowerLoss, Stalled};

const EIO: i32 = 5;
/// Far more than anything takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn is_eio<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(EIO))
}

fn sync_folder(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn create_durably(path: &Path, content: &[u8]) -> File {
    let mut file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
    sync_folder(path.parent().unwrap());
    file
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.contains(path.to_str().unwrap())
}

#[test]
fn it_is_a_file_system() {
    let Some(mounted) = FaultFs::mount_or_say_not_tested("it_is_a_file_system") else {
        return;
    };
    let root = mounted.path();
    fs::create_dir_all(root.join("a/b")).unwrap();
    let path = root.join("a/b/file");
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.write_all(b"hello, world").unwrap();
    file.write_all_at(b"W", 7).unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello, World");
    let mut appending = File::options().append(true).open(&path).unwrap();
    appending.write_all(b"!").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 13);
    file.set_len(5).unwrap();
    file.set_len(7).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello\0\0");
    file.write_all_at(b"x", 10_000).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), 10_001);

    // Space ahead, without and with a longer file.
    use rustix::fs::{FallocateFlags, fallocate};
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_001);
    fallocate(&file, FallocateFlags::empty(), 0, 20_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 20_000);

    // Names.
    let (other, linked) = (root.join("a/other"), root.join("linked"));
    fs::write(&other, b"other").unwrap();
    fs::hard_link(&path, &linked).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"other");
    assert_eq!(
        fs::read(&linked).unwrap().len(),
        20_000,
        "a link outlives the name that was replaced"
    );
    assert_eq!(
        fs::hard_link(&path, &linked).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        fs::remove_dir(root.join("a")).unwrap_err().kind(),
        ErrorKind::DirectoryNotEmpty
    );
    fs::rename(root.join("a/b"), root.join("c")).unwrap();
    fs::remove_dir(root.join("a")).unwrap();
    let mut names: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["c", "linked"]);
    fs::remove_file(&linked).unwrap();
    assert_eq!(File::open(&linked).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        file.metadata().unwrap().len(),
        20_000,
        "an open file outlives its names"
    );

    // A folder with more entries than one call returns.
    for number in 0..2000 {
        File::create(root.join("c").join(format!("a-rather-long-name-{number}"))).unwrap();
    }
    assert_eq!(fs::read_dir(root.join("c")).unwrap().count(), 2001);

    // A program is mapped into memory to be run.
    let program = root.join("true");
    fs::copy("/bin/true", &program).unwrap();
    assert!(Command::new(&program).status().unwrap().success());
}

#[test]
fn locks_exclude_other_handles_and_other_processes() {
    const WANTED: &str = "FAULTFS_TEST_LOCK";
    use rustix::fs::{FlockOperation, fcntl_lock};
    if let Ok(path) = std::env::var(WANTED) {
        // The second process: neither kind of lock may be had.
        let file = File::options().write(true).open(path).unwrap();
        let posix = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
        assert!(posix.is_err() && file.try_lock().is_err());
        return;
    }
    let test = "locks_exclude_other_handles_and_other_processes";
    let Some(mounted) = FaultFs::mount_or_say_not_tested(test) else {
        return;
    };
    let path = mounted.path().join("lock");
    let file = File::create(&path).unwrap();
    file.try_lock().unwrap();
    assert!(
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .try_lock()
            .is_err()
    );
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let second = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(WANTED, &path)
        .output()
        .unwrap();
    assert!(second.status.success(), "{second:?}");
    assert!(
        String::from_utf8_lossy(&second.stdout).contains("1 passed"),
        "{second:?}"
    );
}

#[test]
fn what_was_not_synced_is_gone_after_a_power_loss() {
    let Some(mut mounted) = FaultFs::mount_or_say_not_tested("what_was_not_synced_is_gone") else {
        return;
    };
    let root = mounted.path().to_owned();
    let file = create_durably(&root.join("kept"), &[1; 2000]);
    file.write_all_at(&[2; 2000], 1000).unwrap();
    fs::write(root.join("unsynced"), b"content").unwrap();
    let nameless = File::create(root.join("name-not-synced")).unwrap();
    nameless.sync_all().unwrap();
    fs::rename(root.join("kept"), root.join("renamed")).unwrap();
    drop((file, nameless));
    let loss = mounted.power_loss(PowerLoss::DropAll, 0).unwrap();
    assert_eq!(fs::read(root.join("kept")).unwrap(), [1; 2000]);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    assert_eq!(loss.steps_lost, 3);
    assert_eq!(loss.sectors_lost, 5, "of the file that has a name still");
    assert_eq!(mounted.counters().power_losses, 1);
}

#[test]
fn a_synced_rename_replaces_and_keeps_everything_that_was_written() {
    let Some(mut mounted) = FaultFs::mount_or_say_not_tested("a_synced_rename_replaces") else {
        return;
    };
    let root = mounted.path().to_owned();
    create_durably(&root.join("CURRENT"), b"old");
    for (round, how) in PowerLoss::ALL.into_iter().enumerate() {
        let text = format!("round {round}");
        let temporary = root.join("CURRENT.tmp");
        let mut file = File::create(&temporary).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.sync_all().unwrap();
        fs::rename(&temporary, root.join("CURRENT")).unwrap();
        sync_folder(&root);
        drop(file);
        let loss = mounted.power_loss(how, round as u64).unwrap();
        assert_eq!(loss, Default::default());
        assert_eq!(fs::read_to_string(root.join("CURRENT")).unwrap(), text);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    }
}

#[test]
fn the_sync_that_fails_drops_its_pages_and_the_next_one_does_not_know() {
    let Some(mut mounted) = FaultFs::mount_or_say_not_tested("the_sync_that_fails_drops_its_pages")
    else {
        return;
    };
    let root = mounted.path().to_owned();
    fs::create_dir(root.join("log")).unwrap();
    sync_folder(&root);
    let elsewhere = create_durably(&root.join("elsewhere"), b"");
    let file = create_durably(&root.join("log/file"), &[1; 512]);
    mounted.fail_sync(1, "log");
    elsewhere.sync_all().unwrap();
    elsewhere.sync_all().unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[2; 512], 512).unwrap();
    assert!(is_eio(&file.sync_data()), "the second one below the folder");
    file.write_all_at(&[3; 512], 1024).unwrap();
    file.sync_data().unwrap();
    let seen = [[1; 512], [2; 512], [3; 512]].concat();
    assert_eq!(fs::read(root.join("log/file")).unwrap(), seen);
    assert_eq!(mounted.counters().failed_syncs, 1);
    drop((file, elsewhere));
    mounted.power_loss(PowerLoss::KeepAll, 0).unwrap();
    let left = [[1; 512], [0; 512], [3; 512]].concat();
    assert_eq!(fs::read(root.join("log/file")).unwrap(), left);
}

#[test]
fn everything_fails_until_it_is_healed() {
    let Some(mounted) = FaultFs::mount_or_say_not_tested("everything_fails_until_it_is_healed")
    else {
        return;
    };
    let path = mounted.path().join("file");
    let mut file = File::create(&path).unwrap();
    mounted.fail_all();
    assert!(is_eio(&file.write_all(b"x")));
    assert!(is_eio(&file.sync_all()));
    assert!(is_eio(&file.set_len(3)));
    assert!(is_eio(&fs::remove_file(&path)));
    assert!(is_eio(&File::create(mounted.path().join("other"))));
    assert_eq!(mounted.counters().failed_calls, 5);
    mounted.heal();
    file.write_all(b"x").unwrap();
    file.sync_all().unwrap();
}

/// Starts a call on a thread; the receiver gets the time that it took.
fn timed(call: impl FnOnce() + Send + 'static) -> mpsc::Receiver<Duration> {
    let (done, wait) = mpsc::channel();
    thread::spawn(move || {
        let begin = Instant::now();
        call();
        done.send(begin.elapsed()).unwrap();
    });
    wait
}

#[test]
fn a_stalled_disk_answers_when_it_is_told_to() {
    let Some(mounted) = FaultFs::mount_or_say_not_tested("a_stalled_disk_answers") else {
        return;
    };
    let path = mounted.path().join("file");
    let file = create_durably(&path, b"content");
    mounted.stall(Stalled::Syncs, None);
    file.write_all_at(b"C", 0).unwrap();
    let syncing = timed(move || file.sync_all().unwrap());
    assert!(
        syncing.recv_timeout(Duration::from_millis(200)).is_err(),
        "it hangs"
    );
    assert_eq!(fs::read(&path).unwrap(), b"Content", "reads go on");
    mounted.heal();
    syncing.recv_timeout(PATIENCE).expect("it goes on");

    mounted.stall(Stalled::Changes, Some(Duration::from_millis(300)));
    let writing = timed(move || fs::write(path, b"other").unwrap());
    let time = writing
        .recv_timeout(PATIENCE)
        .expect("it goes on by itself");
    assert!(time >= Duration::from_millis(250), "{time:?}");
    assert_eq!(mounted.counters().stalled_calls, 2);
}

#[test]
fn syncs_take_as_long_as_they_are_told_to() {
    let Some(mounted) = FaultFs::mount_or_say_not_tested("syncs_take_as_long") else {
        return;
    };
    let file = create_durably(&mounted.path().join("file"), b"content");
    let latency = Duration::from_millis(50);
    mounted.set_sync_latency(latency);
    let begin = Instant::now();
    for _ in 0..3 {
        file.sync_all().unwrap();
    }
    assert!(begin.elapsed() >= 3 * latency);
    assert_eq!(mounted.counters().delayed_syncs, 3);
}

#[test]
fn a_full_disk_refuses_what_needs_space_and_space_returns() {
    let Some(mounted) = FaultFs::mount_or_say_not_tested("a_full_disk_refuses") else {
        return;
    };
    let root = mounted.path();
    let full = |result: io::Result<()>| result.unwrap_err().kind() == ErrorKind::StorageFull;
    let free = || {
        let stat = rustix::fs::statvfs(root).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    assert!(free() > 1 << 39);
    let file = create_durably(&root.join("file"), &[1; 10_000]);
    mounted.set_capacity(Some(mounted.used() + 8192));
    assert_eq!(free(), 8192);
    // Three blocks hold it; then two more.
    file.write_all_at(&[2; 12_288], 0).unwrap();
    assert_eq!(free(), 8192);
    let written = file.write_at(&[3; 20_000], 12_288).unwrap();
    assert_eq!((written, free()), (8192, 0), "as much as there is room for");
    assert!(full(file.write_all_at(&[4], 20_480)));
    assert!(full(fs::create_dir(root.join("folder"))));
    assert!(full(File::create(root.join("other")).map(drop)));
    file.write_all_at(&[5; 20_480], 0).unwrap();
    file.sync_all().unwrap();
    mounted.set_capacity(None);
    file.write_all_at(&[4], 20_480).unwrap();
    mounted.fill_up();
    assert!(full(fs::create_dir(root.join("folder"))));
    drop(file);
    fs::remove_file(root.join("file")).unwrap();
    assert_eq!(free(), 24_576, "a file that is gone gives its space back");
    fs::create_dir(root.join("folder")).unwrap();
    assert_eq!(mounted.counters().full_calls, 5);
}

#[test]
fn rot_is_seen_by_whoever_reads_and_stays() {
    let Some(mut mounted) = FaultFs::mount_or_say_not_tested("rot_is_seen_by_whoever_reads") else {
        return;
    };
    let path = mounted.path().join("file");
    let file = create_durably(&path, &[0; 8192]);
    file.write_all_at(&[1; 10], 4096).unwrap();
    file.sync_all().unwrap();
    let read = |at| {
        let mut byte = [0];
        File::open(&path)
            .unwrap()
            .read_exact_at(&mut byte, at)
            .unwrap();
        byte[0]
    };
    assert_eq!((read(5000), read(4100)), (0, 1));
    mounted.flip_bit("file", 5000, 3).unwrap();
    mounted.copy_piece("file", 4096, 0, 10).unwrap();
    assert_eq!((read(5000), read(4100), read(9), read(10)), (8, 1, 1, 0));
    assert!(mounted.flip_bit("file", 8192, 0).is_err());
    assert!(mounted.flip_bit("other", 0, 0).is_err());
    assert_eq!(mounted.counters().rotten_pieces, 2);
    assert_eq!(mounted.files(), [("file".into(), 8192)]);
    drop(file);
    mounted.power_loss(PowerLoss::DropAll, 0).unwrap();
    assert_eq!((read(5000), read(9)), (8, 1), "it is on the disk");
}

#[test]
fn nothing_is_left_when_it_ends_in_a_panic_or_with_files_open() {
    let Some(mounted) = FaultFs::mount_or_say_not_tested("nothing_is_left_when_it_ends") else {
        return;
    };
    let path = mounted.path().to_owned();
    let panicked = thread::spawn(move || {
        let _open = File::create(mounted.path().join("file")).unwrap();
        mounted.stall(Stalled::Changes, None);
        let stalled = mounted.path().join("other");
        thread::spawn(move || File::create(stalled).map(drop));
        while mounted.counters().stalled_calls == 0 {
            thread::yield_now();
        }
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(panicked.join().is_err());
    assert!(!is_mounted(&path) && !path.exists());
}

#[test]
fn a_mount_that_a_killed_process_left_is_removed_by_the_next() {
    const WANTED: &str = "FAULTFS_TEST_LEAVE";
    let test = "a_mount_that_a_killed_process_left_is_removed_by_the_next";
    if std::env::var(WANTED).is_ok() {
        let mounted = FaultFs::mount().unwrap();
        println!("mounted at {} .", mounted.path().display());
        // As a kill would: nothing is dropped.
        std::process::abort();
    }
    if FaultFs::mount_or_say_not_tested(test).is_none() {
        return;
    }
    let killed = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(WANTED, "1")
        .output()
        .unwrap();
    let said = String::from_utf8(killed.stdout).unwrap();
    let path = said
        .split("mounted at ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect("it was mounted");
    let path = Path::new(path);
    let _next = FaultFs::mount().unwrap();
    assert!(
        !is_mounted(path) && !path.exists(),
        "{} is there still",
        path.display()
    );
}
