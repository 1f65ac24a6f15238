//! A server or client as a process group: its CPU time, memory and wake-ups.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use procfs::process::{self as proc, ProcState};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    net::TcpSocket,
    time::{sleep, timeout},
};

use crate::{
    client::{Client, Groups, KeepAlive},
    credentials::{Credentials, Setup},
    peer::Peer,
};

/// How long a process may take to start or to stop: long, for valgrind on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is checked.
const INTERVAL: Duration = Duration::from_millis(1);

/// A process and its children, in a process group of their own, which Ctrl-C does not reach. Killed
/// when dropped.
#[derive(Debug)]
pub struct ProcessGroup {
    child: Child,
    output: PathBuf,
    /// Whether it was waited for: its ID may then be another's.
    waited: bool,
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it, with what is shared with other processes counted in proportion.
    pub proportional: u64,
    /// What belongs to no file.
    pub anonymous: u64,
}

impl ProcessGroup {
    /// Starts `command`, with its output in a file in the directory of `credentials`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(command: &mut Command, credentials: &Credentials) -> Result<Self> {
        let output = credentials.dir().join("output");
        let file = File::create(&output)?;
        let command = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let program = command.get_program().to_owned();
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| format!("{} does not start", program.display()))?;
        Ok(Self { child, output, waited: false })
    }

    /// The ID of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn output(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.output)?).into_owned())
    }

    /// CPU time until now, of all threads, in user space and in the kernel.
    ///
    /// # Errors
    /// When the process was waited for.
    pub fn cpu_time(&self) -> Result<Duration> {
        let ticks = self.members()?.into_iter().map(|process| {
            let stat = process.stat()?;
            // nginx replaces its workers at a reload: those that have ended count too.
            let ended = u64::try_from(stat.cutime + stat.cstime)?;
            Ok(stat.utime + stat.stime + ended)
        });
        let ticks: u64 = ticks.sum::<Result<_>>()?;
        Ok(Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64))
    }

    /// Resident memory now.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for process in self.members()? {
            for map in process.smaps_rollup()?.memory_map_rollup {
                let bytes = |name: &str| map.extension.map.get(name).copied().unwrap_or(0);
                memory.proportional += bytes("Pss");
                memory.anonymous += bytes("Anonymous");
            }
        }
        Ok(memory)
    }

    /// How often its threads have waited for something until now.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn waits(&self) -> Result<u64> {
        let mut waits = 0;
        for process in self.members()? {
            for task in process.tasks()? {
                waits += task?.status()?.voluntary_ctxt_switches.unwrap_or(0);
            }
        }
        Ok(waits)
    }

    fn members(&self) -> Result<Vec<proc::Process>> {
        let group = self.child.id().cast_signed();
        let in_group =
            |process: &proc::Process| process.stat().is_ok_and(|stat| stat.pgrp == group);
        Ok(proc::all_processes()?.flatten().filter(in_group).collect())
    }

    /// Whether the process has ended. Its children may be running.
    fn has_ended(&self) -> Result<bool> {
        let process = proc::Process::new(self.child.id().cast_signed())?;
        Ok(process.stat()?.state()? == ProcState::Zombie)
    }

    /// Kills what is left of the group, and waits for the process.
    fn kill(&mut self) -> io::Result<ExitStatus> {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.waited = true;
        self.child.wait()
    }

    /// Sends a signal to the process, not to its children.
    ///
    /// # Errors
    /// When it was waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(rustix::process::kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until it has ended, and returns the CPU time that it took.
    ///
    /// # Errors
    /// When it fails, or takes longer than `limit`.
    pub async fn finish(mut self, limit: Duration) -> Result<(Duration, String)> {
        let ended = async {
            while !self.has_ended()? {
                sleep(INTERVAL).await;
            }
            anyhow::Ok(())
        };
        timeout(limit, ended).await.context("it does not end")??;
        // Its times stay until it is waited for.
        let cpu_time = self.cpu_time()?;
        let status = self.kill()?;
        let output = self.output()?;
        if !status.success() {
            bail!("it has failed: {status}: {}", end_of(&output));
        }
        Ok((cpu_time, output))
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if !self.waited {
            let _ = self.kill();
        }
    }
}

/// A server that has answered its first ping.
#[derive(Debug)]
pub struct Server {
    /// Its processes.
    pub process: ProcessGroup,
    /// Where it listens.
    pub address: SocketAddr,
    /// From its start to its first pong.
    pub start: Duration,
    _port: TcpSocket,
}

