//! The life of a service's process.

use crate::error;

/// Runs `main` of `service` in a runtime and ends the process with its exit code.
///
/// The process ends at once, as soon as `main` is done: a thread that hangs in a system call, as the
/// resolver's may, is not waited for.
pub fn run(service: &str, main: impl Future<Output = anyhow::Result<u8>>) -> ! {
    let system = actix_rt::System::new();
    let code = system.block_on(main).unwrap_or_else(|error| error::exit_code(service, &error));
    std::process::exit(code.into())
}
