//! One run: a cluster, clients, a prober, and fault after fault; then calm, and the judgement.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use flotilla_faultfs::FaultFs;
use flotilla_harness::{Cluster, PATIENCE, Plan, Split};
use flotilla_history::{History, Limits, check};
use flotilla_proto::v1::show_shard_request::Which;
use flotilla_shards::{ids::ShardId, range_map::RangeMap};

use crate::{
    clients::{Clients, Starts, range_map},
    nemesis::{Fault, Kind, Nemesis},
    probe::Prober,
    record::Record,
    report::{Band, Drains, Recovery, Report, machine},
};

const NODES: usize = 3;
const SHARDS: u32 = 8;

/// Small files, and flushes and cuts of the log every second, so that faults meet all of them.
const SETTINGS: [(&str, &str); 6] = [
    ("raft.reserve_entries", "16"),
    ("raft.log_bytes", "1MiB"),
    ("storage.log_memtable", "1MiB"),
    ("storage.state_memtable", "1MiB"),
    ("storage.replay_limit", "4MiB"),
    ("storage.flush_age", "1s"),
];

/// What to run.
pub(crate) struct Order {
    pub(crate) seed: u64,
    /// How long faults go on.
    pub(crate) length: Duration,
    /// `raft.election_timeout`, for the configuration and for reckoning.
    pub(crate) election_timeout: (&'static str, Duration),
    /// Kinds of faults, of which those come that can be injected here.
    pub(crate) kinds: Vec<Kind>,
    /// Name of the files that it leaves.
    pub(crate) name: &'static str,
}

/// A run under way.
struct Run {
    cluster: Cluster,
    map: Arc<RangeMap>,
    record: Arc<Record>,
    starts: Starts,
    prober: Prober,
    bands: Vec<Band>,
    recoveries: BTreeMap<Kind, Recovery>,
    drains: Drains,
    problems: Vec<String>,
    quorums_gone: usize,
}

impl Order {
    /// Runs it and leaves a report and the history in the build folder.
    ///
    /// # Panics
    /// The cluster does not serve again after a fault, a node ends by itself, or its replicas differ at the end.
    pub(crate) fn run(&self) -> Report {
        let disks: Result<Vec<FaultFs>, _> = (0..NODES).map(|_| FaultFs::mount()).collect();
        let mut not_tested = vec![
            "clock steps: the clock of the host can't be moved for one process without rights over all".to_owned(),
        ];
        let disks = disks.unwrap_or_else(|error| {
            let kinds = Kind::ALL.iter().filter(|kind| kind.needs_disks());
            let names: Vec<&str> = kinds.map(|kind| kind.name()).collect();
            not_tested.push(format!("{}: {error}", names.join(", ")));
            Vec::new()
        });
        for what in &not_tested {
            // Past the test harness, which swallows what the macros print.
            let _ = writeln!(io::stderr(), "NOT TESTED: {what}");
        }
        let kinds = self.kinds.iter().copied();
        let kinds = kinds.filter(|kind| !kind.needs_disks() || !disks.is_empty());
        let (setting, election_timeout) = self.election_timeout;
        let kinds: Vec<Kind> = kinds.collect();
        let mut nemesis = Nemesis::new(self.seed, kinds.clone(), NODES, election_timeout);
        let cluster = Cluster::start(Plan {
            nodes: NODES,
            split: Split::Even(SHARDS),
            settings: [&SETTINGS[..], &[("raft.election_timeout", setting)]].concat(),
            disks,
            ..Plan::default()
        });
        let (record, starts) = (Arc::new(Record::new()), Starts::new(NODES));
        let map = range_map(&cluster);
        let clients = Clients::begin(&cluster, &record, &starts, &map, self.seed);
        let mut run = Run {
            prober: Prober::begin(&cluster, &map, election_timeout / 4),
            cluster,
            map,
            record,
            starts,
            bands: Vec::new(),
            recoveries: BTreeMap::new(),
            drains: Drains::default(),
            problems: Vec::new(),
            quorums_gone: 0,
        };
        let begin = Instant::now();
        while begin.elapsed() < self.length {
            run.round(nemesis.draw());
        }
        let faults_end = run.record.now();
        let unseen = kinds
            .iter()
            .filter(|kind| !run.recoveries.contains_key(kind));
        let unseen: Vec<&str> = unseen.map(|kind| kind.name()).collect();
        if !unseen.is_empty() {
            not_tested.push(format!("did not come in this run: {}", unseen.join(", ")));
        }
        run.calm(clients);
        let (history, timeline, wrong) = run.record.take();
        let problems = wrong.into_iter().chain(run.problems);
        let folder = folder();
        let file = folder.join(format!("{}.history.jsonl", self.name));
        write(&file, |out| history.write(out));
        let (verdict, passed) = judge(&history);
        let report = Report {
            seed: self.seed,
            machine: machine(),
            election_timeout,
            nodes: NODES,
            shards: run.map.shards().len(),
            faults_end,
            timeline,
            bands: run.bands,
            recoveries: run.recoveries,
            drains: run.drains,
            quorums_gone: run.quorums_gone,
            verdict,
            passed,
            problems: problems.collect(),
            not_tested,
            history: file,
        };
        let page = folder.join(format!("{}.html", self.name));
        write(&page, |out| out.write_all(report.html().as_bytes()));
        let _ = writeln!(
            io::stderr(),
            "{}\nreport: {}",
            report.text(),
            page.display()
        );
        report
    }
}

impl Run {
    /// One fault, from its beginning until all shards serve again.
    fn round(&mut self, mut fault: Fault) {
        thread::sleep(fault.calm);
        let leaders = self.leaders();
        if fault.strikes_most {
            let led = |node| leaders.values().filter(|leader| **leader == node).count();
            let most = (0..NODES).max_by_key(|node| led(*node)).expect("nodes");
            fault.strike_at(most);
        }
        self.prober.take();
        self.prober.be_patient(fault.kind == Kind::Drain);
        for node in fault.ends(NODES) {
            self.starts.changes(node);
        }
        let (from, before) = (self.record.now(), Instant::now());
        fault.strike(&mut self.cluster);
        let struck = Instant::now();
        if fault.kind != Kind::Drain {
            thread::sleep(fault.hold);
        }
        self.assert_none_has_ended(&fault);
        if fault.kind.leaves_a_quorum() && fault.kind != Kind::Drain {
            self.explain_unserved(&fault, &leaders, struck);
        }
        let to = self.record.now();
        let stopped = (0..NODES).filter(|node| !self.cluster.runs(*node));
        stopped.for_each(|node| self.starts.changes(node));
        let healing = Instant::now();
        fault.heal(&mut self.cluster);
        let healed = Instant::now();
        while let Some(node) = (0..NODES).find(|node| !self.cluster.serves(*node)) {
            self.assert_none_has_ended(&fault);
            assert!(
                healed.elapsed() < PATIENCE,
                "{fault}: node {node} does not serve {PATIENCE:?} after it"
            );
            thread::sleep(Duration::from_millis(20));
        }
        let shards: BTreeSet<ShardId> = leaders.keys().copied().collect();
        self.until_served(&fault, &shards, healed);
        self.bands.push(Band {
            name: fault.to_string(),
            kind: fault.kind,
            from,
            to,
            served: self.record.now(),
        });
        eprintln!(
            "{:6.1} s  {fault}: {:.1} s, all serve {:.2} s after it",
            from.as_secs_f64(),
            (to - from).as_secs_f64(),
            (self.record.now() - to).as_secs_f64()
        );
        let recovery = self.recoveries.entry(fault.kind).or_default();
        recovery.faults += 1;
        if !fault.kind.leaves_a_quorum() {
            self.quorums_gone += 1;
            for shard in shards {
                let served = self.prober.served_since(shard, healed).expect("waited for");
                recovery.times.add(served - healed);
            }
            let early = self.prober.take().into_iter().filter(|probe| {
                probe.error.is_none() && probe.sent > struck && probe.ended < healing
            });
            let early = early.count();
            if early > 0 {
                let problem = format!("{fault}: {early} writes acknowledged without a quorum");
                self.problems.push(problem);
            }
        } else if fault.kind == Kind::Drain {
            for probe in self.prober.take() {
                if probe.sent >= before {
                    self.drains.add(probe.ended - probe.sent, probe.error);
                }
            }
        } else {
            for (shard, leader) in leaders {
                if !fault.strikes(leader) {
                    continue;
                }
                let served = self.prober.served_since(shard, struck).expect("waited for");
                recovery.times.add(served - struck);
                recovery.late += usize::from(served > healing);
            }
        }
    }

