use std::{fs, net::IpAddr, os::unix::ffi::OsStringExt as _, path::PathBuf};

use serde::Deserialize;
use tempfile::TempDir;

use super::*;

/// A configuration with a key of every kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Sample {
    insecure: bool,
    service: Service,
    identity: Identity,
    metrics: Metrics,
    log: Log,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Service {
    host: IpAddr,
    port: u16,
    tls_certificate: Option<PathBuf>,
    /// Who is let in,
    /// and nobody else.
    allowed_clients: Option<Vec<String>>,
    min_tls_version: MinTlsVersion,
    idle_timeout: HumanDuration,
    #[schemars(range(min = 1, max = 1000))]
    max_connections: u32,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            host: IpAddr::from([0, 0, 0, 0]),
            port: 8443,
            tls_certificate: None,
            allowed_clients: None,
            min_tls_version: MinTlsVersion::default(),
            idle_timeout: HumanDuration::seconds(60),
            max_connections: 100,
        }
    }
}

struct Case {
    folder: TempDir,
    variables: Vec<(OsString, OsString)>,
}

impl Case {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), variables: Vec::new() }
    }

    /// A file `config.yaml` that holds `bytes`.
    fn file(bytes: impl AsRef<[u8]>) -> Self {
        let case = Self::new();
        fs::write(case.path(), bytes).expect("a file");
        case
    }

    /// A file without settings, and one environment variable.
    fn variable(name: &str, value: &str) -> Self {
        Self::file("log: {level: info}\n").and_variable(name, value)
    }

    fn and_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    fn load(&self) -> Result<Sample, ConfigError> {
        load("sample", &self.path(), self.variables.clone().into_iter())
    }

    fn loaded(&self) -> Sample {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// What is said about it, with `FILE` for the path.
    fn refusal(&self) -> String {
        let error = self.load().expect_err("this configuration is not good");
        error.to_string().replace(&self.path().display().to_string(), "FILE")
    }
}

#[track_caller]
fn refused_whole(text: &str, message: &str) {
    assert_eq!(Case::file(text).refusal(), message, "for {text:?}");
}

#[track_caller]
fn refused(text: impl AsRef<[u8]>, parts: &[&str]) {
    let message = Case::file(text.as_ref()).refusal();
    for part in parts {
        let text = String::from_utf8_lossy(&text.as_ref()[..text.as_ref().len().min(200)]);
        assert!(message.contains(part), "{part:?} is not in {message:?}, for {text:?}");
    }
}

#[test]
fn an_unknown_key_is_refused_at_every_level_with_the_nearest_known_one() {
    for (text, key, nearest) in [
        ("insecur: true", "insecur", "insecure"),
        ("Insecure: true", "Insecure", "insecure"),
        ("services: {port: 1}", "services", "service"),
        ("port: 1", "port", "service.port"),
        ("tlsCertificate: x", "tlsCertificate", "service.tlsCertificate"),
        ("service: {prot: 1}", "service.prot", "service.port"),
        ("service: {tlsCertificat: x}", "service.tlsCertificat", "service.tlsCertificate"),
        ("service: {tls_certificate: x}", "service.tls_certificate", "service.tlsCertificate"),
        ("service: {endpoint: /x}", "service.endpoint", "metrics.endpoint"),
        ("metrics: {prt: 1}", "metrics.prt", "metrics.port"),
        ("log: {lvl: info}", "log.lvl", "log.level"),
        ("identity: {pollIntervall: 1s}", "identity.pollIntervall", "identity.pollInterval"),
    ] {
        refused_whole(
            text,
            &format!(
                "FILE: key `{key}`: there is no such key; the nearest known key is `{nearest}`"
            ),
        );
    }
}