impl Server {
    /// Starts the server of `peer`, and waits for its first pong.
    ///
    /// # Errors
    /// When it ends before or does not answer.
    pub async fn start(peer: &Peer, setup: &Setup, credentials: &Credentials) -> Result<Self> {
        Self::start_under(&[], peer, setup, credentials).await
    }

    /// Starts the server of `peer` as the last argument of `wrapper`, a command.
    ///
    /// # Errors
    /// As [`start`](Self::start) does.
    pub async fn start_under(
        wrapper: &[&str],
        peer: &Peer,
        setup: &Setup,
        credentials: &Credentials,
    ) -> Result<Self> {
        let port = reserve_port()?;
        let address = port.local_addr()?;
        let mut command = wrap(wrapper, peer.server(setup, credentials, address.port())?);
        let client = Client::new(credentials, Groups::Hybrid)?;
        let started = Instant::now();
        let process = ProcessGroup::spawn(&mut command, credentials)?;
        let answered = async {
            loop {
                let Err(error) = first_ping(&client, address).await else { return Ok(()) };
                if process.has_ended()? {
                    bail!("it ended at start: {}", end_of(&process.output()?));
                }
                // Once it listens, it must answer.
                if !error.to_string().starts_with("connect") {
                    return Err(error);
                }
                sleep(INTERVAL).await;
            }
        };
        timeout(PATIENCE, answered).await.context("it does not answer")??;
        Ok(Self { process, address, start: started.elapsed(), _port: port })
    }

    /// Stops it with SIGTERM, and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub async fn stop(self) -> Result<String> {
        self.process.signal(Signal::TERM)?;
        Ok(self.process.finish(PATIENCE).await?.1)
    }
}

/// The last characters of `output`, for a terminal.
fn end_of(output: &str) -> String {
    let start = output.char_indices().rev().nth(1000).map_or(0, |(start, _)| start);
    output[start..].replace(|letter: char| letter.is_control() && letter != '\n', "?")
}

async fn first_ping(client: &Client, address: SocketAddr) -> Result<()> {
    let mut connection = client.connect(address).await?;
    connection.ping(KeepAlive::No).await?;
    connection.close().await
}

/// Reserves a free port, since not every server can choose one and say which. As long as the socket
/// is open, the system gives the port to no other process; a server that names it can listen on it, since
/// both have SO_REUSEADDR and this one does not listen.
fn reserve_port() -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    Ok(socket)
}

/// Puts `wrapper` before `command`, whose environment stays.
fn wrap(wrapper: &[&str], command: Command) -> Command {
    let [program, arguments @ ..] = wrapper else { return command };
    let mut wrapped = Command::new(program);
    wrapped.args(arguments).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, credentials: &Credentials) -> ProcessGroup {
        ProcessGroup::spawn(Command::new("sh").args(["-c", script]), credentials).expect("a shell")
    }

    async fn printed(group: &ProcessGroup) {
        while group.output().expect("a file").is_empty() {
            sleep(INTERVAL).await;
        }
    }

    #[tokio::test]
    async fn counts_children_and_ends_them() {
        let credentials = Credentials::create(&Setup::MINIMAL).expect("certificates");
        let group = shell("sleep 600 & sleep 600 & echo started; wait", &credentials);
        printed(&group).await;
        let members = group.members().expect("processes");
        assert_eq!(members.len(), 3);
        let memory = group.memory().expect("memory");
        assert!(memory.anonymous > 0 && memory.proportional > memory.anonymous, "{memory:?}");
        assert!(group.waits().expect("a count") > 0);
        drop(group);
        for member in members {
            testkit::wait_until("it ends", || {
                let state = proc::Process::new(member.pid()).and_then(|process| process.stat());
                state.is_ok_and(|stat| stat.state != 'Z').then_some(()).xor(Some(()))
            });
        }
    }

    #[tokio::test]
    async fn returns_the_cpu_time_of_a_process_that_has_ended() {
        let credentials = Credentials::create(&Setup::MINIMAL).expect("certificates");
        let group =
            shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo end", &credentials);
        let (cpu_time, output) = group.finish(PATIENCE).await.expect("success");
        assert!(cpu_time > Duration::ZERO);
        assert_eq!(output, "end\n");
        let error = shell("echo why; exit 3", &credentials).finish(PATIENCE).await;
        assert!(error.expect_err("a failure").to_string().ends_with("3: why\n"));
    }
}
