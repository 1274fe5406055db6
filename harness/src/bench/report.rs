//! Results: ratios with their spread, for people and as JSON. Pure.

use serde::Serialize;

use super::load::Latency;
use super::machine::Machine;

/// What a number is to be.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bound {
    /// Whether it is so.
    #[must_use]
    pub fn met(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(least) => value >= least,
            Bound::AtMost(most) => value <= most,
        }
    }

    fn words(self, unit: &str) -> String {
        match self {
            Bound::AtLeast(least) => format!(">= {}", figure(least, unit)),
            Bound::AtMost(most) => format!("<= {}", figure(most, unit)),
        }
    }
}

/// One comparison: both sides measured alternately, round by round.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// What is compared.
    pub name: String,
    /// Of both sides.
    pub unit: &'static str,
    /// Whether a small number is a good one.
    pub less_is_better: bool,
    /// Annulus, one number per round.
    pub ours: Vec<f64>,
    /// Whom or what it is compared with.
    pub peer: String,
    /// The peer, one number per round.
    pub theirs: Vec<f64>,
    /// What the ratio is to be, if that is said anywhere.
    pub wanted: Option<Bound>,
    /// How long requests took, where that was looked at.
    pub latency: Option<Latencies>,
    /// Core-to-core latency before each round, there and back, where it was looked at; None where it cannot be told.
    pub core_to_core_ns: Vec<Option<f64>>,
}

/// What happens more rarely than that by chance is taken not to be chance.
const UNLIKELY: f64 = 0.05;
/// Core-to-core latencies that differ by more are told apart.
const ALIKE: f64 = 1.5;

/// Of both sides, one per round.
#[derive(Clone, Debug, Serialize)]
pub struct Latencies {
    /// Annulus's.
    pub ours: Vec<Latency>,
    /// The peer's.
    pub theirs: Vec<Latency>,
    /// What the ratio of the p99 is to be.
    pub wanted: Option<Bound>,
}

impl Latencies {
    /// The rounds' ratios of p99, smallest first.
    #[must_use]
    pub fn p99_ratios(&self) -> Vec<f64> {
        ratios(&p99(&self.ours), &p99(&self.theirs))
    }
}

/// How likely it is that so many of `all` rounds or more are on one side of what is in truth their middle (sign test).
fn by_chance(all: usize, at_least: usize) -> f64 {
    let (mut ways, mut sum) = (1.0, 0.0);
    for count in 0..=all {
        if count >= at_least {
            sum += ways;
        }
        ways *= (all - count) as f64 / (count + 1) as f64;
    }
    sum / 2f64.powi(i32::try_from(all).unwrap_or(i32::MAX))
}

fn p99(all: &[Latency]) -> Vec<f64> {
    all.iter().map(|one| one.p99).collect()
}

impl Cell {
    /// The ratio of each round, smallest first.
    #[must_use]
    pub fn ratios(&self) -> Vec<f64> {
        ratios(&self.ours, &self.theirs)
    }

    fn row(&self) -> String {
        let ratios = self.ratios();
        let (ours, theirs, ratio) = (middle(&self.ours), middle(&self.theirs), middle(&ratios));
        let spread = format!("{:.2}..{:.2}", ratios.first().unwrap_or(&0.0), ratios.last().unwrap_or(&0.0));
        let (p99, cores) = (self.p99("x"), self.core_to_core());
        format!(
            "{:<42} {:>10} {:>10} {:<22} {ratio:>7.2}x {spread:>14} {p99:>23} {cores:>13}   {}",
            self.name,
            figure(ours, self.unit),
            figure(theirs, self.unit),
            self.peer,
            verdict(self.wanted, ratio, ""),
        )
    }

    /// The ratio of the 99th percentiles, with its spread. It is to be less: `!`, or `?` where as many rounds were beyond the bound
    /// as chance brings about.
    fn p99(&self, times: &str) -> String {
        self.latency.as_ref().map_or(String::new(), |latency| {
            let ratios = latency.p99_ratios();
            let ratio = middle(&ratios);
            let beyond = |wanted: Bound| ratios.iter().filter(|ratio| !wanted.met(**ratio)).count();
            let mark = match latency.wanted {
                Some(wanted) if wanted.met(ratio) => "",
                Some(wanted) if by_chance(ratios.len(), beyond(wanted)) > UNLIKELY => " ?",
                Some(_) => " !",
                None => "",
            };
            let (least, largest) = (ratios.first().unwrap_or(&0.0), ratios.last().unwrap_or(&0.0));
            format!("{ratio:.2}{times}{mark} ({least:.2} to {largest:.2})")
        })
    }

