//! The command line, the same for both services.

use std::path::{Path, PathBuf};

use clap::Parser;

use crate::{config::DEFAULT_FILE, error::without_keys};

/// Command line of a service.
#[derive(Clone, Debug, Parser)]
pub struct Cli {
    /// Configuration file [default: config.yaml, if it exists]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Validate configuration, certificates and keys, then exit
    #[arg(long)]
    pub check_config: bool,
}

impl Cli {
    /// Prints what `--check-config` found to be valid.
    pub fn print_valid(&self) {
        let default = Path::new(DEFAULT_FILE);
        let file = self.config.as_deref().or_else(|| default.exists().then_some(default));
        let source = file.map_or("environment".into(), |file| file.display().to_string());
        println!("{source}: configuration, certificates and keys are valid");
    }
}

/// Parses the command line of `service`, [`Cli`] with or without subcommands; exits for `--help`,
/// `--version` and usage errors.
pub fn parse_for<C: Parser>(
    service: &'static str,
    about: &'static str,
    version: &'static str,
) -> C {
    let prefix = service.to_uppercase();
    let command = C::command().name(service).about(about).version(version).after_help(format!(
        "Every configuration key can be set as an environment variable, such as {prefix}__METRICS__PORT.\n\
         Exit codes: 0 success, 1 runtime error, 2 usage error, 78 invalid configuration (EX_CONFIG)"
    ));
    let matches = command.try_get_matches();
    matches.and_then(|matches| C::from_arg_matches(&matches)).unwrap_or_else(|e| exit(&e))
}

/// Prints help, version or a usage error, and exits. The argument in an error may be a private key.
fn exit(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    let shown = without_keys(&text);
    if shown == text {
        error.exit();
    }
    eprint!("{shown}");
    std::process::exit(error.exit_code());
}
