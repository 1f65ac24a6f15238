//! The section of traces, which both services have.

use std::path::{Path, PathBuf};

use hyper::Uri;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::{
    error::ConfigError,
    tls::{cert::CertKeyPaths, identity::IdentitySources, trust::TrustSource},
};

/// Where traces are exported to, and which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
pub struct Otel {
    /// URL of an OTLP/HTTP collector, such as `https://collector:4318`; without a path, `/v1/traces` is requested.
    pub endpoint: Option<String>,
    /// PEM file with the CA certificates that the collector's certificate must chain to. Default: those of the system.
    pub trust_bundle: Option<PathBuf>,
    /// PEM file with the certificate chain that the collector is shown.
    pub client_certificate: Option<PathBuf>,
    /// PEM file with the private key of that certificate.
    pub client_private_key: Option<PathBuf>,
    /// Fraction of traces that is exported, unless the caller has decided.
    pub sample_ratio: f64,
    /// Attributes of the service, such as `k8s.cluster.name=test`; `service.name` may be among them.
    pub resource_attributes: Vec<String>,
}

impl Default for Otel {
    fn default() -> Self {
        Self {
            endpoint: None,
            trust_bundle: None,
            client_certificate: None,
            client_private_key: None,
            sample_ratio: 1.0,
            resource_attributes: Vec::new(),
        }
    }
}

/// The parts of the collector's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// The URL as a whole, with its path.
    pub url: Uri,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port; that of the scheme if the URL has none.
    pub port: u16,
    /// The name that the collector's certificate must have; `None` for plain HTTP.
    pub server_name: Option<ServerName<'static>>,
}

