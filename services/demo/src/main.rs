//! `cargo run`: both services in one process, with real certificates of a throw-away CA.
//!
//! - [`demo_env`]: a private directory with the certificates and both configurations
//! - [`open`](mod@open): opens the page in the desktop's browser
//! - [`output`]: both services' logs on one terminal
//! - [`tour`]: rejections and faults, one after another

mod demo_env;
mod open;
mod output;
mod tour;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use chassis::{
    error::ConfigError,
    process,
    signals::{SignalSender, Signals},
};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    demo_env::DemoEnv,
    output::{Output, Style},
};

/// How long a start may still take after a signal to stop. A busy machine needs some seconds for the
/// keys, and a start that is not waited for leaves the directory behind.
const START_GRACE: Duration = Duration::from_secs(10);

/// Runs ponger and pinger on this machine, over mutual TLS, with throw-away certificates.
///
/// Ctrl-C ends it with a summary.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Exit after this many pings; exit code 1 if one was lost
    #[arg(long, value_name = "PINGS", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,

    /// Longest pause before a ping; each is random, from zero to this
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,

    /// ponger's port; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// Log TLS version, cipher, group and the time of each phase
    #[arg(long, short)]
    verbose: bool,

    /// Log only pings that fail, and a summary a minute
    #[arg(long, short, conflicts_with = "verbose")]
    quiet: bool,

    /// Show what is rejected and what fails, step by step, and verify each; takes some ten seconds
    #[arg(long, conflicts_with_all = ["count", "interval", "port", "verbose", "quiet", "open", "dir", "keep"])]
    tour: bool,

    /// Open pinger's page in a browser
    #[arg(long)]
    open: bool,

    /// Directory for the certificates and configurations, which must not exist yet; by default a
    /// temporary one
    #[arg(long)]
    dir: Option<PathBuf>,

    /// Keep that directory at the end
    #[arg(long)]
    keep: bool,
}

fn main() {
    process::run("demo", run());
}

async fn run() -> anyhow::Result<u8> {
    let mut signals = Signals::install()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let cli = process::start(&mut signals, || Ok(Cli::parse())).await?;
    if cli.tour {
        return tour::run(&mut signals, &Output::init(Style::Tour)).await.map(|()| 0);
    }
    let start = process::start_with_grace(START_GRACE, &mut signals, move || start(&cli));
    let Demo { env, output, ponger, pinger } = start.await?;

    let (stop_ponger, ponger_signals) = Signals::channel();
    let (stop_pinger, pinger_signals) = Signals::channel();
    let mut ponger = Box::pin(ponger.run_until_stopped(ponger_signals));
    let mut pinger = Box::pin(pinger.run_until_stopped(pinger_signals));
    let mut stopping = false;
    let summary = loop {
        tokio::select! {
            summary = &mut pinger => break summary?,
            result = &mut ponger => {
                result?;
                anyhow::bail!("ponger stopped by itself");
            }
            name = signals.stop() => stop_pinger.stop(name),
            _ = hangup.recv() => stop_pinger.stop("SIGHUP"),
            () = output.closed(), if !stopping => {
                stopping = true;
                stop_pinger.stop("closed output");
            }
        }
    };
    stop_ponger_after(&mut signals, &stop_ponger, ponger).await?;
    output.print(&format!("\n{summary}"));
    if let Some(dir) = env.cleanup()? {
        output.print(&format!("Certificates and configurations stay in {}", dir.display()));
    }
    Ok(summary.exit_code())
}

/// Both services, bound and not yet running.
struct Demo {
    env: DemoEnv,
    output: Output,
    ponger: ponger::Application,
    pinger: pinger::Application,
}

fn start(cli: &Cli) -> anyhow::Result<Demo> {
    let env = DemoEnv::create(cli.dir.as_deref(), cli.keep).map_err(|error| match &cli.dir {
        None => ConfigError::new("the directory for the certificates", error),
        Some(dir) => ConfigError::new(format!("--dir {}", dir.display()), error)
            .hint("name a directory that does not exist yet"),
    })?;
    let style = match (cli.verbose, cli.quiet) {
        (true, _) => Style::Verbose,
        (_, true) => Style::Quiet,
        _ => Style::Normal,
    };
    let output = Output::init(style);

    let config = ponger::Config::load(Some(&env.ponger_config(cli.port)?))?;
    let ponger =
        ponger::Application::build(&config).with_context(|| format!("--port {}", cli.port))?;
    let port = ponger.address()?.port();
    let config = env.pinger_config(port, cli.interval, cli.count.unwrap_or(0))?;
    let mut config = pinger::Config::load(Some(&config))?;
    config.log.pings = style.pings();
    let pinger = pinger::Application::build(&config)?;
    let page = format!("http://{}/", pinger.admin_address()?);
    output.print(&env.introduction(&page, port));
    if cli.open {
        open::open(&page, &output);
    }
    Ok(Demo { env, output, ponger, pinger })
}

/// Stops ponger; a signal meanwhile ends its drain.
async fn stop_ponger_after(
    signals: &mut Signals,
    stop: &SignalSender,
    ponger: impl Future<Output = anyhow::Result<()>> + Unpin,
) -> anyhow::Result<()> {
    let mut ponger = ponger;
    stop.stop("pinger stopped");
    loop {
        tokio::select! {
            result = &mut ponger => return result,
            name = signals.stop() => stop.stop(name),
        }
    }
}
