//! Resolves names to addresses.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use chassis::failure::{Failure, FailureReason};
use tokio::net::lookup_host;

type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Resolves names to addresses, by the system or, for tests, by a function.
#[derive(Clone, Default)]
pub struct Resolver(Option<Arc<Lookup>>);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Resolver(function)" } else { "Resolver(system)" })
    }
}

impl Resolver {
    /// The system's resolver.
    pub const fn system() -> Self {
        Self(None)
    }

    /// A resolver that returns what `lookup` returns for a name.
    pub fn new(lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(lookup)))
    }

    /// Returns the addresses of `host`, each once, with `port`.
    ///
    /// # Errors
    /// When there is none, or none is found.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
        let failed = |cause: &dyn fmt::Display| {
            Failure::new(FailureReason::Resolve, format!("{host}: {cause}"))
        };
        let found: Vec<_> = match &self.0 {
            Some(lookup) => lookup(host)
                .map(|found| found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()),
            None => lookup_host((host, port)).await.map(Iterator::collect),
        }
        .map_err(|error| failed(&error))?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(failed(&"the name has no address")) } else { Ok(addresses) }
    }
}
