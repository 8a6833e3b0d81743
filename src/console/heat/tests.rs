//! The heat map against a naive twin, and its bounds.

use bytes::Bytes;
use flotilla_shards::{
    descriptor::{Epoch, KeyRange},
    ids::ShardId,
};

use super::*;

/// Shards that are cut at these keys, with ids from 2 on.
pub(in crate::console) fn shards(cuts: &[&str]) -> Vec<Arc<Descriptor>> {
    let key = |at: usize| {
        cuts.get(at)
            .map_or(Bytes::new(), |key| Bytes::from((*key).to_owned()))
    };
    let starts = std::iter::once(Bytes::new()).chain((0..cuts.len()).map(key));
    let shard = |(at, start): (usize, Bytes)| {
        Arc::new(Descriptor {
            shard: ShardId(2 + at as u64),
            range: KeyRange::new(start, key(at)).expect("the cuts ascend"),
            epoch: Epoch::default(),
            replicas: Vec::new(),
        })
    };
    starts.enumerate().map(shard).collect()
}

/// So many shards of two hex digits each.
fn many(count: usize) -> Vec<Arc<Descriptor>> {
    let cuts: Vec<String> = (1..count).map(|cut| format!("{cut:05}")).collect();
    shards(&cuts.iter().map(String::as_str).collect::<Vec<_>>())
}

fn cell(shard: &Arc<Descriptor>, reads: f32, writes: f32) -> Cell {
    let counts = Counts {
        reads,
        writes,
        bytes: 10.0 * writes,
    };
    Cell::new(Arc::clone(shard), counts)
}

fn window(from_slot: u64, columns: usize) -> Window {
    Window {
        from_ms: from_slot * FINE_MS,
        width_ms: FINE_MS,
        columns,
        known_ms: (from_slot + columns as u64) * FINE_MS,
    }
}

#[test]
fn what_was_asked_is_found_where_and_when_it_was() {
    let shards = shards(&["b", "d", "f"]);
    let heat = Heat::default();
    heat.note(100..101, &[cell(&shards[1], 3.0, 4.0)]);
    heat.note(
        102..104,
        &[cell(&shards[3], 0.0, 5.0), cell(&shards[0], 1.0, 0.0)],
    );
    let rows = [0, 1, 2, 3, 4];
    let picture = |metric| heat.picture(&window(99, 5), metric, &shards, &rows);
    let late = vec![(0, 1.0), (3, 5.0)];
    assert_eq!(
        picture(Metric::Requests),
        [vec![], vec![(1, 7.0)], vec![], late.clone(), late]
    );
    assert_eq!(picture(Metric::Reads)[1], [(1, 3.0)]);
    assert_eq!(picture(Metric::Writes)[3], [(3, 5.0)]);
    assert_eq!(picture(Metric::Bytes)[1], [(1, 40.0)]);
}

#[test]
fn columns_and_rows_are_put_together_and_zoomed() {
    let shards = many(10);
    let heat = Heat::default();
    for slot in 0..12 {
        heat.note(
            slot..slot + 1,
            &[cell(&shards[4], 1.0, 0.0), cell(&shards[9], 0.0, 2.0)],
        );
    }
    let wide = Window {
        width_ms: 3 * FINE_MS,
        columns: 4,
        ..window(0, 12)
    };
    let all = heat.picture(&wide, Metric::Requests, &shards, &[0, 5, 10]);
    assert_eq!(all, vec![vec![(0, 3.0), (1, 6.0)]; 4]);
    let part = heat.picture(&wide, Metric::Requests, &shards, &[3, 4, 5]);
    assert_eq!(part, vec![vec![(1, 3.0)]; 4], "what is outside is left out");
}

#[test]
fn a_cell_is_spread_over_the_shards_that_hold_its_keys_now() {
    let old = shards(&["m"]);
    let heat = Heat::default();
    heat.note(7..8, &[cell(&old[0], 4.0, 0.0), cell(&old[1], 6.0, 0.0)]);
    // The first one was split in four, the other one in three.
    let now = shards(&["b", "c", "d", "m", "p", "x"]);
    let rows = [0, 1, 4, 7];
    let picture = heat.picture(&window(7, 1), Metric::Reads, &now, &rows);
    assert_eq!(picture, [vec![(0, 1.0), (1, 3.0), (2, 6.0)]]);
    // And merged again.
    let picture = heat.picture(&window(7, 1), Metric::Reads, &shards(&[]), &[0, 1]);
    assert_eq!(picture, [vec![(0, 10.0)]]);
}

