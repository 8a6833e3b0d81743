//! The machine that a run is made on, and how fast its disk and processors are at that moment.

use std::{
    fs::{self, File},
    hint::black_box,
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    error::{Error, Result},
    meter::latencies,
};

/// What is written before each sync: about what a node of ours writes when it is busy.
const WRITE_BYTES: usize = 16 << 10;
/// The file is filled with zeros before, so that its size does not change.
const FILE_BYTES: usize = 16 << 20;
/// Steps of the fixed piece of work for a processor.
const SPIN_STEPS: u64 = 200_000_000;

/// Processors, memory and system, in a line.
#[must_use]
pub fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("unknown", |line| {
            line.trim_start_matches([' ', '\t', ':']).trim()
        })
        .to_owned()
    };
    let memory = value(&read("/proc/meminfo"), "MemTotal");
    let kib = memory
        .strip_suffix(" kB")
        .and_then(|kib| kib.parse::<f64>().ok());
    let memory = kib.map_or(memory, |kib| format!("{:.0} GiB", kib / 1024.0 / 1024.0));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} cores ({}), {memory} of memory, Linux {}, {}",
        value(&read("/proc/cpuinfo"), "model name"),
        read("/proc/sys/kernel/osrelease").trim(),
        if cfg!(debug_assertions) {
            "with debug assertions"
        } else {
            "release"
        },
    )
}

/// How fast a disk makes small writes durable, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Fdatasync {
    pub(crate) per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// Measures the disk of a folder for a while.
pub(crate) fn fdatasync(folder: &Path, time: Duration) -> Result<Fdatasync> {
    let path = folder.join(format!(".flotilla-bench-{}", std::process::id()));
    let measured = File::options()
        .create_new(true)
        .write(true)
        .open(&path)
        .and_then(|file| {
            let measured = measure(file, time);
            fs::remove_file(&path).and(measured)
        });
    measured.map_err(Error::io(format!(
        "measuring the disk of {}",
        folder.display()
    )))
}

fn measure(mut file: File, time: Duration) -> std::io::Result<Fdatasync> {
    let block = vec![0_u8; WRITE_BYTES];
    for _ in 0..FILE_BYTES / WRITE_BYTES {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let mut syncs = latencies();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let one = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        let micros = u64::try_from(one.elapsed().as_micros()).unwrap_or(u64::MAX);
        syncs.saturating_record(micros);
        if file.stream_position()? >= FILE_BYTES as u64 {
            file.seek(SeekFrom::Start(0))?;
        }
    }
    Ok(Fdatasync {
        per_second: syncs.len() as f64 / begun.elapsed().as_secs_f64(),
        p50_us: syncs.value_at_quantile(0.5),
        p99_us: syncs.value_at_quantile(0.99),
    })
}

/// How long a fixed piece of work takes on one processor.
pub(crate) fn spin() -> Duration {
    let begun = Instant::now();
    let mut state = 1_u64;
    for step in 0..SPIN_STEPS {
        // Step by step: a compiler that saw through it would make it too short to tell anything.
        state = black_box(state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(step));
    }
    begun.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_measured_and_left_as_it_was() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = fdatasync(folder.path(), Duration::from_millis(20)).expect("it can be written");
        assert!(disk.per_second > 0.0 && disk.p50_us <= disk.p99_us);
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
        let missing = folder.path().join("missing");
        let error = fdatasync(&missing, Duration::from_millis(1)).expect_err("no folder");
        assert!(error.to_string().contains("missing"), "{error}");
    }

    #[test]
    fn the_machine_has_a_description() {
        let text = describe();
        assert!(text.contains("cores") && text.contains("Linux"), "{text}");
    }
}
