//! The command line: arguments in, calls of the client library, output and exit code out. Nothing here knows how a node
//! works inside.

mod access;
mod admin;
mod bench;
mod cert;
mod debug;
mod demo;
mod export;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod import;
mod kv;
mod output;
mod progress;
mod records;
mod resume;
mod shards;
mod start;
mod top;
mod verify;

use std::{path::PathBuf, process, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use self::{
    escape::Notation,
    failure::{Failure, Outcome},
    output::{Color, Format, Out, talk},
};
use crate::{
    client::{self, Client, Options, stream::StreamOptions},
    config::{self, DemoArgs, StartArgs},
    escape,
    exit::ExitCode,
    tls::{ClientFiles, ClientTls},
    token::Token,
};

/// A fleet of Rafts: a sharded, strongly consistent key-value store.
#[derive(Debug, Parser)]
#[command(
    name = "flotilla",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(after_help = "\
Keys and values are typed and shown as text with escapes: \\n \\t \\\\ \\xNN \\u{N}; with --hex as hex digits.
Data goes to standard output, everything else to standard error.
Exit codes: 0 success, 1 error, 2 usage, 3 not found, 4 cluster unavailable or too slow (try again).")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Nodes to ask, any of the cluster; several are separated by commas
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "FLOTILLA_ENDPOINTS",
        default_value = "127.0.0.1:7400",
        value_parser = endpoint
    )]
    endpoints: Vec<String>,
    /// How data is printed
    #[arg(
        short = 'w',
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table"
    )]
    output: Format,
    /// Keys and values are typed and shown as hex digits
    #[arg(long, global = true)]
    hex: bool,
    /// How long a request may take, retries included
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// When to use colors
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
    /// Certificates of the authorities that nodes must have theirs from (PEM); with this, connections are TLS
    #[arg(
        id = "tls_ca",
        long = "ca",
        global = true,
        value_name = "FILE",
        env = "FLOTILLA_CA"
    )]
    ca: Option<PathBuf>,
    /// The own certificate (PEM)
    #[arg(
        id = "tls_cert",
        long = "cert",
        global = true,
        value_name = "FILE",
        env = "FLOTILLA_CERT"
    )]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(
        id = "tls_key",
        long = "key",
        global = true,
        value_name = "FILE",
        env = "FLOTILLA_KEY"
    )]
    key: Option<PathBuf>,
    /// File that holds the token which says who asks
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "FLOTILLA_TOKEN_FILE",
        conflicts_with = "token"
    )]
    token_file: Option<PathBuf>,
    /// The token itself; in the environment or in a file others of this machine can't see it
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "FLOTILLA_TOKEN",
        hide_env_values = true
    )]
    token: Option<Secret>,
}

/// A token as it was typed.
#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Never fails: clap would repeat what it could not read. What is no token is found when it is used.
impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Start(StartArgs),
    /// Run a whole cluster in one process
    Demo(DemoArgs),
    /// Write a value
    Put(kv::Put),
    /// Read a value
    Get(kv::Get),
    /// Delete a key
    Delete(kv::Delete),
    /// Write a value if a condition on the key holds (compare and set)
    Cas(kv::Cas),
    /// Read a range of keys
    Scan(kv::Scan),
    /// Write the records of a file
    Import(import::Import),
    /// Write a range of keys to a file
    Export(export::Export),
    /// Make a cluster of the asked node and those that it was told to join
    Init(admin::Init),
    /// Show the state of the nodes
    Status,
    /// Ask a node on this machine whether it lives, or is ready
    Health(health::Health),
    /// Show what the cluster does, and keep showing it
    Top(top::Top),
    /// Nodes of the cluster
    #[command(subcommand)]
    Node(admin::Node),
    /// Shards of the cluster
    #[command(subcommand)]
    Shard(shards::Shard),
    /// Whether callers have to say who they are
    #[command(subcommand)]
    Auth(access::Auth),
    /// Users of the cluster
    #[command(subcommand)]
    User(access::User),
    /// Roles of users: what may be done with which keys
    #[command(subcommand)]
    Role(access::Role),
    /// Tokens, by which users say who they are
    #[command(subcommand)]
    Token(access::Tokens),
    /// Measure the cluster
    #[command(subcommand)]
    Bench(bench::Command),
    /// What helps to hunt faults
    #[command(subcommand)]
    Debug(debug::Debug),
    /// Judge a recorded history: could a correct store have answered so?
    Verify(verify::Verify),
    /// Make the certificates of a cluster
    #[command(subcommand)]
    Cert(cert::Cert),
    /// The configuration of a node
    #[command(subcommand)]
    Config(Config),
    /// Print the completions of a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Print the version
    Version,
}

