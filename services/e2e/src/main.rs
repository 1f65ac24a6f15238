//! Runs the acceptance scenarios and reports which of them pass.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use e2e::{
    cluster::{Cluster, Target, deployed_image},
    environment::Environment,
    local::LocalProcesses,
    model::Service,
    report::{self, Outcome, ScenarioResult, Totals},
    scenario::{ALL, Scenario, Start},
};
use tokio::signal::unix::{SignalKind, signal};

/// How long a scenario may take.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Run the acceptance scenarios, on this machine or in a cluster
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Run in the cluster of this kubectl context; by default as processes on this machine
    #[arg(long)]
    context: Option<String>,

    /// Run only these scenarios, for example `3,6`
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    only: Vec<u8>,

    /// List the scenarios and exit
    #[arg(long)]
    list: bool,

    /// Keep the namespace
    #[arg(long)]
    keep: bool,

    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Save logs, events and manifests of failures in this directory [default: a new one]
    #[arg(long, value_name = "DIRECTORY")]
    save: Option<PathBuf>,

    /// Directory with the manifests [default: $PING_PONG_K8S, or k8s]
    #[arg(long, value_name = "DIRECTORY")]
    manifests: Option<PathBuf>,

    /// Image of ponger as NAME:TAG [default: the one deployed in namespace ping-pong, if any]
    #[arg(long, value_name = "IMAGE")]
    ponger_image: Option<String>,

    /// Image of pinger as NAME:TAG [default: the one deployed in namespace ping-pong, if any]
    #[arg(long, value_name = "IMAGE")]
    pinger_image: Option<String>,

    /// Directory with the programs ponger and pinger [default: the directory of this program]
    #[arg(long, value_name = "DIRECTORY")]
    bin: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Cli::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all scenarios passed.
async fn run(cli: &Cli) -> Result<bool> {
    if cli.list {
        for scenario in ALL {
            println!("{scenario}");
        }
        return Ok(true);
    }
    for number in &cli.only {
        let scenario = ALL.iter().find(|scenario| scenario.number == *number);
        let scenario = scenario.with_context(|| format!("no scenario {number}; see --list"))?;
        if cli.context.is_none() && scenario.local.is_none() {
            bail!("scenario {number} needs a cluster; name one with --context");
        }
    }
    match &cli.context {
        None => run_in(cli, start_local(cli), |scenario| scenario.local).await,
        Some(context) => {
            run_in(cli, start_cluster(cli, context), |scenario| Some(scenario.cluster)).await
        }
    }
}

async fn start_local(cli: &Cli) -> Result<LocalProcesses> {
    let bin = match &cli.bin {
        Some(bin) => bin.clone(),
        None => std::env::current_exe()?.parent().context("program without directory")?.to_owned(),
    };
    LocalProcesses::start(bin).await
}

async fn start_cluster(cli: &Cli, context: &str) -> Result<Cluster> {
    let manifests = cli
        .manifests
        .clone()
        .or_else(|| std::env::var_os("PING_PONG_K8S").map(PathBuf::from))
        .unwrap_or_else(|| "k8s".into());
    let mut images = Vec::new();
    for (service, given) in
        [(Service::Ponger, &cli.ponger_image), (Service::Pinger, &cli.pinger_image)]
    {
        let image = match given {
            Some(image) => Some(image.clone()),
            None => deployed_image(context, service).await?,
        };
        images.extend(image.map(|image| (service, image)));
    }
    Cluster::start(Target { context: context.to_owned(), manifests, images }).await
}

/// Starts an environment, and runs the scenarios for which `select` returns something.
async fn run_in<E: Environment>(
    cli: &Cli,
    start_env: impl Future<Output = Result<E>>,
    select: fn(&Scenario) -> Option<Start<E>>,
) -> Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = Box::pin(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    });
    let start = Instant::now();
    let env = tokio::select! {
        env = start_env => env?,
        () = &mut interrupt => bail!("interrupted"),
    };
    println!("pinger and ponger are running ({:.1} s)", start.elapsed().as_secs_f64());

    let mut results = Vec::new();
    let mut interrupted = false;
    for scenario in ALL {
        let Scenario { number, sentence, .. } = *scenario;
        let selected = cli.only.is_empty() || cli.only.contains(&number);
        let (Some(run), true) = (select(scenario), selected) else { continue };
        let start = Instant::now();
        let outcome = tokio::select! {
            // First: the signal may have ended a command of the scenario too.
            biased;
            () = &mut interrupt => {
                interrupted = true;
                break;
            }
            result = tokio::time::timeout(TIMEOUT, run(&env)) => match result {
                Ok(result) => result.into(),
                Err(_) => Outcome::Failed(format!("timed out after {} s", TIMEOUT.as_secs())),
            },
        };
        let result = ScenarioResult { number, sentence, duration: start.elapsed(), outcome };
        result.print();
        if let Outcome::Failed(_) = result.outcome {
            let dir = diagnostics_directory(cli).join(format!("scenario-{number}"));
            env.save_diagnostics(&dir).await?;
            println!("         diagnostics: {}", dir.display());
        }
        results.push(result);
    }
    if let Some(file) = &cli.junit {
        let suite = cli.context.as_deref().unwrap_or("local");
        report::write_junit(file, suite, &results).with_context(|| file.display().to_string())?;
    }
    if cli.keep {
        println!("keeping the namespace {}", env.namespace());
    } else {
        env.clean_up().await?;
    }
    let Totals { passed, failed, skipped } = Totals::new(&results);
    let seconds = start.elapsed().as_secs_f64();
    println!("{passed} passed, {failed} failed, {skipped} skipped ({seconds:.0} s)");
    if interrupted {
        bail!("interrupted");
    }
    Ok(failed == 0 && passed > 0)
}

fn diagnostics_directory(cli: &Cli) -> PathBuf {
    let new = || std::env::temp_dir().join(format!("ping-pong-e2e-{}", std::process::id()));
    cli.save.clone().unwrap_or_else(new)
}
