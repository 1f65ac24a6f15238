//! Processes on this machine: the built `ponger` and `pinger` on loopback.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Ca, CertDir, Issued};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    environment::Environment,
    http,
    metrics::Samples,
    model::{OneShotPinger, RoguePonger, Service, Stream, spiffe_id},
    wait::until,
};

/// The namespace in the SPIFFE IDs.
const NAMESPACE: &str = "local";

/// pinger and ponger as processes.
#[derive(Debug)]
pub struct LocalProcesses {
    bin: PathBuf,
    folder: TempDir,
    trust_bundle: CertDir,
    certs: BTreeMap<Service, CertDir>,
    processes: RefCell<BTreeMap<String, Process>>,
    ca: RefCell<Rc<Ca>>,
}

/// A process and its output.
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

impl LocalProcesses {
    /// Starts pinger and ponger from the binaries in `bin`.
    ///
    /// # Errors
    /// When they do not exist or do not start.
    pub async fn start(bin: PathBuf) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ping-pong-e2e-").tempdir()?;
        let mut certs = BTreeMap::new();
        for service in Service::BOTH {
            certs.insert(service, CertDir::create(folder.path().join(service.name()))?);
        }
        let local = Self {
            bin,
            trust_bundle: CertDir::create(folder.path().join("roots"))?,
            certs,
            folder,
            processes: RefCell::default(),
            ca: RefCell::new(Rc::new(Ca::new("ping-pong e2e"))),
        };
        local.install_trust_bundle(local.root().pem()).await?;
        for service in Service::BOTH {
            local.install_cert(service, &local.issue(service)).await?;
        }
        let file = |service, name| local.cert_dir(service).map(|dir| dir.file(name));
        let bundle = local.trust_bundle.file("ca.crt");
        let config = json!({ "service": {
            "tlsCertificate": file(Service::Ponger, "tls.crt")?,
            "tlsPrivateKey": file(Service::Ponger, "tls.key")?,
            "clientCa": bundle,
            "clientAuth": "required",
            "allowedClients": [spiffe_id(NAMESPACE, "pinger")],
        }});
        local.run("ponger", Service::Ponger, config)?;
        let config = json!({ "interval": "40ms", "ponger": {
            "url": local.url("ponger").await?,
            "acceptCert": bundle,
            "clientCertificate": file(Service::Pinger, "tls.crt")?,
            "clientPrivateKey": file(Service::Pinger, "tls.key")?,
            "serverId": spiffe_id(NAMESPACE, "ponger"),
        }});
        local.run("pinger", Service::Pinger, config)?;
        local.logged_port("pinger", "admin").await?;
        Ok(local)
    }

    /// Starts a process with `config`, on ports that the system chooses.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, name: &str, service: Service, mut config: Value) -> Result<()> {
        config["metrics"] = json!({ "host": "127.0.0.1", "port": 0 });
        config["identity"] = json!({ "pollInterval": "200ms" });
        if service == Service::Ponger {
            config["service"]["host"] = "127.0.0.1".into();
            config["service"]["port"] = 0.into();
        }
        let file = self.folder.path().join(format!("{name}.yaml"));
        fs::write(&file, config.to_string())?;
        let program = self.bin.join(service.name());
        let mut child = Command::new(&program)
            .arg("--config")
            .arg(&file)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Not in the group that Ctrl-C signals: they are stopped in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let lines = Arc::<Mutex<Vec<String>>>::default();
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(collect_lines(stdout, Arc::clone(&lines)));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(collect_lines(stderr, Arc::clone(&lines)));
        }
        self.processes.borrow_mut().insert(name.to_owned(), Process { child, lines });
        Ok(())
    }

    /// Writes the files of an extra process, and returns their folder.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_files(
        &self,
        name: &str,
        leaf: Option<&Issued>,
        roots: Option<&str>,
    ) -> Result<String> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder)?;
        if let Some(leaf) = leaf {
            leaf.write(&folder)?;
        }
        if let Some(roots) = roots {
            fs::write(folder.join("ca.crt"), roots)?;
        }
        Ok(folder.display().to_string())
    }

    /// Waits until a ponger listens, and returns its URL.
    ///
    /// # Errors
    /// When it exits before.
    pub async fn url(&self, name: &str) -> Result<String> {
        Ok(format!("https://localhost:{}", self.logged_port(name, "address").await?))
    }

    /// Kills a process.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&self, name: &str) -> Result<()> {
        let process = self.processes.borrow_mut().remove(name);
        if let Some(mut process) = process {
            process.child.kill().await?;
        }
        Ok(())
    }

    /// Returns the status of a process's readiness.
    ///
    /// # Errors
    /// When it does not respond.
    pub async fn readiness(&self, name: &str) -> Result<u16> {
        Ok(self.get_admin(name, "/readyz").await?.0)
    }

    async fn get_admin(&self, name: &str, path: &str) -> Result<(u16, String)> {
        let port = self.logged_port(name, "admin").await?;
        http::get(TcpStream::connect(("127.0.0.1", port)).await?, "localhost", path).await
    }

    /// Waits until a process has logged the address of a listener, and returns its port.
    async fn logged_port(&self, name: &str, field: &str) -> Result<u16> {
        until(&format!("{name} logs its port"), 20, async || {
            let (lines, exited) = self.output(name)?;
            let port = lines.iter().find_map(|line| {
                let (_, rest) = line.split_once(&format!("{field}="))?;
                rest.split_whitespace().next()?.rsplit_once(':')?.1.parse().ok()
            });
            match port {
                Some(port) => Ok(Ok(port)),
                None if exited => bail!("{name} has exited: {}", lines.join("\n")),
                None => Ok(Err(lines.join("\n"))),
            }
        })
        .await
    }

    /// Returns the output of a process, and whether it has exited.
    fn output(&self, name: &str) -> Result<(Vec<String>, bool)> {
        let mut processes = self.processes.borrow_mut();
        let process = processes.get_mut(name).with_context(|| format!("no process {name}"))?;
        let exited = process.child.try_wait()?.is_some();
        Ok((process.lines(), exited))
    }

    fn cert_dir(&self, service: Service) -> Result<&CertDir> {
        self.certs.get(&service).context("no certificate directory")
    }
}

