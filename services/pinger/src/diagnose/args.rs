//! The command line of `pinger diagnose`.

use std::{net::Ipv6Addr, path::PathBuf, str::FromStr};

use chassis::{
    config::{HumanDuration, MinTlsVersion},
    error::ConfigError,
};
use clap::Args;
use rustls::pki_types::ServerName;

use crate::{
    config::Config,
    expect::{BodyMatch, Expect},
};

/// Explains one ping of any HTTPS server: addresses, phases, certificate chain, client certificate,
/// response, what broke and what to do.
///
/// The server is verified as pinger does, and nothing is sent to one that is not: neither a client
/// certificate nor a request. With a URL, any 2xx response is good. Without, pinger's configuration
/// says what is requested and which response is good, and it is read as pinger reads it.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The flags are the configuration keys of the same name, and take precedence over --config and over \
environment variables such as PINGER__PONGER__ACCEPT_CERT.
Exit codes: 0 good, 1 broken, 2 usage error, 78 invalid configuration (EX_CONFIG)")]
pub struct DiagnoseArgs {
    /// URL to request; without a path, /ping is requested, as pinger does
    pub url: Option<String>,

    /// pinger's configuration file [default without URL: config.yaml, if it exists]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Trust bundle: the CA certificates that the server's must chain to [default: those of the system]
    #[arg(long, value_name = "FILE", visible_alias = "trust-bundle")]
    pub accept_cert: Option<PathBuf>,

    /// Client certificate chain
    #[arg(long, value_name = "FILE", visible_alias = "cert")]
    pub client_certificate: Option<PathBuf>,

    /// Private key of the client certificate
    #[arg(long, value_name = "FILE", visible_alias = "key")]
    pub client_private_key: Option<PathBuf>,

    /// SPIFFE ID that the server's certificate must have
    #[arg(long, value_name = "ID")]
    pub server_id: Option<String>,

    /// DNS name that the server's certificate must have, and SNI [default: the host of the URL]
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,

    /// Oldest TLS version that is accepted [default: 1.3]
    #[arg(long, value_name = "VERSION", value_parser = min_tls_version)]
    pub min_tls_version: Option<MinTlsVersion>,

    /// Connect to this address instead of the URL's host and port
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub connect_to: Option<ConnectTo>,

    /// Maximum duration, from name resolution to the end of the response [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<HumanDuration>,

    /// Maximum time to connect to one address [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub connect_timeout: Option<HumanDuration>,

    /// Status code that is good, whatever the body [default with URL: any 2xx]
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..600))]
    pub expect_status: Option<u16>,

    /// Use plain HTTP, for an `http` URL: nothing is verified
    #[arg(long)]
    pub insecure: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl DiagnoseArgs {
    /// Names in `error` the flags that were given, in place of the keys that they set.
    pub fn name_flags(&self, error: ConfigError) -> ConfigError {
        // Of a pair, the one that is missing is a flag too.
        let own = self.client_certificate.is_some() || self.client_private_key.is_some();
        FLAGS.iter().fold(error, |error, (key, flag)| {
            let is_given = match *key {
                "ponger.url" => self.url.is_some(),
                "ponger.acceptCert" => self.accept_cert.is_some(),
                "ponger.clientCertificate" | "ponger.clientPrivateKey" => own,
                "ponger.serverId" => self.server_id.is_some(),
                "ponger.serverName" => self.server_name.is_some(),
                // The values of the others are checked where the flags are parsed.
                _ => false,
            };
            if is_given { error.rename(key, flag) } else { error }
        })
    }

    /// The configuration that the file, the environment and these arguments make.
    ///
    /// # Errors
    /// The first fault that is found.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let is_plain = |url: &String| url.trim_start().to_ascii_lowercase().starts_with("http://");
        // It is not quoted: there may be a password in it.
        if self.url.as_ref().is_some_and(is_plain) && !self.insecure {
            return Err(ConfigError::new("URL", "it is plain HTTP, not TLS")
                .hint("use an `https` URL, or give --insecure"));
        }
        Config::load_changed(self.config.as_deref(), self.url.is_some(), |config| {
            let ponger = &mut config.ponger;
            set(&mut ponger.url, &self.url);
            set(&mut ponger.accept_cert, &self.accept_cert);
            set(&mut ponger.client_certificate, &self.client_certificate);
            set(&mut ponger.client_private_key, &self.client_private_key);
            set(&mut ponger.server_id, &self.server_id);
            set(&mut ponger.server_name, &self.server_name);
            ponger.min_tls_version = self.min_tls_version.unwrap_or(ponger.min_tls_version);
            config.timeout = self.timeout.unwrap_or(config.timeout);
            config.connect_timeout = match self.connect_timeout {
                Some(timeout) => timeout,
                None => config.connect_timeout.min(config.timeout),
            };
            config.insecure |= self.insecure;
            let any = Expect { body_match: BodyMatch::Any, ..Expect::default() };
            if let Some(status) = self.expect_status {
                config.expect = Expect { status, ..any };
            } else if self.url.is_some() && self.config.is_none() {
                config.expect = Expect { any_success: true, ..any };
            }
        })
    }
}

