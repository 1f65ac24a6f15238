//! pinger's story: read the configuration, prove who we are, ping until asked to stop, sum up.

use std::process::ExitCode;

use chassis::{cli::Cli, signals::Stop, telemetry, error};
use pinger::{Application, Config, NAME};

#[actix_web::main]
async fn main() -> ExitCode {
    let cli = Cli::parse_for(NAME, env!("CARGO_PKG_DESCRIPTION"), env!("CARGO_PKG_VERSION"));
    match run(&cli).await {
        Ok(code) => code,
        Err(error) => error::exit_with(NAME, &error),
    }
}

async fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let config = Config::load(cli.config.as_deref())?;
    if cli.check_config {
        config.preflight()?;
        cli.print_valid();
        return Ok(ExitCode::SUCCESS);
    }
    telemetry::init(&config.log);
    let stop = Stop::listen()?;
    let summary = Application::build(&config, cli.config.as_deref())?.run_until_stopped(stop).await?;
    Ok(summary.exit_code())
}
