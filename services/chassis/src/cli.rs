//! The command line, the same for both services.

use std::path::PathBuf;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

/// What a service takes on its command line.
#[derive(Clone, Debug, Parser)]
pub struct Cli {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "config.yaml")]
    pub config: PathBuf,

    /// Say whether the configuration, the certificates and the keys are good, and end
    #[arg(long)]
    pub check_config: bool,
}

impl Cli {
    /// Reads the command line of `service`; ends the process for `--help`, `--version` and for what
    /// cannot be understood.
    pub fn of(service: &'static str, about: &'static str, version: &'static str) -> Self {
        let prefix = service.to_uppercase();
        let command = Self::command().name(service).about(about).version(version).after_help(format!(
            "Every key of the configuration is also an environment variable, such as {prefix}__METRICS__PORT.\n\
             Exit codes: 0 stopped as asked, 1 failed on the way, 2 unknown flag, 78 something in the\n\
             configuration cannot be used."
        ));
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}