/// Configuration keys, and what they are for a person who gave a URL and flags.
pub(super) const FLAGS: [(&str, &str); 9] = [
    ("ponger.url", "the URL"),
    ("ponger.acceptCert", "--accept-cert"),
    ("ponger.clientCertificate", "--client-certificate"),
    ("ponger.clientPrivateKey", "--client-private-key"),
    ("ponger.serverId", "--server-id"),
    ("ponger.serverName", "--server-name"),
    ("ponger.minTlsVersion", "--min-tls-version"),
    ("expect.status", "--expect-status"),
    ("timeout", "--timeout"),
];

fn set<T: Clone>(value: &mut Option<T>, argument: &Option<T>) {
    if argument.is_some() {
        value.clone_from(argument);
    }
}

fn duration(text: &str) -> Result<HumanDuration, String> {
    serde_json::Value::from(text).try_into()
}

fn min_tls_version(text: &str) -> Result<MinTlsVersion, String> {
    serde_json::Value::from(text).try_into()
}

/// Where to connect to instead of the URL's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTo {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port; that of the URL if there is none.
    pub port: Option<u16>,
}

impl FromStr for ConnectTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // An IPv6 address with a port has brackets; without, all of it is the address.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if text.parse::<Ipv6Addr>().is_err() && !text.ends_with(']') => {
                (host, Some(port))
            }
            _ => (text, None),
        };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let is_host = match bracketed {
            Some(host) => host.parse::<Ipv6Addr>().is_ok(),
            None => ServerName::try_from(host).is_ok(),
        };
        if !is_host {
            return Err(
                "it is no address, such as 10.0.0.7, 10.0.0.7:8443 or [fd00::7]:8443".into()
            );
        }
        let port = port.map(|port| {
            let number = port.parse().ok().filter(|number| *number > 0);
            number.ok_or_else(|| format!("`{port}` is no port from 1 to 65535"))
        });
        Ok(Self { host: host.to_owned(), port: port.transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_address_to_connect_to() {
        for (text, host, port) in [
            ("10.0.0.7", "10.0.0.7", None),
            ("10.0.0.7:8443", "10.0.0.7", Some(8443)),
            ("ponger", "ponger", None),
            ("ponger:443", "ponger", Some(443)),
            ("::1", "::1", None),
            ("fd00::7", "fd00::7", None),
            ("[::1]", "::1", None),
            ("[fd00::7]:8443", "fd00::7", Some(8443)),
        ] {
            assert_eq!(text.parse(), Ok(ConnectTo { host: host.into(), port }), "{text}");
        }
        for text in [
            "",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:b",
            "https://a",
            "a b",
            "u@a:1",
            "[::1",
            "::1]",
            "[a]:1",
            "fd00::7:x",
        ] {
            assert!(text.parse::<ConnectTo>().is_err(), "{text}");
        }
    }
}