/// Commands about the configuration of a node.
#[derive(Debug, Subcommand)]
enum Config {
    /// Print a file with every key, its meaning and its default
    Default,
    /// Check what `flotilla start` would begin with: file, environment and flags
    Check(StartArgs),
}

impl Config {
    fn run(&self, global: &Global, out: &mut Out) -> Outcome {
        match self {
            Self::Default => out.bytes(config::Config::default().to_commented_toml().as_bytes()),
            Self::Check(start) => {
                config::Config::load(&start.certified(global), std::env::vars_os())?;
                talk("the configuration is complete and free of contradictions");
                Ok(())
            }
        }
    }
}

/// An address as host:port.
fn endpoint(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("expected HOST:PORT, as 10.0.0.1:7400".to_owned()),
    }
}

/// A duration as in `150ms`, `10s` or `1m 30s`.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("a duration above zero is expected".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; expected a duration as 150ms, 10s or 1m")),
    }
}

/// What commands have at hand.
struct Context {
    global: Global,
    notation: Notation,
    /// How nodes are connected to.
    stream: StreamOptions,
}

impl Global {
    /// How nodes are connected to: by TLS, if an authority is given.
    fn stream(&self) -> Outcome<StreamOptions> {
        let tls = match (&self.ca, &self.cert, &self.key) {
            (None, None, None) => None,
            (Some(ca), cert, key) if cert.is_some() == key.is_some() => {
                let files = ClientFiles {
                    ca: ca.clone(),
                    pair: cert.clone().zip(key.clone()),
                };
                let loaded = ClientTls::load(files);
                Some(loaded.map_err(|error| Failure::Usage(error.to_string()))?)
            }
            (None, ..) => {
                let text = "--cert and --key are of no use without --ca, by which nodes are known";
                return Err(Failure::Usage(text.to_owned()));
            }
            _ => {
                return Err(Failure::Usage(
                    "--cert and --key go together: give both".to_owned(),
                ));
            }
        };
        Ok(StreamOptions {
            tls,
            token: self.token()?,
            ..StreamOptions::default()
        })
    }

    /// Who asks.
    fn token(&self) -> Outcome<Option<Token>> {
        let (text, place) = match (&self.token_file, &self.token) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(path).map_err(Failure::file(path))?;
                (text, path.display().to_string())
            }
            (None, Some(Secret(text))) if !text.is_empty() => {
                (text.clone(), "--token or FLOTILLA_TOKEN".to_owned())
            }
            _ => return Ok(None),
        };
        let token = Token::parse(text.trim());
        let token = token.map_err(|error| Failure::Usage(format!("{place}: {error}")))?;
        Ok(Some(token))
    }
}

impl StartArgs {
    /// With the certificates that the global flags name.
    fn certified(&self, global: &Global) -> Self {
        Self {
            certificates: [global.ca.clone(), global.cert.clone(), global.key.clone()],
            ..self.clone()
        }
    }
}

impl Context {
    async fn client(&self) -> Outcome<Client> {
        let options = Options {
            timeout: self.global.timeout,
            stream: self.stream.clone(),
            ..Options::default()
        };
        Ok(Client::connect(&self.global.endpoints, options).await?)
    }

