//! Colours: on a terminal alone, and not where the environment asks for none.

use std::process::Command;

use testkit::process::run_on_terminal;

use crate::{
    process::{pinger, write_config},
    support::{Env, bind},
};

/// Whether what `command` prints on a terminal has colours, with these variables.
fn has_colors(command: &mut Command, environment: &[(&str, &str)]) -> bool {
    command.env_remove("NO_COLOR").env("TERM", "xterm").envs(environment.iter().copied());
    let printed = run_on_terminal(command);
    assert!(printed.contains("connect_refused"), "{printed}");
    printed.contains('\u{1b}')
}

#[test]
fn colors_the_log_and_diagnoses_on_a_terminal_unless_told_not_to() {
    let env = Env::new();
    let (_bound, refusing) = bind();
    let config = write_config(&env, refusing, "count: 1");
    let url = format!("https://{refusing}");
    let bundle = env.pinger.file("ca.crt");
    for (environment, expected) in [
        (&[][..], true),
        // As no-color.org has it, an empty value asks for nothing.
        (&[("NO_COLOR", "")], true),
        (&[("NO_COLOR", "1")], false),
        (&[("TERM", "dumb")], false),
    ] {
        assert_eq!(has_colors(&mut pinger(&config), environment), expected, "{environment:?}");
        let mut diagnose = Command::new(env!("CARGO_BIN_EXE_pinger"));
        diagnose.args(["diagnose", &url, "--accept-cert"]).arg(&bundle);
        assert_eq!(has_colors(&mut diagnose, environment), expected, "{environment:?}");
    }
    assert!(!has_colors(&mut pinger(&config), &[("PINGER__LOG__FORMAT", "json")]));

    // Not on a terminal.
    let output = pinger(&config).env_remove("NO_COLOR").env("TERM", "xterm").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("connect_refused") && !printed.contains('\u{1b}'), "{printed}");
}
