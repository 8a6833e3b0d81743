//! The bytes of one file, as they are now and as they would be after a power loss.
//!
//! The file's present content lies in an object, a nameless file of the machine's real file system. Beside it is kept what
//! a power loss needs to know: which sectors were changed since the last sync, and what those that existed then held. So
//! appending costs next to nothing, and overwriting costs memory for what is overwritten, until the next sync.

use std::{
    collections::BTreeMap, fs::File, io, ops::Range, os::unix::fs::FileExt, path::Path, sync::Arc,
};

use fastrand::Rng;
use rangemap::RangeSet;

use crate::{Loss, PowerLoss};

/// Bytes that a disk writes as one: they are old or new, never a mixture.
pub(crate) const SECTOR: u64 = 512;
/// Bytes of space that a file takes at a time.
const BLOCK: u64 = 4096;
/// Sectors that share one fate when a random part survives; at most.
const RUN_MAX: u64 = 16;

type Sector = [u8; SECTOR as usize];

/// See the module.
pub(crate) struct Content {
    object: Arc<File>,
    size: u64,
    /// Size as of the last sync.
    durable_size: u64,
    /// Where space that was asked for ahead ends; 0 if none was.
    reserved: u64,
    /// Sectors changed since the last sync.
    dirty: RangeSet<u64>,
    /// Sectors that a failed sync has dropped: whoever reads sees them until the power is lost, the disk never will.
    doomed: RangeSet<u64>,
    /// What the disk has of sectors that are dirty or doomed; zeros if it is not here.
    old: BTreeMap<u64, Box<Sector>>,
}

