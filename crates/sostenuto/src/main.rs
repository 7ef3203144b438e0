//! The program: parse, one dispatch, an exit code.

use std::process::ExitCode;

use clap::Parser;

/// Spans are many small allocations of like lifetime; the system's allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Two TLS backends would be a question at the first connection; one is installed, here.
    rustls::crypto::ring::default_provider().install_default().expect("nothing installed another before main");
    sostenuto::cli::run(&sostenuto::cli::Cli::parse())
}
