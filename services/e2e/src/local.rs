//! Processes on this machine: the built `ponger` and `pinger`, on loopback.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::Issued;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    metrics::{Samples, get},
    place::{Impostor, Probe, Root, Service, Stream, spiffe},
    wait::{seconds, until},
    window::Ledger,
};

/// The namespace in the SPIFFE IDs.
pub const NAMESPACE: &str = "local";

/// The pair as processes.
#[derive(Debug)]
pub struct Local {
    bin: PathBuf,
    folder: TempDir,
    processes: Mutex<BTreeMap<String, Process>>,
    pub(crate) root: Root,
}

/// One process and what it has said.
#[derive(Debug)]
struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Local {
    /// Starts the pair from the binaries in `bin`.
    ///
    /// # Errors
    /// When they are not there, or do not start.
    pub async fn start(bin: &Path) -> Result<Self> {
        let local = Self {
            bin: bin.to_owned(),
            folder: tempfile::Builder::new().prefix("ping-pong-e2e-").tempdir()?,
            processes: Mutex::default(),
            root: Root::new(),
        };
        let root = local.root_pem();
        local.trust(&root)?;
        for service in Service::BOTH {
            local.give(service, &local.issue(service))?;
        }
        let files = |service: Service| local.folder.path().join(service.name());
        let (ponger, pinger) = (files(Service::Ponger), files(Service::Pinger));
        let bundle = local.folder.path().join("ca.crt");
        let config = json!({ "service": {
            "tlsCertificate": ponger.join("tls.crt"),
            "tlsPrivateKey": ponger.join("tls.key"),
            "clientCa": bundle,
            "clientAuth": "required",
            "allowedClients": [spiffe(NAMESPACE, "pinger")],
        }});
        local.run("ponger", Service::Ponger, config)?;
        let port = local.said("ponger", "address").await?;
        let config = json!({ "interval": "40ms", "ponger": {
            "url": format!("https://localhost:{port}"),
            "acceptCert": bundle,
            "clientCertificate": pinger.join("tls.crt"),
            "clientPrivateKey": pinger.join("tls.key"),
            "serverId": spiffe(NAMESPACE, "ponger"),
        }});
        local.run("pinger", Service::Pinger, config)?;
        local.said("pinger", "admin").await?;
        Ok(local)
    }

    /// A folder for the files of one scenario.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Starts a process with `config`, on loopback.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, name: &str, service: Service, mut config: Value) -> Result<()> {
        config["metrics"] = json!({ "host": "127.0.0.1", "port": 0 });
        if service == Service::Ponger {
            config["service"]["host"] = "127.0.0.1".into();
            if config["service"]["port"].is_null() {
                config["service"]["port"] = 0.into();
            }
        }
        self.run_text(name, service, &config.to_string())
    }

    /// Starts a process with a configuration as it is written.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_text(&self, name: &str, service: Service, config: &str) -> Result<()> {
        let file = self.folder(name)?.join("config.yaml");
        fs::write(&file, config)?;
        let program = self.bin.join(service.name());
        let mut child = Command::new(&program)
            .arg("--config")
            .arg(&file)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is ours, and they are ended in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let lines = Arc::<Mutex<Vec<String>>>::default();
        if let Some(output) = child.stdout.take() {
            tokio::spawn(gather(output, Arc::clone(&lines)));
        }
        if let Some(output) = child.stderr.take() {
            tokio::spawn(gather(output, Arc::clone(&lines)));
        }
        self.with(|processes| processes.insert(name.to_owned(), Process { child, lines }));
        Ok(())
    }

    /// Waits until a process has said on which port it listens: the one of its `address`, or of
    /// its `admin` listener.
    ///
    /// # Errors
    /// When it ends before.
    pub async fn said(&self, name: &str, which: &str) -> Result<u16> {
        until(&format!("{name} says its port"), seconds(20), || async {
            let (lines, ended) = self.look(name)?;
            let port = lines.iter().find_map(|line| {
                let (_, rest) = line.split_once(&format!("{which}="))?;
                rest.split_whitespace().next()?.rsplit_once(':')?.1.parse().ok()
            });
            match port {
                Some(port) => Ok(Ok(port)),
                None if ended => bail!("{name} has ended: {}", lines.join("\n")),
                None => Ok(Err(lines.join("\n"))),
            }
        })
        .await
    }

    /// Ends a process; whether it was there.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn dismiss(&self, name: &str) -> Result<()> {
        if let Some(mut process) = self.with(|processes| processes.remove(name)) {
            process.child.kill().await?;
        }
        Ok(())
    }

    /// The status of a process's readiness.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ready(&self, name: &str) -> Result<u16> {
        let port = self.said(name, "admin").await?;
        Ok(get(TcpStream::connect(("127.0.0.1", port)).await?, "localhost", "/readyz").await?.0)
    }

    /// The metrics of one process.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics_of(&self, name: &str) -> Result<Samples> {
        let port = self.said(name, "admin").await?;
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        Ok(Samples::parse(&get(stream, "localhost", "/metrics").await?.1))
    }

    pub(crate) async fn metrics(&self, service: Service) -> Result<BTreeMap<String, Samples>> {
        let name = service.name();
        Ok([(name.to_owned(), self.metrics_of(name).await?)].into())
    }

    pub(crate) async fn dial(&self) -> Result<(String, Stream)> {
        let port = self.said("ponger", "address").await?;
        Ok(("ponger".into(), Box::new(TcpStream::connect(("127.0.0.1", port)).await?)))
    }

    pub(crate) fn give(&self, service: Service, issued: &Issued) -> Result<()> {
        Ok(issued.write(&self.folder(service.name())?)?)
    }

    pub(crate) fn trust(&self, bundle: &str) -> Result<()> {
        Ok(testkit::write_private(&self.folder.path().join("ca.crt"), bundle)?)
    }

    pub(crate) fn journal(&self, service: Service) -> BTreeMap<String, Vec<String>> {
        let lines = self
            .with(|processes| processes.get(service.name()).map(Process::lines))
            .unwrap_or_default();
        [(service.name().to_owned(), lines)].into()
    }

    pub(crate) async fn probe(&self, probe: &Probe) -> Result<Vec<String>> {
        let folder = self.write(&probe.name, probe.leaf.as_ref(), probe.roots.as_deref())?;
        self.run(&probe.name, Service::Pinger, probe.config(&folder))?;
        let lines = until(&format!("{} ends", probe.name), seconds(60), || async {
            let (lines, ended) = self.look(&probe.name)?;
            let whole = Ledger::read(&lines).outcomes().len() == probe.count as usize;
            Ok(if ended && whole { Ok(lines) } else { Err(lines.join("\n")) })
        })
        .await?;
        self.dismiss(&probe.name).await?;
        Ok(Ledger::read(&lines).outcomes())
    }

    pub(crate) async fn impostor(&self, impostor: &Impostor) -> Result<String> {
        let folder =
            self.write(impostor.name, Some(&impostor.leaf), impostor.client_roots.as_deref())?;
        self.run(impostor.name, Service::Ponger, impostor.config(&folder))?;
        Ok(format!("https://localhost:{}", self.said(impostor.name, "address").await?))
    }

    pub(crate) async fn clear(&self) -> Result<()> {
        let all = self.with(std::mem::take);
        for (_, mut process) in all {
            process.child.kill().await?;
        }
        Ok(())
    }

    fn issue(&self, service: Service) -> Issued {
        crate::place::issue(&self.root, service, NAMESPACE)
    }

    fn root_pem(&self) -> String {
        self.root.get().pem().to_owned()
    }

    /// Writes what is given into a folder of its own.
    fn write(&self, name: &str, leaf: Option<&Issued>, roots: Option<&str>) -> Result<String> {
        let folder = self.folder(name)?;
        if let Some(leaf) = leaf {
            leaf.write(&folder)?;
        }
        if let Some(roots) = roots {
            fs::write(folder.join("ca.crt"), roots)?;
        }
        Ok(folder.display().to_string())
    }

    /// What a process has said, and whether it has ended.
    fn look(&self, name: &str) -> Result<(Vec<String>, bool)> {
        self.with(|processes| {
            let process = processes.get_mut(name).with_context(|| format!("there is no {name}"))?;
            let ended = process.child.try_wait()?.is_some();
            Ok((process.lines(), ended))
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Process>) -> T) -> T {
        change(&mut self.processes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn gather(output: impl tokio::io::AsyncRead + Unpin, lines: Arc<Mutex<Vec<String>>>) {
    let mut output = BufReader::new(output).lines();
    while let Ok(Some(line)) = output.next_line().await {
        lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
