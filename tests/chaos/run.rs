//! One run: a cluster, clients, a prober, and fault after fault; then calm, and the judgement.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use flotilla::bench::machine;
use flotilla_faultfs::FaultFs;
use flotilla_harness::{Cluster, PATIENCE, Plan, Split, clock::Clocks};
use flotilla_history::{History, Limits, check};
use flotilla_proto::v1::show_shard_request::Which;
use flotilla_shards::{ids::ShardId, range_map::RangeMap};

use crate::{
    chart::BETWEEN_NAMES,
    clients::{Clients, Starts, range_map},
    fault::Fault,
    harm::{Harm, Service},
    interrupt::Interrupt,
    kind::{Kind, Target},
    nemesis::{Nemesis, Round},
    probe::{PROMPT, Prober},
    record::{Prompt, Record},
    report::{Band, Recovery, Report, Struck, Verdict},
};

const SHARDS: u32 = 8;
/// Between two looks at whether something has come about.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

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
    pub(crate) nodes: usize,
    pub(crate) length: Length,
    /// `raft.election_timeout`, for the configuration and for reckoning.
    pub(crate) election_timeout: (&'static str, Duration),
    /// Kinds of faults, of which those come that can be injected here.
    pub(crate) kinds: Vec<Kind>,
    /// Name of the files that it leaves.
    pub(crate) name: &'static str,
}

/// How long faults go on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    For(Duration),
    /// So many rounds.
    Rounds(usize),
}

/// A run under way.
struct Run {
    cluster: Cluster,
    map: Arc<RangeMap>,
    /// The nodes of each shard's replicas.
    replicas: Vec<Vec<usize>>,
    record: Arc<Record>,
    starts: Starts,
    prober: Prober,
    interrupt: Interrupt,
    unit: Duration,
    bands: Vec<Band>,
    injected: BTreeMap<Kind, usize>,
    recoveries: BTreeMap<Struck, Recovery>,
    prompt: Prompt,
    problems: Vec<String>,
    not_tested: Vec<String>,
    quorums_gone: usize,
}

/// What there is of the means to inject faults.
struct Means {
    disks: Vec<FaultFs>,
    clocks: Option<Clocks>,
    missing: Vec<String>,
}

impl Means {
    fn find(nodes: usize) -> Self {
        let mut missing = vec![
            "steps of the monotonic clock: systems promise that there are none; a process that stands still is the pause"
                .to_owned(),
        ];
        let mut lacks = |target: Target, why: String| {
            let kinds = Kind::ALL.iter().filter(|kind| kind.target() == target);
            let names: Vec<&str> = kinds.map(|kind| kind.name()).collect();
            missing.push(format!("{}: {why}", names.join(", ")));
        };
        let disks: Result<Vec<FaultFs>, _> = (0..nodes).map(|_| FaultFs::mount()).collect();
        let disks = disks.unwrap_or_else(|error| {
            lacks(Target::Disks, error.to_string());
            Vec::new()
        });
        let clocks = Clocks::find();
        let clocks = clocks.map_err(|error| lacks(Target::Clocks, error.to_string()));
        let clocks = clocks.ok();
        for what in &missing {
            say(&format!("NOT TESTED: {what}"));
        }
        // There nothing may go untested that the machine has only to be set up for.
        let ci = env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(
            !ci || (!disks.is_empty() && clocks.is_some()),
            "{missing:#?}"
        );
        Self {
            disks,
            clocks,
            missing,
        }
    }

    fn allows(&self, kind: Kind) -> bool {
        match kind.target() {
            Target::Disks => !self.disks.is_empty(),
            Target::Clocks => self.clocks.is_some(),
            Target::Processes | Target::Network | Target::Operation => true,
        }
    }
}

/// Past the test harness, which swallows what the macros print of tests that pass.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

