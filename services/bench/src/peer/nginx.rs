//! nginx, configured to be fast at this.

use std::{fs, io, process::Command, thread::available_parallelism};

use super::SPARE_CONNECTIONS;
use crate::credentials::{Credentials, Logging, Setup};

/// The command that starts nginx in the foreground, with its files in the directory of
/// `credentials`.
pub(super) fn command(setup: &Setup, credentials: &Credentials, port: u16) -> io::Result<Command> {
    let dir = credentials.dir();
    let file = dir.join("nginx.conf");
    fs::write(&file, config(setup, credentials, port))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(file);
    Ok(command)
}

/// `worker_processes auto` would count processors that the run does not use, so their number is
/// given. `reuseport` spreads connections evenly over the workers.
fn config(setup: &Setup, credentials: &Credentials, port: u16) -> String {
    // Each worker reserves memory for them. By chance, one may get all.
    let connections = setup.connections + SPARE_CONNECTIONS;
    let workers = available_parallelism().map_or(1, usize::from);
    let [certificate, key, roots] =
        credentials.files("server").map(|file| file.display().to_string());
    let dir = credentials.dir().display();
    // Lines are gathered for a millisecond, as ponger's are.
    let to = |format| format!("\"{dir}/access.log\" {format} buffer=64k flush=1ms");
    let log = match setup.logging {
        Logging::None => "off".to_owned(),
        Logging::Text => to("combined"),
        Logging::Json => to("json"),
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path \"{dir}/{name}\";\n"))
        .concat();
    format!(
        r#"daemon off;
pid "{dir}/nginx.pid";
worker_processes {workers};
worker_rlimit_nofile {files};
events {{ worker_connections {connections}; }}
http {{
{temporary}  log_format json escape=json '{{"time":"$time_iso8601","request":"$request","status":$status,"peer":"$ssl_client_s_dn","duration":$request_time}}';
  access_log {log};
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  server {{
    listen 127.0.0.1:{port} ssl backlog=4096 reuseport;
    ssl_certificate "{certificate}";
    ssl_certificate_key "{key}";
    ssl_client_certificate "{roots}";
    ssl_verify_client on;
    ssl_verify_depth 10;
    ssl_protocols TLSv1.3;
    ssl_session_cache off;
    ssl_session_tickets off;
    location = /ping {{ return 200 "pong"; }}
  }}
}}
"#,
        files = connections + SPARE_CONNECTIONS,
    )
}
