//! ponger: read the configuration, load the certificates, listen, answer until asked to stop.

use std::process::ExitCode;

use chassis::{cli::Cli, error, signals::Signals, telemetry};
use ponger::{Application, Config, NAME};

#[actix_web::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error::exit_with(NAME, &error),
    }
}

async fn run() -> anyhow::Result<()> {
    let signals = Signals::install()?;
    let cli = Cli::parse_for(NAME, env!("CARGO_PKG_DESCRIPTION"), env!("CARGO_PKG_VERSION"));
    let config = Config::load(cli.config.as_deref())?;
    if cli.check_config {
        config.preflight()?;
        cli.print_valid();
        return Ok(());
    }
    telemetry::init(&config.log);
    Application::build(&config)?.run_until_stopped(signals).await
}
