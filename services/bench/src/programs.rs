//! Builds the services and the peers.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::peer::{Kind, Peer};

/// Builds our peers. The release profile optimizes for size what ponger does not need, and hyper is
/// measured at its fastest.
const HYPER: [&str; 5] = [
    "--package=bench",
    "--bin=hyper-server",
    "--bin=hyper-client",
    "--config=profile.release.package.hyper.opt-level=3",
    "--config=profile.release.package.hyper-util.opt-level=3",
];

/// Where this crate is.
const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// The peers that can be started here, ours first, and those that cannot.
#[derive(Debug)]
pub struct Programs {
    /// Ours first.
    pub peers: Vec<Peer>,
    /// The names of the others, with the reason.
    pub missing: Vec<(String, String)>,
}

impl Programs {
    /// Builds ponger, pinger and our peers in release mode, and finds the installed ones.
    ///
    /// # Errors
    /// When a build in Rust fails.
    pub fn build() -> Result<Self> {
        let peers = vec![build_ours()?];
        let built = cargo_build("hyper", "release", &HYPER)?;
        let mut programs = Self { peers, missing: Vec::new() };
        let nginx = version("nginx", &["-V"]).map(|text| {
            // The others say how it was built.
            let is_version =
                |line: &&str| line.contains("nginx version") || line.contains("OpenSSL");
            (text.lines().filter(is_version).collect::<Vec<_>>().join(", "), Kind::Nginx)
        });
        programs.add("nginx", nginx);
        programs.add("Go", build_go());
        let path = |name| program(&built, name);
        let hyper = path("hyper-server")
            .and_then(|server| Ok(Kind::Hyper { server, client: path("hyper-client")? }));
        programs.add("hyper", hyper.map(|kind| (locked_version("hyper"), kind)));
        Ok(programs)
    }

    fn add(&mut self, name: &str, found: Result<(String, Kind)>) {
        match found {
            Ok((version, kind)) => self.peers.push(Peer { name: name.to_owned(), version, kind }),
            Err(error) => self.missing.push((name.to_owned(), format!("{error:#}"))),
        }
    }
}

/// Builds ponger and pinger in release mode.
///
/// # Errors
/// When the build fails, or a program does not start.
pub fn build_ours() -> Result<Peer> {
    // One call for each: in one call, each would get the other's features of their dependencies.
    let server = build_service("ponger", "release")?;
    let client = build_service("pinger", "release")?;
    let version = version(&server.to_string_lossy(), &["--version"])?;
    Ok(Peer { name: "ping-pong".to_owned(), version, kind: Kind::PingPong { server, client } })
}

/// Builds ponger as a release is built, but with symbols. There is no client.
///
/// # Errors
/// When the build fails.
pub fn build_with_symbols() -> Result<Peer> {
    let server = build_service("ponger", "profiling")?;
    let kind = Kind::PingPong { server, client: PathBuf::new() };
    Ok(Peer { name: "ping-pong".to_owned(), version: String::new(), kind })
}

fn build_service(name: &str, profile: &str) -> Result<PathBuf> {
    program(&cargo_build(name, profile, &[&format!("--package={name}")])?, name)
}

/// The path of a built program.
fn program(built: &BTreeMap<String, PathBuf>, name: &str) -> Result<PathBuf> {
    built.get(name).cloned().with_context(|| format!("cargo did not build {name}"))
}

/// Builds what `options` select by a profile, and returns the paths of the binaries by name.
fn cargo_build(title: &str, profile: &str, options: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    eprintln!("Building {title}, profile {profile}");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .args(["build", "--profile", profile, "--locked"])
        .arg("--message-format=json-render-diagnostics")
        .args(options)
        .current_dir(CRATE)
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo")?;
    let output = child.stdout.take().context("cargo's output")?;
    let mut built = BTreeMap::new();
    for line in BufReader::new(output).lines() {
        let message: Value = serde_json::from_str(&line?)?;
        let name = message["target"]["name"].as_str();
        if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
            built.insert(name.to_owned(), path.into());
        }
    }
    ensure!(child.wait()?.success(), "cargo could not build {title}");
    Ok(built)
}

/// Beside this program, where a signal leaves no temporary directory behind.
fn build_go() -> Result<(String, Kind)> {
    let version = version("go", &["version"])?;
    let program = env::current_exe()?.with_file_name("go-server");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg("main.go").current_dir(format!("{CRATE}/go"));
    ensure!(build.status()?.success(), "go could not build {CRATE}/go/main.go");
    Ok((version, Kind::Go(program)))
}

/// The version of a crate in the lock file.
fn locked_version(name: &str) -> String {
    let lock = fs::read_to_string(format!("{CRATE}/../../Cargo.lock")).unwrap_or_default();
    let package = format!("name = \"{name}\"\nversion = \"");
    let version = lock.split_once(&package).and_then(|(_, rest)| rest.split('"').next());
    format!("{name} {}", version.unwrap_or("of an unknown version"))
}

/// What a program prints about its version.
///
/// # Errors
/// When it is not installed or fails.
pub fn version(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} is not installed"))?;
    let printed = [output.stdout, output.stderr].concat();
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&printed));
    }
    Ok(String::from_utf8_lossy(&printed).trim().to_owned())
}
