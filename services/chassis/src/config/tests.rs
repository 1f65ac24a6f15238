use std::{fs, iter, net::IpAddr, os::unix::ffi::OsStringExt as _, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::*;

/// A configuration with a key of every kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
struct Sample {
    insecure: bool,
    service: Service,
    identity: Identity,
    metrics: Metrics,
    log: Log,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, expecting = "keys below it")]
struct Service {
    host: IpAddr,
    port: u16,
    tls_certificate: Option<PathBuf>,
    allowed_clients: Vec<String>,
    min_tls_version: MinTlsVersion,
    idle_timeout: HumanDuration,
    max_connections: u32,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            host: IpAddr::from([0, 0, 0, 0]),
            port: 8443,
            tls_certificate: None,
            allowed_clients: Vec::new(),
            min_tls_version: MinTlsVersion::default(),
            idle_timeout: HumanDuration::seconds(60),
            max_connections: 100,
        }
    }
}

/// Loads a file of `bytes` and `variables`; an error has `FILE` for its path.
fn load_with(bytes: impl AsRef<[u8]>, variables: &[(&str, &str)]) -> Result<Sample, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    fs::write(&file, bytes).unwrap();
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    load("sample", Some(&file), variables, |_| Ok(()))
        .map_err(|error| error.to_string().replace(&file.display().to_string(), "FILE"))
}

/// Checks that `bytes` are rejected with a message that begins with `FILE: ` and `message`.
#[track_caller]
fn rejects(bytes: impl AsRef<[u8]>, message: &str) {
    let error = load_with(&bytes, &[]).unwrap_err();
    let text = String::from_utf8_lossy(&bytes.as_ref()[..bytes.as_ref().len().min(200)]);
    assert!(error.starts_with(&format!("FILE: {message}")), "{text:?}: {error}");
}

#[test]
fn rejects_unknown_key_and_names_the_nearest() {
    for (text, key, nearest) in [
        ("insecur: true", "insecur", "`insecure`"),
        ("Insecure: true", "Insecure", "`insecure`"),
        ("services: {port: 1}", "services", "`service`"),
        ("port: 1", "port", "`metrics.port` or `service.port`"),
        ("tlsCertificate: x", "tlsCertificate", "`service.tlsCertificate`"),
        ("service: {prot: 1}", "service.prot", "`service.port`"),
        ("service: {tls_certificate: x}", "service.tls_certificate", "`service.tlsCertificate`"),
        ("service: {endpoint: /x}", "service.endpoint", "`metrics.endpoint`"),
        ("identity: {polInterval: 1s}", "identity.polInterval", "`identity.pollInterval`"),
    ] {
        rejects(text, &format!("key `{key}`: unknown key; the nearest known key is {nearest}"));
    }
    for text in ["1: x", "true: x", "service: {0: x}", "<<: {insecure: true}"] {
        rejects(text, "key `");
    }
    rejects(
        "[a]: x",
        "Cannot parse Array([String(\"a\")]) because it is an unsupported hash key type",
    );
}

/// Keys and values with an error message, in a file and, but for tables and lists, in a variable.
const INVALID: &[(&str, &str, &str)] = &[
    ("insecure", "yes please", "invalid type: string \"yes please\"; expected `true` or `false`"),
    ("insecure", "1", "invalid type: integer `1`; expected `true` or `false`"),
    ("service.port", "http", "invalid type: string \"http\"; expected a number from 0 to 65535"),
    ("service.port", "true", "invalid type: boolean `true`; expected a number from 0 to 65535"),
    ("service.port", "[1]", "invalid type: sequence; expected a number from 0 to 65535"),
    ("service.port", "8080.5", "invalid type: floating point `8080.5`; expected a number"),
    ("service.port", "65536", "invalid value: integer `65536`; expected a number from 0"),
    ("service.port", "-1", "invalid value: integer `-1`; expected a number from 0 to 65535"),
    ("service.port", "18446744073709551616", "invalid type: floating point "),
    ("service.port", "1e3", "invalid type: floating point "),
    ("service.maxConnections", "4294967296", "invalid value: integer `4294967296`; expected a"),
    ("service.host", "localhost", "invalid IP address syntax; expected an IP address, such as"),
    ("service.tlsCertificate", "1", "invalid type: integer `1`; expected text"),
    ("service.tlsCertificate", "{a: b}", "invalid type: map; expected text"),
    ("service.minTlsVersion", "1.1", "unknown value 1.1; expected `1.2` or `1.3`"),
    ("service.idleTimeout", "10", "10 is not a duration; expected a number and its unit (d, h,"),
    ("service.idleTimeout", "5M", "\"5M\" is not a duration; expected a number and its unit"),
    ("service.idleTimeout", "366d", "\"366d\" is more than a year; expected at most 365d"),
    ("log.level", "INFO", "unknown value `INFO`; expected one of `error`, `warn`, `info`, `debug`"),
];

