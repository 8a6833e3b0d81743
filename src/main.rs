//! The `flotilla` binary.
use std::process::ExitCode;

/// Requests come and go as many small buffers; the system's allocator would keep growing on them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    flotilla::cli::main()
}
