//! Plots as SVG text. Colours and fonts come from the page (`--c0` … `--c7`, `currentColor`); marks
//! differ in shape and dashes too, so that nothing rests on colour alone.

use std::fmt::Write;

/// Size of a plot in its own units; a unit is about a pixel on a phone.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;
/// Colours of the page.
const COLOURS: usize = 8;
/// Advance of a character of a label, in units.
const CHARACTER: f64 = 7.0;
/// Distance of labels.
const LINE: f64 = 13.0;

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Equal factors at equal distances.
    Log,
    /// Equal differences, as wide as the values.
    Linear,
    /// Counted from 0.
    Count,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with unit.
    pub title: String,
    /// How it is divided.
    pub kind: Kind,
}

/// A point with its uncertainty.
#[derive(Clone, Debug, Default)]
pub struct Point {
    /// Position.
    pub x: f64,
    /// Position.
    pub y: f64,
    /// From, to; `None` without a bar.
    pub x_bar: Option<(f64, f64)>,
    /// From, to; `None` without a bar.
    pub y_bar: Option<(f64, f64)>,
    /// What it stands for.
    pub label: String,
}

/// Points of one colour and shape.
#[derive(Clone, Debug)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// Colour, shape and dashes.
    pub style: usize,
    /// Joined by lines.
    pub line: bool,
    /// With the labels of the points beside them.
    pub labels: bool,
    /// The points.
    pub points: Vec<Point>,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Read out where pictures are not seen.
    pub title: String,
    /// Across.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// What is shown.
    pub series: Vec<Series>,
}

/// From values to units.
struct Scale {
    log: bool,
    from: f64,
    to: f64,
    start: f64,
    length: f64,
    ticks: Vec<f64>,
}

impl Scale {
    /// Covers `values`; a logarithmic axis leaves out those that are not positive.
    fn new(
        axis: &Axis,
        values: impl Iterator<Item = f64>,
        start: f64,
        length: f64,
    ) -> Option<Scale> {
        let log = axis.kind == Kind::Log;
        let map = |v: f64| if log { v.log10() } else { v };
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values.map(map).filter(|v| v.is_finite()) {
            (from, to) = (from.min(v), to.max(v));
        }
        if from > to {
            return None;
        }
        let least = if log { 0.04 } else { to.abs() * 1e-3 + 1e-12 };
        let margin = ((to - from) * 0.06).max(least);
        (from, to) = match axis.kind {
            Kind::Count => (0.0, to + 0.3),
            _ => (from - margin, to + margin),
        };
        let ticks = match axis.kind {
            Kind::Log => log_ticks(from, to),
            Kind::Linear => linear_ticks(from, to, 0.0),
            Kind::Count => linear_ticks(from, to, 1.0),
        };
        Some(Scale {
            log,
            from,
            to,
            start,
            length,
            ticks,
        })
    }