impl Environment for LocalProcesses {
    fn namespace(&self) -> &str {
        NAMESPACE
    }

    fn ca(&self) -> &RefCell<Rc<Ca>> {
        &self.ca
    }

    async fn metrics(&self, service: Service) -> Result<BTreeMap<String, Samples>> {
        let name = service.name();
        Ok([(name.to_owned(), self.metrics_of(name).await?)].into())
    }

    async fn metrics_of(&self, name: &str) -> Result<Samples> {
        Ok(Samples::parse(&self.get_admin(name, "/metrics").await?.1))
    }

    async fn connect(&self) -> Result<(String, Stream)> {
        let port = self.logged_port("ponger", "address").await?;
        Ok(("ponger".into(), Box::new(TcpStream::connect(("127.0.0.1", port)).await?)))
    }

    async fn install_cert(&self, service: Service, issued: &Issued) -> Result<()> {
        let files = [("tls.crt", issued.chain.as_bytes()), ("tls.key", issued.key.as_bytes())];
        Ok(self.cert_dir(service)?.replace(&files)?)
    }

    async fn install_trust_bundle(&self, bundle: &str) -> Result<()> {
        Ok(self.trust_bundle.replace(&[("ca.crt", bundle.as_bytes())])?)
    }

    fn logs(&self, service: Service) -> BTreeMap<String, Vec<String>> {
        let processes = self.processes.borrow();
        let lines = processes.get(service.name()).map(Process::lines).unwrap_or_default();
        [(service.name().to_owned(), lines)].into()
    }

    async fn run_pinger(&self, pinger: &OneShotPinger) -> Result<Vec<String>> {
        let name = &pinger.name;
        let folder = self.write_files(name, pinger.leaf.as_ref(), pinger.roots.as_deref())?;
        self.run(name, Service::Pinger, pinger.config(&folder))?;
        let outcomes = until(&format!("{name} exits"), 60, async || {
            let (lines, exited) = self.output(name)?;
            // Its last lines may be read after its exit.
            match pinger.outcomes(&lines) {
                Ok(outcomes) if exited => Ok(Ok(outcomes)),
                _ => Ok(Err(lines.join("\n"))),
            }
        })
        .await?;
        self.kill(name).await?;
        Ok(outcomes)
    }

    async fn start_ponger(&self, ponger: &RoguePonger) -> Result<String> {
        let RoguePonger { name, leaf, client_roots, .. } = ponger;
        let folder = self.write_files(name, Some(leaf), client_roots.as_deref())?;
        self.run(name, Service::Ponger, ponger.config(&folder))?;
        self.url(name).await
    }

    async fn stop(&self, ponger: &RoguePonger) -> Result<()> {
        self.kill(ponger.name).await
    }

    async fn save_diagnostics(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        for (name, process) in &*self.processes.borrow() {
            fs::write(folder.join(format!("{name}.log")), process.lines().join("\n") + "\n")?;
        }
        Ok(())
    }

    async fn clean_up(&self) -> Result<()> {
        for (_, mut process) in self.processes.take() {
            process.child.kill().await?;
        }
        Ok(())
    }
}

async fn collect_lines(output: impl AsyncRead + Unpin, lines: Arc<Mutex<Vec<String>>>) {
    let mut output = BufReader::new(output).lines();
    while let Ok(Some(line)) = output.next_line().await {
        lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