impl Otel {
    /// Parses the collector's URL; `None` if traces are not exported.
    ///
    /// # Errors
    /// When it is no such URL, or one of plain HTTP to another host.
    pub fn collector(&self) -> Result<Option<Collector>, ConfigError> {
        let Some(text) = &self.endpoint else { return Ok(None) };
        // Without a user and password.
        let shown = text.rsplit_once('@').map_or(text.clone(), |(_, host)| format!("***@{host}"));
        let bad = |cause: &str| {
            ConfigError::new("otel.endpoint", format!("`{shown}` {cause}"))
                .hint("use a URL such as `https://collector:4318`")
        };
        let url: Uri =
            text.trim().parse().map_err(|error| bad(&format!("is not a URL ({error})")))?;
        let authority = url.authority().ok_or_else(|| bad("has no host"))?.clone();
        let default_port = match url.scheme_str() {
            Some("https") => 443,
            Some("http") => 80,
            _ => return Err(bad("has a scheme other than `https`")),
        };
        if authority.as_str().contains('@') || url.query().is_some() || text.contains('#') {
            return Err(bad("contains a user, a query or a fragment"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.as_str().strip_prefix(authority.host()) {
            None | Some("") => Some(default_port),
            Some(_) => authority.port_u16().filter(|port| *port > 0),
        };
        let port = port.ok_or_else(|| bad("has no port from 1 to 65535"))?;
        let server_name = ServerName::try_from(host.clone())
            .map_err(|_| bad("has a host that is neither a DNS name nor an IP address"))?;
        let server_name = if url.scheme_str() == Some("https") {
            Some(server_name)
        } else if is_loopback(&host) {
            None
        } else {
            return Err(bad("is plain HTTP to another host, where anyone on the way can read it"));
        };
        let path = if url.path() == "/" { "/v1/traces" } else { url.path() };
        let url = Uri::builder()
            .scheme(url.scheme_str().unwrap_or_default())
            .authority(authority)
            .path_and_query(path)
            .build()
            .map_err(|error| bad(&format!("is not a URL ({error})")))?;
        Ok(Some(Collector { url, host, port, server_name }))
    }

    /// The keys that name files, and those files.
    pub fn files(&self) -> [(&'static str, Option<&Path>); 3] {
        [
            ("otel.trustBundle", self.trust_bundle.as_deref()),
            ("otel.clientCertificate", self.client_certificate.as_deref()),
            ("otel.clientPrivateKey", self.client_private_key.as_deref()),
        ]
    }

    /// Where the certificates are.
    ///
    /// # Errors
    /// When one of certificate and key is not set.
    pub fn sources(&self) -> Result<IdentitySources, ConfigError> {
        let own = CertKeyPaths::from_config(
            self.client_certificate.as_deref(),
            self.client_private_key.as_deref(),
            "otel.clientCertificate and otel.clientPrivateKey",
        )?;
        let trust = self.trust_bundle.clone().map_or(TrustSource::Native, TrustSource::Bundle);
        Ok(IdentitySources { own, trust })
    }

    /// The attributes of the service by their names.
    ///
    /// # Errors
    /// When one is not a name and a value.
    pub fn attributes(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let parse = |text: &String| {
            let (name, value) = text.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            (!name.is_empty() && !value.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        };
        let attribute = |text| {
            parse(text).ok_or_else(|| {
                ConfigError::new(
                    "otel.resourceAttributes",
                    format!("`{text}` is not a name and a value"),
                )
                .hint("use attributes such as `k8s.cluster.name=test`")
            })
        };
        self.resource_attributes.iter().map(attribute).collect()
    }

    /// Rejects values and combinations of keys that cannot be meant.
    ///
    /// # Errors
    /// The first of them.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(ConfigError::new("otel.sampleRatio", "it is out of range")
                .hint("expected a number from 0 to 1"));
        }
        self.sources()?;
        self.attributes()?;
        let has_files = self.files().iter().any(|(_, file)| file.is_some());
        match self.collector()? {
            None if *self != Self::default() => Err(ConfigError::new(
                "otel.endpoint",
                "the other keys of otel have no effect without it",
            )
            .hint("set it to a URL such as `https://collector:4318`, or remove them")),
            Some(Collector { server_name: None, .. }) if has_files => {
                Err(ConfigError::new("otel.endpoint", "an `http` URL needs no certificates")
                    .hint("use an `https` URL, or remove the certificates"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether `host` is this machine by its name; an address of that name is checked at each connection.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|host: std::net::IpAddr| host.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_endpoint(endpoint: &str) -> Otel {
        Otel { endpoint: Some(endpoint.into()), ..Otel::default() }
    }

    #[test]
    fn a_collector_is_reached_by_https_or_on_this_machine() {
        for (endpoint, url, host, port, tls) in [
            ("https://collector", "https://collector/v1/traces", "collector", 443, true),
            ("https://c:4318/", "https://c:4318/v1/traces", "c", 4318, true),
            ("https://10.0.0.1:1/a/b", "https://10.0.0.1:1/a/b", "10.0.0.1", 1, true),
            ("http://localhost:4318", "http://localhost:4318/v1/traces", "localhost", 4318, false),
            ("http://127.0.0.2", "http://127.0.0.2/v1/traces", "127.0.0.2", 80, false),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces", "::1", 4318, false),
        ] {
            let otel = with_endpoint(endpoint);
            otel.validate().unwrap();
            let collector = otel.collector().unwrap().unwrap();
            assert_eq!(collector.url.to_string(), url);
            assert_eq!((collector.host.as_str(), collector.port), (host, port), "{endpoint}");
            assert_eq!(collector.server_name.is_some(), tls, "{endpoint}");
        }
        assert_eq!(Otel::default().collector(), Ok(None));
        Otel::default().validate().unwrap();
    }

    #[test]
    fn other_endpoints_are_rejected() {
        for (endpoint, reason) in [
            ("http://collector:4318", "is plain HTTP to another host"),
            ("http://10.0.0.1:4318", "is plain HTTP to another host"),
            ("http://localhost.example.com", "is plain HTTP to another host"),
            ("http://127.0.0.1.example.com", "is plain HTTP to another host"),
            ("http://[::ffff:10.0.0.1]", "is plain HTTP to another host"),
            ("grpc://collector:4317", "has a scheme other than `https`"),
            ("collector:4318", "has a scheme other than `https`"),
            ("/v1/traces", "has no host"),
            ("https://", "is not a URL"),
            ("https://c:0", "has no port from 1 to 65535"),
            ("https://c:65536", "has no port from 1 to 65535"),
            ("https://c?token=x", "contains a user, a query or a fragment"),
            ("https://user:secret@c", "`***@c` contains a user"),
        ] {
            let error = with_endpoint(endpoint).validate().unwrap_err().to_string();
            assert!(error.starts_with("otel.endpoint: ") && error.contains(reason), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn keys_without_effect_or_out_of_range_are_rejected() {
        let https = || with_endpoint("https://collector");
        let file = || Some(PathBuf::from("/tls"));
        let attributes = |text: &str| vec![text.to_owned()];
        for (otel, reason) in [
            (Otel { sample_ratio: 1.1, ..https() }, "otel.sampleRatio: it is out of range"),
            (Otel { sample_ratio: f64::NAN, ..https() }, "otel.sampleRatio: it is out of range"),
            (Otel { sample_ratio: 0.5, ..Otel::default() }, "otel.endpoint: the other keys"),
            (Otel { trust_bundle: file(), ..Otel::default() }, "otel.endpoint: the other keys"),
            (Otel { client_certificate: file(), ..https() }, "otel.clientCertificate and otel."),
            (
                Otel { trust_bundle: file(), ..with_endpoint("http://localhost") },
                "otel.endpoint: an `http` URL needs no certificates",
            ),
            (
                Otel { resource_attributes: attributes("a"), ..https() },
                "otel.resourceAttributes: `a` is not a name and a value",
            ),
        ] {
            let error = otel.validate().unwrap_err().to_string();
            assert!(error.starts_with(reason), "{error}");
        }
        let otel = Otel { resource_attributes: attributes("a = b=c"), ..https() };
        assert_eq!(otel.attributes(), Ok(vec![("a".into(), "b=c".into())]));
    }
}