/// As [`INVALID`], as only a file can have it.
const INVALID_IN_FILE: &[(&str, &str, &str)] = &[
    ("insecure", "'true'", "invalid type: string \"true\"; expected `true` or `false`"),
    ("insecure", "", "it has no value; give it a value, or remove it"),
    ("metrics", "8080", "invalid type: integer `8080`; expected keys below it"),
    ("metrics", "", "it has no value; give it a value, or remove it"),
    ("service.port", "'8080'", "invalid type: string \"8080\"; expected a number from 0 to 65535"),
    ("service.port", "~", "it has no value; give it a value, or remove it"),
    ("service.tlsCertificate", "~", "it has no value; give it a value, or remove it"),
    ("service.allowedClients", "ponger", "invalid type: string \"ponger\"; expected a list"),
    ("service.allowedClients", "[]", "the list or an item of it is empty; give it a value"),
    ("service.allowedClients", "[a, ' ']", "the list or an item of it is empty; give it a value"),
    ("service.tlsCertificate", "' '", "it is empty; give it a value, or remove it"),
    ("log.level", "[info]", "invalid type: sequence; expected text"),
];

/// As [`INVALID`], as only a variable can have it.
const INVALID_IN_VARIABLE: &[(&str, &str, &str)] = &[
    ("insecure", "", "it is empty; give it a value, or remove it"),
    ("service.tlsCertificate", " ", "it is empty; give it a value, or remove it"),
    ("service.allowedClients", "", "the list or an item of it is empty; give it a value"),
    ("service.allowedClients", "a,,b", "the list or an item of it is empty; give it a value"),
];

#[test]
fn rejects_invalid_value_and_names_key_or_variable() {
    for (key, value, message) in INVALID.iter().chain(INVALID_IN_FILE) {
        let text = match key.split_once('.') {
            Some((section, name)) => format!("{section}: {{{name}: {value}}}"),
            None => format!("{key}: {value}"),
        };
        rejects(text, &format!("key `{key}`: {message}"));
    }
    for (key, value, message) in INVALID.iter().chain(INVALID_IN_VARIABLE) {
        if value.starts_with(['[', '{']) {
            continue;
        }
        let name = variable("SAMPLE__", key);
        let error = load_with("{}", &[(&name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("environment variable {name}: {message}")), "{error}");
    }
    // Each source by itself.
    let error = load_with("service: {port: http}", &[("SAMPLE__SERVICE__PORT", "1")]).unwrap_err();
    assert!(error.starts_with("FILE: key `service.port`: "), "{error}");
    rejects("service: {allowedClients: [a, 1]}", "key `service.allowedClients[1]`: invalid type");
    for module in ["a", "a=INFO", "=info", "a b=info", "a=debug=info"] {
        let message =
            format!("key `log.modules[0]`: unknown value `{module}`; expected a module and");
        rejects(format!("log: {{modules: ['{module}']}}"), &message);
    }
}

#[test]
fn rejects_file_that_is_not_a_configuration() {
    for (text, message) in [
        (&b""[..], "it is empty; see services/README.md"),
        (b"---\n  # port: 1\n\n# none", "it is empty; see services/README.md"),
        (b"hello", "invalid type: string \"hello\", expected a map; see services/README.md"),
        (b"service:\n  host: \xff\n", "it is not UTF-8 text (invalid utf-8 sequence of 1 bytes"),
        (b"\xff\xfei\0n\0", "it is not UTF-8 text ("),
        (b"insecure: true\n\0\ninsecure: 1", "it contains a control character (byte 15)"),
        (b"insecure: true\n\x1b", "it contains a control character (byte 15)"),
        (b"insecure: true\ninsecure: false", "key `insecure`: duplicated key"),
        (b"service: {port: 1}\nservice: {port: 2}", "key `service`: duplicated key"),
        (b"insecure: true\n---\ninsecure: false\n", "Got 2 YAML documents"),
        (b"service.port: 1", "key `service.port` contains `.` or `[`; indent keys"),
        (b"service.port: 1\nservice: {port: 2}", "key `service.port` contains `.` or `[`; "),
        (b"service[99999999999]: 1", "key `service[99999999999]` contains `.` or `[`; indent keys"),
        (b"service: {log.level: info}", "key `service.log.level`: unknown key; "),
    ] {
        rejects(text, message);
    }
    for (text, line) in [
        ("service:\n\tport: 1\n", "line 2"),
        ("service:\n  port: 1\n   host: ::1\n", "line 3"),
        ("insecure: 'true\n", "line 1"),
        ("insecure: *missing\n", "line 1"),
    ] {
        let error = load_with(text, &[]).unwrap_err();
        assert!(error.starts_with("FILE: ") && error.contains(line), "{error}");
    }
}

#[test]
fn rejects_file_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let rejects = |reason: &str| {
        let error = load::<Sample>("sample", Some(&file), iter::empty(), |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: {reason}", file.display()));
    };
    rejects("there is no such file; create it, or give the path of another one");
    fs::create_dir(&file).unwrap();
    rejects("it is a directory");
    fs::remove_dir(&file).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RWXU).unwrap();
    rejects("it is not a regular file");
}

