//! `cargo run`: both services for real, as two processes with real certificates, on this machine.
//!
//! - [`stage`]: a private folder with a throw-away authority's certificates and both configurations
//! - [`child`]: the two processes, whose logs appear on one terminal

mod child;
mod stage;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use chassis::{signals::Stop, error};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    child::{Child, Screen},
    stage::Stage,
};

/// Runs ponger and pinger on this machine, over mutual TLS, with throw-away certificates.
///
/// Ctrl-C ends it with a summary.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// End after so many pings; exit code 1 if one was lost
    #[arg(long, value_name = "PINGS", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,

    /// The longest pause before a ping; each is random, from zero to this
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,

    /// ponger's port; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// Leave the folder with the certificates and configurations behind
    #[arg(long)]
    keep: bool,

    #[command(subcommand)]
    part: Option<Part>,
}

/// What this program is when it has started itself.
#[derive(Debug, Subcommand)]
enum Part {
    #[command(hide = true)]
    Ponger { config: PathBuf },
    #[command(hide = true)]
    Pinger { config: PathBuf },
}

#[actix_web::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let (name, ended) = match &cli.part {
        Some(Part::Ponger { config }) => (ponger::NAME, child::ponger(config).await),
        Some(Part::Pinger { config }) => (pinger::NAME, child::pinger(config).await),
        None => ("demo", run(&cli).await),
    };
    ended.unwrap_or_else(|error| error::exit_with(name, &error))
}

async fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let stage = Stage::set(cli.keep).context("the folder for the certificates")?;
    let screen = Screen::default();

    let mut ponger = Child::start("ponger", &stage.ponger(cli.port)?, &screen)?;
    let port = tokio::select! {
        port = ponger.wait_for_port() => port,
        _ = stop.requested() => return Ok(ponger.stop().await),
    };
    let Some(port) = port else { return Ok(ponger.ended().await) };
    screen.say(&stage.introduction(port));
    ponger.show();
    let config = stage.pinger(port, cli.interval, cli.count.unwrap_or(0))?;
    let mut pinger = Child::start("pinger", &config, &screen)?;
    pinger.show();

    let code = tokio::select! {
        code = pinger.ended() => code,
        code = ponger.ended() => {
            eprintln!("demo: ponger ended by itself");
            pinger.stop().await;
            return Ok(code);
        }
        _ = stop.requested() => pinger.stop().await,
        _ = hangup.recv() => pinger.stop().await,
        () = screen.gone() => pinger.stop().await,
    };
    ponger.stop().await;
    if let Some(summary) = pinger.summary() {
        screen.say(&format!("\n{summary}"));
    }
    if let Some(folder) = stage.clear()? {
        screen.say(&format!("Certificates and configurations stay in {}", folder.display()));
    }
    Ok(code)
}