#[test]
fn where_too_many_were_asked_hot_shards_stay_apart_and_nothing_is_lost() {
    let shards = many(5_000);
    let hot = [17, 18, 2_500, 4_999];
    let asked = |at: usize| if hot.contains(&at) { 1_000.0 } else { 1.0 };
    let cells: Vec<Cell> = (0..)
        .zip(&shards)
        .map(|(at, shard)| cell(shard, asked(at), 0.0))
        .collect();
    let heat = Heat::default();
    heat.note(5..6, &cells);
    let (columns, rings) = {
        let rings = heat.0.lock();
        let lengths = [&rings.fine[0], &rings.coarse[0]].map(|column| column.cells.len());
        (heat_rows(&rings.fine[0]), lengths)
    };
    assert_eq!(rings, [FINE.cells, COARSE.cells]);
    for at in hot {
        let own = columns
            .iter()
            .find(|(first, last, _)| *first == at && *last == at);
        assert_eq!(own, Some(&(at, at, 1_000.0)));
    }
    let sum: f32 = columns.iter().map(|(_, _, asked)| asked).sum();
    assert_eq!(sum, 4_996.0 + 4_000.0);
    // The cells still tile what was asked.
    let ends = columns.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0);
    assert!(ends, "{columns:?}");
}

/// The cells of a column as places in [`many`].
fn heat_rows(column: &Column) -> Vec<(usize, usize, f32)> {
    let place = |shard: &Descriptor| shard.shard.0 as usize - 2;
    let row = |cell: &Cell| (place(&cell.first), place(&cell.last), cell.counts.reads);
    column.cells.iter().map(row).collect()
}

#[test]
fn what_is_kept_has_a_bound_and_the_oldest_goes() {
    let shards = shards(&["m"]);
    let heat = Heat::default();
    for slot in 0..30_000 {
        heat.note(slot..slot + 1, &[cell(&shards[0], 1.0, 0.0)]);
    }
    let rings = heat.0.lock();
    assert_eq!(
        (rings.fine.len(), rings.coarse.len()),
        (FINE.columns, COARSE.columns)
    );
    assert_eq!(
        rings
            .coarse
            .back()
            .map(|column| column.cells[0].counts.reads),
        Some(12.0)
    );
    assert_eq!(
        rings.fine.front().map(|column| column.slot),
        Some(30_000 - 720)
    );
}

#[test]
fn a_day_is_drawn_from_old_columns() {
    let shards = shards(&["m"]);
    let heat = Heat::default();
    // Three hours, one request each five seconds.
    let now = 10_000_000 * FINE_MS;
    let slots = now / FINE_MS - 3 * 720..now / FINE_MS;
    for slot in slots {
        heat.note(slot..slot + 1, &[cell(&shards[1], 1.0, 0.0)]);
    }
    let window = Window::before(now + SETTLED_MS, 24 * 60);
    let picture = heat.picture(&window, Metric::Requests, &shards, &[0, 1, 2]);
    assert_eq!(picture.len(), 240);
    let sum: f32 = picture.iter().flatten().map(|(_, asked)| asked).sum();
    assert_eq!(sum, 3.0 * 720.0);
    assert!(picture[..200].iter().all(Vec::is_empty));
    // Every column but the newest has had its six minutes.
    assert_eq!(picture[238], [(1, 72.0)]);
}

#[test]
fn a_clock_that_goes_back_loses_what_it_can_not_place() {
    let shards = shards(&[]);
    let heat = Heat::default();
    heat.note(50..51, &[cell(&shards[0], 1.0, 0.0)]);
    heat.note(40..41, &[cell(&shards[0], 1.0, 0.0)]);
    let (start, end) = (60, 50);
    heat.note(Range { start, end }, &[cell(&shards[0], 1.0, 0.0)]);
    let picture = heat.picture(&window(30, 40), Metric::Reads, &shards, &[0, 1]);
    let asked: Vec<usize> = (0..40).filter(|at| !picture[*at].is_empty()).collect();
    assert_eq!(asked, [20]);
}

#[test]
fn windows_end_now_and_hold_what_was_asked_for() {
    let now = 1_800_000_000_000;
    for (minutes, width_ms, columns) in [
        (0, FINE_MS, 12),
        (5, FINE_MS, 60),
        (15, FINE_MS, 180),
        (60, 3 * FINE_MS, 240),
        (6 * 60, 2 * COARSE_MS, 180),
        (24 * 60, 6 * COARSE_MS, 240),
        (9_999_999, 6 * COARSE_MS, 240),
    ] {
        for now in [now, now + 1_234, now + 59_999] {
            let window = Window::before(now, minutes);
            assert_eq!(
                (window.width_ms, window.columns),
                (width_ms, columns),
                "{minutes}"
            );
            let end = window.from_ms + width_ms * columns as u64;
            assert!(
                (window.known_ms..window.known_ms + width_ms).contains(&end),
                "{window:?}"
            );
            assert!((now - SETTLED_MS - FINE_MS + 1..=now - SETTLED_MS).contains(&window.known_ms));
        }
    }
    let window = Window::before(1_800_000_008_000, 60);
    assert_eq!(window.seconds(0), 15.0);
    assert_eq!(window.seconds(window.columns - 1), 5.0, "it has just begun");
}

#[test]
fn a_look_belongs_to_the_column_that_it_ends_also_if_it_is_a_little_early_or_late() {
    for late in [0, 1, 2_000] {
        assert_eq!(slot_ended_at(50_000 + late), 9);
        assert_eq!(slot_ended_at(50_000 - late), 9);
    }
    assert_eq!(slot_ended_at(0), 0);
}
