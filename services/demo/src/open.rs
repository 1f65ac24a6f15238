//! Opens the page in the desktop's browser.

use std::{
    process::{Command, Stdio},
    thread,
};

use crate::output::Output;

/// Opens `url`, or prints to `output` why that failed.
pub(crate) fn open(url: &str, output: &Output) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let output = output.clone();
    // It may run as long as the browser does.
    thread::spawn(move || {
        let reason = match command.status() {
            Ok(status) if status.success() => return,
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        output.print(&format!("--open: {program}: {reason}; open the page in a browser yourself"));
    });
}