#[test]
fn rejects_a_file_of_more_than_8_mib() {
    let comment = "#".repeat(8 * 1024 * 1024);
    rejects(comment + "\ninsecure: true", "it is larger than 8388608 bytes");
}

#[test]
fn rejects_nesting_without_limit() {
    let length = 64 * 1024;
    for unit in [
        "- ", "? ", ": ", "-\t", "- ? ", "? - ", "[", "{a: ", "[{a: ", "[? ", "- [", "!a ", "&a ",
        "- &a ", "a: - ",
    ] {
        for start in ["", "a:\n  ", "a: [", "a: {", "a: [\n"] {
            rejects(start.to_owned() + &unit.repeat((length - start.len()) / unit.len()), "");
        }
    }
    // One more column on each line.
    for unit in ["-", "a:", "? a\n:", "- a:"] {
        rejects((0..350).map(|column| " ".repeat(column) + unit + "\n").collect::<String>(), "");
    }
    // The file is a level too.
    let nested = |levels: usize| format!("a: {}{}", "[".repeat(levels), "]".repeat(levels));
    rejects(nested(15), "key `a`: unknown key");
    let levels = "it has more than 16 levels (line 1)";
    rejects(nested(16), levels);
    // Neither brackets nor indent: each pair is a mapping of its own.
    rejects("a: [".to_owned() + &": ".repeat(15), levels);
}

#[test]
fn rejects_anchors_and_aliases_without_limit() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(",");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    rejects(bomb, "it has more than 10 anchors and aliases (line 2)");
    // A node is copied for each anchor in which it is.
    rejects(
        format!("a: {}{}", "&a [".repeat(11), "]".repeat(11)),
        "it has more than 10 anchors and aliases",
    );
    let port = "service: {port: &port 7}\nmetrics: {port: *port}\n";
    assert_eq!(load_with(port, &[]).unwrap().metrics.port, 7);
    let quoted = format!("service: {{allowedClients: [{}]}}", "'*.a', ".repeat(11));
    assert!(load_with(quoted, &[]).is_ok());
    rejects(format!("a: &a b\nb: [{}]", "*a, ".repeat(9)), "key `a`: unknown key");
    rejects(format!("a: &a b\nb: [{}]", "*a, ".repeat(10)), "it has more than 10 anchors");
    let long = format!("{port}{}", "#\n".repeat(32 * 1024));
    rejects(long, "it has an anchor, and more than 65536 bytes (line 1)");
}

#[test]
fn rejects_more_keys_and_values_than_anyone_needs() {
    rejects(
        "a:\n".to_owned() + &"- 1\n".repeat(250_000),
        "it has more than 250000 keys and values",
    );
}

#[test]
fn says_briefly_that_a_long_key_is_unknown() {
    let error =
        load_with(format!("? {}\n: 1", "a".repeat(1_000_000)), &[]).unwrap_err().to_string();
    assert!(error.ends_with("...: unknown key; services/README.md lists the keys"), "{error}");
}

