//! What is compared, and with what it is held against.

use clap::ValueEnum;
use serde::Serialize;

use super::{Compared, Measures, Round};

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub(crate) enum Row {
    /// Puts, one call each, 512 in flight
    Unary,
    /// Puts on streams, 16 times 64 in flight
    Stream,
    /// Linearizable gets, one call each, 512 in flight
    Get,
    /// Linearizable gets on streams
    #[value(name = "getstream")]
    GetStream,
    /// Gets by lease, one call each, 512 in flight; a cluster of its own
    #[value(name = "getlease")]
    GetLease,
    /// The knee, and the latency of puts at half of it
    Half,
    /// One put in flight
    One,
    /// 10,000 active shards
    Flat,
    /// Streamed puts, and three bare writers of RocksDB
    Bare,
}

/// Which side of a bound is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Higher,
    Lower,
}

/// One line of the result: a ratio, or a count.
struct Line {
    row: Row,
    what: &'static str,
    value: fn(&Round) -> Option<f64>,
    better: Better,
    must: f64,
    goal: f64,
}

fn put(measures: &Measures) -> Option<f64> {
    measures.put.map(|run| run.per_second)
}

fn get(measures: &Measures) -> Option<f64> {
    measures.get.map(|run| run.per_second)
}

fn put_cpu(measures: &Measures) -> Option<f64> {
    measures.put?.server_cpu_us
}

fn ratio(ours: Option<f64>, other: Option<f64>) -> Option<f64> {
    let (ours, other) = (ours?, other?);
    (other > 0.0).then(|| ours / other)
}

fn flat(round: &Round) -> Option<f64> {
    let (most, widest) = round.flotilla.flat.last()?;
    let narrow = round
        .flotilla
        .flat
        .iter()
        .filter(|(active, _)| (16..=256).contains(active));
    let best = narrow.map(|(_, rate)| *rate).reduce(f64::max)?;
    (*most > 256).then(|| ratio(Some(*widest), Some(best)))?
}

const LINES: [Line; 13] = [
    Line {
        row: Row::Unary,
        what: "puts per second, 512 in flight / etcd",
        value: |round| ratio(put(&round.flotilla), put(&round.etcd)),
        better: Better::Higher,
        must: 2.5,
        goal: 3.0,
    },
    Line {
        row: Row::Stream,
        what: "streamed puts per second / etcd's puts",
        value: |round| {
            let ours = round.flotilla.put_stream.map(|run| run.per_second);
            ratio(ours, put(&round.etcd))
        },
        better: Better::Higher,
        must: 5.0,
        goal: 8.0,
    },
    Line {
        row: Row::Flat,
        what: "streamed puts per second, 10,000 active shards / best of 16 to 256",
        value: flat,
        better: Better::Higher,
        must: 0.7,
        goal: 0.85,
    },
    Line {
        row: Row::Get,
        what: "linearizable gets per second, ReadIndex / etcd",
        value: |round| ratio(get(&round.flotilla), get(&round.etcd)),
        better: Better::Higher,
        must: 3.0,
        goal: 4.0,
    },
    Line {
        row: Row::GetLease,
        what: "linearizable gets per second, lease / etcd",
        value: |round| {
            let ours = round.flotilla.get_lease.map(|run| run.per_second);
            ratio(ours, get(&round.etcd))
        },
        better: Better::Higher,
        must: 4.0,
        goal: 5.0,
    },
    Line {
        row: Row::GetStream,
        what: "streamed linearizable gets per second / etcd's gets",
        value: |round| {
            let ours = round.flotilla.get_stream.map(|run| run.per_second);
            ratio(ours, get(&round.etcd))
        },
        better: Better::Higher,
        must: 15.0,
        goal: 20.0,
    },
    Line {
        row: Row::Half,
        what: "put p99 at half of the own knee / etcd's at half of its own",
        value: |round| {
            let p99 = |measures: &Measures| measures.half.map(|run| run.p99_us);
            ratio(p99(&round.flotilla), p99(&round.etcd))
        },
        better: Better::Lower,
        must: 0.5,
        goal: 0.3,
    },
    Line {
        row: Row::One,
        what: "one put in flight, p50 / fdatasync p50",
        value: |round| {
            let p50 = round.flotilla.one.map(|run| run.p50_us);
            ratio(p50, Some(round.fdatasync_p50_us()))
        },
        better: Better::Lower,
        must: 3.0,
        goal: 2.2,
    },
    Line {
        row: Row::Bare,
        what: "streamed puts per second / slowest of three bare RocksDB writers",
        value: |round| {
            let ours = round.flotilla.put_stream.map(|run| run.per_second);
            ratio(ours, round.flotilla.bare)
        },
        better: Better::Higher,
        must: 0.6,
        goal: 0.8,
    },
    Line {
        row: Row::Unary,
        what: "server CPU per put / etcd",
        value: |round| ratio(put_cpu(&round.flotilla), put_cpu(&round.etcd)),
        better: Better::Lower,
        must: 0.35,
        goal: 0.3,
    },
    Line {
        row: Row::Stream,
        what: "server CPU per streamed put / etcd's put",
        value: |round| {
            let ours = round.flotilla.put_stream.and_then(|run| run.server_cpu_us);
            ratio(ours, put_cpu(&round.etcd))
        },
        better: Better::Lower,
        must: 0.2,
        goal: 0.12,
    },
    Line {
        row: Row::Half,
        what: "writes per fsync at the knee",
        value: |round| round.flotilla.knee_writes_per_fsync,
        better: Better::Higher,
        must: 64.0,
        goal: 200.0,
    },
    Line {
        row: Row::One,
        what: "fsyncs per write and node, one in flight",
        value: |round| round.flotilla.one?.fsyncs_per_operation_and_node,
        better: Better::Lower,
        must: 1.0,
        goal: 1.0,
    },
];

