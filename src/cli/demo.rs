//! `demo`: a whole cluster in one process, for a first look and for trying things out. The nodes are real ones: each has
//! its data folder and its ports, and they talk over the network as if they were far apart.

use std::{path::Path, time::Duration};

use super::{
    escape::Notation,
    failure::{Failure, Outcome},
    import::Job,
    output::talk,
    records::FileFormat,
    runtime,
    start::{failed, until_ended},
};
use crate::{
    client::{Admin, Client, Options},
    config::{Address, Config, DemoArgs},
    logging::LogControl,
    node::Node,
    shutdown::{Lifecycle, Signals},
};
use flotilla_proto::v1::InitRequest;

/// Distances between a node's port and those for other nodes and of its status server.
const PEER_PORT_OFFSET: u16 = 40;
const STATUS_PORT_OFFSET: u16 = 80;
/// How long a cluster that was just started may take until all shards can be asked.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two looks whether they can.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Writes of the sample that are in flight at once.
const IMPORT_CONCURRENCY: usize = 256;
/// Left behind in the data folder once the sample is imported.
const SAMPLE_DONE: &str = "sample-imported";

pub(super) fn run(args: &DemoArgs) -> Outcome {
    let log = LogControl::install(&args.log_level, args.log_format)
        .map_err(|error| Failure::Incomplete(error.to_string()))?;
    runtime()?.block_on(serve(args, log))
}

async fn serve(args: &DemoArgs, log: LogControl) -> Outcome {
    let signals = Signals::install().map_err(Failure::file("signal handlers"))?;
    let lifecycle = Lifecycle::default();
    tokio::spawn(signals.drive(lifecycle.clone()));
    let configs = configs(args)?;
    let mut nodes = Vec::new();
    for config in configs {
        nodes.push(Node::start(config, log.clone()).await.map_err(failed)?);
    }
    let endpoints: Vec<String> = nodes.iter().map(|node| node.address().to_owned()).collect();
    let init = InitRequest {
        shards: args.shards,
        split_keys: Vec::new(),
        replicas: 0,
    };
    let admin = Admin::new(&endpoints, START_TIMEOUT)?;
    let cluster = admin.init(init).await?;
    talk(format!(
        "{} nodes, {} shards, data in {}{}",
        cluster.nodes.len(),
        cluster.shards,
        args.data.display(),
        if cluster.existed {
            " (as it was left)"
        } else {
            ""
        },
    ));
    // A node answers nobody before it knows who may ask. If one takes too long, the import says what is missing.
    let answering = async {
        while admin
            .status()
            .await
            .iter()
            .any(|(_, answer)| answer.is_err())
        {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let _ = tokio::time::timeout(START_TIMEOUT, answering).await;
    if let Some(sample) = &args.sample {
        import(sample, &args.data, &endpoints).await?;
    }
    greet(&nodes, &endpoints);
    until_ended(nodes, &lifecycle).await
}

/// One configuration per node. All but data folder, addresses and peers is the default.
fn configs(args: &DemoArgs) -> Outcome<Vec<Config>> {
    let address = |port: u16| {
        let text = format!("127.0.0.1:{port}");
        Address::parse(&text).ok_or_else(|| Failure::Usage(format!("{text} is no address")))
    };
    let (ports, peer_ports) = if args.base_port == 0 {
        let mut ports = free_ports(2 * args.nodes)?;
        let peer_ports = ports.split_off(usize::from(args.nodes));
        (ports, peer_ports)
    } else {
        let from = |first| (first..first + args.nodes).collect();
        (
            from(args.base_port),
            from(args.base_port + PEER_PORT_OFFSET),
        )
    };
    let join = peer_ports
        .iter()
        .map(|port| address(*port))
        .collect::<Result<Vec<_>, _>>()?;
    let config = |(number, port): (usize, &u16)| {
        let mut config = Config::default();
        config.node.data = args.data.join(format!("node{}", number + 1));
        config.node.listen = address(*port)?;
        config.node.peer_listen = Some(join[number].clone());
        config.node.status_listen = match args.base_port {
            0 => address(0)?,
            _ => address(port + STATUS_PORT_OFFSET)?,
        };
        config.node.join.clone_from(&join);
        Ok(config)
    };
    ports.iter().enumerate().map(config).collect()
}

/// Ports that nobody listens at now. Someone else may take one before the node does; then the node says so.
fn free_ports(count: u16) -> Outcome<Vec<u16>> {
    let listeners = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0"));
    let listeners = listeners
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::file("a free port"))?;
    let ports = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()));
    ports
        .collect::<Result<_, _>>()
        .map_err(Failure::file("a free port"))
}

/// Imports the sample, once for a data folder.
async fn import(sample: &Path, data: &Path, endpoints: &[String]) -> Outcome {
    let done = data.join(SAMPLE_DONE);
    if done.exists() {
        return Ok(());
    }
    let options = Options {
        timeout: START_TIMEOUT,
        ..Options::default()
    };
    let job = Job {
        input: Some(sample.to_owned()),
        format: FileFormat::of(None, sample)?,
        notation: Notation::Escaped,
        concurrency: IMPORT_CONCURRENCY,
        state: None,
    };
    let client = Client::connect(endpoints, options).await?;
    let summary = job.run(&client).await?;
    talk(format!("sample: {summary}"));
    summary.verdict()?;
    std::fs::write(&done, []).map_err(Failure::file(done))?;
    Ok(())
}

fn greet(nodes: &[Node], endpoints: &[String]) {
    let endpoints = endpoints.join(",");
    talk(format!("endpoints   {endpoints}"));
    for (number, node) in (1..).zip(nodes) {
        talk(format!(
            "metrics {number}   http://{}/metrics",
            node.status_address()
        ));
    }
    let exe = std::env::current_exe().ok();
    let exe = exe
        .as_deref()
        .map_or("flotilla".into(), Path::to_string_lossy);
    talk(format!(
        "put         {exe} --endpoints {endpoints} put greeting hello"
    ));
    talk(format!(
        "get         {exe} --endpoints {endpoints} get greeting"
    ));
    talk(format!("look        {exe} --endpoints {endpoints} status"));
    talk("Ctrl-C stops all nodes; started again on the same folder, they have their data.");
}
