//! What was asked of which keys, and when: the data of the heat map.
//!
//! A node keeps what its own replicas were asked, from look to look of the census: columns of time, in each a cell per shard
//! that was asked anything. Nothing here is on the way of a request. Columns and cells are bounded: where too many shards were
//! asked, neighbours that were asked least share a cell, and after an hour columns of five seconds give way to those of a
//! minute. A cell knows its keys, not its place, so that what is seen today can be drawn over the shards of tomorrow.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use flotilla_shards::{descriptor::Descriptor, engine::Load};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Milliseconds of a column while it is new: the time between two looks.
pub const FINE_MS: u64 = 5_000;
/// Milliseconds of a column once it is old.
const COARSE_MS: u64 = 60_000;
/// Columns that are kept, and cells in each: an hour, then a day. At 32 bytes per cell less than 12 MiB in all, however
/// many shards there are; a cell that nobody asked for costs nothing.
const FINE: Bounds = Bounds {
    width_ms: FINE_MS,
    columns: 720,
    cells: 256,
};
const COARSE: Bounds = Bounds {
    width_ms: COARSE_MS,
    columns: 1440,
    cells: 128,
};
/// Columns and rows of a picture, at most.
const PICTURE_COLUMNS: u64 = 240;
pub(super) const PICTURE_ROWS: usize = 128;
/// The last look is over, and noted by all nodes, so long after its time.
const SETTLED_MS: u64 = FINE_MS / 2;

/// What a picture shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Reads and writes.
    #[default]
    Requests,
    /// Linearizable reads.
    Reads,
    /// Writes.
    Writes,
    /// Bytes of written commands.
    Bytes,
}

impl Metric {
    /// As in queries.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Bytes => "bytes",
        }
    }
}

/// What was asked of a cell's keys within its column.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    reads: f32,
    writes: f32,
    bytes: f32,
}

impl Counts {
    /// What was asked between two counts of a replica, divided by `parts`.
    pub fn between(before: Load, after: Load, parts: u64) -> Self {
        // A replica that was opened anew in between counts from zero.
        let part = |before, after: u64| after.saturating_sub(before) as f32 / parts as f32;
        Self {
            reads: part(before.reads, after.reads),
            writes: part(before.writes, after.writes),
            bytes: part(before.written_bytes, after.written_bytes),
        }
    }

    fn of(self, metric: Metric) -> f32 {
        match metric {
            Metric::Requests => self.reads + self.writes,
            Metric::Reads => self.reads,
            Metric::Writes => self.writes,
            Metric::Bytes => self.bytes,
        }
    }

    fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.bytes += other.bytes;
    }
}

/// The keys from the start of one shard to the end of another, which is the same where there was room.
#[derive(Clone, Debug)]
pub struct Cell {
    first: Arc<Descriptor>,
    last: Arc<Descriptor>,
    counts: Counts,
}

impl Cell {
    /// One shard's.
    pub fn new(shard: Arc<Descriptor>, counts: Counts) -> Self {
        Self {
            first: Arc::clone(&shard),
            last: shard,
            counts,
        }
    }

    /// Whether the two cover the same keys.
    fn is_beside(&self, other: &Self) -> bool {
        self.first.range.start() == other.first.range.start()
            && self.last.range.end() == other.last.range.end()
    }
}

struct Bounds {
    width_ms: u64,
    columns: usize,
    cells: usize,
}

struct Column {
    /// Which one since 1970.
    slot: u64,
    /// Ascending by their first keys; those of an old column may overlap.
    cells: Vec<Cell>,
}

/// See the module.
#[derive(Default)]
pub struct Heat(Mutex<Rings>);

#[derive(Default)]
struct Rings {
    fine: VecDeque<Column>,
    coarse: VecDeque<Column>,
}

/// Which column of five seconds a moment of the wall clock ends. A look that comes a little early or late counts for its own.
pub fn slot_ended_at(wall_ms: u64) -> u64 {
    ((wall_ms + FINE_MS / 2) / FINE_MS).saturating_sub(1)
}

impl Heat {
    /// Notes what was asked in each of some columns that have just ended.
    pub fn note(&self, slots: Range<u64>, cells: &[Cell]) {
        let mut rings = self.0.lock();
        for slot in slots {
            add(&mut rings.fine, &FINE, slot, cells);
            let old = slot * FINE.width_ms / COARSE.width_ms;
            add(&mut rings.coarse, &COARSE, old, cells);
        }
    }

    /// What was asked in the columns of a window, by row: the rows lie between those positions in `shards`, which ascend
    /// by key. Each column is a list of rows and what was asked of them; rows that nobody asked for are left out.
    pub fn picture(
        &self,
        window: &Window,
        metric: Metric,
        shards: &[Arc<Descriptor>],
        rows: &[usize],
    ) -> Vec<Vec<(u32, f32)>> {
        let rings = self.0.lock();
        let (ring, bounds) = match window.is_old() {
            false => (&rings.fine, &FINE),
            true => (&rings.coarse, &COARSE),
        };
        let mut columns = vec![Vec::new(); window.columns];
        let mut sums = vec![0.0; rows.len().saturating_sub(1)];
        let mut open = None;
        let mut close = |at: Option<usize>, sums: &mut Vec<f32>| {
            if let Some(column) = at.and_then(|at: usize| columns.get_mut(at)) {
                let sums = (0..).zip(sums.iter_mut());
                let asked = sums.filter(|(_, sum)| **sum > 0.0);
                *column = asked.map(|(row, sum)| (row, std::mem::take(sum))).collect();
            }
        };
        for column in ring {
            let at = window.column_of(column.slot * bounds.width_ms);
            if at != open {
                close(open, &mut sums);
                open = at;
            }
            if at.is_some() {
                for cell in &column.cells {
                    spread(cell, metric, shards, rows, &mut sums);
                }
            }
        }
        close(open, &mut sums);
        columns
    }
}

