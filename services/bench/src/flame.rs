//! Flame graphs of ponger: where its CPU time goes, sampled by perf and drawn by inferno.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    client::{Client, Groups, KeepAlive},
    credentials::{Credentials, Setup},
    load::{self, Load},
    measure::Effort,
    peer::Peer,
    programs,
    server::Server,
};

/// The name of each picture, its title, the clients, and whether each keeps its connection.
const GRAPHS: [(&str, &str, usize, KeepAlive); 2] = [
    ("flame-requests.svg", "ponger, requests on kept connections", 64, KeepAlive::Yes),
    ("flame-handshakes.svg", "ponger, a mutual handshake for each request", 32, KeepAlive::No),
];

/// For how long ponger is sampled.
const SAMPLED: Duration = Duration::from_secs(5);

/// The tools that flame graphs need, and what installs them.
const TOOLS: [(&str, &str); 3] = [
    ("perf", "the package linux-perf"),
    ("inferno-collapse-perf", "`cargo install inferno`"),
    ("inferno-flamegraph", "`cargo install inferno`"),
];

/// Fails if a tool for flame graphs is not installed.
///
/// # Errors
/// Names the tool, and what installs it.
pub fn check_tools() -> Result<()> {
    for (tool, source) in TOOLS {
        programs::version(tool, &["--help"])
            .with_context(|| format!("flame graphs need {tool}: {source}"))?;
    }
    Ok(())
}

/// Writes one flame graph for requests and one for handshakes of `ponger`, which was built with symbols,
/// into `dir`.
///
/// # Errors
/// When ponger cannot be sampled.
pub async fn write(ponger: &Peer, dir: &Path, effort: &Effort) -> Result<()> {
    for (name, title, connections, keep_alive) in GRAPHS {
        eprintln!("{name}: {title}");
        let credentials = Credentials::create(&Setup::MINIMAL)?;
        let client = Client::new(&credentials, Groups::Hybrid)?;
        let setup = Setup { connections, ..Setup::MINIMAL };
        let server = Server::start(ponger, &setup, &credentials).await?;
        let samples = credentials.dir().join("samples");
        let mut perf = Command::new("perf")
            .args(["record", "--quiet", "--freq=499", "--call-graph=dwarf,16384"])
            .arg(format!("--pid={}", server.process.id()))
            .arg("--output")
            .arg(&samples)
            .args(["--", "sleep", &SAMPLED.as_secs().to_string()])
            .spawn()
            .context("perf")?;
        let duration = SAMPLED + effort.warm_up;
        let load = Load { connections, keep_alive, warm_up: effort.warm_up, duration };
        let counts = load::run(&client, &server, load).await;
        ensure!(perf.wait()?.success(), "perf could not sample ponger");
        ensure!(counts?.lost == 0, "pings were lost");
        server.stop().await?;
        draw(&samples, title, &dir.join(name))?;
    }
    Ok(())
}

/// Draws what perf has recorded. Inlined functions are part of their callers: to find them takes perf
/// minutes.
fn draw(samples: &Path, title: &str, picture: &Path) -> Result<()> {
    let mut script = Command::new("perf")
        .args(["script", "--no-inline", "--input"])
        .arg(samples)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("perf")?;
    let mut collapse = Command::new("inferno-collapse-perf")
        .stdin(script.stdout.take().context("perf's output")?)
        .stdout(Stdio::piped())
        .spawn()
        .context("inferno-collapse-perf")?;
    let drawn = Command::new("inferno-flamegraph")
        .args(["--title", title, "--hash"])
        .stdin(collapse.stdout.take().context("inferno-collapse-perf's output")?)
        .stdout(File::create(picture).with_context(|| picture.display().to_string())?)
        .status()
        .context("inferno-flamegraph")?;
    ensure!(
        script.wait()?.success() && collapse.wait()?.success() && drawn.success(),
        "{} could not be drawn",
        picture.display()
    );
    Ok(())
}