/// The middle one; of an even number, the mean of both in the middle.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (last, middle) = (sorted.len().checked_sub(1)?, sorted.len() / 2);
    Some(f64::midpoint(sorted[last / 2], sorted[middle]))
}

/// A line with what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Held {
    pub(super) row: Row,
    pub(super) what: &'static str,
    pub(super) median: Option<f64>,
    /// Of each round that counts.
    pub(super) rounds: Vec<f64>,
    pub(super) must: String,
    pub(super) goal: String,
    pub(super) verdict: &'static str,
}

/// Rounding must not decide: a count of exactly one fsync per write is one fsync per write.
const GRAIN: f64 = 0.005;

impl Line {
    fn held(&self, rounds: &[&Round]) -> Held {
        let values: Vec<f64> = rounds
            .iter()
            .filter_map(|round| (self.value)(round))
            .collect();
        let median = median(&values);
        let met = |bound: f64| {
            median.is_some_and(|median| match self.better {
                Better::Higher => median >= bound - GRAIN,
                Better::Lower => median <= bound + GRAIN,
            })
        };
        let bound = |bound: f64| match self.better {
            Better::Higher => format!("≥ {bound}"),
            Better::Lower => format!("≤ {bound}"),
        };
        Held {
            row: self.row,
            what: self.what,
            median,
            verdict: match () {
                () if median.is_none() => "NOT MEASURED",
                () if met(self.goal) => "goal",
                () if met(self.must) => "must",
                () => "MISSED",
            },
            rounds: values,
            must: bound(self.must),
            goal: bound(self.goal),
        }
    }
}

impl Compared {
    /// The rounds that count: all steady ones. If there is none, all: and the report says that they prove nothing.
    pub(super) fn counting(&self) -> (Vec<&Round>, bool) {
        let steady: Vec<&Round> = self
            .rounds
            .iter()
            .filter(|round| round.is_steady())
            .collect();
        match steady.is_empty() {
            true => (self.rounds.iter().collect(), false),
            false => (steady, true),
        }
    }

    /// All lines of the rows that were asked for.
    pub(super) fn held(&self) -> Vec<Held> {
        let (rounds, _) = self.counting();
        let lines = LINES.iter().filter(|line| self.rows.contains(&line.row));
        lines.map(|line| line.held(&rounds)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::*, *};

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn a_result_is_the_median_of_the_ratios_of_steady_rounds() {
        let compared = compared(vec![
            round(3000.0, 1000.0, 100.0),
            round(2600.0, 1000.0, 100.0),
            round(9000.0, 1000.0, 300.0),
            round(2000.0, 1000.0, 100.0),
        ]);
        let held = compared.held();
        assert_eq!(held[0].rounds, [3.0, 2.6, 2.0]);
        assert_eq!((held[0].median, held[0].verdict), (Some(2.6), "must"));
        let cpu = held
            .iter()
            .find(|held| held.what.starts_with("server CPU"))
            .expect("a line");
        assert_eq!((cpu.median, cpu.verdict), (Some(0.25), "goal"));
        let one = held
            .iter()
            .find(|held| held.what.starts_with("one put"))
            .expect("a line");
        assert_eq!((one.median, one.verdict), (Some(2.5), "must"));
        assert!(
            held.iter().all(|held| held.row != Row::Get),
            "only what was asked for"
        );
    }

    #[test]
    fn without_a_steady_round_nothing_is_proved() {
        let compared = compared(vec![round(3000.0, 1000.0, 300.0)]);
        assert!(!compared.counting().1);
        assert_eq!(compared.held()[0].median, Some(3.0));
    }

    #[test]
    fn what_is_missing_is_not_measured() {
        let mut one = round(1.0, 1.0, 100.0);
        one.etcd.put = None;
        let held = compared(vec![one]).held();
        assert_eq!((held[0].median, held[0].verdict), (None, "NOT MEASURED"));
    }

    #[test]
    fn flatness_is_held_against_the_best_of_few_shards() {
        let mut one = round(1.0, 1.0, 100.0);
        one.flotilla.flat = vec![(16, 50.0), (256, 40.0), (1000, 90.0), (9999, 45.0)];
        assert_eq!(flat(&one), Some(0.9));
        one.flotilla.flat.pop();
        one.flotilla.flat.pop();
        assert_eq!(flat(&one), None);
    }
}
