//! ponger's story: read the configuration, prove who we are, listen, answer until asked to stop.

use std::process::ExitCode;

use chassis::{cli::Cli, signals::Stop, telemetry, error};
use ponger::{Application, Config, NAME};

#[actix_web::main]
async fn main() -> ExitCode {
    let cli = Cli::parse_for(NAME, env!("CARGO_PKG_DESCRIPTION"), env!("CARGO_PKG_VERSION"));
    match run(&cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error::exit_with(NAME, &error),
    }
}

async fn run(cli: &Cli) -> anyhow::Result<()> {
    let config = Config::load(cli.config.as_deref())?;
    if cli.check_config {
        config.preflight()?;
        cli.print_valid();
        return Ok(());
    }
    telemetry::init(&config.log);
    let stop = Stop::listen()?;
    Application::build(&config, cli.config.as_deref())?.run_until_stopped(stop).await
}
