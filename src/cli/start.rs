//! `start`: one node as a process of its own.

use std::{os::unix::process::CommandExt as _, process::Command, sync::Arc};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    failure::{self, Failure, Outcome},
    runtime,
};
use crate::{
    config::{Config, StartArgs},
    exit::ExitCode,
    logging::LogControl,
    node::{Node, NodeError},
    shutdown::{Lifecycle, Phase, Signals},
    tls::NodeTls,
};

/// What jemalloc reads its options from, and the one that has it note where memory comes from.
const ALLOCATOR_OPTIONS: &str = "_RJEM_MALLOC_CONF";
const PROFILING: &str = "prof:true";

/// Runs a node until a signal or a fault ends it.
pub(super) fn run(args: &StartArgs) -> Outcome {
    let config = Config::load(args, std::env::vars_os())?;
    if args.heap_profiling {
        begin_heap_profiling()?;
    }
    let log = LogControl::install(&config.log.level, config.log.format)
        .map_err(|error| Failure::Incomplete(error.to_string()))?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = config.summary(),
        "starting"
    );
    runtime()?.block_on(serve(config, log))
}

/// The allocator has begun before anything else and listens to the environment only: so the process is replaced by one that is
/// told, unless this is that.
fn begin_heap_profiling() -> Outcome {
    let told = std::env::var_os(ALLOCATOR_OPTIONS).unwrap_or_default();
    let told = told.to_string_lossy();
    if told.split(',').any(|option| option == PROFILING) {
        return Ok(());
    }
    let options = match &*told {
        "" => PROFILING.to_owned(),
        told => format!("{told},{PROFILING}"),
    };
    let binary = std::env::current_exe().map_err(Failure::file("the own binary"))?;
    let error = Command::new(&binary)
        .args(std::env::args_os().skip(1))
        .env(ALLOCATOR_OPTIONS, options)
        .exec();
    Err(Failure::file(binary)(error))
}

async fn serve(config: Config, log: LogControl) -> Outcome {
    let signals = Signals::install().map_err(Failure::file("signal handlers"))?;
    let hangups = signal(SignalKind::hangup()).map_err(Failure::file("signal handlers"))?;
    let node = Node::start(config, log).await.map_err(failed)?;
    tracing::info!(
        address = node.address(),
        status = node.status_address(),
        "listening"
    );
    if !node.is_initialized() {
        tracing::info!(
            "not part of a cluster yet: when all nodes are up, run `flotilla init` once"
        );
    }
    tell_supervisor(NotifyState::Ready);
    let lifecycle = Lifecycle::default();
    tokio::spawn(signals.drive(lifecycle.clone()));
    tokio::spawn(reload(hangups, node.certificates().cloned()));
    until_ended(vec![node], &lifecycle).await
}

/// Has certificates read again at every SIGHUP.
async fn reload(mut hangups: Signal, certificates: Option<Arc<NodeTls>>) {
    while hangups.recv().await.is_some() {
        match &certificates {
            Some(certificates) => certificates.want_reload(),
            None => tracing::info!("SIGHUP: there are no certificates to read again"),
        }
    }
}

/// Waits for a signal, or for the first node that fails; then ends all nodes in order.
pub(super) async fn until_ended(nodes: Vec<Node>, lifecycle: &Lifecycle) -> Outcome {
    let failure = {
        let failures = nodes.iter().map(|node| Box::pin(node.failed()));
        tokio::select! {
            () = lifecycle.reached(Phase::Draining) => None,
            (error, _, _) = futures_util::future::select_all(failures) => Some(error),
        }
    };
    if let Some(error) = failure {
        // Nothing is handed over or flushed: after a fault of the disk whatever it says is not to be trusted.
        end_at_once(&failed(error));
    }
    tell_supervisor(NotifyState::Stopping);
    let hand_over = nodes.len() == 1;
    let stop =
        futures_util::future::join_all(nodes.into_iter().map(|node| node.shutdown(hand_over)));
    tokio::select! {
        _ = stop => Ok(()),
        () = lifecycle.reached(Phase::Now) => end_at_once(&Failure::Ended {
            code: ExitCode::Forced,
            message: "ended at once; requests may have been cut off, nothing acknowledged is lost".to_owned(),
        }),
    }
}

/// Tells systemd, if it is who started this process and wants to know.
fn tell_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd can't be told how the node is");
    }
}

/// Ends the process without waiting for anything: whoever waits for a dead disk never ends, be it one of our threads or
/// one of RocksDB's, which an ordinary exit joins.
fn end_at_once(failure: &Failure) -> ! {
    let code = failure::report(failure, false);
    signal_hook::low_level::exit(code.code().into())
}

/// How a node's end is told.
pub(super) fn failed(error: NodeError) -> Failure {
    Failure::Ended {
        code: error.exit_code(),
        message: error.to_string(),
    }
}