impl Order {
    /// Runs it and leaves a report and the histories in the build folder, also if it is interrupted or panics.
    ///
    /// # Panics
    /// The cluster does not serve again after a fault, a node ends by itself, or its replicas differ at the end.
    pub(crate) fn run(&self) -> Report {
        let interrupt = Interrupt::watch();
        let means = Means::find(self.nodes);
        let kinds = self.kinds.iter().copied();
        let kinds: Vec<Kind> = kinds.filter(|kind| means.allows(*kind)).collect();
        assert!(
            !kinds.is_empty(),
            "none of the faults that are wanted can be injected here"
        );
        let (setting, election_timeout) = self.election_timeout;
        let cluster = Cluster::start(Plan {
            nodes: self.nodes,
            split: Split::Even(SHARDS),
            settings: [&SETTINGS[..], &[("raft.election_timeout", setting)]].concat(),
            disks: means.disks,
            clocks: means.clocks,
            ..Plan::default()
        });
        let (record, starts) = (Arc::new(Record::new()), Starts::new(self.nodes));
        let map = range_map(&cluster);
        let clients = Clients::begin(&cluster, &record, &starts, &map, self.seed);
        let node_of = |id: u64| (0..self.nodes).find(|node| cluster.id(*node) == id);
        let replicas = map.shards().iter().map(|shard| {
            let nodes = shard.replicas.iter().map(|replica| node_of(replica.node.0));
            nodes
                .map(|node| node.expect("replicas live on nodes"))
                .collect()
        });
        let replicas = replicas.collect();
        let mut run = Run {
            prober: Prober::begin(&cluster, &map, election_timeout / 4),
            cluster,
            map,
            replicas,
            record,
            starts,
            interrupt,
            unit: election_timeout,
            bands: Vec::new(),
            injected: BTreeMap::new(),
            recoveries: BTreeMap::new(),
            prompt: Prompt::default(),
            problems: Vec::new(),
            not_tested: means.missing,
            quorums_gone: 0,
        };
        let mut faults_end = None;
        let ended = panic::catch_unwind(AssertUnwindSafe(|| {
            let nemesis = Nemesis::new(self.seed, kinds.clone(), self.nodes, election_timeout);
            run.storm(nemesis, self.length);
            faults_end = Some(run.record.now());
            if !run.interrupt.came() {
                run.calm(clients, &kinds);
            }
        }));
        let cut_short = match &ended {
            Err(panic) => Some(format!("the run panicked: {}", message(panic))),
            Ok(()) if run.interrupt.came() => {
                Some("the run was interrupted by a signal".to_owned())
            }
            Ok(()) => None,
        };
        let report = self.report(&mut run, faults_end, cut_short);
        if let Err(panic) = ended {
            panic::resume_unwind(panic);
        }
        report
    }

    /// What there is to say, and the files that it is said in.
    fn report(
        &self,
        run: &mut Run,
        faults_end: Option<Duration>,
        cut_short: Option<String>,
    ) -> Report {
        let now = run.record.now();
        run.prober.stop();
        let (history, timeline, wrong) = run.record.close();
        let (probes, _, wrong_probes) = run.prober.record.close();
        let folder = folder();
        let verdicts = [("", history), (".probes", probes)].map(|(part, history)| {
            let file = folder.join(format!("{}{part}.history.jsonl", self.name));
            write(&file, |out| history.write(out));
            judge(&history, file)
        });
        let problems = std::mem::take(&mut run.problems).into_iter();
        let report = Report {
            seed: self.seed,
            machine: machine::describe(),
            election_timeout: run.unit,
            nodes: self.nodes,
            replicas: run.cluster.replicas(),
            shards: run.map.shards().len(),
            faults_end: faults_end.unwrap_or(now),
            timeline,
            bands: std::mem::take(&mut run.bands),
            injected: std::mem::take(&mut run.injected),
            recoveries: std::mem::take(&mut run.recoveries),
            prompt: std::mem::take(&mut run.prompt),
            quorums_gone: run.quorums_gone,
            verdicts: verdicts.into(),
            cut_short,
            problems: problems.chain(wrong).chain(wrong_probes).collect(),
            not_tested: std::mem::take(&mut run.not_tested),
        };
        let page = folder.join(format!("{}.html", self.name));
        write(&page, |out| out.write_all(report.html().as_bytes()));
        say(&format!("{}\nreport: {}", report.text(), page.display()));
        report
    }
}

/// What a panic says.
fn message(panic: &Box<dyn Any + Send>) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it does not say why")
}

impl Run {
    /// Round after round.
    fn storm(&mut self, mut nemesis: Nemesis, length: Length) {
        let begin = Instant::now();
        for number in 0.. {
            let over = match length {
                Length::For(time) => begin.elapsed() >= time,
                Length::Rounds(rounds) => number == rounds,
            };
            if over || self.interrupt.came() {
                return;
            }
            let round = nemesis.draw();
            self.round(&nemesis, round);
        }
    }