    fn assert_none_has_ended(&mut self, fault: &Fault) {
        if let Some(node) = (0..NODES).find(|node| self.cluster.has_ended(*node)) {
            let status = self.cluster.wait(node);
            panic!("{fault}: node {node} has ended by itself: {status}");
        }
    }

    /// Who leads which shard.
    fn leaders(&self) -> BTreeMap<ShardId, usize> {
        let known: BTreeSet<ShardId> = self.map.shards().iter().map(|shard| shard.shard).collect();
        self.cluster
            .until_some("each shard has one leader", |cluster| {
                let mut leaders = BTreeMap::new();
                for node in 0..NODES {
                    for shard in cluster.shards(node) {
                        let leads = shard.local.is_some_and(|replica| replica.role == "leader");
                        let id = ShardId(shard.descriptor.unwrap_or_default().shard_id);
                        if leads && known.contains(&id) {
                            leaders.insert(id, node);
                        }
                    }
                }
                (leaders.len() == known.len()).then_some(leaders)
            })
    }

    /// Says what is known of shards that are not served although there is a quorum.
    fn explain_unserved(&self, fault: &Fault, leaders: &BTreeMap<ShardId, usize>, since: Instant) {
        for (shard, leader) in leaders {
            if self.prober.served_since(*shard, since).is_some() {
                continue;
            }
            let error = self.prober.last_error(*shard);
            eprintln!("{fault}: {shard:?}, which node {leader} led, is not served: {error:?}");
            for node in 0..NODES {
                let replica = self.cluster.replica(node, &Which::ShardId(shard.0));
                eprintln!("  node {node}: {replica:?}");
            }
        }
    }

