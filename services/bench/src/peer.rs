//! The servers that are compared, and how each is started.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    credentials::{CLIENT_ID, Credentials, Logging, Setup, allowed_clients},
    environment::{CERTIFICATE, COUNT, LOG, PORT, PRIVATE_KEY, ROOTS},
};

mod nginx;

/// Connections beside those that a line needs, such as those that are just being closed.
const SPARE_CONNECTIONS: usize = 100;

/// One of the servers that are compared, and its client where it has one.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name in the results.
    pub name: String,
    /// What `--version` or its like prints; empty where it is not known.
    pub version: String,
    /// How it is started.
    pub kind: Kind,
}

/// How a peer is started.
#[derive(Clone, Debug)]
pub enum Kind {
    /// ponger, and pinger as its client: the ones that the others are compared with.
    PingPong {
        /// ponger.
        server: PathBuf,
        /// pinger.
        client: PathBuf,
    },
    /// nginx, from `PATH`.
    Nginx,
    /// Our server on hyper, and our client.
    Hyper {
        /// The server.
        server: PathBuf,
        /// The client.
        client: PathBuf,
    },
    /// Our server on Go's net/http.
    Go(PathBuf),
    /// A command line for `sh`, that starts a server from the variables of
    /// [`environment`](crate::environment).
    Shell(String),
}

impl Peer {
    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::PingPong { .. })
    }

    /// Why it cannot serve `setup`, if so.
    pub fn unsupported(&self, setup: &Setup) -> Option<&'static str> {
        match self.kind {
            Kind::PingPong { .. } => None,
            _ if setup.allowed > 1 => Some("no list of allowed clients"),
            Kind::Hyper { .. } if setup.logging != Logging::None => Some("no log"),
            _ => None,
        }
    }

    /// Whether it reloads its certificate after SIGHUP.
    pub fn reloads(&self) -> bool {
        matches!(self.kind, Kind::PingPong { .. } | Kind::Nginx)
    }

    /// Whether it has a client.
    pub fn has_client(&self) -> bool {
        matches!(self.kind, Kind::PingPong { .. } | Kind::Hyper { .. })
    }

    /// The command that starts the server on `port`. Its files are written into the directory of
    /// `credentials`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn server(
        &self,
        setup: &Setup,
        credentials: &Credentials,
        port: u16,
    ) -> io::Result<Command> {
        let variables = |mut command: Command| {
            set_variables(&mut command, credentials, "server", port);
            command.env(LOG, log_format(setup.logging).unwrap_or("none"));
            command
        };
        match &self.kind {
            Kind::PingPong { server, .. } => {
                let config = ponger_config(setup, credentials, port);
                with_config(server, &config, &credentials.dir().join("ponger.yaml"))
            }
            Kind::Nginx => nginx::command(setup, credentials, port),
            Kind::Hyper { server, .. } | Kind::Go(server) => Ok(variables(Command::new(server))),
            Kind::Shell(line) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", line]);
                Ok(variables(shell))
            }
        }
    }

    /// The command of its client, which sends `count` pings on one kept connection without a pause;
    /// `None` where it has none.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn client(
        &self,
        credentials: &Credentials,
        port: u16,
        count: u32,
    ) -> io::Result<Option<Command>> {
        match &self.kind {
            Kind::PingPong { client, .. } => {
                let config = pinger_config(credentials, port, count);
                with_config(client, &config, &credentials.dir().join("pinger.yaml")).map(Some)
            }
            Kind::Hyper { client, .. } => {
                let mut command = Command::new(client);
                set_variables(&mut command, credentials, "client", port);
                command.env(COUNT, count.to_string());
                Ok(Some(command))
            }
            _ => Ok(None),
        }
    }
}

fn set_variables(command: &mut Command, credentials: &Credentials, side: &str, port: u16) {
    let [certificate, key, roots] = credentials.files(side);
    command.env(PORT, port.to_string()).env(CERTIFICATE, certificate);
    command.env(PRIVATE_KEY, key).env(ROOTS, roots);
}

/// The name of a log's format; `None` without a log.
fn log_format(logging: Logging) -> Option<&'static str> {
    match logging {
        Logging::None => None,
        Logging::Text => Some("text"),
        Logging::Json => Some("json"),
    }
}

/// A command with a configuration file; JSON is YAML too.
fn with_config(program: &Path, config: &Value, file: &Path) -> io::Result<Command> {
    fs::write(file, config.to_string())?;
    let mut command = Command::new(program);
    command.env_clear().arg("--config").arg(file);
    Ok(command)
}

fn ponger_config(setup: &Setup, credentials: &Credentials, port: u16) -> Value {
    let [certificate, key, roots] = credentials.files("server");
    json!({
        "service": {
            "host": "127.0.0.1",
            "port": port,
            "tlsCertificate": certificate,
            "tlsPrivateKey": key,
            "clientCa": roots,
            "allowedClients": allowed_clients(setup.allowed),
            "maxConnections": setup.connections + SPARE_CONNECTIONS,
            "drainDelay": "0s",
        },
        "metrics": { "host": "127.0.0.1", "port": 0 },
        "log": log_config(setup.logging),
    })
}

fn pinger_config(credentials: &Credentials, port: u16, count: u32) -> Value {
    let [certificate, key, roots] = credentials.files("client");
    json!({
        "ponger": {
            "url": format!("https://localhost:{port}"),
            "acceptCert": roots,
            "clientCertificate": certificate,
            "clientPrivateKey": key,
            "serverId": CLIENT_ID.replace("pinger", "ponger"),
            "keepAlive": "10s",
        },
        "interval": "0s",
        "count": count,
        "metrics": { "host": "127.0.0.1", "port": 0 },
        "log": log_config(Logging::None),
    })
}

fn log_config(logging: Logging) -> Value {
    match log_format(logging) {
        None => json!({ "level": "error" }),
        Some(format) => json!({ "format": format }),
    }
}

/// Parses `NAME=COMMAND`.
///
/// # Errors
/// When a part is missing.
pub fn parse(text: &str) -> Result<Peer, String> {
    match text.split_once('=') {
        Some((name, command)) if !name.is_empty() && !command.is_empty() => Ok(Peer {
            name: name.to_owned(),
            version: command.to_owned(),
            kind: Kind::Shell(command.to_owned()),
        }),
        _ => Err("use NAME=COMMAND, such as `other=./other-server`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_command_that_contains_an_equals_sign() {
        let peer = parse("other=A=1 ./server").expect("a peer");
        assert_eq!(peer.name, "other");
        assert!(matches!(&peer.kind, Kind::Shell(line) if line == "A=1 ./server"));
        for bad in ["other", "=x", "other="] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_what_a_peer_cannot_serve() {
        let peer = |kind| Peer { name: String::new(), version: String::new(), kind };
        let hyper = peer(Kind::Hyper { server: PathBuf::new(), client: PathBuf::new() });
        assert_eq!(hyper.unsupported(&Setup::MINIMAL), None);
        let logged = Setup { logging: Logging::Text, ..Setup::MINIMAL };
        assert_eq!(hyper.unsupported(&logged), Some("no log"));
        assert_eq!(peer(Kind::Nginx).unsupported(&logged), None);
        let named = Setup { allowed: 2, ..Setup::MINIMAL };
        assert_eq!(peer(Kind::Nginx).unsupported(&named), Some("no list of allowed clients"));
    }
}
