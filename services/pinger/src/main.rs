//! pinger: read the configuration, load the certificates, ping until asked to stop, sum up.

use std::process::ExitCode;

use chassis::{cli::Cli, error, signals::Signals, telemetry};
use pinger::{Application, Config, NAME};

#[actix_web::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(error) => error::exit_with(NAME, &error),
    }
}

async fn run() -> anyhow::Result<ExitCode> {
    let signals = Signals::install()?;
    let cli = Cli::parse_for(NAME, env!("CARGO_PKG_DESCRIPTION"), env!("CARGO_PKG_VERSION"));
    let config = Config::load(cli.config.as_deref())?;
    if cli.check_config {
        config.preflight()?;
        cli.print_valid();
        return Ok(ExitCode::SUCCESS);
    }
    telemetry::init(&config.log);
    let summary = Application::build(&config)?.run_until_stopped(signals).await?;
    Ok(summary.exit_code())
}
