//! ponger: read the configuration, load the certificates, listen, answer until a signal to stop.

use chassis::{
    cli::{self, Cli},
    process,
    signals::Signals,
    telemetry::{self, LogGuard},
};
use ponger::{Application, Config, NAME};

fn main() {
    process::run(NAME, run());
}

async fn run() -> anyhow::Result<u8> {
    let mut signals = Signals::install()?;
    let started = process::start(&mut signals, start).await?;
    if let Some((application, log)) = started {
        log.count_dropped(application.metrics());
        application.run_until_stopped(signals).await?;
    }
    Ok(0)
}

/// Returns `None` if the configuration was only to be checked.
fn start() -> anyhow::Result<Option<(Application, LogGuard)>> {
    let cli: Cli = cli::parse_for(NAME, env!("CARGO_PKG_DESCRIPTION"), env!("CARGO_PKG_VERSION"));
    let config = Config::load(cli.config.as_deref())?;
    if cli.check_config {
        config.preflight()?;
        cli.print_valid();
        return Ok(None);
    }
    let log = telemetry::init(&config.log)?;
    Ok(Some((Application::build(&config)?, log)))
}