    fn admin(&self) -> Outcome<client::Admin> {
        self.admin_of(&self.global.endpoints, self.global.timeout)
    }

    /// The operators' side of other nodes than those that the user named.
    fn admin_of(
        &self,
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        timeout: Duration,
    ) -> Outcome<client::Admin> {
        let admin = client::Admin::with_options(endpoints, timeout, &self.stream);
        Ok(admin?)
    }

    fn read(&self, what: &str, text: &str) -> Outcome<bytes::Bytes> {
        self.notation
            .read(text)
            .map_err(|error| Failure::Usage(format!("{what}: {error}")))
    }

    fn show(&self, bytes: &[u8]) -> String {
        self.notation.show(bytes)
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> process::ExitCode {
    let cli = Cli::parse();
    let color = cli.global.color.on_stderr();
    match run(cli) {
        Ok(()) => ExitCode::Ok.into(),
        Err(failure) => failure::report(&failure, color).into(),
    }
}

fn run(cli: Cli) -> Outcome {
    let context = Context {
        stream: match &cli.command {
            // They ask no node by gRPC, or run one, which reads the files itself.
            Command::Start(_)
            | Command::Demo(_)
            | Command::Health(_)
            | Command::Config(_)
            | Command::Cert(_)
            | Command::Verify(_)
            | Command::Completion { .. }
            | Command::Version => StreamOptions::default(),
            _ => cli.global.stream()?,
        },
        notation: if cli.global.hex {
            Notation::Hex
        } else {
            Notation::Escaped
        },
        global: cli.global,
    };
    let mut out = Out::new();
    let result = match cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "flotilla", &mut script);
            out.bytes(&script)
        }
        Command::Config(config) => config.run(&context.global, &mut out),
        Command::Cert(cert) => cert.run(),
        Command::Verify(verify) => verify.run(&context, &mut out),
        Command::Version => version(&context, &mut out),
        Command::Start(args) => start::run(&args.certified(&context.global)),
        Command::Demo(args) => demo::run(&args),
        command => runtime()?.block_on(ask(command, &context, &mut out)),
    };
    let flushed = out.flush();
    result.and(flushed)
}

async fn ask(command: Command, context: &Context, out: &mut Out) -> Outcome {
    match command {
        Command::Put(put) => put.run(context, out).await,
        Command::Get(get) => get.run(context, out).await,
        Command::Delete(delete) => delete.run(context, out).await,
        Command::Cas(cas) => cas.run(context, out).await,
        Command::Scan(scan) => scan.run(context, out).await,
        Command::Import(import) => import.run(context, out).await,
        Command::Export(export) => export.run(context, out).await,
        Command::Init(init) => init.run(context, out).await,
        Command::Status => admin::status(context, out).await,
        Command::Health(health) => health.run(context.global.timeout).await,
        Command::Top(top) => top.run(context, out).await,
        Command::Node(admin::Node::Ls) => admin::list_nodes(context, out).await,
        Command::Shard(shards::Shard::Ls) => shards::list(context, out).await,
        Command::Shard(shards::Shard::Show(show)) => show.run(context, out).await,
        Command::Auth(auth) => auth.run(context, out).await,
        Command::User(user) => user.run(context, out).await,
        Command::Role(role) => role.run(context, out).await,
        Command::Token(tokens) => tokens.run(context, out).await,
        Command::Bench(bench) => bench.run(context, out).await,
        Command::Debug(debug::Debug::Zip(zip)) => zip.run(context, out).await,
        Command::Completion { .. }
        | Command::Cert(_)
        | Command::Config(_)
        | Command::Verify(_)
        | Command::Version
        | Command::Start(_)
        | Command::Demo(_) => {
            unreachable!("these are run before")
        }
    }
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Incomplete(format!("cannot start threads: {error}")))
}