#[test]
fn a_key_that_is_no_text_is_an_unknown_key() {
    for text in ["1: x", "true: x", "service: {0: x}", "<<: {insecure: true}"] {
        refused(text, &["FILE: key `", "there is no such key; the nearest known key is `"]);
    }
    refused("[a]: x", &["FILE: "]);
    refused("~: x", &["FILE: "]);
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_what_its_key_takes() {
    let flag = "it takes `true` or `false`";
    let port = "it takes 0 to 65535";
    let duration = "it takes a duration with its unit, such as `10s` or `250ms`";
    let list = "it takes a list of texts";
    let level = "it takes `error`, `warn`, `info`, `debug`, `trace`";
    for (text, key, cause, takes) in [
        ("insecure: yes please", "insecure", "`yes please` does not fit", flag),
        ("insecure: 1", "insecure", "`1` does not fit", flag),
        ("insecure: 'true'", "insecure", "`true` does not fit", flag),
        ("insecure: [true]", "insecure", "it is a list", flag),
        ("insecure: {a: 1}", "insecure", "it has keys below it", flag),
        ("service: {port: http}", "service.port", "`http` is text, not a number", port),
        ("service: {port: '8080'}", "service.port", "`8080` is text, not a number", port),
        ("service: {port: true}", "service.port", "`true` does not fit", port),
        ("service: {port: [1]}", "service.port", "it is a list", port),
        ("service: {port: {a: 1}}", "service.port", "it has keys below it", port),
        ("service: {port: 8080.5}", "service.port", "`8080.5` does not fit", port),
        ("service: {port: 65536}", "service.port", "65536 is out of range", port),
        ("service: {port: -1}", "service.port", "-1 is out of range", port),
        (
            "service: {host: localhost}",
            "service.host",
            "`localhost` is not an IP address",
            "it takes an IP address",
        ),
        (
            "service: {host: 127.0.0.1:80}",
            "service.host",
            "`127.0.0.1:80` is not an IP address",
            "it takes an IP address",
        ),
        ("service: {host: 1}", "service.host", "`1` does not fit", "it takes an IP address"),
        (
            "service: {tlsCertificate: 1}",
            "service.tlsCertificate",
            "`1` does not fit",
            "it takes text",
        ),
        (
            "service: {tlsCertificate: false}",
            "service.tlsCertificate",
            "`false` does not fit",
            "it takes text",
        ),
        (
            "service: {tlsCertificate: [a]}",
            "service.tlsCertificate",
            "it is a list",
            "it takes text",
        ),
        (
            "service: {tlsCertificate: {a: b}}",
            "service.tlsCertificate",
            "it has keys below it",
            "it takes text",
        ),
        (
            "service: {tlsCertificate: \"a\\0b\"}",
            "service.tlsCertificate",
            "it holds a zero byte",
            "it takes text",
        ),
        (
            "service: {allowedClients: ponger}",
            "service.allowedClients",
            "`ponger` does not fit",
            list,
        ),
        (
            "service: {allowedClients: {a: b}}",
            "service.allowedClients",
            "it has keys below it",
            list,
        ),
        ("service: {allowedClients: []}", "service.allowedClients", "the list is empty", list),
        ("service: {allowedClients: [a, 1]}", "service.allowedClients", "`1` is not a name", list),
        (
            "service: {allowedClients: [a, ' ']}",
            "service.allowedClients",
            "` ` is not a name",
            list,
        ),
        (
            "service: {allowedClients: [a, ~]}",
            "service.allowedClients",
            "`nil` is not a name",
            list,
        ),
        (
            "service: {minTlsVersion: 1.1}",
            "service.minTlsVersion",
            "`1.1` does not fit",
            "it takes `1.2`, `1.3`",
        ),
        (
            "service: {minTlsVersion: 1}",
            "service.minTlsVersion",
            "`1` does not fit",
            "it takes `1.2`, `1.3`",
        ),
        (
            "service: {maxConnections: 0}",
            "service.maxConnections",
            "0 is out of range",
            "it takes 1 to 1000",
        ),
        (
            "service: {maxConnections: 1001}",
            "service.maxConnections",
            "1001 is out of range",
            "it takes 1 to 1000",
        ),
        ("service: {idleTimeout: 10}", "service.idleTimeout", "`10` does not fit", duration),
        ("service: {idleTimeout: [10s]}", "service.idleTimeout", "it is a list", duration),
        (
            "service: {idleTimeout: fast}",
            "service.idleTimeout",
            "`fast` is not a duration: ",
            duration,
        ),
        (
            "service: {idleTimeout: '10'}",
            "service.idleTimeout",
            "`10` is not a duration: ",
            duration,
        ),
        (
            "service: {idleTimeout: -1s}",
            "service.idleTimeout",
            "`-1s` is not a duration: ",
            duration,
        ),
        (
            "service: {idleTimeout: 1 parsec}",
            "service.idleTimeout",
            "`1 parsec` is not a duration: ",
            duration,
        ),
        (
            "service: {idleTimeout: 366d}",
            "service.idleTimeout",
            "`366d` is not a duration: more than a year",
            duration,
        ),
        (
            "service: {idleTimeout: 99999999999999999999y}",
            "service.idleTimeout",
            "is not a duration: ",
            duration,
        ),
        ("log: {level: loud}", "log.level", "`loud` does not fit", level),
        ("log: {level: INFO}", "log.level", "`INFO` does not fit", level),
        ("log: {level: off}", "log.level", "`off` does not fit", level),
        ("log: {level: [info]}", "log.level", "it is a list", level),
        ("log: {format: xml}", "log.format", "`xml` does not fit", "it takes `text`, `json`"),
    ] {
        refused(text, &[&format!("FILE: key `{key}`: "), cause, &format!("; {takes}")]);
    }
}

#[test]
fn a_number_too_large_for_any_port_is_refused() {
    for number in ["18446744073709551616", "1e3", "0x1_0000", "-0.0"] {
        refused(
            format!("service:\n  port: {number}\n"),
            &["FILE: key `service.port`: ", "; it takes 0 to 65535"],
        );
    }
}

#[test]
fn a_key_without_a_value_is_refused() {
    for (text, key) in [
        ("insecure:", "insecure"),
        ("insecure: ~", "insecure"),
        ("insecure: null", "insecure"),
        ("service: {port: }", "service.port"),
        ("service: {tlsCertificate: null}", "service.tlsCertificate"),
        ("service: {allowedClients: }", "service.allowedClients"),
        ("service: {idleTimeout: }", "service.idleTimeout"),
        ("log: {level: }", "log.level"),
    ] {
        refused(text, &[&format!("FILE: key `{key}`: it has no value; it takes ")]);
    }
}

#[test]
fn empty_text_is_no_value() {
    for key in ["tlsCertificate", "host", "idleTimeout", "minTlsVersion", "port", "allowedClients"]
    {
        for empty in ["''", "' '", "\"\\t\""] {
            refused(
                format!("service: {{{key}: {empty}}}"),
                &[&format!("FILE: key `service.{key}`: it is empty; it takes ")],
            );
        }
    }
}

#[test]
fn a_section_must_have_keys_below_it() {
    refused_whole(
        "service:\nlog: {level: info}\n",
        "FILE: key `service`: it has no keys below it; give it some, or leave it out",
    );
    for value in ["ponger", "8080", "true", "[port, 8080]"] {
        refused_whole(
            &format!("metrics: {value}"),
            "FILE: key `metrics`: it must have keys below it, not a value; \
             known keys: metrics.host, metrics.port, metrics.endpoint",
        );
    }
}

#[test]
fn a_file_without_settings_is_refused() {
    for text in ["", "\n", "   \n\n", "---\n", "# port: 8080\n", "---\n  # nothing\n\n# at all"] {
        refused_whole(text, "FILE: it is empty; services/README.md shows one to start from");
    }
}

#[test]
fn a_file_that_is_no_table_is_refused() {
    for text in ["hello", "- service", "[1, 2]", "42", "!!binary aGVsbG8="] {
        refused(text, &["FILE: "]);
    }
}

#[test]
fn a_configuration_that_is_no_file_is_refused() {
    let case = Case::new();
    let cure = "; name the configuration file with --config FILE";
    assert_eq!(case.refusal(), format!("FILE: there is no such file{cure}"));

    fs::create_dir(case.path()).expect("a folder");
    assert_eq!(case.refusal(), format!("FILE: it is a folder{cure}"));
    fs::remove_dir(case.path()).expect("an empty folder");

    rustix::fs::mkfifoat(rustix::fs::CWD, case.path(), rustix::fs::Mode::RWXU).expect("a pipe");
    assert_eq!(case.refusal(), format!("FILE: it is not a regular file{cure}"));
    fs::remove_file(case.path()).expect("a pipe");

    std::os::unix::fs::symlink("nowhere", case.path()).expect("a link");
    assert_eq!(case.refusal(), format!("FILE: there is no such file{cure}"));
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let text = "#".repeat(1 << 20) + "\ninsecure: true\n";
    refused(text, &["FILE: it is larger than 1048576 bytes"]);
}

#[test]
fn a_file_of_exactly_the_largest_size_is_read() {
    let settings = "insecure: true\n#";
    let text = settings.to_owned() + &"#".repeat((1 << 20) - settings.len());
    assert!(Case::file(text).loaded().insecure);
}

#[test]
fn a_file_that_is_not_utf8_is_refused() {
    refused(
        b"service:\n  host: \xff\n",
        &["FILE: it is not UTF-8 text (byte 17); save it as UTF-8"],
    );
    // What Windows calls Unicode.
    refused(b"\xff\xfei\0n\0", &["FILE: it is not UTF-8 text (byte 0); save it as UTF-8"]);
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    refused("insecure: true\ninsecure: false\n", &["FILE: key `insecure`: duplicated key"]);
    refused("service:\n  port: 1\n  port: 1\n", &["FILE: key `port`: duplicated key"]);
    refused("service: {port: 1}\nservice: {port: 2}\n", &["FILE: key `service`: duplicated key"]);
}

#[test]
fn what_is_not_yaml_is_refused_with_its_line() {
    for (text, line) in [
        ("service:\n\tport: 1\n", "line 2"),
        ("service: {port: 1\n", "line 2"),
        ("service:\n  port: 1\n   host: ::1\n", "line 3"),
        ("insecure: 'true\n", "line 1"),
        ("insecure: *missing\n", "line 1"),
        ("insecure: @home\n", "line 1"),
    ] {
        refused(text, &["FILE: ", line]);
    }
}

#[test]
fn two_documents_are_refused() {
    refused("insecure: true\n---\ninsecure: false\n", &["FILE: ", "2 YAML documents"]);
}

#[test]
fn an_alias_stands_for_its_anchor() {
    let sample = Case::file("service: {port: &port 7}\nmetrics: {port: *port}\n").loaded();
    assert_eq!((sample.service.port, sample.metrics.port), (7, 7));
}

#[test]
fn defaults_stand_where_the_file_is_silent() {
    assert_eq!(Case::file("insecure: false").loaded(), Sample::default());
    assert_eq!(Case::file("{}").loaded(), Sample::default());
    let sample = Case::file("metrics: {port: 9}").loaded();
    assert_eq!(sample.metrics, Metrics { port: 9, ..Metrics::default() });
    assert_eq!(Sample { metrics: Metrics::default(), ..sample }, Sample::default());
}

#[test]
fn every_key_can_be_set_by_the_file() {
    let sample = Case::file(
        "insecure: true
service:
  host: '::'
  port: 65535
  tlsCertificate: /a b/ü.crt
  allowedClients: [a, \"b\", spiffe://c/d]
  minTlsVersion: '1.2'
  idleTimeout: 1m 30s
  maxConnections: 1000
identity: {pollInterval: 250ms, expiryWarning: 7d}
metrics: {host: 127.0.0.1, port: 0, endpoint: /m}
log: {format: json, level: trace}
",
    )
    .loaded();
    let expected = Sample {
        insecure: true,
        service: Service {
            host: "::".parse().expect("an address"),
            port: 65535,
            tls_certificate: Some("/a b/ü.crt".into()),
            allowed_clients: Some(vec!["a".into(), "b".into(), "spiffe://c/d".into()]),
            min_tls_version: MinTlsVersion::V1_2,
            idle_timeout: HumanDuration::seconds(90),
            max_connections: 1000,
        },
        identity: Identity {
            poll_interval: HumanDuration(std::time::Duration::from_millis(250)),
            expiry_warning: Some(HumanDuration::seconds(7 * 24 * 3600)),
        },
        metrics: Metrics { host: [127, 0, 0, 1].into(), port: 0, endpoint: "/m".into() },
        log: Log { format: LogFormat::Json, level: LogLevel::Trace },
    };
    assert_eq!(sample, expected);
}

#[test]
fn every_key_can_be_set_by_the_environment() {
    let sample = Case::file("insecure: false")
        .and_variable("SAMPLE__INSECURE", "true")
        .and_variable("SAMPLE__SERVICE__HOST", "::1")
        .and_variable("SAMPLE__SERVICE__PORT", "1")
        .and_variable("SAMPLE__SERVICE__TLS_CERTIFICATE", "12345")
        .and_variable("SAMPLE__SERVICE__ALLOWED_CLIENTS", "a, spiffe://b/c")
        .and_variable("SAMPLE__SERVICE__MIN_TLS_VERSION", "1.2")
        .and_variable("SAMPLE__SERVICE__IDLE_TIMEOUT", "1h")
        .and_variable("SAMPLE__SERVICE__MAX_CONNECTIONS", "3")
        .and_variable("SAMPLE__IDENTITY__EXPIRY_WARNING", "1d")
        .and_variable("SAMPLE__LOG__FORMAT", "json")
        .loaded();
    let expected = Service {
        host: "::1".parse().expect("an address"),
        port: 1,
        tls_certificate: Some("12345".into()),
        allowed_clients: Some(vec!["a".into(), "spiffe://b/c".into()]),
        min_tls_version: MinTlsVersion::V1_2,
        idle_timeout: HumanDuration::seconds(3600),
        max_connections: 3,
    };
    assert_eq!(sample.service, expected);
    assert!(sample.insecure);
    assert_eq!(sample.identity.expiry_warning, Some(HumanDuration::seconds(24 * 3600)));
    assert_eq!(sample.log.format, LogFormat::Json);
}

#[test]
fn the_environment_overrules_the_file_and_the_file_the_defaults() {
    let file = "service: {port: 1, maxConnections: 2, allowedClients: [a, b, c]}";
    let sample = Case::file(file)
        .and_variable("SAMPLE__SERVICE__PORT", "3")
        .and_variable("SAMPLE__SERVICE__ALLOWED_CLIENTS", "d")
        .loaded();
    assert_eq!((sample.service.port, sample.service.max_connections), (3, 2));
    assert_eq!(sample.service.allowed_clients, Some(vec!["d".into()]), "not mixed");
    assert_eq!(sample.metrics.port, 2112);
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_known_one() {
    for (variable, nearest) in [
        ("SAMPLE__SERVICE__PROT", "SAMPLE__SERVICE__PORT"),
        ("SAMPLE__SERVICE_PORT", "SAMPLE__SERVICE__PORT"),
        ("SAMPLE__SERVICE__TLSCERTIFICATE", "SAMPLE__SERVICE__TLS_CERTIFICATE"),
        ("SAMPLE__service__port", "SAMPLE__"),
        ("SAMPLE__SERVICE", "SAMPLE__"),
        ("SAMPLE__", "SAMPLE__"),
    ] {
        let message = Case::variable(variable, "1").refusal();
        let expected = format!(
            "environment variable {variable}: there is no such key; the nearest known one is {nearest}"
        );
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn a_variable_with_a_wrong_value_is_refused() {
    for (variable, value, cause) in [
        ("INSECURE", "yes", "`yes` does not fit; it takes `true` or `false`"),
        ("INSECURE", "TRUE", "`TRUE` does not fit; it takes `true` or `false`"),
        ("INSECURE", "", "it is empty; it takes `true` or `false`"),
        ("SERVICE__PORT", "", "it is empty; it takes 0 to 65535"),
        ("SERVICE__PORT", "http", "`http` is text, not a number; it takes 0 to 65535"),
        ("SERVICE__PORT", "80 ", "`80 ` is text, not a number; it takes 0 to 65535"),
        ("SERVICE__PORT", "8.5", "`8.5` is text, not a number; it takes 0 to 65535"),
        ("SERVICE__PORT", "65536", "65536 is out of range; it takes 0 to 65535"),
        ("SERVICE__PORT", "-1", "-1 is out of range; it takes 0 to 65535"),
        ("SERVICE__PORT", "99999999999999999999", "is text, not a number; it takes 0 to 65535"),
        ("SERVICE__HOST", "localhost", "`localhost` is not an IP address"),
        ("SERVICE__TLS_CERTIFICATE", " ", "it is empty; it takes text"),
        ("SERVICE__ALLOWED_CLIENTS", "", "`` is not a name; it takes a list of texts"),
        ("SERVICE__ALLOWED_CLIENTS", "a,,b", "`` is not a name; it takes a list of texts"),
        ("SERVICE__ALLOWED_CLIENTS", "a,", "`` is not a name; it takes a list of texts"),
        ("SERVICE__IDLE_TIMEOUT", "10", "`10` is not a duration: "),
        ("SERVICE__MIN_TLS_VERSION", "1.1", "`1.1` does not fit; it takes `1.2`, `1.3`"),
        ("LOG__LEVEL", "loud", "`loud` does not fit; it takes `error`"),
    ] {
        let message = Case::variable(&format!("SAMPLE__{variable}"), value).refusal();
        let place = format!("environment variable SAMPLE__{variable}: ");
        assert!(message.starts_with(&place) && message.contains(cause), "{message}");
    }
}

#[test]
fn a_variable_that_is_not_utf8_is_refused() {
    let mut case = Case::variable("PATH", "/bin");
    let path = OsString::from_vec(b"/certs/p\xffnger.crt".to_vec());
    case.variables.push(("SAMPLE__SERVICE__TLS_CERTIFICATE".into(), path));
    assert_eq!(
        case.refusal(),
        "environment variable SAMPLE__SERVICE__TLS_CERTIFICATE: its value is not UTF-8 text"
    );
}

#[test]
fn variables_of_others_are_passed_over() {
    let mut case = Case::variable("SAMPLE_SERVICE_PORT", "tcp://10.0.0.1:80")
        .and_variable("OTHER__SERVICE__PORT", "x")
        .and_variable("sample__service__port", "x")
        .and_variable("XSAMPLE__SERVICE__PORT", "x");
    case.variables.push((OsString::from_vec(vec![0xff]), OsString::from_vec(vec![0xff])));
    assert_eq!(case.loaded(), Sample::default());
}

#[test]
fn a_file_that_is_wrong_is_wrong_whatever_the_environment_says() {
    let case = Case::file("service: {port: http}").and_variable("SAMPLE__SERVICE__PORT", "1");
    assert!(case.refusal().starts_with("FILE: key `service.port`: "));
}

#[test]
fn durations_are_read_as_people_write_them() {
    for (text, milliseconds) in [
        ("0s", 0),
        ("250ms", 250),
        ("1.5s", 1500),
        ("10s", 10_000),
        (" 10s ", 10_000),
        ("1m30s", 90_000),
        ("1h 30m", 5_400_000),
        ("365d", 365 * 24 * 3_600_000),
    ] {
        let span = HumanDuration::try_from(text.to_owned());
        assert_eq!(span, Ok(HumanDuration(std::time::Duration::from_millis(milliseconds))), "{text}");
    }
    for text in ["", " ", "10", "s", "10 s 5", "365d 1ns", "10x"] {
        assert!(HumanDuration::try_from(text.to_owned()).is_err(), "{text}");
    }
    assert_eq!(HumanDuration::seconds(5400).to_string(), "1h 30m");
    assert_eq!(String::from(HumanDuration::seconds(61)), "1m 1s");
}

#[test]
fn the_table_shows_every_key_with_what_it_takes_and_its_default() {
    let table = table::<Sample>();
    for row in [
        "| key | takes | default | what it is |\n| --- | --- | --- | --- |\n| `insecure` | `true` or `false` | `false` |  |\n",
        "\n| `service.host` | an IP address | `0.0.0.0` |  |\n",
        "\n| `service.port` | 0 to 65535 | `8443` |  |\n",
        "\n| `service.tlsCertificate` | text |  |  |\n",
        "\n| `service.allowedClients` | a list of texts |  | Who is let in, and nobody else. |\n",
        "\n| `service.minTlsVersion` | `1.2`, `1.3` | `1.3` | The oldest TLS version that is spoken. |\n",
        "\n| `service.idleTimeout` | a duration | `1m` |  |\n",
        "\n| `service.maxConnections` | 1 to 1000 | `100` |  |\n",
        "\n| `identity.expiryWarning` | a duration |  | How long before",
    ] {
        assert!(table.contains(row), "{row:?} is not in\n{table}");
    }
    assert_eq!(table.lines().count(), 2 + Keys::of::<Sample>().iter().count());
}

#[test]
fn a_path_for_metrics_that_cannot_be_served_is_refused() {
    let check = |endpoint: &str| {
        Metrics { endpoint: endpoint.into(), ..Metrics::default() }
            .check()
            .map_err(|error| error.to_string())
    };
    assert_eq!(check("/metrics"), Ok(()));
    assert_eq!(check("/a-b_c.d/E1"), Ok(()));
    for (endpoint, cause) in [
        ("metrics", "`metrics` does not start with `/`"),
        ("", "`` does not start with `/`"),
        ("/livez", "`/livez` is the path of a probe"),
        ("/readyz", "`/readyz` is the path of a probe"),
        ("/a b", "`/a b` has characters that a path here may not have"),
        ("/{id}", "`/{id}` has characters that a path here may not have"),
        ("/a?b", "`/a?b` has characters that a path here may not have"),
    ] {
        let expected = format!("metrics.endpoint: {cause}; use a path such as `/metrics`");
        assert_eq!(check(endpoint), Err(expected));
    }
}

#[test]
fn a_key_with_dots_in_it_is_refused() {
    refused_whole(
        "service.port: 1",
        "FILE: key `service.port`: a key has no dots; write `port` below `service`",
    );
    refused("service.port: 1\nservice: {port: 2}\n", &["FILE: key `service.port`: "]);
    refused("service.nothing: 1", &["FILE: key `service.nothing`: "]);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_do_no_harm() {
    let text = "\u{feff}service:\r\n  port: 1\r\nlog:\r\n  level: debug\r\n";
    let sample = Case::file(text).loaded();
    assert_eq!((sample.service.port, sample.log.level), (1, LogLevel::Debug));
}

#[test]
fn a_variable_whose_name_is_not_utf8_is_unknown() {
    let mut case = Case::variable("PATH", "/bin");
    let variable = OsString::from_vec(b"SAMPLE__SERVICE__P\xffRT".to_vec());
    case.variables.push((variable, "1".into()));
    assert!(case.refusal().contains("the nearest known one is SAMPLE__SERVICE__PORT"));
}

#[test]
fn a_choice_that_looks_like_a_number_needs_no_quotes() {
    for (text, version) in [("1.2", MinTlsVersion::V1_2), ("1.3", MinTlsVersion::V1_3)] {
        let sample = Case::file(format!("service: {{minTlsVersion: {text}}}")).loaded();
        assert_eq!(sample.service.min_tls_version, version);
    }
}

#[test]
fn a_file_that_is_nested_without_end_is_refused() {
    for unit in ["- ", "? "] {
        let text = unit.repeat((1 << 20) / unit.len());
        refused(text, &["FILE: it is nested more than 16 levels deep"]);
    }
    for unit in ["[", "{a: "] {
        refused(unit.repeat(1000), &["FILE: "]);
    }
    let text = format!("{}x{}", "[".repeat(16), "]".repeat(16));
    assert!(!Case::file(text).refusal().contains("nested"));
}

#[test]
fn a_file_that_grows_by_its_aliases_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    refused(text, &["FILE: it has more than 10 aliases"]);
}

#[test]
fn nothing_behind_a_zero_byte_is_passed_over() {
    for control in ['\0', '\u{1b}', '\u{85}', '\u{7}'] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.yaml");
        let text = format!("service: {{port: 1}}\n{control}\nservice: {{port: 2}}\n");
        fs::write(&file, text).expect("written");
        let error =
            load::<Sample>("ponger", &file, std::iter::empty()).expect_err("a control character");
        assert!(error.to_string().contains("it holds a control character (byte 19)"), "{error}");
    }
}
