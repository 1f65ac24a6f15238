//! Processes on this machine: the built `ponger` and `pinger` on loopback.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Ca, CertDir, Issued, process};
use tokio::net::TcpStream;

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
    dir: TempDir,
    trust_bundle: CertDir,
    certs: BTreeMap<Service, CertDir>,
    processes: RefCell<BTreeMap<String, process::Service>>,
    ca: RefCell<Rc<Ca>>,
}

impl LocalProcesses {
    /// Starts pinger and ponger from the binaries in `bin`.
    ///
    /// # Errors
    /// When they do not exist or do not start.
    pub async fn start(bin: PathBuf) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ping-pong-e2e-").tempdir()?;
        let mut certs = BTreeMap::new();
        for service in Service::BOTH {
            certs.insert(service, CertDir::create(dir.path().join(service.name()))?);
        }
        let local = Self {
            bin,
            trust_bundle: CertDir::create(dir.path().join("roots"))?,
            certs,
            dir,
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
    /// When there is no such program, or its configuration cannot be written.
    pub fn run(&self, name: &str, service: Service, mut config: Value) -> Result<()> {
        config["metrics"] = json!({ "host": "127.0.0.1", "port": 0 });
        config["identity"] = json!({ "pollInterval": "200ms" });
        if service == Service::Ponger {
            config["service"]["host"] = "127.0.0.1".into();
            config["service"]["port"] = 0.into();
        }
        let file = self.dir.path().join(format!("{name}.yaml"));
        fs::write(&file, config.to_string())?;
        let program = self.bin.join(service.name());
        ensure!(program.is_file(), "there is no program {}", program.display());
        let mut command = Command::new(program);
        command.arg("--config").arg(&file).env_clear();
        // Not in the group that Ctrl-C signals: they are stopped in order.
        let process = process::Service::spawn(command.process_group(0));
        self.processes.borrow_mut().insert(name.to_owned(), process);
        Ok(())
    }

    /// Writes the files of an extra process, and returns their directory.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_files(
        &self,
        name: &str,
        leaf: Option<&Issued>,
        roots: Option<&str>,
    ) -> Result<String> {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir)?;
        if let Some(leaf) = leaf {
            leaf.write(&dir)?;
        }
        if let Some(roots) = roots {
            fs::write(dir.join("ca.crt"), roots)?;
        }
        Ok(dir.display().to_string())
    }

    /// Waits until a ponger listens, and returns its URL.
    ///
    /// # Errors
    /// When it exits before.
    pub async fn url(&self, name: &str) -> Result<String> {
        Ok(format!("https://localhost:{}", self.logged_port(name, "address").await?))
    }

    /// Kills a process.
    pub fn kill(&self, name: &str) {
        self.processes.borrow_mut().remove(name);
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
        let exited = process.try_wait().is_some();
        Ok((process.log(), exited))
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
        Ok(self.cert_dir(service)?.replace(&issued.files())?)
    }

    async fn install_trust_bundle(&self, bundle: &str) -> Result<()> {
        Ok(self.trust_bundle.replace(&[("ca.crt", bundle.as_bytes())])?)
    }

    fn logs(&self, service: Service) -> BTreeMap<String, Vec<String>> {
        let processes = self.processes.borrow();
        let lines = processes.get(service.name()).map(process::Service::log).unwrap_or_default();
        [(service.name().to_owned(), lines)].into()
    }

    async fn run_pinger(&self, pinger: &OneShotPinger) -> Result<Vec<String>> {
        let name = &pinger.name;
        let dir = self.write_files(name, pinger.leaf.as_ref(), pinger.roots.as_deref())?;
        self.run(name, Service::Pinger, pinger.config(&dir))?;
        let outcomes = until(&format!("{name} exits"), 60, async || {
            let (lines, exited) = self.output(name)?;
            // Its last lines may be read after its exit.
            match pinger.outcomes(&lines) {
                Ok(outcomes) if exited => Ok(Ok(outcomes)),
                _ => Ok(Err(lines.join("\n"))),
            }
        })
        .await?;
        self.kill(name);
        Ok(outcomes)
    }

    async fn start_ponger(&self, ponger: &RoguePonger) -> Result<String> {
        let RoguePonger { name, leaf, client_roots, .. } = ponger;
        let dir = self.write_files(name, Some(leaf), client_roots.as_deref())?;
        self.run(name, Service::Ponger, ponger.config(&dir))?;
        self.url(name).await
    }

    async fn stop(&self, ponger: &RoguePonger) -> Result<()> {
        self.kill(ponger.name);
        Ok(())
    }

    async fn save_diagnostics(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        for (name, process) in &*self.processes.borrow() {
            fs::write(dir.join(format!("{name}.log")), process.log().join("\n") + "\n")?;
        }
        Ok(())
    }

    async fn clean_up(&self) -> Result<()> {
        self.processes.take();
        Ok(())
    }
}