    /// Where `v` is; what lies outside is put on the edge.
    fn at(&self, v: f64) -> f64 {
        let v = if self.log { v.max(1e-300).log10() } else { v };
        let share = ((v - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        self.start + share * self.length
    }

    fn shows(&self, v: f64) -> bool {
        v.is_finite() && (!self.log || v > 0.0)
    }
}

/// About five round numbers, at least `least` apart.
fn linear_ticks(from: f64, to: f64, least: f64) -> Vec<f64> {
    let step = round_up((to - from) / 5.0).max(least);
    let first = (from / step).ceil() as i64;
    (first..)
        .map(|i| i as f64 * step)
        .take_while(|v| *v <= to)
        .take(20)
        .collect()
}

/// The next of 1, 2, 5, 10, …
fn round_up(v: f64) -> f64 {
    let power = 10f64.powf(v.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|d| d * power >= v * 0.999);
    digit.unwrap_or(10.0) * power
}

/// Powers of ten; with 3, with 2 and 5, or with every digit between them the shorter the range.
fn log_ticks(from: f64, to: f64) -> Vec<f64> {
    let digits: &[f64] = match to - from {
        d if d > 3.5 => &[1.0],
        d if d > 1.3 => &[1.0, 3.0],
        d if d > 0.6 => &[1.0, 2.0, 5.0],
        _ => &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    };
    let powers = from.floor() as i32..=to.ceil() as i32;
    let ticks: Vec<f64> = powers
        .flat_map(|p| digits.iter().map(move |d| d * 10f64.powi(p)))
        .filter(|v| (from..=to).contains(&v.log10()))
        .collect();
    let step = ticks.len().div_ceil(7).max(1);
    ticks.into_iter().step_by(step).collect()
}

/// A number beside an axis.
fn tick_text(v: f64) -> String {
    let text = match v.abs() {
        0.0 => return "0".into(),
        a if a >= 99_999.5 => return format!("{:.0}k", v / 1e3),
        a if a >= 0.001 => format!("{v:.4}"),
        _ => return format!("{v:.0e}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text safe inside SVG and HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

impl Plot {
    /// The picture; empty when there is nothing to show.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let spread = |v: f64, bar: Option<(f64, f64)>| {
            let (a, b) = bar.unwrap_or((v, v));
            [v, a, b]
                .into_iter()
                .filter(move |w| *w > 0.2 * v || v <= 0.0)
        };
        let x = points().flat_map(|p| spread(p.x, p.x_bar));
        let y = points().flat_map(|p| spread(p.y, p.y_bar));
        let x = Scale::new(&self.x, x, LEFT, WIDTH - LEFT - RIGHT);
        let y = Scale::new(&self.y, y, HEIGHT - BOTTOM, TOP + BOTTOM - HEIGHT);
        let (Some(x), Some(y)) = (x, y) else {
            return String::new();
        };
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            escape(&self.title)
        );
        self.axes(&mut out, &x, &y);
        for series in &self.series {
            series.draw(&mut out, &x, &y);
        }
        self.labels(&mut out, &x, &y);
        out.push_str("</svg>");
        out
    }

    fn axes(&self, out: &mut String, x: &Scale, y: &Scale) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for &t in &y.ticks {
            let at = y.at(t);
            _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                tick_text(t)
            );
        }
        for &t in &x.ticks {
            let at = x.at(t);
            _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                tick_text(t)
            );
        }
        let (cx, cy) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
        _ = writeln!(
            out,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>"
        );
        _ = writeln!(
            out,
            "<text class=\"title\" x=\"{cx:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 8.0,
            escape(&self.x.title)
        );
        _ = writeln!(
            out,
            "<text class=\"title\" transform=\"translate(13 {cy:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escape(&self.y.title)
        );
    }

    /// Labels beside their points, moved apart where they would overlap.
    fn labels(&self, out: &mut String, x: &Scale, y: &Scale) {
        // Left, baseline, width; at first the marks.
        let marks = self.series.iter().flat_map(|s| s.shown(x, y));
        let mut placed: Vec<[f64; 3]> = marks
            .map(|p| [x.at(p.x) - 5.0, y.at(p.y) + 4.0, 10.0])
            .collect();
        let labelled = self.series.iter().filter(|s| s.labels);
        for p in labelled.flat_map(|s| s.shown(x, y)) {
            let width = CHARACTER * p.label.chars().count() as f64;
            let (px, py) = (x.at(p.x), y.at(p.y));
            // Beside the mark; but not on a bar across.
            let columns = match p.x_bar {
                None => [px + 8.0, px - 8.0 - width],
                Some(_) => [px - width / 2.0; 2],
            };
            let lines: &[f64] = match p.x_bar {
                None => &[0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0],
                Some(_) => &[1.15, -1.15, 2.3, -2.3],
            };
            let mut places = lines
                .iter()
                .flat_map(|k| columns.map(|left| [left, py + 4.0 + k * LINE * 0.9, width]));
            let inside = |b: &[f64; 3]| {
                let across = b[0] >= LEFT && b[0] + b[2] <= WIDTH;
                across && (TOP + 8.0..HEIGHT - BOTTOM).contains(&b[1])
            };
            let free = |b: &[f64; 3]| {
                placed.iter().all(|o| {
                    b[0] > o[0] + o[2] || o[0] > b[0] + b[2] || (b[1] - o[1]).abs() >= LINE
                })
            };
            let place = places.find(|b| inside(b) && free(b));
            let place = place.unwrap_or([columns[0], py + 4.0, width]);
            placed.push(place);
            let [left, base, _] = place;
            let label = escape(&p.label);
            _ = writeln!(
                out,
                "<text class=\"label\" x=\"{left:.1}\" y=\"{base:.1}\">{label}</text>"
            );
        }
    }
}