    fn until_served(&self, fault: &Fault, shards: &BTreeSet<ShardId>, since: Instant) {
        while let Some(shard) = shards
            .iter()
            .find(|shard| self.prober.served_since(**shard, since).is_none())
        {
            assert!(
                since.elapsed() < PATIENCE,
                "{fault}: {shard:?} takes no writes {PATIENCE:?} after it"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything comes to rest: all nodes return the same rows, all replicas are alike, and clients read it once more.
    fn calm(&mut self, clients: Clients) {
        clients.end(&self.cluster, &self.record, &self.starts);
        self.prober.end(&self.cluster);
        let rows: Vec<_> = (0..NODES).map(|node| self.cluster.rows(node)).collect();
        for node in 1..NODES {
            if rows[node] != rows[0] {
                let counts = (rows[0].len(), rows[node].len());
                let problem = format!("nodes 0 and {node} return other rows: {counts:?}");
                self.problems.push(problem);
            }
        }
        self.cluster.assert_replicas_agree();
    }
}

/// What the judge says, and whether that is good.
fn judge(history: &History) -> (String, bool) {
    let begin = Instant::now();
    let report = check(history, &Limits::default());
    let time = begin.elapsed().as_secs_f64();
    let text = format!("{} (judged in {time:.1} s)", report.display(history));
    (text, report.passed())
}

/// `chaos` in the build folder.
fn folder() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let folder = target.expect("it lies in the build folder").join("chaos");
    fs::create_dir_all(&folder).expect("the build folder is writable");
    folder
}

/// Writes a file that is there as a whole or not at all, whoever else runs the same.
fn write(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let written = File::create(&part).and_then(|file| {
        let mut file = BufWriter::new(file);
        content(&mut file)?;
        file.flush()?;
        fs::rename(&part, path)
    });
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
