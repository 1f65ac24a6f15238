//! The load generator: many connections of one client, each of which sends its next request after
//! the last response.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use crate::{
    client::{Client, Connection, KeepAlive},
    server::{Memory, Server},
};

/// Handshakes at one time while connections are opened: fewer than a listener's queue holds.
const OPENING: usize = 64;

/// The pause after a failed ping.
const PAUSE: Duration = Duration::from_millis(1);

/// What is sent, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many connections are open at one time.
    pub connections: usize,
    /// Whether a connection is kept for the next request.
    pub keep_alive: KeepAlive,
    /// Time before anything is counted.
    pub warm_up: Duration,
    /// Time that is counted.
    pub duration: Duration,
}

/// What was counted.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Time of each pong in microseconds, in ascending order.
    pub latencies: Vec<u32>,
    /// Pings without a pong.
    pub lost: usize,
    /// Time that was counted.
    pub elapsed: Duration,
    /// CPU time of the server.
    pub server_cpu: Duration,
    /// CPU time of the load generator.
    pub own_cpu: Duration,
    /// Memory of the server with all connections open.
    pub server_memory: Memory,
}

impl Counts {
    /// Pongs a second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// CPU time of the server for each pong, in microseconds.
    pub fn server_cpu_each(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / self.latencies.len() as f64
    }

    /// CPU time of the load generator for each pong, in microseconds.
    pub fn own_cpu_each(&self) -> f64 {
        self.own_cpu.as_secs_f64() * 1e6 / self.latencies.len() as f64
    }

    /// The latency that so many percent of all pongs did not exceed, in microseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        percentile(&self.latencies, percent)
    }
}

/// The value that so many percent of all `sorted` values do not exceed; 0 without values.
pub fn percentile(sorted: &[u32], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0).into()
}

const WARM_UP: u8 = 0;
const COUNTING: u8 = 1;
const DONE: u8 = 2;

/// Puts `load` on `server`.
///
/// # Errors
/// When the connections cannot be opened, or a ping hangs.
pub async fn run(client: &Client, server: &Server, load: Load) -> Result<Counts> {
    let connections = match load.keep_alive {
        KeepAlive::Yes => open(client, server.address, load.connections).await?,
        KeepAlive::No => Vec::new(),
    };
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let mut connections = connections.into_iter();
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        tasks.spawn(send(Sender {
            client: client.clone(),
            address: server.address,
            connection: connections.next(),
            keep_alive: load.keep_alive,
            phase: Arc::clone(&phase),
        }));
    }
    sleep(load.warm_up).await;
    let (server_before, own_before) = (server.process.cpu_time()?, own_cpu_time());
    let start = Instant::now();
    phase.store(COUNTING, Ordering::Relaxed);
    sleep(load.duration).await;
    let server_memory = server.process.memory()?;
    phase.store(DONE, Ordering::Relaxed);
    let elapsed = start.elapsed();
    let own_cpu = own_cpu_time() - own_before;
    // A worker of nginx that is just ending is counted neither way.
    let server_cpu = server.process.cpu_time()?.saturating_sub(server_before);

    let mut counts =
        Counts { latencies: Vec::new(), lost: 0, elapsed, server_cpu, own_cpu, server_memory };
    while let Some(sent) = tasks.join_next().await {
        let (latencies, lost) = sent?;
        counts.latencies.extend(latencies);
        counts.lost += lost;
    }
    counts.latencies.sort_unstable();
    Ok(counts)
}

/// Opens `count` connections.
///
/// # Errors
/// When the server rejects one.
pub async fn open(client: &Client, address: SocketAddr, count: usize) -> Result<Vec<Connection>> {
    let permits = Arc::new(Semaphore::new(OPENING));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let permit = Arc::clone(&permits).acquire_owned().await?;
        let client = client.clone();
        tasks.spawn(async move {
            let connection = client.connect(address).await;
            drop(permit);
            connection
        });
    }
    let mut connections = Vec::with_capacity(count);
    while let Some(connection) = tasks.join_next().await {
        connections.push(connection??);
    }
    Ok(connections)
}

/// CPU time of this process until now.
pub fn own_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

struct Sender {
    client: Client,
    address: SocketAddr,
    connection: Option<Connection>,
    keep_alive: KeepAlive,
    phase: Arc<AtomicU8>,
}

/// Sends pings until the load is done, and returns the latencies and the number of lost ones.
async fn send(mut sender: Sender) -> (Vec<u32>, usize) {
    let (mut latencies, mut lost) = (Vec::new(), 0);
    loop {
        let start = Instant::now();
        let succeeded = ping(&mut sender).await.is_ok();
        let phase = sender.phase.load(Ordering::Relaxed);
        if phase == DONE {
            return (latencies, lost);
        }
        if succeeded && phase == COUNTING {
            latencies.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
        } else if !succeeded {
            lost += 1;
            sender.connection = None;
            sleep(PAUSE).await;
        }
    }
}

async fn ping(sender: &mut Sender) -> Result<()> {
    let mut connection = match sender.connection.take() {
        Some(connection) => connection,
        None => sender.client.connect(sender.address).await?,
    };
    connection.ping(sender.keep_alive).await?;
    match sender.keep_alive {
        KeepAlive::Yes => sender.connection = Some(connection),
        KeepAlive::No => connection.close().await?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_percentiles_by_rank() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!([0, 50, 99, 100].map(|of| percentile(&values, of)), [1.0, 100.0, 198.0, 200.0]);
        assert_eq!((percentile(&[7], 50), percentile(&[], 50)), (7.0, 0.0));
    }
}
