//! What the machine can do at most: three bare writers of RocksDB at once, each with a database and a log of its own, that
//! sync batches of a thousand rows. `db_bench` of RocksDB's own tools does it, so nothing of ours is in the figure.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use super::{KEYS, VALUE_BYTES, cluster::NODES};
use crate::bench::error::{Error, Result};

const NEEDED: &str = "db_bench with setpriv (Debian: apt-get install rocksdb-tools util-linux)";

/// Finds out whether there is a `db_bench`, before anything is measured.
///
/// # Errors
/// There is none.
pub(super) fn check() -> Result {
    let found = Command::new("db_bench")
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    found.map(|_| ()).map_err(Error::io(NEEDED))
}

/// Rows per second of the slowest of three writers.
///
/// # Errors
/// `db_bench` is not installed, or one of the three failed.
pub(super) fn slowest(folder: &Path, time: Duration) -> Result<f64> {
    let folder = folder.join("bare");
    // Left over from a run that was killed.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(Error::io(folder.display().to_string()))?;
    let writers = (0..NODES).map(|number| {
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "db_bench"])
            .args(["--benchmarks=fillrandom", "--batch_size=1000", "--sync=1"])
            .args(["--compression_type=none", "--key_size=16"])
            .arg(format!("--value_size={VALUE_BYTES}"))
            .arg(format!("--num={KEYS}"))
            .arg(format!("--duration={}", time.as_secs().max(1)))
            .arg(format!(
                "--db={}",
                folder.join(number.to_string()).display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    });
    // All run before the first is waited for.
    let writers: Vec<_> = writers.collect();
    let rates = writers.into_iter().map(|writer| {
        let output = writer
            .and_then(|writer| writer.wait_with_output())
            .map_err(Error::io(NEEDED))?;
        let said = String::from_utf8_lossy(&output.stdout);
        rate(&said).ok_or_else(|| {
            let said = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
            let last = said.lines().last().unwrap_or("it said nothing");
            Error::Target(format!("db_bench: {}: {last}", output.status))
        })
    });
    let rates: Result<Vec<f64>> = rates.collect();
    let _ = fs::remove_dir_all(&folder);
    Ok(rates?.into_iter().fold(f64::INFINITY, f64::min))
}

/// Of `fillrandom : 11.1 micros/op 89852 ops/sec …`.
fn rate(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.starts_with("fillrandom"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "ops/sec")?;
    words.get(unit.checked_sub(1)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_what_db_bench_says() {
        let said = "DB path: [/x]\nfillrandom   :      11.123 micros/op 89852 ops/sec 3.016 seconds 271000 operations;   23.3 MB/s\n";
        assert_eq!(rate(said), Some(89852.0));
        assert_eq!(rate("put error: IO error: No space left on device"), None);
        assert_eq!(rate("fillrandom : ops/sec"), None);
    }
}
