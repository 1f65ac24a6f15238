//! pinger: read the configuration, load the certificates, ping until a signal to stop, log a summary;
//! or explain one ping.

use anyhow::bail;
use chassis::{
    cli::{self, Cli},
    process,
    signals::Signals,
    telemetry::{self, LogGuard},
};
use clap::{Parser, Subcommand};
use pinger::{
    Application, Config, NAME,
    diagnose::{Diagnosis, args::DiagnoseArgs},
};

#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct PingerCli {
    #[command(flatten)]
    service: Cli,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Diagnose(DiagnoseArgs),
}

/// What the command line asks for.
enum Started {
    /// The configuration was checked, and no more.
    Checked,
    Pinger(Box<Application>, LogGuard),
    Diagnosis(Box<Diagnosis>),
}

fn main() {
    process::run(NAME, run());
}

async fn run() -> anyhow::Result<u8> {
    let mut signals = Signals::install()?;
    match process::start(&mut signals, start).await? {
        Started::Checked => Ok(0),
        Started::Pinger(application, log) => {
            log.count_dropped(application.metrics());
            Ok(application.run_until_stopped(signals).await?.exit_code())
        }
        Started::Diagnosis(diagnosis) => tokio::select! {
            code = diagnosis.run() => code,
            signal = signals.stop() => bail!("stopped by {signal} before the diagnosis was done"),
        },
    }
}

fn start() -> anyhow::Result<Started> {
    let (about, version) = (env!("CARGO_PKG_DESCRIPTION"), env!("CARGO_PKG_VERSION"));
    let PingerCli { service: cli, command } = cli::parse_for(NAME, about, version);
    if let Some(Command::Diagnose(arguments)) = command {
        return Ok(Started::Diagnosis(Box::new(Diagnosis::prepare(arguments)?)));
    }
    let config = Config::load(cli.config.as_deref())?;
    if cli.check_config {
        config.preflight()?;
        cli.print_valid();
        return Ok(Started::Checked);
    }
    let log = telemetry::init(&config.log)?;
    Ok(Started::Pinger(Box::new(Application::build(&config)?), log))
}