/// Adds to the column of a slot, which is the newest one or behind it; what comes later than that is lost.
fn add(ring: &mut VecDeque<Column>, bounds: &Bounds, slot: u64, cells: &[Cell]) {
    match ring.back_mut() {
        Some(newest) if newest.slot == slot => {
            newest.cells.extend_from_slice(cells);
            newest.cells = joined(std::mem::take(&mut newest.cells), bounds.cells);
        }
        Some(newest) if newest.slot > slot => {}
        _ => {
            if ring.len() == bounds.columns {
                ring.pop_front();
            }
            let cells = joined(cells.to_vec(), bounds.cells);
            ring.push_back(Column { slot, cells });
        }
    }
}

/// The cells by their keys, each range once, and so many at most: where there are more, the neighbours that were asked least
/// become one.
fn joined(mut cells: Vec<Cell>, cells_max: usize) -> Vec<Cell> {
    cells.sort_by(|one, other| one.first.range.start().cmp(other.first.range.start()));
    cells.dedup_by(|again, kept| {
        let same = kept.is_beside(again);
        if same {
            kept.counts.add(again.counts);
        }
        same
    });
    let too_many = cells.len().saturating_sub(cells_max);
    if too_many == 0 {
        return cells;
    }
    let asked = |cell: &Cell| cell.counts.of(Metric::Requests);
    let mut seams: Vec<usize> = (1..cells.len()).collect();
    // The seam between two cells is worth what is asked on its busier side: a hot shard keeps both of its own.
    let worth = |seam: &usize| asked(&cells[seam - 1]).max(asked(&cells[*seam]));
    seams.select_nth_unstable_by(too_many - 1, |one, other| {
        worth(one).total_cmp(&worth(other))
    });
    let mut opened = vec![false; cells.len()];
    for seam in &seams[..too_many] {
        opened[*seam] = true;
    }
    let mut kept: Vec<Cell> = Vec::with_capacity(cells_max);
    for (cell, opened) in cells.into_iter().zip(opened) {
        match kept.last_mut().filter(|_| opened) {
            Some(last) => {
                last.counts.add(cell.counts);
                let (end, new) = (last.last.range.end(), cell.last.range.end());
                if !last.last.range.is_open() && (cell.last.range.is_open() || new > end) {
                    last.last = cell.last;
                }
            }
            None => kept.push(cell),
        }
    }
    kept
}

/// Spreads what was asked of a cell evenly over the shards that hold its keys now, by row.
fn spread(
    cell: &Cell,
    metric: Metric,
    shards: &[Arc<Descriptor>],
    rows: &[usize],
    sums: &mut [f32],
) {
    let count = cell.counts.of(metric);
    if count == 0.0 {
        return;
    }
    let (start, range) = (cell.first.range.start(), &cell.last.range);
    let first = shards.partition_point(|shard| shard.range.start() <= start);
    let first = first.saturating_sub(1);
    let end = match range.is_open() {
        true => shards.len(),
        false => shards.partition_point(|shard| shard.range.start() < range.end()),
    };
    if end <= first {
        return;
    }
    let share = count / (end - first) as f32;
    let from = rows.partition_point(|row| *row <= first).saturating_sub(1);
    for (sum, row) in sums.iter_mut().zip(rows.windows(2)).skip(from) {
        let (low, high) = (row[0].max(first), row[1].min(end));
        if row[0] >= end {
            return;
        }
        *sum += share * high.saturating_sub(low) as f32;
    }
}

/// The time that a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The beginning, in milliseconds since 1970.
    pub from_ms: u64,
    /// Milliseconds of a column.
    pub width_ms: u64,
    /// Number of columns.
    pub columns: usize,
    /// What is behind this is not known yet.
    pub known_ms: u64,
}

impl Window {
    /// The last minutes before now, of which the newest column may be incomplete.
    pub fn before(now_ms: u64, minutes: u64) -> Self {
        let length = minutes.clamp(1, 24 * 60) * 60_000;
        let base = match length > FINE.width_ms * FINE.columns as u64 {
            false => FINE.width_ms,
            true => COARSE.width_ms,
        };
        let width = (length / base).div_ceil(PICTURE_COLUMNS) * base;
        let known = now_ms.saturating_sub(SETTLED_MS) / FINE_MS * FINE_MS;
        let columns = length / width;
        Self {
            from_ms: known.div_ceil(width).saturating_sub(columns) * width,
            width_ms: width,
            columns: columns as usize,
            known_ms: known,
        }
    }

    /// Columns of a window, at most.
    pub(super) const COLUMNS_MAX: usize = PICTURE_COLUMNS as usize;

    fn is_old(&self) -> bool {
        self.width_ms.saturating_mul(self.columns as u64) > FINE.width_ms * FINE.columns as u64
    }

    fn column_of(&self, ms: u64) -> Option<usize> {
        let column = ms.checked_sub(self.from_ms)? / self.width_ms.max(1);
        usize::try_from(column).ok().filter(|at| *at < self.columns)
    }

    /// Seconds of a column that have passed.
    pub fn seconds(&self, column: usize) -> f64 {
        let begin = self.from_ms + column as u64 * self.width_ms;
        let passed = self.known_ms.saturating_sub(begin);
        passed.clamp(FINE_MS, self.width_ms.max(FINE_MS)) as f64 / 1000.0
    }
}

#[cfg(test)]
mod tests;
