//! ponger: read the configuration, load the certificates, listen, answer until a signal to stop.

use chassis::{cli::Cli, process, signals::Signals, telemetry};
use ponger::{Application, Config, NAME};

fn main() {
    process::run(NAME, run());
}

async fn run() -> anyhow::Result<u8> {
    let signals = Signals::install()?;
    let cli = Cli::parse_for(NAME, env!("CARGO_PKG_DESCRIPTION"), env!("CARGO_PKG_VERSION"));
    let config = Config::load(cli.config.as_deref())?;
    if cli.check_config {
        config.preflight()?;
        cli.print_valid();
        return Ok(0);
    }
    let log = telemetry::init(&config.log);
    let application = Application::build(&config)?;
    log.count_dropped(application.metrics());
    application.run_until_stopped(signals).await?;
    Ok(0)
}