#[test]
fn reads_every_key_from_the_file() {
    let sample = load_with(
        "\u{feff}insecure: true\r
service:
  host: '::'
  port: 65535
  tlsCertificate: /a b/ü.crt
  allowedClients: [a, \"b\", spiffe://c/d]
  minTlsVersion: 1.2
  idleTimeout: 1m 30s
identity: {pollInterval: 250ms, expiryWarning: 7d}
metrics: {host: 127.0.0.1, port: 0, endpoint: /m}
log: {format: json, level: trace, pings: failed}
",
        &[],
    )
    .unwrap();
    let expected = Sample {
        insecure: true,
        service: Service {
            host: "::".parse().unwrap(),
            port: 65535,
            tls_certificate: Some("/a b/ü.crt".into()),
            allowed_clients: vec!["a".into(), "b".into(), "spiffe://c/d".into()],
            min_tls_version: MinTlsVersion::V1_2,
            idle_timeout: HumanDuration::seconds(90),
            max_connections: 100,
        },
        identity: Identity {
            poll_interval: HumanDuration(Duration::from_millis(250)),
            expiry_warning: Some(HumanDuration::seconds(7 * 24 * 3600)),
        },
        metrics: Metrics { host: [127, 0, 0, 1].into(), port: 0, endpoint: "/m".into() },
        log: Log {
            format: LogFormat::Json,
            level: LogLevel::Trace,
            pings: LogPings::Failed,
            modules: Vec::new(),
        },
    };
    assert_eq!(sample, expected);
    for text in [
        "{}",
        "insecure: false",
        "service: {}",
        "service: {minTlsVersion: '1.3'}",
        "service: {minTlsVersion: 1.3}",
    ] {
        assert_eq!(load_with(text, &[]), Ok(Sample::default()), "{text}");
    }
}

#[test]
fn environment_overrides_the_file() {
    let file = "service: {port: 1, maxConnections: 2, allowedClients: [a, b, c]}";
    let variables = [
        ("SAMPLE__INSECURE", "true"),
        ("SAMPLE__SERVICE__HOST", "::1"),
        ("SAMPLE__SERVICE__PORT", "3"),
        ("SAMPLE__SERVICE__TLS_CERTIFICATE", "/a, b.crt"),
        ("SAMPLE__SERVICE__ALLOWED_CLIENTS", "d,spiffe://e/f"),
        ("SAMPLE__SERVICE__MIN_TLS_VERSION", "1.2"),
        ("SAMPLE__SERVICE__IDLE_TIMEOUT", "1h"),
        ("SAMPLE__LOG__FORMAT", "json"),
        ("SAMPLE_SERVICE_PORT", "tcp://10.0.0.1:80"),
        ("OTHER__SERVICE__PORT", "x"),
        ("sample__service__port", "x"),
    ];
    let sample = load_with(file, &variables).unwrap();
    let expected = Service {
        host: "::1".parse().unwrap(),
        port: 3,
        tls_certificate: Some("/a, b.crt".into()),
        allowed_clients: vec!["d".into(), "spiffe://e/f".into()],
        min_tls_version: MinTlsVersion::V1_2,
        idle_timeout: HumanDuration::seconds(3600),
        max_connections: 2,
    };
    assert_eq!(sample.service, expected);
    assert_eq!((sample.insecure, sample.log.format), (true, LogFormat::Json));
}

#[test]
fn environment_sets_text_where_no_key_is_a_list() {
    let variable = [("METRICS__ENDPOINT".into(), "/a,b".into())].into_iter();
    let metrics: Metrics = load("metrics", None, variable, |_| Ok(())).unwrap();
    assert_eq!(metrics.endpoint, "/a,b");
}

#[test]
fn rejects_unknown_variable_and_names_the_nearest() {
    for (variable, nearest) in [
        ("SAMPLE__SERVICE__PROT", "SAMPLE__SERVICE__PORT"),
        ("SAMPLE__service__port", "SAMPLE__SERVICE__PORT"),
        ("SAMPLE__SERVICE_PORT", "SAMPLE__SERVICE__PORT"),
        ("SAMPLE__SERVICE__TLSCERTIFICATE", "SAMPLE__SERVICE__TLS_CERTIFICATE"),
    ] {
        let error = load_with("{}", &[(variable, "1")]).unwrap_err();
        let message = format!(
            "environment variable {variable}: unknown key; the nearest known one is {nearest}"
        );
        assert_eq!(error, message);
    }
    for variable in ["SAMPLE__SERVICE[99999999999]__PORT", "SAMPLE__SERVICE", "SAMPLE__"] {
        let error = load_with("{}", &[(variable, "1")]).unwrap_err();
        let message = format!(
            "environment variable {variable}: unknown key; services/README.md lists the keys"
        );
        assert_eq!(error, message);
    }
    for (name, value, message) in [
        (
            &b"SAMPLE__SERVICE__P\xffRT"[..],
            &b"1"[..],
            "the nearest known one is SAMPLE__SERVICE__PORT",
        ),
        (b"SAMPLE__LOG__LEVEL", b"\xff", "LOG__LEVEL: its value is not UTF-8 text"),
    ] {
        let variable = [(OsString::from_vec(name.into()), OsString::from_vec(value.into()))];
        let error = load::<Sample>("sample", None, variable.into_iter(), |_| Ok(())).unwrap_err();
        assert!(error.to_string().ends_with(message), "{error}");
    }
}

#[test]
fn default_file_may_be_absent_where_the_environment_is_set() {
    // The tests of a crate run in its directory, which has no config.yaml.
    let load = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        load::<Sample>("sample", None, variables, |sample| match sample.insecure {
            true => Ok(()),
            false => Err(ConfigError::new("insecure", "it is false")),
        })
    };
    assert!(load(&[("SAMPLE__INSECURE", "true")]).unwrap().insecure);
    let error = load(&[("SAMPLE__LOG__LEVEL", "info")]).unwrap_err().to_string();
    assert_eq!(error, "environment: insecure: it is false");
    let error = load(&[("SAMPLE__INSECURE", "false")]).unwrap_err().to_string();
    assert_eq!(error, "environment variable SAMPLE__INSECURE: insecure: it is false");
    let error = load(&[]).unwrap_err().to_string();
    assert!(error.starts_with("config.yaml: there is no such file; "), "{error}");
}

