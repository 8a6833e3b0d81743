//! The flags of the commands that run nodes.

use std::path::PathBuf;

use flotilla_shards::limits::GENESIS_SHARDS_MAX;

use super::setting::{Address, LogFormat, LogLevel, Setting};
use super::source::Layers;

/// Flags of `flotilla start`. Each stands for the key that its help names and wins over file and environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StartArgs {
    /// Configuration file (TOML); `flotilla config default` prints one
    #[arg(long, value_name = "FILE", env = "FLOTILLA_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder that holds everything the node keeps (node.data)
    #[arg(long, value_name = "DIR", value_parser = folder)]
    pub data: Option<PathBuf>,
    /// Where clients connect (node.listen)
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<Address>,
    /// The address that others are told to reach this node at (node.advertise)
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<Address>,
    /// Where other nodes connect; without: the port after that of clients (node.peer_listen)
    #[arg(long, value_name = "ADDR")]
    pub peer_listen: Option<Address>,
    /// The address that other nodes are told to connect to (node.peer_advertise)
    #[arg(long, value_name = "ADDR")]
    pub peer_advertise: Option<Address>,
    /// Where /metrics, /health, /ready and /status are served (node.status_listen)
    #[arg(long, value_name = "ADDR")]
    pub status_listen: Option<Address>,
    /// The addresses between nodes of all that make up the cluster, separated by commas (node.join)
    #[arg(long, value_name = "ADDR,ADDR,…", value_delimiter = ',')]
    pub join: Vec<Address>,
    /// Plaintext, also where other machines can connect (security.insecure)
    #[arg(long)]
    pub insecure: bool,
    /// The node's certificates: --ca, --cert and --key, which all commands have (security.ca, security.cert, security.key)
    #[arg(skip)]
    pub certificates: [Option<PathBuf>; 3],
    /// What is logged (log.level)
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// How log lines are written (log.format)
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Note where memory comes from, for /debug/pprof/heap of the status port; costs a few percent of speed
    #[arg(long)]
    pub heap_profiling: bool,
}

/// A path that is text, as the file and the environment have it.
fn folder(text: &str) -> Result<PathBuf, String> {
    PathBuf::read(text).ok_or_else(|| format!("expected {}", PathBuf::EXPECTED))
}

impl StartArgs {
    /// Lays the flags over the other layers.
    pub(crate) fn overlay(&self, layers: &mut Layers) {
        let join = (!self.join.is_empty()).then(|| self.join.write());
        let [ca, cert, key] = self
            .certificates
            .each_ref()
            .map(|file| file.as_ref().map(Setting::write));
        let flags = [
            (
                "node",
                "data",
                "--data",
                self.data.as_ref().map(Setting::write),
            ),
            (
                "node",
                "listen",
                "--listen",
                self.listen.as_ref().map(Setting::write),
            ),
            (
                "node",
                "advertise",
                "--advertise",
                self.advertise.as_ref().map(Setting::write),
            ),
            (
                "node",
                "peer_listen",
                "--peer-listen",
                self.peer_listen.as_ref().map(Setting::write),
            ),
            (
                "node",
                "peer_advertise",
                "--peer-advertise",
                self.peer_advertise.as_ref().map(Setting::write),
            ),
            (
                "node",
                "status_listen",
                "--status-listen",
                self.status_listen.as_ref().map(Setting::write),
            ),
            ("node", "join", "--join", join),
            ("security", "ca", "--ca", ca),
            ("security", "cert", "--cert", cert),
            ("security", "key", "--key", key),
            (
                "security",
                "insecure",
                "--insecure",
                self.insecure.then(|| true.write()),
            ),
            (
                "log",
                "level",
                "--log-level",
                self.log_level.as_ref().map(Setting::write),
            ),
            (
                "log",
                "format",
                "--log-format",
                self.log_format.as_ref().map(Setting::write),
            ),
        ];
        for (section, name, flag, value) in flags {
            if let Some(value) = value {
                layers.flag(section, name, flag, &value);
            }
        }
    }
}

/// Flags of `flotilla demo`: a whole cluster in one process.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Number of shards that the keyspace is split into when the cluster is made
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=GENESIS_SHARDS_MAX as i64))]
    pub shards: u32,
    /// Folder that holds the nodes' data folders; a demo started again on it has its data
    #[arg(long, value_name = "DIR", default_value = "data/demo")]
    pub data: PathBuf,
    /// Port of the first node; the others follow, those between nodes begin 40 above it and the status ports 80. 0 takes
    /// free ones
    #[arg(long, value_name = "PORT", default_value_t = 7400, value_parser = clap::value_parser!(u16).range(0..=65_000))]
    pub base_port: u16,
    /// File of records (ndjson or csv) to import once the cluster is up
    #[arg(long, value_name = "FILE")]
    pub sample: Option<PathBuf>,
    /// What is logged
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log_level: LogLevel,
    /// How log lines are written
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
}
