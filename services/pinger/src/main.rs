//! pinger: read the configuration, load the certificates, ping until a signal to stop, log a summary.

use chassis::{
    cli::Cli,
    process,
    signals::Signals,
    telemetry::{self, LogGuard},
};
use pinger::{Application, Config, NAME};

fn main() {
    process::run(NAME, run());
}

async fn run() -> anyhow::Result<u8> {
    let mut signals = Signals::install()?;
    let started = process::start(&mut signals, start).await?;
    let Some((application, log)) = started else { return Ok(0) };
    log.count_dropped(application.metrics());
    Ok(application.run_until_stopped(signals).await?.exit_code())
}

/// Returns `None` if the configuration was only to be checked.
fn start() -> anyhow::Result<Option<(Application, LogGuard)>> {
    let cli = Cli::parse_for(NAME, env!("CARGO_PKG_DESCRIPTION"), env!("CARGO_PKG_VERSION"));
    let config = Config::load(cli.config.as_deref())?;
    if cli.check_config {
        config.preflight()?;
        cli.print_valid();
        return Ok(None);
    }
    let log = telemetry::init(&config.log)?;
    Ok(Some((Application::build(&config)?, log)))
}
