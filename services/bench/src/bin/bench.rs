//! Measures ponger and pinger beside their peers, and writes a table and pictures.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bench::{
    chart, flame, gate,
    line::{self, Line},
    machine,
    measure::Effort,
    peer::{self, Kind, Peer},
    programs::{Programs, build_ours, build_with_symbols},
    report::Report,
    run,
};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Measure ponger and pinger beside nginx, Go and hyper, in one interleaved run
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Measure only these lines; the first words of a name select all that begin with them
    #[arg(long, value_delimiter = ',', value_name = "LINES")]
    only: Vec<String>,

    /// List the lines and exit
    #[arg(long)]
    list: bool,

    /// How often each peer is measured on each line
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// How many seconds a measurement takes
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,

    /// How many processors both ends share
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    processors: u16,

    /// Another server, as a command for sh; see services/bench/README.md
    #[arg(long, value_name = "NAME=COMMAND", value_parser = peer::parse)]
    peer: Vec<Peer>,

    /// Write results.md and pictures into this directory
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,

    /// Only write flame graphs of ponger into the directory of --output; takes perf and inferno
    #[arg(long, requires = "output", conflicts_with_all = ["only", "list", "peer", "gate"])]
    flame_graphs: bool,

    /// Only check that instructions, allocations and bytes are within their limits
    #[arg(long, conflicts_with_all = ["only", "list", "peer", "output"])]
    gate: bool,
}

fn main() -> ExitCode {
    match start(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Builds everything, then measures on few processors. Returns whether nothing failed.
fn start(cli: &Cli) -> Result<bool> {
    let lines = line::select(&cli.only)?;
    if cli.list {
        for line in lines {
            println!("{}: {}", line.name, line.title);
        }
        return Ok(true);
    }
    if cli.gate {
        let ours = build_ours()?;
        return run_pinned(cli, async |effort| gate::check(&ours, &effort).await);
    }
    if let Some(dir) = &cli.output {
        // Before all that takes long.
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    if let (true, Some(dir)) = (cli.flame_graphs, &cli.output) {
        flame::check_tools()?;
        let ponger = build_with_symbols()?;
        return run_pinned(cli, async |effort| {
            flame::write(&ponger, dir, &effort).await.map(|()| true)
        });
    }
    let mut programs = Programs::build()?;
    programs.peers.extend(cli.peer.iter().cloned());
    run_pinned(cli, async |effort| measure(cli, lines, programs, effort).await)
}

/// Runs `main` on few processors, until it ends or a signal ends it: then servers are stopped and
/// temporary directories removed, as they are dropped.
fn run_pinned(cli: &Cli, main: impl AsyncFnOnce(Effort) -> Result<bool>) -> Result<bool> {
    machine::raise_file_limit()?;
    let processors = machine::pin(cli.processors.into())?;
    let effort = Effort {
        warm_up: Duration::from_millis(500),
        duration: Duration::from_secs(cli.seconds.into()),
        processors,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut quit = signal(SignalKind::quit())?;
        tokio::select! {
            result = main(effort) => result,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
            _ = hang_up.recv() => bail!("the terminal was closed"),
            _ = quit.recv() => bail!("quit"),
        }
    })
}

async fn measure(cli: &Cli, lines: Vec<Line>, programs: Programs, effort: Effort) -> Result<bool> {
    let machine = machine::describe(effort.processors);
    let Programs { peers: found, missing, .. } = &programs;
    let mut missing = missing.clone();
    let mut peers = Vec::new();
    for peer in found {
        match run::probe(peer).await {
            Ok(negotiated) => peers.push((peer.clone(), negotiated)),
            // The second kind is asked for by `--peer`.
            Err(error) if peer.is_ours() || matches!(peer.kind, Kind::Shell(_)) => {
                return Err(error.context(peer.name.clone()));
            }
            Err(error) => missing.push((peer.name.clone(), format!("{error:#}"))),
        }
    }
    for (name, why) in &missing {
        eprintln!("{name} is left out: {why}");
    }
    let found: Vec<_> = peers.iter().map(|(peer, _)| peer.clone()).collect();
    let results = run::run(lines, &found, cli.rounds.into(), &effort).await?;
    let succeeded = !results.iter().flat_map(|result| &result.cells).any(|cell| cell.failed);
    let report = Report { machine, peers, missing, results };
    let written = cli.output.as_deref().map(|dir| write(&report, dir));
    if !matches!(written, Some(Ok(()))) {
        println!("{}", report.markdown(&[]));
    }
    written.transpose()?;
    Ok(succeeded)
}

fn write(report: &Report, dir: &Path) -> Result<()> {
    let pictures = chart::write(report, dir).with_context(|| dir.display().to_string())?;
    let file = dir.join("results.md");
    let name = file.display();
    fs::write(&file, report.markdown(&pictures)).with_context(|| name.to_string())?;
    eprintln!("{name} has the results");
    Ok(())
}
