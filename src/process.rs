//! What the operating system says of this process, and what it grants it.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Processor time that all threads of this process have used, in user and system mode.
#[must_use]
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // The clock begins at zero with the process, and counts nanoseconds below a second.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Bytes that this process has had read from disks and written to them; none if the system does not tell.
#[must_use]
pub fn disk_io() -> Option<(u64, u64)> {
    disk_io_of(&"self")
}

/// The same of another process, by its number.
#[must_use]
pub fn disk_io_of(process: &dyn Display) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{process}/io")).ok()?;
    Some((field(&text, "read_bytes:")?, field(&text, "write_bytes:")?))
}

/// Bytes of memory that this process has; none if the system does not tell.
#[must_use]
pub fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    field(&text, "VmRSS:").map(|kib| kib * 1024)
}

/// Bytes of memory that this process may have: what the machine has, or less if one of its control groups says so; none if
/// the system does not tell.
#[must_use]
pub fn memory_limit() -> Option<u64> {
    memory_limit_of(|path| fs::read_to_string(path).ok())
}

fn memory_limit_of(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let machine = read(Path::new("/proc/meminfo"))
        .and_then(|text| field(&text, "MemTotal:"))
        .map(|kib| kib * 1024);
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (root, file) = match (fields.next(), fields.next()) {
            (Some("0"), Some("")) => ("/sys/fs/cgroup", "memory.max"),
            (_, Some("memory")) => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return Vec::new(),
        };
        let group = PathBuf::from(root).join(fields.next().unwrap_or("").trim_start_matches('/'));
        // A group has no more than the groups around it. In a container the path may be that of the host; the container's
        // own group is the root then.
        let around = group
            .ancestors()
            .take_while(|group| group.starts_with(root));
        around
            .filter_map(|group| read(&group.join(file))?.trim().parse().ok())
            .collect()
    });
    limits.chain(machine).min()
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time() {
        let before = cpu_time();
        let mut sum = 0_u64;
        while cpu_time() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time() > before);
    }

    #[test]
    fn what_is_written_counts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let before = disk_io();
        let file = folder.path().join("file");
        fs::write(&file, [7; 1 << 16]).expect("written");
        fs::File::open(&file)
            .and_then(|file| file.sync_all())
            .expect("synced");
        let (before, after) = (
            before.expect("Linux tells"),
            disk_io().expect("Linux tells"),
        );
        assert!(after.0 >= before.0 && after.1 >= before.1);
    }

    #[test]
    fn the_tightest_limit_counts() {
        let limit = |files: &[(&str, &str)]| {
            memory_limit_of(|path| {
                let (_, text) = files.iter().find(|(name, _)| path == Path::new(name))?;
                Some((*text).to_owned())
            })
        };
        let machine = ("/proc/meminfo", "MemTotal:       4 kB\nMemFree: 1 kB\n");
        assert_eq!(limit(&[]), None);
        assert_eq!(limit(&[machine]), Some(4096));
        let unified = ("/proc/self/cgroup", "0::/system.slice/flotilla.service\n");
        let own = (
            "/sys/fs/cgroup/system.slice/flotilla.service/memory.max",
            "max\n",
        );
        assert_eq!(limit(&[machine, unified, own]), Some(4096));
        let around = ("/sys/fs/cgroup/system.slice/memory.max", "2048\n");
        assert_eq!(limit(&[machine, unified, own, around]), Some(2048));
        let old = ("/proc/self/cgroup", "9:cpu:/\n4:memory:/docker/abc\n0::/\n");
        let own = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n");
        assert_eq!(limit(&[machine, old, own]), Some(1000));
        assert!(
            memory()
                .zip(memory_limit())
                .is_some_and(|(has, may)| 1 << 20 < has && has < may)
        );
    }
}
