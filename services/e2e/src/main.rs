//! Runs the acceptance scenarios, and says of each whether it holds.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use e2e::{
    cluster::{Cluster, Target},
    local::Local,
    place::{Place, Service},
    report::{self, Outcome, Verdict},
    scenario::{ALL, Scenario},
};

/// How long a scenario may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Proves what is promised: on this machine, or in a cluster.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Run in the cluster of this context; without it, as processes on this machine
    #[arg(long)]
    context: Option<String>,

    /// Run only these, such as `3,6`
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    only: Vec<u8>,

    /// List them and end
    #[arg(long)]
    list: bool,

    /// Leave the namespace behind
    #[arg(long)]
    keep: bool,

    /// Write JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Where to save logs, events and manifests of failures; a new folder otherwise
    #[arg(long, value_name = "FOLDER")]
    save: Option<PathBuf>,

    /// The folder with the manifests [default: $PING_PONG_K8S, or k8s]
    #[arg(long, value_name = "FOLDER")]
    manifests: Option<PathBuf>,

    /// ponger's image, as NAME:TAG; without it, that of the pair in namespace ping-pong, if there is one
    #[arg(long, value_name = "IMAGE")]
    ponger_image: Option<String>,

    /// pinger's image
    #[arg(long, value_name = "IMAGE")]
    pinger_image: Option<String>,

    /// The folder with the binaries ponger and pinger; without it, the one where this one is
    #[arg(long, value_name = "FOLDER")]
    bin: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<bool> {
    let here = |scenario: &&Scenario| cli.context.is_some() || scenario.is_local();
    for number in &cli.only {
        let known = ALL.iter().find(|scenario| scenario.number == *number);
        let known =
            known.with_context(|| format!("there is no scenario {number}; --list shows them"))?;
        if !here(&known) {
            bail!("scenario {number} needs a cluster: name one by --context");
        }
    }
    let chosen: Vec<_> = ALL
        .iter()
        .filter(here)
        .filter(|scenario| cli.only.is_empty() || cli.only.contains(&scenario.number))
        .collect();
    if cli.list {
        for scenario in ALL {
            let place = if scenario.is_local() { "" } else { " [cluster]" };
            println!("{scenario:?}{place}");
        }
        return Ok(true);
    }
    let mut stop = Box::pin(tokio::signal::ctrl_c());
    let began = Instant::now();
    let place = tokio::select! {
        place = start(&cli) => place?,
        _ = &mut stop => bail!("interrupted"),
    };
    println!("the pair runs ({:.1} s)", began.elapsed().as_secs_f64());

    let mut verdicts = Vec::new();
    let mut interrupted = false;
    for scenario in chosen {
        let Some(run) = scenario.run(&place) else { continue };
        let began = Instant::now();
        let result = tokio::select! {
            result = tokio::time::timeout(LIMIT, run) => result,
            _ = &mut stop => {
                interrupted = true;
                break;
            }
        };
        let outcome = match result {
            Ok(result) => result.into(),
            Err(_) => Outcome::Fails(format!("not within {} s", LIMIT.as_secs())),
        };
        let verdict = Verdict { scenario: *scenario, took: began.elapsed(), outcome };
        verdict.print();
        if let Outcome::Fails(_) = verdict.outcome {
            let folder = folder(&cli, &place)?.join(format!("scenario-{}", scenario.number));
            place.save(&folder).await?;
            println!("         logs, events and manifests: {}", folder.display());
        }
        verdicts.push(verdict);
    }
    if let Some(file) = &cli.junit {
        let name = cli.context.as_deref().unwrap_or("local");
        report::junit(file, name, &verdicts).with_context(|| file.display().to_string())?;
    }
    if cli.keep {
        println!("the namespace {} stays", place.namespace());
    } else {
        place.clear().await?;
    }
    let count = |fits: fn(&Outcome) -> bool| {
        verdicts.iter().filter(|verdict| fits(&verdict.outcome)).count()
    };
    let held = count(|outcome| matches!(outcome, Outcome::Holds(_)));
    let failed = count(|outcome| matches!(outcome, Outcome::Fails(_)));
    let skipped = verdicts.len() - held - failed;
    let took = began.elapsed().as_secs_f64();
    println!("{held} hold, {failed} fail, {skipped} skipped ({took:.0} s in all)");
    if interrupted {
        bail!("interrupted");
    }
    Ok(failed == 0 && held > 0)
}

async fn start(cli: &Cli) -> Result<Place> {
    let Some(context) = cli.context.clone() else {
        let bin = match &cli.bin {
            Some(bin) => bin.clone(),
            None => std::env::current_exe()?.parent().context("a folder")?.to_owned(),
        };
        return Ok(Place::Local(Local::start(&bin).await?));
    };
    let manifests = cli.manifests.clone();
    let manifests = manifests
        .or_else(|| std::env::var_os("PING_PONG_K8S").map(PathBuf::from))
        .unwrap_or_else(|| "k8s".into());
    let mut images = Vec::new();
    for (service, asked) in
        [(Service::Ponger, &cli.ponger_image), (Service::Pinger, &cli.pinger_image)]
    {
        let image = match asked {
            Some(image) => Some(image.clone()),
            None => e2e::cluster::deployed_image(&context, service).await?,
        };
        images.extend(image.map(|image| (service, image)));
    }
    Ok(Place::Cluster(Box::new(Cluster::start(Target { context, manifests, images }).await?)))
}

fn folder(cli: &Cli, place: &Place) -> Result<PathBuf> {
    match &cli.save {
        Some(folder) => Ok(folder.clone()),
        None => Ok(std::env::temp_dir().join(match place {
            Place::Local(_) => format!("ping-pong-e2e-{}", std::process::id()),
            Place::Cluster(cluster) => cluster.namespace.clone(),
        })),
    }
}
