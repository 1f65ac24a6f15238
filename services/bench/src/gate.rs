//! Fails when what is stable gets worse: what does not depend on how fast the machine is.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{
    credentials::{Credentials, Setup},
    measure::{
        Effort, MEMORY, Measurement, Outcome,
        instructions::{ALLOCATIONS, HANDSHAKE, JSON, REQUEST, TEXT},
        measure,
        memory::CONNECTION_BYTES,
        rest::ANONYMOUS,
    },
    peer::{Kind, Peer},
};

/// What may not get worse.
struct Limit {
    name: &'static str,
    /// What it was at the last change of this table. A change that makes it better lowers it here.
    value: f64,
    /// By how much it may be exceeded, since counts differ a little from run to run.
    margin: f64,
}

/// Instructions and allocations: the same in each run, but for the timers that fire meanwhile.
const fn count(name: &'static str, value: f64) -> Limit {
    Limit { name, value, margin: 1.04 }
}

/// Bytes: new features take some.
const fn size(name: &'static str, value: f64) -> Limit {
    Limit { name, value, margin: 1.05 }
}

/// Resident memory: it depends on which pages of the program the kernel happens to map.
const fn resident(value: f64) -> Limit {
    Limit { name: RESIDENT, value, margin: 1.08 }
}

const LIMITS: [Limit; 10] = [
    count(REQUEST.name, 19_150.0),
    count(TEXT.name, 24_400.0),
    count(JSON.name, 24_250.0),
    count(HANDSHAKE.name, 2_950_000.0),
    count(ALLOCATIONS.name, 11.0),
    size(ANONYMOUS.name, 0.87),
    resident(7.2),
    size(CONNECTION_BYTES.name, 24_000.0),
    size(PONGER_BYTES, 8_084_000.0),
    size(PINGER_BYTES, 8_713_000.0),
];

/// The memory of [`Measurement::Rest`]; other measurements have one too.
const RESIDENT: &str = "memory at rest, MiB";
const PONGER_BYTES: &str = "bytes of ponger";
const PINGER_BYTES: &str = "bytes of pinger";

/// Measures our services, prints each value beside its limit, and returns whether all are within
/// them.
///
/// # Errors
/// When a value cannot be measured.
pub async fn check(peer: &Peer, effort: &Effort) -> Result<bool> {
    let values = measured(peer, effort).await?;
    let mut passed = true;
    for limit in &LIMITS {
        let value = values.iter().find(|(name, _)| *name == limit.name);
        let (name, value) = value.with_context(|| format!("{}: not measured", limit.name))?;
        let comparison = limit.compare(*value);
        passed &= comparison != Comparison::Worse;
        let note = match comparison {
            Comparison::Within => "",
            Comparison::Worse => ": WORSE; find the cause, or raise the limit with a reason",
            Comparison::Better => ": better; lower the limit",
        };
        println!("{name}: {value:.2} (limit {:.2}){note}", limit.value);
    }
    Ok(passed)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Within,
    Worse,
    Better,
}

impl Limit {
    fn compare(&self, value: f64) -> Comparison {
        if value > self.value * self.margin {
            Comparison::Worse
        } else if value * self.margin < self.value {
            Comparison::Better
        } else {
            Comparison::Within
        }
    }
}

async fn measured(peer: &Peer, effort: &Effort) -> Result<Vec<(&'static str, f64)>> {
    let mut values = Vec::new();
    for measurement in
        [Measurement::Instructions, Measurement::Rest, Measurement::Memory { connections: 1_000 }]
    {
        let setup = Setup { connections: measurement.connections(), ..Setup::MINIMAL };
        let credentials = Credentials::create(&setup)?;
        match measure(measurement, peer, &setup, &credentials, effort).await? {
            Outcome::Values(measured) => {
                values.extend(measured.into_iter().map(|(metric, value)| {
                    let is_at_rest = measurement == Measurement::Rest && metric == MEMORY;
                    (if is_at_rest { RESIDENT } else { metric.name }, value)
                }));
            }
            Outcome::Unsupported(why) => bail!(why),
        }
    }
    if let Kind::PingPong { server, client } = &peer.kind {
        values.push((PONGER_BYTES, bytes(server)?));
        values.push((PINGER_BYTES, bytes(client)?));
    }
    Ok(values)
}

fn bytes(file: &Path) -> Result<f64> {
    Ok(fs::metadata(file)?.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_a_margin_on_both_sides() {
        use Comparison::{Better, Within, Worse};
        let limit = count("requests", 100.0);
        let compared = [90.0, 98.0, 100.0, 102.0, 105.0].map(|value| limit.compare(value));
        assert_eq!(compared, [Better, Within, Within, Within, Worse]);
    }
}
