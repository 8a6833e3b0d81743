//! Profiles of the running process, for `go tool pprof` and everything else that reads that format.
//!
//! **Processor time.** A timer of the process's own processor time interrupts whatever thread runs, a hundred times per
//! second, and the stack there is noted. That is safe beside jemalloc because whoever is interrupted may hold any lock, and
//! nothing that could want one is called: the stack is noted in memory that was set aside, by the unwinder of libgcc, which
//! takes no lock where the C library is glibc 2.35 or newer; a thread that is inside the C library or the unwinder itself
//! at that moment is left out. So time spent in the C library does not show. Memory for some hundred MiB is needed for a
//! moment when it ends: the binary's debug information, from which the names of functions come.
//!
//! **Memory.** jemalloc notes the stack of about one in 512 KiB that is asked for, if it was told to before it began:
//! `flotilla start --heap-profiling`. RocksDB has an allocator of its own, whose memory does not show.

use std::time::Duration;

use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message as _;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::{pprof, refusal};

/// Samples per second of processor time; not a round number, so that nothing that is periodic hides between them.
const FREQUENCY: i32 = 99;
const SECONDS: u64 = 10;
const SECONDS_MAX: u64 = 60;
/// In the instructions of these nobody is interrupted: see the module.
const LEFT_OUT: [&str; 4] = ["libc.", "libgcc", "libpthread", "vdso"];

/// One at a time, for all nodes of the process.
pub(super) static RUNNING: Mutex<()> = Mutex::const_new(());

#[derive(serde::Deserialize)]
pub(super) struct Length {
    seconds: Option<u64>,
}

fn failed(what: impl std::fmt::Display) -> Response {
    refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("no profile: {what}"),
    )
}

fn profile(bytes: Vec<u8>, name: &str) -> Response {
    let file = format!("attachment; filename=\"{name}\"");
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, file),
    ];
    (headers, bytes).into_response()
}

fn busy() -> Response {
    let refused = refusal(
        StatusCode::TOO_MANY_REQUESTS,
        "another profile is being taken: one at a time",
    );
    ([(header::RETRY_AFTER, "10")], refused).into_response()
}

/// Where processor time goes.
pub(super) async fn cpu(Query(length): Query<Length>) -> Response {
    let seconds = length.seconds.unwrap_or(SECONDS);
    if !(1..=SECONDS_MAX).contains(&seconds) {
        let text = format!("seconds = {seconds}: expected a number from 1 to {SECONDS_MAX}");
        return refusal(StatusCode::BAD_REQUEST, text);
    }
    let Ok(turn) = RUNNING.try_lock() else {
        return busy();
    };
    let sampling = spawn_blocking(|| {
        let profiler = ::pprof::ProfilerGuardBuilder::default();
        profiler.frequency(FREQUENCY).blocklist(&LEFT_OUT).build()
    });
    let sampling = match sampling.await {
        Ok(Ok(sampling)) => sampling,
        Ok(Err(error)) => return failed(error),
        Err(error) => return failed(error),
    };
    tracing::info!(seconds, "a profile of processor time is being taken");
    let time = Duration::from_secs(seconds);
    tokio::time::sleep(time).await;
    // Names of functions come from the binary's debug information, which is large.
    let encoded = spawn_blocking(move || {
        let report = sampling.report().build();
        drop(sampling);
        // What was read of it would stay in memory.
        backtrace::clear_symbol_cache();
        let report = report?;
        Ok::<_, ::pprof::Error>(pprof::of_report(&report, time, FREQUENCY).encode_to_vec())
    });
    let answer = match encoded.await {
        Ok(Ok(bytes)) => profile(bytes, "cpu.pb"),
        Ok(Err(error)) => failed(error),
        Err(error) => failed(error),
    };
    drop(turn);
    answer
}

/// Where memory comes from.
pub(super) async fn heap() -> Response {
    let Some(profiler) = jemalloc_pprof::PROF_CTL.as_ref() else {
        return refusal(
            StatusCode::NOT_IMPLEMENTED,
            "this process does not note where memory comes from: start the node with --heap-profiling, or with the \
             environment variable _RJEM_MALLOC_CONF=prof:true",
        );
    };
    let Ok(mut profiler) = profiler.clone().try_lock_owned() else {
        return busy();
    };
    match spawn_blocking(move || profiler.dump_pprof()).await {
        Ok(Ok(bytes)) => profile(bytes, "heap.pb.gz"),
        Ok(Err(error)) => failed(error),
        Err(error) => failed(error),
    }
}
