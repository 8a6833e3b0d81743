//! A look at the record files of a RocksDB (WAL and manifest) before it is opened.
//!
//! RocksDB's checksums find what is damaged there, but for one byte: if the type of a record becomes that of a recycled
//! file in the midst of a file that is none, RocksDB 11.8 reads the same record again and again, and the start never
//! ends. Nothing here recycles files, so such a type is damage, and this says so. All else is left to RocksDB.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use super::StorageError;

const PLACE: &str = "storage::records::check";

/// Records don't cross the borders of blocks of this size.
const BLOCK: usize = 32 << 10;
/// Checksum, length and type of a record.
const HEADER: usize = 7;
/// Types of records of recycled files, as of RocksDB's `log_format.h`.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Looks at all record files in a database's folder.
///
/// # Errors
/// One of them has a record that no file of ours has, or can't be read.
pub(super) fn check(folder: &Path) -> Result<(), StorageError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| StorageError::io(PLACE, &path, &error)
    };
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("MANIFEST-") && !name.ends_with(".log") {
            continue;
        }
        let file = File::open(&path).map_err(failed(&path))?;
        if let Some((place, kind)) = recycled(file).map_err(failed(&path))? {
            let detail = format!(
                "{}: the record at byte {place} has the type {kind}, which nothing writes here",
                path.display()
            );
            return Err(StorageError::corrupt(PLACE, detail));
        }
    }
    Ok(())
}

/// The place and the type of the first record that seems to be of a recycled file.
fn recycled(mut file: impl Read) -> io::Result<Option<(u64, u8)>> {
    let mut block = Vec::with_capacity(BLOCK);
    let mut start = 0;
    loop {
        block.clear();
        file.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        let mut rest = &block[..];
        while let Some((header, body)) = rest.split_at_checked(HEADER) {
            let (length, kind) = (u16::from_le_bytes([header[4], header[5]]), header[6]);
            if RECYCLED.contains(&kind) {
                let place = start + (block.len() - rest.len()) as u64;
                return Ok(Some((place, kind)));
            }
            // Zeros, or a length that is wrong: the rest of the block says nothing, to RocksDB neither.
            match body.split_at_checked(length.into()) {
                Some((_, next)) if (length, kind) != (0, 0) => rest = next,
                _ => break,
            }
        }
        if block.len() < BLOCK {
            return Ok(None);
        }
        start += BLOCK as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Fault, OpenError, StorageOptions, open};
    use tempfile::tempdir;

    #[test]
    fn a_record_type_that_would_keep_rocksdb_reading_for_ever_is_corruption() {
        let data = tempdir().unwrap();
        let options = StorageOptions::default();
        drop(open(data.path(), &options).unwrap());
        for (folder, kind) in [("log", "MANIFEST-"), ("state", "MANIFEST-")] {
            let folder = data.path().join(folder);
            let files = fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            let path = files
                .filter(|path| {
                    path.file_name()
                        .unwrap()
                        .to_string_lossy()
                        .starts_with(kind)
                })
                .max()
                .unwrap();
            let good = fs::read(&path).unwrap();
            // The second record: of the first one RocksDB believes that the file was recycled.
            let second = HEADER + usize::from(u16::from_le_bytes([good[4], good[5]]));
            let mut bad = good.clone();
            bad[second + HEADER - 1] ^= 4;
            fs::write(&path, bad).unwrap();
            let error = match open(data.path(), &options) {
                Err(OpenError::Storage { source }) => source,
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("{} was opened", path.display()),
            };
            assert_eq!(error.fault, Fault::Corruption, "{error}");
            assert!(error.detail.contains(&format!("byte {second} ")), "{error}");
            fs::write(&path, good).unwrap();
        }
        drop(open(data.path(), &options).unwrap());
    }

    #[test]
    fn all_else_is_left_to_rocksdb() {
        let record = |kind: u8, length: u16| {
            let mut bytes = vec![1, 2, 3, 4];
            bytes.extend(length.to_le_bytes());
            bytes.push(kind);
            bytes.resize(HEADER + usize::from(length), b'x');
            bytes
        };
        let found = |file: &[u8]| recycled(file).unwrap();
        assert_eq!(found(&[]), None);
        assert_eq!(found(&record(1, 100)[..50]), None, "a torn end");
        assert_eq!(found(&record(77, 3)), None);
        assert_eq!(found(&[record(1, 9), record(5, 0)].concat()), Some((16, 5)));
        let zeros = vec![0; HEADER + 5];
        let behind_zeros = [record(1, 9), zeros, record(5, 0)].concat();
        assert_eq!(found(&behind_zeros), None);
        // A block that ends in a piece smaller than a header, and one whose record is too long for it.
        let whole = record(2, u16::try_from(BLOCK - HEADER - 3).unwrap());
        let second = [whole, vec![0; 3], record(131, 2)].concat();
        assert_eq!(found(&second), Some((BLOCK as u64, 131)));
        let mut long = record(1, 60_000);
        long.truncate(BLOCK);
        long.extend(record(8, 0));
        assert_eq!(found(&long), Some((BLOCK as u64, 8)));
    }
}
