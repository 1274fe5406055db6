//! Results: ratios with their spread, for people and as JSON.

use serde::Serialize;

/// One comparison: both sides measured alternately, round by round.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// What is compared.
    pub name: String,
    /// Of both sides.
    pub unit: &'static str,
    /// Annulus, one number per round.
    pub ours: Vec<f64>,
    /// Whom or what it is compared with.
    pub peer: String,
    /// The peer, one number per round.
    pub theirs: Vec<f64>,
    /// What the ratio is to be, if that is known; a negative number is an upper bound.
    pub wanted: Option<f64>,
}

impl Cell {
    /// The ratio of each round, smallest first.
    #[must_use]
    pub fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<f64> =
            self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours / theirs.max(1e-9)).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    fn row(&self) -> String {
        let ratios = self.ratios();
        let (ours, theirs, ratio) = (middle(&self.ours), middle(&self.theirs), middle(&ratios));
        let spread = format!("{:.2}..{:.2}", ratios.first().unwrap_or(&0.0), ratios.last().unwrap_or(&0.0));
        let verdict = match self.wanted {
            None => String::new(),
            Some(below) if below < 0.0 => format!("<= {:<5} {}", -below, met(ratio <= -below)),
            Some(above) => format!(">= {above:<5} {}", met(ratio >= above)),
        };
        format!(
            "{:<34} {:>10} {:>10} {:<11} {ratio:>7.2}x {spread:>14}   {verdict}",
            self.name,
            figure(ours, self.unit),
            figure(theirs, self.unit),
            self.peer,
        )
    }
}

/// A figure without a peer.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Of the values.
    pub unit: &'static str,
    /// One number per run, smallest first.
    pub values: Vec<f64>,
    /// What the median is to stay below.
    pub median_below: f64,
    /// What the worst is to stay below.
    pub worst_below: f64,
}

impl Figure {
    fn row(&self) -> String {
        let (median, worst) = (middle(&self.values), self.values.last().copied().unwrap_or(0.0));
        format!(
            "{:<34} median {} (<= {}), worst of {} {} (<= {}) {}",
            self.name,
            figure(median, self.unit),
            figure(self.median_below, self.unit),
            self.values.len(),
            figure(worst, self.unit),
            figure(self.worst_below, self.unit),
            met(median <= self.median_below && worst <= self.worst_below)
        )
    }
}

/// Everything measured in one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Comparisons.
    pub cells: Vec<Cell>,
    /// Figures without a peer.
    pub figures: Vec<Figure>,
    /// What could not be measured, and why.
    pub skipped: Vec<String>,
}

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<34} {:>10} {:>10} {:<11} {:>8} {:>14}   {}\n",
            "work", "annulus", "peer", "", "ratio", "spread", "wanted"
        );
        for row in
            self.cells.iter().map(Cell::row).chain(self.figures.iter().map(Figure::row)).chain(self.skipped.clone())
        {
            text.push_str(&row);
            text.push('\n');
        }
        text
    }
}

fn met(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// The median, of any order.
fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

fn figure(value: f64, unit: &str) -> String {
    match unit {
        "/s" if value >= 10_000.0 => format!("{:.0}k/s", value / 1_000.0),
        "/s" if value >= 1_000.0 => format!("{:.1}k/s", value / 1_000.0),
        _ => format!("{value:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let cell = Cell {
            name: "get".to_owned(),
            unit: "/s",
            ours: vec![200.0, 100.0, 300.0],
            peer: "peer".to_owned(),
            theirs: vec![100.0, 100.0, 100.0],
            wanted: Some(1.5),
        };
        assert_eq!(cell.ratios(), [1.0, 2.0, 3.0]);
        assert!(cell.row().contains("2.00x") && cell.row().ends_with("met"), "{}", cell.row());
        let upper = Cell { wanted: Some(-1.5), ..cell };
        assert!(upper.row().ends_with("MISSED"), "{}", upper.row());
    }
}
