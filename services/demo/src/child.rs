//! The two services as processes of their own: this very program, started again as one of them.

use std::{
    io::{IsTerminal as _, Read as _, Write as _},
    path::Path,
    process::{ExitCode, ExitStatus, Stdio},
    sync::Arc,
};

use chassis::{signals::Stop, telemetry};
use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{ChildStdin, ChildStdout, Command},
    sync::Notify,
    task::JoinHandle,
};

/// ponger, as its own `main` runs it.
pub(crate) async fn ponger(config: &Path) -> anyhow::Result<ExitCode> {
    end_with_parent();
    let settings = ponger::Config::load(Some(config))?;
    telemetry::init(&settings.log);
    let stop = Stop::listen()?;
    ponger::Application::build(&settings, Some(config))?.run_until_stopped(stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// pinger, as its own `main` runs it.
pub(crate) async fn pinger(config: &Path) -> anyhow::Result<ExitCode> {
    end_with_parent();
    let settings = pinger::Config::load(Some(config))?;
    telemetry::init(&settings.log);
    let stop = Stop::listen()?;
    let summary = pinger::Application::build(&settings, Some(config))?.run_until_stopped(stop).await?;
    Ok(summary.exit_code())
}

/// Stops this process when its standard input ends, which is when its parent is gone, however that
/// went.
fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = kill_process(getpid(), Signal::TERM);
    });
}

/// The terminal, or whatever reads what is shown. When it is gone, nobody looks on any more.
#[derive(Clone, Default)]
pub(crate) struct Screen(Arc<Notify>);

impl Screen {
    /// Shows a line.
    pub(crate) fn say(&self, line: &str) {
        let mut output = std::io::stdout().lock();
        if writeln!(output, "{line}").and_then(|()| output.flush()).is_err() {
            self.0.notify_one();
        }
    }

    /// Waits until nobody reads any more.
    pub(crate) async fn gone(&self) {
        self.0.notified().await;
    }
}

/// One of the two processes.
pub(crate) struct Child {
    name: &'static str,
    process: tokio::process::Child,
    /// Open as long as the process shall live.
    _stdin: Option<ChildStdin>,
    output: Option<Lines<BufReader<ChildStdout>>>,
    screen: Screen,
    /// What it has said before it was shown.
    early: Vec<String>,
    shown: Option<JoinHandle<Option<String>>>,
    last: Option<String>,
}

impl Child {
    /// Starts it. The terminal's Ctrl-C does not reach it: the two are stopped in order.
    pub(crate) fn start(
        name: &'static str,
        config: &Path,
        screen: &Screen,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(name)
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for (variable, _) in std::env::vars_os() {
            // Their configuration is what stands in their file, and nothing else.
            let is_ours = |name: &str| name.starts_with("PONGER__") || name.starts_with("PINGER__");
            if variable.to_str().is_some_and(is_ours) {
                command.env_remove(variable);
            }
        }
        let mut process = command.spawn()?;
        let output = process.stdout.take().map(|output| BufReader::new(output).lines());
        Ok(Self {
            name,
            _stdin: process.stdin.take(),
            process,
            output,
            screen: screen.clone(),
            early: Vec::new(),
            shown: None,
            last: None,
        })
    }

    /// Waits until it says where it listens; `None` if it ends before that.
    pub(crate) async fn wait_for_port(&mut self) -> Option<u16> {
        let output = self.output.as_mut()?;
        while let Ok(Some(line)) = output.next_line().await {
            let port = line.split_once("Listening address=").and_then(|(_, rest)| {
                rest.split_whitespace().next()?.rsplit_once(':')?.1.parse().ok()
            });
            self.early.push(line);
            if port.is_some() {
                return port;
            }
        }
        None
    }

    /// Shows what it says, each line with its name before it.
    pub(crate) fn show(&mut self) {
        let Some(mut output) = self.output.take() else { return };
        let (screen, early) = (self.screen.clone(), std::mem::take(&mut self.early));
        let name = match (std::io::stdout().is_terminal(), self.name) {
            (true, name @ "ponger") => format!("\u{1b}[36m{name}\u{1b}[0m"),
            (true, name) => format!("\u{1b}[35m{name}\u{1b}[0m"),
            (false, name) => name.to_owned(),
        };
        self.shown = Some(actix_web::rt::spawn(async move {
            let mut last = None;
            for line in early {
                screen.say(&format!("{name} | {line}"));
            }
            while let Ok(Some(line)) = output.next_line().await {
                screen.say(&format!("{name} | {line}"));
                last = Some(line);
            }
            last
        }));
    }

    /// Waits until it ends by itself, and shows what it has said until then.
    pub(crate) async fn ended(&mut self) -> ExitCode {
        let status = self.process.wait().await;
        self.show();
        if let Some(shown) = self.shown.take() {
            self.last = shown.await.ok().flatten();
        }
        code(status.ok())
    }

    /// Asks it to stop, and waits for that: it is bound to end within its drain's time.
    pub(crate) async fn stop(&mut self) -> ExitCode {
        if let Some(pid) = self.process.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        self.ended().await
    }

    /// pinger's summary, if it came to one.
    pub(crate) fn summary(&self) -> Option<&str> {
        let (_, message) = self.last.as_ref()?.split_once(" INFO ")?;
        message.contains(" pings, ").then_some(message.trim())
    }
}

fn code(status: Option<ExitStatus>) -> ExitCode {
    match status.and_then(|status| status.code()) {
        Some(code) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        None => ExitCode::FAILURE,
    }
}
