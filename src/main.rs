//! The `fnhost` binary. Everything is in the library.

use std::process::ExitCode;

/// Sandboxes are made and dropped on all threads, a few dozen small allocations each.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fnhost::cli::main()
}
