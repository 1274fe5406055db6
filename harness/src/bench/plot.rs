//! The comparison as a picture: an SVG of horizontal bars, readable on light and on dark ground. Pure.
//!
//! Each bar is how many times better Annulus was than the other side, or than what is wanted of a figure without a peer:
//! ratios of numbers of which less is better are turned round, so that further right is always better. The axis is
//! logarithmic: twice as good and half as good are equally far from equal.

use std::fmt::Write as _;

use super::report::{Bound, Cell, Figure, Report, middle};

const LABELS: f64 = 430.0;
const CHART: f64 = 460.0;
const VALUES: f64 = 110.0;
const ROW: f64 = 22.0;
const TOP: f64 = 64.0;
const FOOT: f64 = 60.0;
/// Colours that differ in lightness, too, with a stronger set for dark ground.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2933}.title{font-size:15px;font-weight:600}.quiet{fill:#5f6b76}\
.grid{stroke:#d5dae0;stroke-width:1}.even{stroke:#1f2933;stroke-width:1.5}.good{fill:#2f7ebc}.miss{fill:#d9822b}.free{fill:#8b97a3}\
.spread{stroke:#1f2933;stroke-width:1.5}.wanted{stroke:#b3261e;stroke-width:2.5}.ground{fill:#ffffff}\
@media (prefers-color-scheme:dark){text{fill:#e4e9ee}.quiet{fill:#9aa7b3}.grid{stroke:#36404a}.even,.spread{stroke:#e4e9ee}\
.good{fill:#58a6e0}.miss{fill:#e59a4d}.free{fill:#75818d}.wanted{stroke:#ff7b72}.ground{fill:#12171c}}";

/// One bar, further right is better.
#[derive(Clone, PartialEq, Debug)]
struct Bar {
    label: String,
    middle: f64,
    least: f64,
    most: f64,
    wanted: Option<f64>,
}

impl Bar {
    fn of_cell(cell: &Cell) -> Option<Bar> {
        let turned = |ratio: f64| if cell.less_is_better { 1.0 / ratio } else { ratio };
        let mut ratios: Vec<f64> =
            cell.ratios().into_iter().map(turned).filter(|ratio| ratio.is_finite() && *ratio > 0.0).collect();
        ratios.sort_by(f64::total_cmp);
        let wanted = cell.wanted.map(|(Bound::AtLeast(bound) | Bound::AtMost(bound))| turned(bound));
        Some(Bar {
            label: format!("{} / {}", cell.name, cell.peer),
            middle: middle(&ratios),
            least: *ratios.first()?,
            most: *ratios.last()?,
            wanted,
        })
    }

    /// A figure against its bound: of the median, or else of the largest.
    fn of_figure(figure: &Figure) -> Option<Bar> {
        let (bound, value) = match (figure.median, figure.largest) {
            (Some(bound), _) => (bound, middle(&figure.values)),
            (None, bound) => (bound?, *figure.values.last()?),
        };
        let margin = |value: f64| match bound {
            Bound::AtLeast(least) => value / least,
            // What is too small to be measured is as good as the scale is wide.
            Bound::AtMost(most) => most / value.max(most / 64.0),
        };
        let mut all: Vec<f64> = figure.values.iter().map(|value| margin(*value)).collect();
        all.sort_by(f64::total_cmp);
        let label = format!("{} / what is wanted", figure.name);
        Some(Bar { label, middle: margin(value), least: *all.first()?, most: *all.last()?, wanted: Some(1.0) })
    }

    fn class(&self) -> &'static str {
        match self.wanted {
            None => "free",
            Some(wanted) if self.middle >= wanted => "good",
            Some(_) => "miss",
        }
    }
}

/// The picture.
#[must_use]
pub fn svg(report: &Report) -> String {
    let cells = report.cells.iter().filter_map(Bar::of_cell);
    let bars: Vec<Bar> = cells.chain(report.figures.iter().filter_map(Bar::of_figure)).collect();
    let axis = Axis::around(&bars);
    let (width, height) = (LABELS + CHART + VALUES, TOP + ROW * bars.len() as f64 + FOOT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n\
         <title>Annulus and its peers</title>\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n"
    );
    text(&mut out, (16.0, 24.0), "title", "start", "Annulus: how many times better than the other side");
    let legend = "bar: median of the rounds; line: least to most; red: what is wanted; blue: met, orange: missed, grey: nothing is asked";
    text(&mut out, (16.0, 44.0), "quiet", "start", legend);
    axis.draw(&mut out, height - FOOT);
    for (number, bar) in bars.iter().enumerate() {
        draw(&mut out, &axis, bar, TOP + ROW * number as f64);
    }
    for (row, line) in report.machine.lines().iter().rev().enumerate() {
        text(&mut out, (16.0, height - 12.0 - 16.0 * row as f64), "quiet", "start", line);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, axis: &Axis, bar: &Bar, y: f64) {
    let centre = y + ROW / 2.0;
    text(out, (LABELS - 10.0, centre + 4.0), "", "end", &bar.label);
    let (from, to) = (axis.x(1.0), axis.x(bar.middle));
    let (left, width) = (from.min(to), (from - to).abs().max(1.0));
    let (top, thick) = (y + 4.0, ROW - 8.0);
    let _ = writeln!(
        out,
        "<rect class=\"{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{thick:.1}\"/>",
        bar.class()
    );
    line(out, "spread", (axis.x(bar.least), centre), (axis.x(bar.most), centre));
    if let Some(wanted) = bar.wanted {
        line(out, "wanted", (axis.x(wanted), y + 2.0), (axis.x(wanted), y + ROW - 2.0));
    }
    text(out, (LABELS + CHART + 12.0, centre + 4.0), "", "start", &format!("{:.2}", bar.middle));
}

/// From the largest power of two below everything to the smallest one above.
struct Axis {
    least: i32,
    most: i32,
}

impl Axis {
    fn around(bars: &[Bar]) -> Axis {
        let all = bars.iter().flat_map(|bar| [bar.least, bar.most, bar.middle, bar.wanted.unwrap_or(1.0)]);
        let (mut least, mut most) = (0.5_f64.log2(), 2.0_f64.log2());
        for value in all.filter(|value| value.is_finite() && *value > 0.0) {
            (least, most) = (least.min(value.log2()), most.max(value.log2()));
        }
        Axis { least: least.floor() as i32, most: most.ceil() as i32 }
    }

    fn x(&self, value: f64) -> f64 {
        let (least, most) = (f64::from(self.least), f64::from(self.most));
        LABELS + (value.max(1e-9).log2().clamp(least, most) - least) / (most - least) * CHART
    }

    fn draw(&self, out: &mut String, bottom: f64) {
        // Not more than ten or so numbers fit below the chart.
        let step = ((self.most - self.least) / 10 + 1).max(1);
        for power in (self.least..=self.most).filter(|power| power % step == 0) {
            let value = f64::from(power).exp2();
            let x = self.x(value);
            line(out, if power == 0 { "even" } else { "grid" }, (x, TOP), (x, bottom));
            text(out, (x, bottom + 14.0), "quiet", "middle", &format!("{value}x"));
        }
    }
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, at: (f64, f64), class: &str, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{words}</text>",
        at.0, at.1
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(less_is_better: bool, ours: f64, wanted: Option<Bound>) -> Cell {
        Cell {
            name: "a <b> & c".to_owned(),
            unit: "/s",
            less_is_better,
            ours: vec![ours, ours * 2.0],
            peer: "peer".to_owned(),
            theirs: vec![10.0, 10.0],
            wanted,
            latency: None,
            core_to_core_ns: Vec::new(),
        }
    }

    #[test]
    fn further_right_is_better() {
        let more = Bar::of_cell(&cell(false, 20.0, Some(Bound::AtLeast(4.0)))).unwrap();
        assert_eq!((more.least, more.most, more.wanted, more.class()), (2.0, 4.0, Some(4.0), "miss"));
        let less = Bar::of_cell(&cell(true, 2.5, Some(Bound::AtMost(0.5)))).unwrap();
        assert_eq!((less.least, less.most, less.wanted, less.class()), (2.0, 4.0, Some(2.0), "good"));
        let axis = Axis::around(&[more, less]);
        assert!(axis.x(0.5) < axis.x(1.0) && axis.x(1.0) < axis.x(4.0));
        assert!((axis.x(1.0) - axis.x(0.5) - (axis.x(2.0) - axis.x(1.0))).abs() < 1e-9, "a logarithmic axis");
    }

    #[test]
    fn a_figure_is_drawn_against_its_bound() {
        let figure = Figure::new("gap", " ms", vec![100.0, 200.0]).median(Bound::AtMost(300.0));
        assert_eq!(Bar::of_figure(&figure).unwrap().middle, 2.0);
        let idle = Figure::new("idle", " %", vec![0.0]).largest(Bound::AtMost(1.0));
        assert!(Bar::of_figure(&idle).unwrap().middle.is_finite());
        assert_eq!(Bar::of_figure(&Figure::new("free", "/s", vec![1.0])), None);
    }

    #[test]
    fn the_picture_is_closed_escaped_and_has_a_bar_for_each() {
        let cells = vec![cell(false, 20.0, None), cell(true, 20.0, Some(Bound::AtMost(1.0)))];
        let picture = svg(&Report { cells, ..Report::default() });
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        assert_eq!(picture.matches("<rect class=").count(), 3, "the ground and two bars");
        assert!(picture.contains("a &lt;b&gt; &amp; c / peer") && picture.contains("prefers-color-scheme:dark"));
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
        assert!(svg(&Report::default()).ends_with("</svg>\n"), "nothing measured is a picture, too");
    }
}
