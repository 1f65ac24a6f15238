//! Instructions in user space and allocations for each request, counted by valgrind: two runs of
//! different length, whose difference has no start in it.

use std::fs;

use anyhow::{Context as _, Result};

use super::{Metric, Outcome, Subject, lower};
use crate::{
    client::{Client, Groups, KeepAlive},
    credentials::{Logging, Setup},
    peer::Kind,
    programs,
    server::Server,
};

/// On a kept connection, with nothing logged.
pub(crate) const REQUEST: Metric = lower("instructions a request, nothing logged");
/// On a kept connection, with one line of text.
pub(crate) const TEXT: Metric = lower("instructions a request, one line of text");
/// On a kept connection, with one line of JSON.
pub(crate) const JSON: Metric = lower("instructions a request, one line of JSON");
/// A new connection for each request.
pub(crate) const HANDSHAKE: Metric = lower("instructions a handshake and request");
/// On a kept connection, with nothing logged.
pub(crate) const ALLOCATIONS: Metric = lower("allocations a request, nothing logged");

/// What is counted for which requests.
const COUNTS: [(Metric, Logging, KeepAlive, Tool); 5] = [
    (REQUEST, Logging::None, KeepAlive::Yes, Tool::Callgrind),
    (TEXT, Logging::Text, KeepAlive::Yes, Tool::Callgrind),
    (JSON, Logging::Json, KeepAlive::Yes, Tool::Callgrind),
    (HANDSHAKE, Logging::None, KeepAlive::No, Tool::Callgrind),
    (ALLOCATIONS, Logging::None, KeepAlive::Yes, Tool::Memcheck),
];

/// valgrind's tools.
#[derive(Clone, Copy, Debug)]
enum Tool {
    /// Counts instructions.
    Callgrind,
    /// Counts allocations.
    Memcheck,
}

/// Has glibc fill memory with vectors. Valgrind counts `rep stosb`, one instruction of a processor, once for
/// each byte.
const NO_REP_STOSB: &str = "GLIBC_TUNABLES=glibc.cpu.x86_rep_stosb_threshold=1073741824";

/// How many requests the short and the long run have.
const fn runs(keep_alive: KeepAlive) -> [u32; 2] {
    match keep_alive {
        KeepAlive::Yes => [1_000, 3_000],
        KeepAlive::No => [20, 60],
    }
}

pub(crate) async fn measure(subject: Subject<'_>) -> Result<Outcome> {
    if !matches!(subject.peer.kind, Kind::PingPong { .. } | Kind::Hyper { .. }) {
        return Ok(Outcome::Unsupported("not under valgrind"));
    }
    if programs::version("valgrind", &["--version"]).is_err() {
        return Ok(Outcome::Unsupported("valgrind is not installed"));
    }
    let mut values = Vec::new();
    for (metric, logging, keep_alive, tool) in COUNTS {
        let setup = Setup { logging, ..*subject.setup };
        if subject.peer.unsupported(&setup).is_some() {
            continue;
        }
        let subject = Subject { setup: &setup, ..subject };
        let [short, long] = runs(keep_alive);
        let counted = count(subject, keep_alive, tool, long).await?
            - count(subject, keep_alive, tool, short).await?;
        values.push((metric, counted / f64::from(long - short)));
    }
    Ok(Outcome::Values(values))
}

/// Counts all of a server's life with `requests` requests.
async fn count(
    Subject { peer, setup, credentials }: Subject<'_>,
    keep_alive: KeepAlive,
    tool: Tool,
    requests: u32,
) -> Result<f64> {
    let file = credentials.dir().join("callgrind.out");
    let file_option = format!("--callgrind-out-file={}", file.display());
    let [name, option] = match tool {
        Tool::Callgrind => ["--tool=callgrind", &file_option],
        Tool::Memcheck => ["--tool=memcheck", "--undef-value-errors=no"],
    };
    // Without the pipes for a debugger.
    let valgrind = ["env", NO_REP_STOSB, "valgrind", "--vgdb=no", name, option];
    let client = Client::new(credentials, Groups::Hybrid)?;
    let server = Server::start_under(&valgrind, peer, setup, credentials).await?;
    send(&client, &server, keep_alive, requests).await?;
    let output = server.stop().await?;
    match tool {
        Tool::Callgrind => instructions(&fs::read_to_string(file)?),
        Tool::Memcheck => allocations(&output),
    }
}

async fn send(
    client: &Client,
    server: &Server,
    keep_alive: KeepAlive,
    requests: u32,
) -> Result<()> {
    if keep_alive == KeepAlive::No {
        for _ in 0..requests {
            let mut connection = client.connect(server.address).await?;
            connection.ping(keep_alive).await?;
            connection.close().await?;
        }
        return Ok(());
    }
    let mut connection = client.connect(server.address).await?;
    for _ in 0..requests {
        connection.ping(keep_alive).await?;
    }
    connection.close().await
}

/// The total in a file of callgrind.
fn instructions(file: &str) -> Result<f64> {
    let total = file.lines().find_map(|line| {
        let total = line.strip_prefix("summary:").or_else(|| line.strip_prefix("totals:"))?;
        total.trim().parse().ok()
    });
    total.context("callgrind has written no total")
}

/// The number of allocations that memcheck prints at the end.
fn allocations(output: &str) -> Result<f64> {
    let count = output.lines().find_map(|line| {
        let (_, rest) = line.split_once("total heap usage: ")?;
        rest.split_once(" allocs")?.0.replace(',', "").parse().ok()
    });
    count.context("memcheck has printed no heap usage")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_totals_of_valgrind() {
        let file = "version: 1\nevents: Ir\nsummary: 1234567\n\nfn=(1) main\n1 2\n";
        assert_eq!(instructions(file).expect("a total"), 1_234_567.0);
        assert_eq!(instructions("totals: 7\n").expect("a total"), 7.0);
        assert!(instructions("events: Ir\n").is_err());
        let output = "==9== HEAP SUMMARY:\n==9==   total heap usage: 12,345 allocs, 12,000 frees, 9 bytes allocated\n";
        assert_eq!(allocations(output).expect("a count"), 12_345.0);
        assert!(allocations("").is_err());
    }
}