impl Content {
    /// An empty file whose object is made in `objects`.
    pub(crate) fn new(objects: &Path) -> io::Result<Self> {
        Ok(Self {
            object: Arc::new(tempfile::tempfile_in(objects)?),
            size: 0,
            durable_size: 0,
            reserved: 0,
            dirty: RangeSet::new(),
            doomed: RangeSet::new(),
            old: BTreeMap::new(),
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// To read from without holding a lock.
    pub(crate) fn object(&self) -> Arc<File> {
        Arc::clone(&self.object)
    }

    /// Bytes of space that the file takes.
    pub(crate) fn space(&self) -> u64 {
        self.size.max(self.reserved).next_multiple_of(BLOCK)
    }

    /// Bytes of space that it would take if it had something up to `end`.
    pub(crate) fn space_upto(&self, end: u64) -> u64 {
        self.space().max(end.next_multiple_of(BLOCK))
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        // A gap behind the old end becomes zeros.
        self.touch(offset.min(self.size)..end)?;
        self.object.write_all_at(data, offset)?;
        self.size = self.size.max(end);
        Ok(())
    }

    /// Cuts the file, or extends it with zeros.
    pub(crate) fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.reserved = 0;
        if size == self.size {
            return Ok(());
        }
        self.touch(size.min(self.size)..size.max(self.size))?;
        self.object.set_len(size)?;
        self.size = size;
        Ok(())
    }

    /// Takes space ahead, without a change of content.
    pub(crate) fn reserve(&mut self, end: u64) {
        self.reserved = self.reserved.max(end);
    }

    /// Everything is on the disk from now on, but for what a failed sync has dropped.
    pub(crate) fn sync(&mut self) {
        self.dirty.clear();
        let doomed = &self.doomed;
        self.old.retain(|sector, _| doomed.contains(sector));
        self.durable_size = self.size;
    }

    /// What the sync should have written is dropped, and a later one won't find it.
    pub(crate) fn fail_sync(&mut self) {
        for range in std::mem::take(&mut self.dirty) {
            self.doomed.insert(range);
        }
    }

    /// Changes bytes on the disk and in sight, as rot does.
    pub(crate) fn rot(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.object.write_all_at(data, offset)?;
        for (at, byte) in (offset..).zip(data) {
            if let Some(old) = self.old.get_mut(&(at / SECTOR)) {
                old[(at % SECTOR) as usize] = *byte;
            }
        }
        Ok(())
    }

    /// The power fails and returns.
    pub(crate) fn lose_power(
        &mut self,
        how: PowerLoss,
        rng: &mut Rng,
        loss: &mut Loss,
    ) -> io::Result<()> {
        let (live, durable) = (self.size, self.durable_size);
        let unsynced: u64 = self.dirty.iter().map(|range| range.end - range.start).sum();
        let mut kept: RangeSet<u64> = RangeSet::new();
        match how {
            PowerLoss::DropAll => {}
            PowerLoss::KeepAll => kept = self.dirty.clone(),
            PowerLoss::RandomSubset => {
                for range in self.dirty.iter() {
                    for run in runs(range, rng) {
                        if rng.bool() {
                            kept.insert(run);
                        }
                    }
                }
            }
            PowerLoss::TornTail => {
                let mut left = rng.u64(..=unsynced);
                for range in self.dirty.iter() {
                    let end = range.end.min(range.start + left);
                    if range.start < end {
                        kept.insert(range.start..end);
                    }
                    left -= end - range.start;
                }
            }
        }
        let surviving: u64 = kept.iter().map(|range| range.end - range.start).sum();
        let size = if live >= durable {
            let last = kept.last().map_or(0, |range| range.end * SECTOR);
            match how {
                PowerLoss::KeepAll => live,
                // The size may get to the disk before the data does.
                PowerLoss::RandomSubset if live > durable && rng.u8(..4) == 0 => live,
                _ => last.min(live).max(durable),
            }
        } else {
            let shorter = match how {
                PowerLoss::DropAll => false,
                PowerLoss::KeepAll => true,
                PowerLoss::RandomSubset => rng.bool(),
                PowerLoss::TornTail => surviving == unsynced,
            };
            if !shorter {
                // The cut did not happen, so what was cut off is there.
                kept.remove(live / SECTOR..u64::MAX);
            }
            if shorter { live } else { durable }
        };
        let mut lost = std::mem::take(&mut self.dirty);
        for range in kept.iter() {
            lost.remove(range.clone());
        }
        for range in std::mem::take(&mut self.doomed) {
            lost.insert(range);
        }
        // Before anything is put back: what is behind the present end is zeros.
        self.object.set_len(live.max(size))?;
        for range in lost.iter() {
            loss.sectors_lost += range.end - range.start;
            self.put_back(range)?;
        }
        loss.sectors_kept += surviving;
        loss.files_torn += u64::from(surviving > 0 && surviving < unsynced);
        self.object.set_len(size)?;
        self.old.clear();
        self.reserved = 0;
        (self.size, self.durable_size) = (size, size);
        Ok(())
    }

    /// Remembers what the disk has of the sectors that `bytes` lies in, as they are about to change.
    fn touch(&mut self, bytes: Range<u64>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let sectors = bytes.start / SECTOR..bytes.end.div_ceil(SECTOR);
        let known = sectors.start..sectors.end.min(self.durable_size.div_ceil(SECTOR));
        if !known.is_empty() {
            let mut clean = RangeSet::from_iter([known.clone()]);
            for changed in self
                .dirty
                .overlapping(&known)
                .chain(self.doomed.overlapping(&known))
            {
                clean.remove(changed.clone());
            }
            for sector in clean.into_iter().flatten() {
                let mut old = Box::new([0; SECTOR as usize]);
                read_upto(&self.object, &mut *old, sector * SECTOR)?;
                self.old.insert(sector, old);
            }
        }
        self.doomed.remove(sectors.clone());
        self.dirty.insert(sectors);
        Ok(())
    }

    /// Puts back what the disk has of some sectors.
    fn put_back(&self, sectors: &Range<u64>) -> io::Result<()> {
        const ZEROS: Sector = [0; SECTOR as usize];
        for sector in sectors.clone() {
            let old = self.old.get(&sector).map_or(&ZEROS, |old| &**old);
            self.object.write_all_at(old, sector * SECTOR)?;
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the file ends; returns how much.
pub(crate) fn read_upto(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Cuts a range into runs of random lengths.
fn runs(range: &Range<u64>, rng: &mut Rng) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + rng.u64(1..=RUN_MAX));
        found.push(at..end);
        at = end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content::new(&std::env::temp_dir()).unwrap()
    }

    fn bytes(content: &Content) -> Vec<u8> {
        let mut read = vec![0; content.size() as usize];
        assert_eq!(
            read_upto(&content.object, &mut read, 0).unwrap(),
            read.len()
        );
        read
    }

    fn lose(content: &mut Content, how: PowerLoss, seed: u64) -> Loss {
        let mut loss = Loss::default();
        content
            .lose_power(how, &mut Rng::with_seed(seed), &mut loss)
            .unwrap();
        loss
    }

    #[test]
    fn what_was_synced_stays_and_what_was_not_goes() {
        let mut file = content();
        file.write(0, &[1; 1000]).unwrap();
        file.sync();
        file.write(500, &[2; 1000]).unwrap();
        assert_eq!(file.size(), 1500);
        let loss = lose(&mut file, PowerLoss::DropAll, 0);
        assert_eq!(bytes(&file), [1; 1000]);
        assert_eq!((loss.sectors_lost, loss.sectors_kept), (3, 0));
    }

    #[test]
    fn a_cut_that_was_not_synced_did_not_happen() {
        let mut file = content();
        file.write(0, &[1; 3000]).unwrap();
        file.sync();
        file.truncate(100).unwrap();
        file.write(100, &[3; 10]).unwrap();
        lose(&mut file, PowerLoss::DropAll, 0);
        assert_eq!(bytes(&file), [1; 3000]);
        file.truncate(0).unwrap();
        file.truncate(5000).unwrap();
        file.sync();
        lose(&mut file, PowerLoss::DropAll, 0);
        assert_eq!(bytes(&file), [0; 5000]);
    }

    #[test]
    fn a_torn_tail_is_a_prefix_that_ends_with_a_sector() {
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut file = content();
            file.write(0, &[1; 700]).unwrap();
            file.sync();
            file.write(700, &[2; 3000]).unwrap();
            lose(&mut file, PowerLoss::TornTail, seed);
            let found = bytes(&file);
            let expected: Vec<u8> = [[1; 700].as_slice(), &[2; 3000]].concat();
            assert_eq!(found, expected[..found.len()]);
            assert!([700, 3700].contains(&found.len()) || found.len().is_multiple_of(512));
            lengths.insert(found.len());
        }
        assert!(lengths.len() > 4, "{lengths:?}");
    }

    #[test]
    fn what_a_failed_sync_dropped_is_in_sight_until_the_power_goes() {
        let mut file = content();
        file.write(0, &[1; 1024]).unwrap();
        file.sync();
        file.write(0, &[2; 512]).unwrap();
        file.write(1024, &[2; 512]).unwrap();
        file.fail_sync();
        file.write(1536, &[3; 512]).unwrap();
        file.sync();
        let seen = [[2; 512], [1; 512], [2; 512], [3; 512]].concat();
        assert_eq!(bytes(&file), seen);
        lose(&mut file, PowerLoss::KeepAll, 0);
        let left = [[1; 512], [1; 512], [0; 512], [3; 512]].concat();
        assert_eq!(bytes(&file), left, "the later sync has not saved it");
    }

    #[test]
    fn written_again_after_a_failed_sync_it_can_be_synced() {
        let mut file = content();
        file.write(0, &[1; 512]).unwrap();
        file.fail_sync();
        file.write(0, &[2; 512]).unwrap();
        file.sync();
        lose(&mut file, PowerLoss::DropAll, 0);
        assert_eq!(bytes(&file), [2; 512]);
    }

    #[test]
    fn a_random_subset_has_whole_sectors_of_either_time() {
        let (mut old, mut new) = (0, 0);
        for seed in 0..20 {
            let mut file = content();
            file.write(0, &[1; 64 * 512]).unwrap();
            file.sync();
            file.write(0, &[2; 64 * 512]).unwrap();
            lose(&mut file, PowerLoss::RandomSubset, seed);
            for sector in bytes(&file).chunks(512) {
                assert!(sector.iter().all(|byte| *byte == sector[0]));
                *if sector[0] == 1 { &mut old } else { &mut new } += 1;
            }
        }
        assert!(old > 300 && new > 300, "{old} old and {new} new sectors");
    }
}