impl Series {
    fn shown<'a>(&'a self, x: &'a Scale, y: &'a Scale) -> impl Iterator<Item = &'a Point> {
        self.points.iter().filter(|p| x.shows(p.x) && y.shows(p.y))
    }

    fn draw(&self, out: &mut String, x: &Scale, y: &Scale) {
        _ = writeln!(out, "<g class=\"s{}\">", self.style % COLOURS);
        // Marks of many points would hide the line; dashes tell the lines apart then.
        let dense = self.line && self.points.len() > 24;
        if self.line {
            let place = |p: &Point| format!("{:.1} {:.1}", x.at(p.x), y.at(p.y));
            let path: Vec<String> = self.shown(x, y).map(place).collect();
            let dashes = ["", "7 3", "2 3", "9 3 2 3"][if dense { self.style % 4 } else { 0 }];
            let path = path.join("L");
            _ = writeln!(
                out,
                "<path class=\"line\" stroke-dasharray=\"{dashes}\" d=\"M{path}\"><title>{}</title></path>",
                escape(&self.name)
            );
        }
        for p in self.shown(x, y).filter(|_| !dense) {
            let (px, py) = (x.at(p.x), y.at(p.y));
            if let Some([a, b]) = p.x_bar.map(|(a, b)| [a, b].map(|v| x.at(v))) {
                _ = writeln!(out, "<path class=\"bar\" d=\"M{a:.1} {py:.1}H{b:.1}\"/>");
            }
            if let Some([a, b]) = p.y_bar.map(|(a, b)| [a, b].map(|v| y.at(v))) {
                _ = writeln!(out, "<path class=\"bar\" d=\"M{px:.1} {a:.1}V{b:.1}\"/>");
            }
            let size = if self.line { 3.0 } else { 4.0 };
            let told = format!("{}, {}: {}; {}", self.name, p.label, exact(p.x), exact(p.y));
            _ = writeln!(
                out,
                "<path class=\"mark\" d=\"{}\"><title>{}</title></path>",
                mark(self.style, px, py, size),
                escape(&told)
            );
        }
        out.push_str("</g>\n");
    }
}

/// A number to be read from a mark.
fn exact(v: f64) -> String {
    if v == 0.0 || v.abs() >= 0.01 {
        format!("{v:.3}")
    } else {
        format!("{v:.2e}")
    }
}

/// Outline of a mark: a circle, square, triangle, diamond, … by style.
pub fn mark(style: usize, x: f64, y: f64, r: f64) -> String {
    let polygon = |corners: usize, turn: f64, r: f64| {
        let corner = |i: usize| {
            let a = std::f64::consts::TAU * (i as f64 / corners as f64 + turn);
            format!("{:.1} {:.1}", x + r * a.sin(), y - r * a.cos())
        };
        format!(
            "M{}Z",
            (0..corners).map(corner).collect::<Vec<_>>().join("L")
        )
    };
    match style % 6 {
        0 => polygon(24, 0.0, r),
        1 => polygon(4, 0.125, 1.25 * r),
        2 => polygon(3, 0.0, 1.35 * r),
        3 => polygon(4, 0.0, 1.35 * r),
        4 => polygon(3, 0.5, 1.35 * r),
        _ => polygon(5, 0.0, 1.25 * r),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(linear_ticks(0.0, 10.3, 0.0), [0.0, 5.0, 10.0]);
        assert_eq!(linear_ticks(0.0, 9.0, 0.0), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(linear_ticks(0.0, 2.3, 1.0), [0.0, 1.0, 2.0]);
        assert_eq!(log_ticks(-3.2, 0.5), [0.001, 0.01, 0.1, 1.0]);
        assert_eq!(log_ticks(-0.2, 0.6), [1.0, 2.0]);
        for (from, to) in [
            (-4.0, -3.9),
            (0.0, 0.3),
            (0.0, 0.61),
            (-1.0, 1.4),
            (-9.0, 3.0),
        ] {
            let n = log_ticks(from, to).len();
            assert!((1..=8).contains(&n), "{from} {to}: {n}");
        }
        assert_eq!(
            [0.0, 0.002, 1.5, 1e-5, 250_000.0].map(tick_text),
            ["0", "0.002", "1.5", "1e-5", "250k"]
        );
    }

    #[test]
    fn a_plot_is_well_formed_and_escaped() {
        let point = |x, y| Point {
            x,
            y,
            y_bar: Some((y * 0.9, y * 1.1)),
            label: "a<b".into(),
            ..Point::default()
        };
        let plot = Plot {
            title: "size & loss".into(),
            x: Axis {
                title: "size".into(),
                kind: Kind::Log,
            },
            y: Axis {
                title: "KL".into(),
                kind: Kind::Log,
            },
            series: vec![Series {
                name: "t".into(),
                style: 1,
                line: true,
                labels: true,
                // The base has no divergence; it cannot be shown on a logarithmic axis.
                points: vec![point(1.0, 0.1), point(1.0, 0.1), point(3.0, 0.0)],
            }],
        };
        let svg = plot.svg();
        assert!(svg.contains("a&lt;b") && svg.contains("size &amp; loss") && !svg.contains("NaN"));
        assert_eq!(svg.matches("class=\"mark\"").count(), 2);
        let tops: Vec<&str> = svg
            .lines()
            .filter(|l| l.contains("class=\"label\""))
            .collect();
        assert_eq!(tops.len(), 2);
        assert_ne!(tops[0], tops[1]);
        let none = Plot {
            series: Vec::new(),
            ..plot
        };
        assert_eq!(none.svg(), "");
    }
}
