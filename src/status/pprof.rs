//! Profiles as `pprof` reads them: the messages of its `profile.proto`, as far as a CPU profile needs them.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Profile {
    #[prost(message, repeated, tag = "1")]
    pub(super) sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub(super) sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    pub(super) location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub(super) function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    pub(super) string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

/// Both are places in the table of strings.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Sample {
    /// The innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(super) value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    pub(super) name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Each text once; the first is the empty one.
struct Strings {
    all: Vec<String>,
    known: HashMap<String, i64>,
}

impl Strings {
    fn place(&mut self, text: &str) -> i64 {
        if let Some(place) = self.known.get(text) {
            return *place;
        }
        let place = self.all.len() as i64;
        self.all.push(text.to_owned());
        self.known.insert(text.to_owned(), place);
        place
    }
}

/// What was found in so long, sampled so many times per second of processor time.
pub(super) fn of_report(report: &::pprof::Report, took: Duration, frequency: i32) -> Profile {
    let mut strings = Strings {
        all: vec![String::new()],
        known: HashMap::from([(String::new(), 0)]),
    };
    let mut of = |kind: &str, unit: &str| ValueType {
        kind: strings.place(kind),
        unit: strings.place(unit),
    };
    let (samples, cpu) = (of("samples", "count"), of("cpu", "nanoseconds"));
    let thread = strings.place("thread");
    let period = 1_000_000_000 / i64::from(frequency.max(1));
    let mut profile = Profile {
        sample_type: vec![samples, cpu],
        duration_nanos: i64::try_from(took.as_nanos()).unwrap_or(i64::MAX),
        time_nanos: (report.timing.start_time.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_nanos()).ok())
            .unwrap_or_default(),
        period_type: Some(cpu),
        period,
        ..Profile::default()
    };
    let mut functions: HashMap<(i64, i64), u64> = HashMap::new();
    let mut locations: HashMap<(u64, i64), u64> = HashMap::new();
    for (stack, count) in &report.data {
        let mut location_id = Vec::new();
        for symbol in stack.frames.iter().flatten() {
            let (name, file) = (
                strings.place(&symbol.name()),
                strings.place(&symbol.filename()),
            );
            let next = functions.len() as u64 + 1;
            let function_id = *functions.entry((name, file)).or_insert_with(|| {
                profile.function.push(Function {
                    id: next,
                    name,
                    system_name: strings.place(&symbol.sys_name()),
                    filename: file,
                });
                next
            });
            let line = i64::from(symbol.lineno());
            let next = locations.len() as u64 + 1;
            let id = *locations.entry((function_id, line)).or_insert_with(|| {
                profile.location.push(Location {
                    id: next,
                    line: vec![Line { function_id, line }],
                });
                next
            });
            location_id.push(id);
        }
        let count = *count as i64;
        profile.sample.push(Sample {
            location_id,
            value: vec![count, count.saturating_mul(period)],
            label: vec![Label {
                key: thread,
                text: strings.place(&stack.thread_name_or_id()),
            }],
        });
    }
    profile.string_table = strings.all;
    profile
}