    /// From the least to the largest, or once if they are much the same.
    fn core_to_core(&self) -> String {
        let mut all: Vec<f64> = self.core_to_core_ns.iter().flatten().copied().collect();
        all.sort_by(f64::total_cmp);
        match (all.first(), all.last()) {
            (Some(least), Some(largest)) if *largest > least * ALIKE => format!("{least:.0} to {largest:.0} ns"),
            (Some(_), Some(_)) => format!("{:.0} ns", middle(&all)),
            _ => String::new(),
        }
    }

    fn markdown(&self) -> String {
        let ratios = self.ratios();
        let (p99, cores) = (self.p99(""), self.core_to_core());
        format!(
            "| {} | {} | {} | {} | {:.2} | {:.2} to {:.2} | {p99} | {cores} | {} |",
            self.name,
            figure(middle(&self.ours), self.unit),
            figure(middle(&self.theirs), self.unit),
            self.peer,
            middle(&ratios),
            ratios.first().unwrap_or(&0.0),
            ratios.last().unwrap_or(&0.0),
            verdict(self.wanted, middle(&ratios), ""),
        )
    }
}

/// A figure of Annulus alone.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Of the values.
    pub unit: &'static str,
    /// One number per run, smallest first.
    pub values: Vec<f64>,
    /// What the median is to be.
    pub median: Option<Bound>,
    /// What the largest is to be.
    pub largest: Option<Bound>,
}

impl Figure {
    /// Of some values in any order, without a bound.
    #[must_use]
    pub fn new(name: &str, unit: &'static str, mut values: Vec<f64>) -> Figure {
        values.sort_by(f64::total_cmp);
        Figure { name: name.to_owned(), unit, values, median: None, largest: None }
    }

    /// The same with a bound for the median.
    #[must_use]
    pub fn median(mut self, bound: Bound) -> Figure {
        self.median = Some(bound);
        self
    }

    /// The same with a bound for the largest.
    #[must_use]
    pub fn largest(mut self, bound: Bound) -> Figure {
        self.largest = Some(bound);
        self
    }

    fn parts(&self) -> [String; 3] {
        let (median, largest) = (middle(&self.values), self.values.last().copied().unwrap_or(0.0));
        let verdicts = [verdict(self.median, median, self.unit), verdict(self.largest, largest, self.unit)];
        [
            format!("median {}", figure(median, self.unit)),
            format!("largest of {} {}", self.values.len(), figure(largest, self.unit)),
            verdicts.into_iter().filter(|verdict| !verdict.is_empty()).collect::<Vec<_>>().join("; "),
        ]
    }

    fn row(&self) -> String {
        let [median, largest, verdict] = self.parts();
        format!("{:<42} {median}, {largest}   {verdict}", self.name)
    }

    fn markdown(&self) -> String {
        let [median, largest, verdict] = self.parts();
        format!("| {} | {median} | {largest} | {verdict} |", self.name)
    }
}

/// Everything measured in one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// Comparisons.
    pub cells: Vec<Cell>,
    /// Figures without a peer.
    pub figures: Vec<Figure>,
    /// What could not be measured, and why.
    pub skipped: Vec<String>,
    /// What has to be known to read the numbers.
    pub notes: Vec<String>,
}

impl Report {
    /// For people at a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<42} {:>10} {:>10} {:<22} {:>8} {:>14} {:>23} {:>13}   {}\n",
            "work", "annulus", "peer", "", "ratio", "spread", "p99", "core to core", "wanted"
        );
        let rows = self.cells.iter().map(Cell::row).chain(self.figures.iter().map(Figure::row));
        for row in rows.chain(self.notes.clone()).chain(self.skipped.clone()) {
            text.push_str(&row);
            text.push('\n');
        }
        text
    }

    /// For documents.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut rows = vec![self.machine.line(), String::new()];
        if !self.cells.is_empty() {
            rows.push("| work | annulus | peer | | ratio | spread | p99 ratio | core to core | wanted |".to_owned());
            rows.push("|---|---|---|---|---|---|---|---|---|".to_owned());
            rows.extend(self.cells.iter().map(Cell::markdown));
            rows.push(String::new());
        }
        if !self.figures.is_empty() {
            rows.push("| annulus alone | | | wanted |".to_owned());
            rows.push("|---|---|---|---|".to_owned());
            rows.extend(self.figures.iter().map(Figure::markdown));
            rows.push(String::new());
        }
        rows.extend(self.notes.iter().chain(&self.skipped).map(|line| format!("- {line}")));
        rows.join("\n")
    }
}

fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs.max(1e-9)).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

fn verdict(wanted: Option<Bound>, value: f64, unit: &str) -> String {
    wanted.map_or(String::new(), |wanted| {
        format!("{} {}", wanted.words(unit), if wanted.met(value) { "met" } else { "MISSED" })
    })
}

/// The median, of any order.
#[must_use]
pub fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// A number with its unit, in the precision that is worth reading.
#[must_use]
pub fn figure(value: f64, unit: &str) -> String {
    match unit {
        "/s" if value >= 10_000.0 => format!("{:.0}k/s", value / 1_000.0),
        "/s" if value >= 1_000.0 => format!("{:.1}k/s", value / 1_000.0),
        "" | " s" | " %" => format!("{value:.2}{unit}"),
        _ if value < 10.0 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(wanted: Bound) -> Cell {
        Cell {
            name: "get".to_owned(),
            unit: "/s",
            less_is_better: false,
            ours: vec![200.0, 100.0, 300.0],
            peer: "peer".to_owned(),
            theirs: vec![100.0, 100.0, 100.0],
            wanted: Some(wanted),
            latency: None,
            core_to_core_ns: vec![Some(44.0), None, Some(380.0)],
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let cell = cell(Bound::AtLeast(1.5));
        assert_eq!(cell.ratios(), [1.0, 2.0, 3.0]);
        assert!(cell.row().contains("2.00x") && cell.row().ends_with("met"), "{}", cell.row());
        let upper = super::tests::cell(Bound::AtMost(1.5));
        assert!(upper.row().ends_with("MISSED"), "{}", upper.row());
    }

    #[test]
    fn a_worse_p99_than_wanted_is_marked() {
        let of = |all: &[f64]| all.iter().map(|p99| Latency { p99: *p99, ..Latency::default() }).collect::<Vec<_>>();
        let row = |ours: &[f64]| {
            let latency = Latencies { ours: of(ours), theirs: of(&[20.0; 5]), wanted: Some(Bound::AtMost(1.0)) };
            Cell { latency: Some(latency), ..cell(Bound::AtLeast(1.5)) }.row()
        };
        assert!(row(&[30.0, 21.0, 40.0, 35.0, 22.0]).contains(" 1.50x ! (1.05 to 2.00)"), "five of five");
        assert!(row(&[30.0, 19.0, 40.0, 35.0, 22.0]).contains(" 1.50x ? (0.95 to 2.00)"), "four of five may be chance");
        assert!(row(&[30.0, 19.0, 20.0, 10.0, 22.0]).contains(" 1.00x (0.50 to 1.50)"));
    }

    #[test]
    fn how_far_the_processors_are_from_each_other_is_told_once_if_it_stays_so() {
        let mut cell = cell(Bound::AtLeast(1.5));
        assert!(cell.row().contains(" 44 to 380 ns "), "{}", cell.row());
        cell.core_to_core_ns = vec![Some(44.0), Some(45.0), Some(46.0)];
        assert!(cell.row().contains(" 45 ns "), "{}", cell.row());
    }

    #[test]
    fn chance_is_that_of_coins() {
        assert_eq!(
            [by_chance(5, 0), by_chance(5, 5), by_chance(3, 3), by_chance(4, 3)],
            [1.0, 1.0 / 32.0, 0.125, 5.0 / 16.0]
        );
        assert!(by_chance(20, 15) < UNLIKELY && by_chance(20, 14) > UNLIKELY);
        assert!((by_chance(999, 500) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_figure_has_its_bounds_judged_apart() {
        let figure = Figure::new("gap", " ms", vec![600.0, 100.0, 200.0]);
        let figure = figure.median(Bound::AtMost(250.0)).largest(Bound::AtMost(500.0));
        let row = figure.row();
        assert!(row.contains("median 200 ms, largest of 3 600 ms"), "{row}");
        assert!(row.ends_with("<= 250 ms met; <= 500 ms MISSED"), "{row}");
    }

    #[test]
    fn the_report_is_json_and_markdown() {
        let cells = vec![cell(Bound::AtLeast(1.5))];
        let report = Report { cells, skipped: vec!["SKIPPED etcd".to_owned()], ..Report::default() };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["cells"][0]["wanted"]["at_least"], 1.5);
        let markdown = report.markdown();
        assert!(
            markdown.contains("| get | 200/s | 100/s | peer | 2.00 | 1.00 to 3.00 |  | 44 to 380 ns | >= 1.50 met |"),
            "{markdown}"
        );
        assert!(markdown.ends_with("- SKIPPED etcd"), "{markdown}");
    }
}