fn version(context: &Context, out: &mut Out) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    match context.global.output {
        Format::Table => out.line(format!("flotilla {version}")),
        format => out.json(format, &serde_json::json!({ "version": version })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("flotilla").chain(line.split_whitespace()))
    }

    #[test]
    fn the_declaration_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in [
            "--endpoints a:1,b:2 -w json --hex get k",
            "get k --endpoints a:1 --endpoints b:2 --output json --hex",
        ] {
            let cli = parse(line).expect("valid");
            assert_eq!(cli.global.endpoints, ["a:1", "b:2"]);
            assert_eq!(cli.global.output, Format::Json);
            assert!(cli.global.hex);
        }
    }

    #[test]
    fn sense_is_understood() {
        for line in [
            "put k -1",
            "get k --serializable --raw",
            "cas k --expect -a --value -",
            "cas k --absent --value v",
            "cas k --exists --value v",
            "cas k --revision 7 --value v",
            "scan",
            "scan a b --limit 3 --reverse --keys-only",
            "scan --prefix p",
            "import - --format csv --concurrency 8",
            "export f.csv --prefix p --resume s",
            "init --shards 8 --replicas 3",
            "init --split-keys f",
            "shard ls",
            "shard show k --checksum",
            "shard show --id 3",
            "node ls",
            "health --ready --status-listen 127.0.0.1:1 --timeout 2s",
            "bench put --clients 256 --seconds 10 --value-bytes 256 --stream",
            "bench get --shards 4,8 --keys 10 --warmup 1s --read follower",
            "bench mix get=95,put=5 --rate 1000 --cap 10 --distribution zipf",
            "bench ycsb A --ramp --step-seconds 2",
            "bench ycsb f --target etcd://a:1,b:2",
            "bench put --transport batch --batch-ops 100",
            "bench fill --keys 7 --key-bytes 20",
            "config check --config f --listen 127.0.0.1:1",
            "start --insecure --peer-listen 10.0.0.1:7 --ca a --cert c --key k",
            "get k --ca a --cert c --key k",
            "cert create-ca --dir d --days 10 --cluster 0123456789abcdef0123456789ABCDEF",
            "cert create-node --id 1 --host a.example,10.0.0.1 --out o",
            "cert create-client web-1@eu",
            "auth enable",
            "auth whoami --token-file f",
            "user create bob --role a,b --role c",
            "user grant bob a",
            "role grant app read,write --prefix app/",
            "role grant all admin --all",
            "role grant app read --range a b",
            "role revoke app --prefix app/",
            "token create bob --expires 1h",
            "token delete 00000000000000ff",
            "top --once",
            "top --interval 500ms -w json",
            "verify f -w json",
            "verify - --search-steps 100 --search-memory 16",
            "completion zsh",
            "debug zip",
            "debug zip f.zip --status a:1,b:2 --log l --log m --keys",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "get",
            "put k",
            "cas k --value v",
            "cas k --expect a --absent --value v",
            "cas k --revision x --value v",
            "scan a b --prefix p",
            "shard show",
            "--timeout 0s get k",
            "--timeout soon get k",
            "-w xml get k",
            "import f --format xml",
            "bench put --clients 0",
            "bench put --stream --transport unary",
            "bench put --step-seconds 2",
            "bench put --rate 0",
            "bench put --target http://a:1",
            "bench put --target etcd://a",
            "bench mix",
            "bench mix read=1",
            "bench ycsb g",
            "--endpoints localhost get k",
            "--endpoints a:1,b:0 get k",
            "config check --port 7",
            "cert create-node",
            "cert create-node --id 0",
            "cert create-client a/b",
            "cert create-ca --cluster 01",
            "role grant app read",
            "role grant app all --all",
            "role grant app read --all --prefix p",
            "token create bob --expires never",
            "token delete x",
            "user create",
            "get k --token a --token-file f",
            "top --interval 0s",
            "verify",
            "debug",
            "debug zip --status a",
            "verify f --search-memory 0",
            "frobnicate",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }

    #[test]
    fn every_completion_script_can_be_made() {
        use clap::ValueEnum as _;
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "flotilla", &mut script);
            assert!(!script.is_empty(), "{shell}");
        }
    }
}