#[test]
fn never_prints_a_key_in_place_of_its_path() {
    // The public test key of RFC 8032, 7.1, as PKCS#8.
    let base64 = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
    for key in [base64, &format!("-----BEGIN PRIVATE KEY-----\\n{base64}")] {
        for text in ["port: KEY", "KEY: 1", "minTlsVersion: KEY", "idleTimeout: KEY", "host: KEY"] {
            let text = format!("service: {{{}}}", text.replace("KEY", &format!("\"{key}\"")));
            let error = load_with(&text, &[]).unwrap_err();
            assert!(!error.contains(&base64[40..]), "{error}");
        }
        let error = load_with("{}", &[("SAMPLE__SERVICE__PORT", key)]).unwrap_err();
        assert_eq!(
            error,
            "environment variable SAMPLE__SERVICE__PORT: its value is a certificate or a key; write it to a file, and give the path of that"
        );
    }
}

#[test]
fn reads_durations_and_prints_them_as_it_reads_them() {
    let parse = |text: &str| HumanDuration::try_from(Json::from(text));
    for (text, milliseconds, printed) in [
        ("0s", 0, "0s"),
        ("250ms", 250, "250ms"),
        ("1.5s", 1500, "1s 500ms"),
        (" 10s ", 10_000, "10s"),
        ("1m30s", 90_000, "1m 30s"),
        ("90m", 5_400_000, "1h 30m"),
        ("365d", 365 * 24 * 3_600_000, "365d"),
    ] {
        let duration = parse(text).unwrap();
        assert_eq!(duration.0, Duration::from_millis(milliseconds), "{text}");
        assert_eq!(duration.to_string(), printed);
        assert_eq!(parse(printed), Ok(duration));
    }
    for text in [
        "", " ", "10", "s", "-1s", "10 s 5", "10x", "5M", "1month", "1y", "1w", "1sec", "1 parsec",
        "5min", "5µs",
    ] {
        assert!(parse(text).unwrap_err().contains("is not a duration"), "{text}");
    }
    for text in ["366d", "365d 1ns", "9000h"] {
        assert!(parse(text).unwrap_err().contains("is more than a year"), "{text}");
    }
    assert!(parse("99999999999999999999d").is_err());
}

#[test]
fn rejects_metrics_path_that_cannot_be_served() {
    let validate = |endpoint: &str| {
        let metrics = Metrics { endpoint: endpoint.into(), ..Metrics::default() };
        metrics.validate().map_err(|error| error.to_string())
    };
    assert_eq!(validate("/metrics"), Ok(()));
    assert_eq!(validate("/a-b_c.d/E1"), Ok(()));
    for (endpoint, reason) in [
        ("metrics", "does not start with `/`"),
        ("/livez", "is the path of a probe"),
        ("/readyz", "is the path of a probe"),
        ("/a b", "has characters other than"),
        ("/{id}", "has characters other than"),
        ("/a?b", "has characters other than"),
    ] {
        let error = validate(endpoint).unwrap_err();
        assert!(error.starts_with(&format!("metrics.endpoint: `{endpoint}` {reason}")), "{error}");
    }
}
