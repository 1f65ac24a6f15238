//! A TLS client that knows no more than it is given: for knocking at ponger's door.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use devpki::Issued;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use crate::{metrics::get, place::Stream};

/// What came of knocking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// ponger answered, with this status and body.
    Said(u16, String),
    /// The handshake or the connection ended before an answer, with these words.
    Refused(String),
}

impl Answer {
    /// Whether it is what the pair is about.
    pub fn is_pong(&self) -> bool {
        *self == Self::Said(200, "pong".into())
    }
}

/// Asks for `/ping` over `stream` as a client that trusts `root`, expects `name`, and shows
/// `certificate`.
///
/// # Errors
/// When the client itself cannot be made, or does not trust ponger.
pub async fn knock(
    stream: Stream,
    root: &str,
    name: &str,
    certificate: Option<&Issued>,
) -> Result<Answer> {
    let mut roots = RootCertStore::empty();
    for root in rustls_pemfile::certs(&mut root.as_bytes()) {
        roots.add(root?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_root_certificates(roots);
    let config = match certificate {
        None => config.with_no_client_auth(),
        Some(issued) => {
            let chain = rustls_pemfile::certs(&mut issued.chain.as_bytes())
                .collect::<Result<Vec<_>, _>>()?;
            let key = rustls_pemfile::private_key(&mut issued.key.as_bytes())?.context("a key")?;
            config.with_client_auth_cert(chain, key)?
        }
    };
    let connector = TlsConnector::from(Arc::new(config));
    let stream = match connector.connect(ServerName::try_from(name.to_owned())?, stream).await {
        Ok(stream) => stream,
        Err(error) => {
            let ours = error
                .get_ref()
                .and_then(|error| error.downcast_ref::<rustls::Error>())
                .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
            return match ours {
                true => Err(error).context("the stranger does not trust ponger"),
                false => Ok(Answer::Refused(error.to_string())),
            };
        }
    };
    // With TLS 1.3 a client learns only when it reads that its certificate was refused.
    Ok(match get(stream, name, "/ping").await {
        Ok((status, body)) => Answer::Said(status, body),
        Err(error) => Answer::Refused(error.to_string()),
    })
}
