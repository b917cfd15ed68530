//! The `fnhost` binary. Everything is in the library.

use std::process::ExitCode;

/// Sandboxes are made and dropped on all threads, a few dozen small allocations each; and most of what a burst of them
/// took is given back to the kernel, by threads of the allocator, also where no request follows.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    fnhost::cli::main()
}