    /// Waits, unless the run is interrupted.
    fn pause(&self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time && !self.interrupt.came() {
            let left = time.saturating_sub(begin.elapsed());
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    fn nodes(&self) -> std::ops::Range<usize> {
        0..self.cluster.len()
    }

    /// One or two faults, from their beginning until all shards serve again.
    fn round(&mut self, nemesis: &Nemesis, mut round: Round) {
        self.pause(round.calm);
        let leaders = self.leaders();
        if self.interrupt.came() {
            return;
        }
        if round.strikes_most {
            let led = |node| leaders.values().filter(|leader| **leader == node).count();
            let most = self.nodes().max_by_key(|node| led(*node)).expect("nodes");
            round.first.strike_at(most);
        }
        let second = nemesis.second(&round, &self.replicas);
        let (faults, gap) = (
            std::iter::once(round.first.clone()).chain(second),
            round.gap,
        );
        let faults: Vec<Fault> = faults.collect();
        let harm = Harm::of(self.cluster.len(), &faults);
        let must_serve = self
            .replicas
            .iter()
            .all(|nodes| harm.service(nodes) == Service::Must);
        let hold = if must_serve {
            round.hold
        } else {
            round.short_hold
        };
        let names: Vec<String> = faults.iter().map(Fault::to_string).collect();
        let name = names.join(BETWEEN_NAMES);

        self.prober.take();
        let from = self.record.now();
        if round.first.kind == Kind::RollingRestart {
            self.rolling_restart(&name);
            let to = self.record.now();
            *self.injected.entry(round.first.kind).or_default() += 1;
            self.served(name, &faults, from, to);
            return;
        }
        let before: Vec<u64> = faults
            .iter()
            .map(|fault| fault.felt(&self.cluster))
            .collect();
        let mut injected = Vec::new();
        for (at, fault) in faults.iter().enumerate() {
            if at > 0 {
                self.pause(gap);
            }
            for node in fault.ends(self.cluster.len()) {
                self.starts.changes(node);
            }
            injected.push(fault.strike(&mut self.cluster));
        }
        let struck = Instant::now();
        self.pause(hold);
        self.assert_none_has_ended(&name);
        if must_serve {
            self.explain_unserved(&name, &leaders, struck);
        }
        for ((fault, injected), before) in faults.iter().zip(&mut injected).zip(before) {
            if injected.is_ok() && fault.must_be_felt() && fault.felt(&self.cluster) == before {
                *injected = Err("no sync met it".to_owned());
            }
        }
        let to = self.record.now();
        let stopped = self.nodes().filter(|node| !self.cluster.runs(*node));
        let stopped: Vec<usize> = stopped.collect();
        stopped.iter().for_each(|node| self.starts.changes(*node));
        let healing = Instant::now();
        faults
            .iter()
            .for_each(|fault| fault.heal(&mut self.cluster));
        stopped
            .iter()
            .for_each(|node| self.cluster.start_node(*node));
        let healed = Instant::now();
        self.until_all_serve(&name);
        let shards: BTreeSet<ShardId> = leaders.keys().copied().collect();
        self.until_served(&name, &shards, healed);
        if self.interrupt.came() {
            return;
        }
        self.served(name.clone(), &faults, from, to);
        let mut all_injected = true;
        for (fault, injected) in faults.iter().zip(injected) {
            match injected {
                Ok(()) => *self.injected.entry(fault.kind).or_default() += 1,
                Err(why) => {
                    say(&format!("NOT TESTED: {fault}: {why}"));
                    self.not_tested
                        .push(format!("{fault} at {:.0} s: {why}", from.as_secs_f64()));
                    all_injected = false;
                }
            }
        }
        if !all_injected {
            return;
        }
        let of = match faults.len() {
            1 => Struck::By(round.first.kind),
            _ => Struck::ByTwo,
        };
        let recovery = self.recoveries.entry(of).or_default();
        recovery.faults += 1;
        if !must_serve {
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
                let problem = format!("{name}: {early} writes acknowledged without a quorum");
                self.problems.push(problem);
            }
            return;
        }
        for (shard, leader) in leaders {
            if !harm.touches(leader) {
                continue;
            }
            let served = self.prober.served_since(shard, struck).expect("waited for");
            recovery.times.add(served - struck);
            recovery.late += usize::from(served > healing);
        }
    }

    /// Restarts one node after the other, each when the last one serves again, while all requests must succeed in time.
    fn rolling_restart(&mut self, name: &str) {
        self.prober.be_patient(true);
        // Until the last impatient probe has begun.
        self.pause(Duration::from_millis(200));
        self.record.begin_prompt();
        self.prober.record.begin_prompt();
        for node in self.nodes() {
            self.starts.changes(node);
            let status = self.cluster.terminate(node);
            assert!(status.success(), "a drained node ended with {status}");
            self.cluster.start_node(node);
            self.starts.changes(node);
            self.until_all_serve(name);
        }
        // So that one that is not answered in time is seen.
        self.pause(PROMPT + PROMPT / 5);
        for record in [&self.record, &self.prober.record] {
            self.prompt.extend(record.end_prompt());
        }
        self.prober.be_patient(false);
    }

    /// A round is over.
    fn served(&mut self, name: String, faults: &[Fault], from: Duration, to: Duration) {
        let served = self.record.now();
        eprintln!(
            "{:6.1} s  {name}: {:.1} s, all serve {:.2} s after it",
            from.as_secs_f64(),
            (to - from).as_secs_f64(),
            (served - to).as_secs_f64()
        );
        self.bands.push(Band {
            name,
            targets: faults.iter().map(|fault| fault.kind.target()).collect(),
            from,
            to,
            served,
        });
    }

    fn until_all_serve(&mut self, name: &str) {
        let begin = Instant::now();
        while let Some(node) = self.nodes().find(|node| !self.cluster.serves(*node)) {
            self.assert_none_has_ended(name);
            if self.interrupt.came() {
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{name}: node {node} does not serve {PATIENCE:?} after it"
            );
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn assert_none_has_ended(&mut self, name: &str) {
        if let Some(node) = self.nodes().find(|node| self.cluster.has_ended(*node)) {
            let status = self.cluster.wait(node);
            panic!("{name}: node {node} has ended by itself: {status}");
        }
    }

    /// Who leads which shard.
    fn leaders(&self) -> BTreeMap<ShardId, usize> {
        let known: BTreeSet<ShardId> = self.map.shards().iter().map(|shard| shard.shard).collect();
        self.cluster
            .until_some("each shard has one leader", |cluster| {
                let mut leaders = BTreeMap::new();
                for node in 0..cluster.len() {
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
    fn explain_unserved(&self, name: &str, leaders: &BTreeMap<ShardId, usize>, since: Instant) {
        for (shard, leader) in leaders {
            if self.prober.served_since(*shard, since).is_some() || self.interrupt.came() {
                continue;
            }
            let error = self.prober.last_error(*shard);
            eprintln!("{name}: {shard:?}, which node {leader} led, is not served: {error:?}");
            for node in self.nodes() {
                let replica = self.cluster.replica(node, &Which::ShardId(shard.0));
                eprintln!("  node {node}: {replica:?}");
            }
        }
    }

    fn until_served(&self, name: &str, shards: &BTreeSet<ShardId>, since: Instant) {
        while let Some(shard) = shards
            .iter()
            .find(|shard| self.prober.served_since(**shard, since).is_none())
        {
            if self.interrupt.came() {
                return;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "{name}: {shard:?} takes no writes {PATIENCE:?} after it"
            );
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Everything comes to rest: all nodes return the same rows, all replicas are alike, and clients read it once more.
    fn calm(&mut self, clients: Clients, kinds: &[Kind]) {
        let unseen = kinds
            .iter()
            .filter(|kind| !self.injected.contains_key(kind));
        let unseen: Vec<&str> = unseen.map(|kind| kind.name()).collect();
        if !unseen.is_empty() {
            let unseen = unseen.join(", ");
            self.not_tested
                .push(format!("did not come in this run: {unseen}"));
        }
        clients.end(&self.cluster, &self.record, &self.starts);
        self.prober.end(&self.cluster);
        let rows = self.nodes().map(|node| self.cluster.rows(node));
        let rows: Vec<_> = rows.collect();
        for node in 1..rows.len() {
            if rows[node] != rows[0] {
                let counts = (rows[0].len(), rows[node].len());
                let problem = format!("nodes 0 and {node} return other rows: {counts:?}");
                self.problems.push(problem);
            }
        }
        self.cluster.assert_replicas_agree();
    }
}

/// What the judge says of a history that lies in this file.
fn judge(history: &History, file: PathBuf) -> Verdict {
    let begin = Instant::now();
    let report = check(history, &Limits::default());
    let time = begin.elapsed().as_secs_f64();
    Verdict {
        text: format!("{} (judged in {time:.1} s)", report.display(history)),
        passed: report.passed(),
        file,
    }
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
