//! How far a transfer is: a bar on a terminal, a line every two seconds elsewhere, nothing for scripts that want JSON.

use std::time::Duration;

use common::{Time, clock};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::out::Out;

/// Never silent for longer.
const EVERY: Duration = Duration::from_secs(2);

pub(super) struct Progress {
    out: Out,
    what: &'static str,
    bar: Option<ProgressBar>,
    started: Time,
    said: Time,
}

impl Progress {
    /// `total`: how many `position`s there will be, if that is known.
    pub(super) fn new(out: Out, what: &'static str, total: Option<u64>) -> Progress {
        let bar = out.watched().then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
            let template = if total.is_some() { "{prefix} [{bar:30}] {percent:>3} %  {msg}" } else { "{prefix} {msg}" };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(what);
            bar
        });
        let now = clock::now();
        Progress { out, what, bar, started: now, said: now }
    }

    /// So far.
    pub(super) fn update(&mut self, position: u64, records: u64, failed: u64) {
        let now = clock::now();
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(self.text(now, records, failed));
            }
            None if !self.out.json && now.since(self.said) >= EVERY => {
                self.said = now;
                self.out.note(&format!("{}: {}", self.what, self.text(now, records, failed)));
            }
            None => {}
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        clock::now().since(self.started)
    }

    fn text(&self, now: Time, records: u64, failed: u64) -> String {
        let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        format!("{records} records, {} a second{failures}", rate(records, now.since(self.started)))
    }
}

/// Records a second, for people.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A rounded rate.
pub(super) fn rate(records: u64, took: Duration) -> u64 {
    (records as f64 / took.as_secs_f64().max(0.001)).round() as u64
}
