//! The `plimsoll` command. Flags, runtime, exit codes; everything else is in the library.

use std::process::ExitCode;

/// The hop allocates on one thread what the engine frees on another, at a call's pace. glibc pays
/// for that with time and with arenas that never shrink (docs/benchmarks.md).
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    plimsoll::cli::main()
}
