//! `--tour`: pings that are answered, rejected or broken off, one after another, each with what both services
//! log. Each is verified.
//!
//! - [`steps`]: what is shown
//! - [`pair`]: both services of a step

mod pair;
mod steps;

use anyhow::Context as _;
use chassis::signals::Signals;

use self::{pair::Pair, steps::STEPS};
use crate::output::Output;

/// Runs all steps.
///
/// # Errors
/// When one does not end as it must, or after a signal to stop.
pub(crate) async fn run(signals: &mut Signals, output: &Output) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    for (number, step) in (1..).zip(STEPS) {
        let title = format!("Step {number} of {}, {}", STEPS.len(), step.title);
        output.print(&format!("{title}\n{}\n{}\n", "=".repeat(title.len()), step.text));
        let pair = Pair::bind(step, &dir.path().join(number.to_string()))
            .with_context(|| title.clone())?;
        let interrupted = async {
            tokio::select! {
                signal = signals.stop() => signal,
                () = output.closed() => "closed output",
            }
        };
        pair.run(interrupted).await.with_context(|| title.clone())?;
        output.print(&format!(
            "\nAs expected: pinger counts pinger_pings_total{{result=\"{}\"}},\n\
             and ponger {}.\n",
            step.result, step.count
        ));
    }
    output.print(&format!("All {} steps ended as expected.", STEPS.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{steps::Step, *};

    #[test]
    fn names_what_did_not_end_as_it_must() {
        static STEP: Step = Step {
            title: "a denial",
            text: "",
            change: |_| {},
            result: "denied",
            count: r#"ponger_authz_total{decision="denied",reason="not_allowed"}"#,
        };
        let dir = tempfile::tempdir().unwrap();
        let error = actix_web::rt::System::new().block_on(async {
            let pair = Pair::bind(&STEP, dir.path()).unwrap();
            pair.run(std::future::pending()).await.unwrap_err()
        });
        let expected = "it must end with `denied`, and ponger must count ponger_authz_total\
            {decision=\"denied\",reason=\"not_allowed\"}: a ping ended with `pong`";
        assert_eq!(format!("{error:#}"), expected);
    }
}
