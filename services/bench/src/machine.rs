//! The machine that is measured on.

use std::{env, fs, process::Command, thread::available_parallelism};

use anyhow::{Context as _, Result};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// Limits this process, and those that it starts from now on, to the first `count` of its
/// processors, and returns how many these are.
///
/// # Errors
/// When the operating system refuses.
pub fn pin(count: usize) -> Result<usize> {
    let all = sched_getaffinity(None)?;
    let mut chosen = CpuSet::new();
    (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).take(count).for_each(|cpu| chosen.set(cpu));
    sched_setaffinity(None, &chosen).context("the processors of this process")?;
    Ok(available_parallelism()?.get())
}

/// Raises the limit of open files as far as it goes.
///
/// # Errors
/// When the operating system refuses.
pub fn raise_file_limit() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("the limit of files")
}

/// Lines about the machine, the tools and this run.
pub fn describe(processors: usize) -> Vec<String> {
    let first = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("unknown").trim_matches([' ', '\t', ':']).to_owned()
    };
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.unwrap_or_default().trim().to_owned()
    };
    let model = first("/proc/cpuinfo", "model name");
    let load = first("/proc/loadavg", "");
    let load_averages: Vec<_> = load.split(' ').take(3).collect();
    vec![
        format!("processor: {model}; {processors} of its threads, shared by both ends"),
        format!("kernel: Linux {}", first("/proc/sys/kernel/osrelease", "")),
        format!("load averages before the run: {}", load_averages.join(" ")),
        format!("compiler: {}", run("rustc", &["--version"])),
        format!(
            "commit: {}",
            run("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"])
        ),
        format!("date: {}", run("date", &["--utc", "--iso-8601=minutes"])),
        format!(
            "command: cargo run --release -p bench -- {}",
            env::args().skip(1).map(|argument| quoted(&argument)).collect::<Vec<_>>().join(" ")
        ),
    ]
}

/// `argument` as a shell takes it.
fn quoted(argument: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=,./:".contains(&byte);
    if argument.bytes().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_a_shell_would_split() {
        let quoted = ["--rounds", "other=./a b", "it's"].map(quoted);
        assert_eq!(quoted, ["--rounds", "'other=./a b'", r"'it'\''s'"]);
    }
}
