//! What tests, the demo and the acceptance scenarios share. No service links it: `.ci/run` checks
//! their dependency trees for that.
//!
//! - [`pki`]: a certificate authority in memory, and the certificates that it issues;
//! - [`files`]: a directory of certificates that is replaced atomically, as kubelet does;
//! - [`wait`]: waits for a condition, for a minute at most;
//! - [`client`]: a blocking HTTPS client, and one for the admin listener and its metrics;
//! - [`clock`]: a clock that a test advances;
//! - [`process`]: a service as a child process, with its log;
//! - [`in_process`]: a service on a thread of this process;
//! - [`log`]: what threads of this process log;
//! - [`prometheus`]: a Prometheus that scrapes services;
//! - [`original`]: the original project's configuration files and its certificate.

pub mod client;
pub mod clock;
pub mod files;
pub mod in_process;
pub mod log;
pub mod original;
pub mod pki;
pub mod process;
pub mod prometheus;
pub mod wait;

pub use files::{CertDir, write_private};
pub use pki::{Ca, Issued, Leaf};
pub use wait::{PATIENCE, wait_until, wait_until_async};
