//! The result as a page in one file: verdicts, plots, tables, the machine, the commands.

use std::collections::BTreeMap;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use super::plot::{Axis, Kind, Plot, Point, Series, mark};
use super::table::{self, Table};
use crate::report::{Failure, Outcome};
use geb_eval::compare::result::{Comparison, Row};

const PAGE: &str = include_str!("page.html");

/// What the template sees.
#[derive(Serialize)]
struct Seen<'a> {
    c: &'a Comparison,
    machine: String,
    groups: Vec<Group>,
    tables: Vec<Table>,
}

/// Plots with one legend.
#[derive(Serialize)]
struct Group {
    title: String,
    legend: Vec<Entry>,
    note: String,
    small: bool,
    plots: Vec<Figure>,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    style: usize,
    mark: String,
}

#[derive(Serialize)]
struct Figure {
    title: String,
    svg: String,
    caption: String,
}

/// The page.
pub fn page(c: &Comparison) -> Outcome<String> {
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    let failed = |e: minijinja::Error| Failure::new(format!("report: {e:#}"));
    env.add_template("page", PAGE).map_err(failed)?;
    let seen = Seen {
        c,
        machine: table::machine(c),
        groups: vec![trade_offs(c), positions(c), weights(c)],
        tables: table::tables(c),
    };
    let page = env.get_template("page").map_err(failed)?;
    page.render(Serde(&seen)).map_err(failed)
}

fn figure(plot: Plot, caption: &str) -> Figure {
    Figure {
        title: plot.title.clone(),
        svg: plot.svg(),
        caption: caption.into(),
    }
}

fn legend(names: impl Iterator<Item = (usize, String)>) -> Vec<Entry> {
    names
        .map(|(style, name)| Entry {
            name,
            style,
            mark: mark(style, 13.0, 7.0, 4.0),
        })
        .collect()
}

/// Candidates with their styles; the base has none.
fn candidates(c: &Comparison) -> impl Iterator<Item = (usize, &Row)> {
    c.rows.iter().skip(1).enumerate()
}

fn kl_axis() -> Axis {
    Axis {
        title: "KL divergence, nats per token".into(),
        kind: Kind::Log,
    }
}

/// A position across and the bar there.
type Across = (f64, Option<(f64, f64)>);

/// Size against KL and speed against KL; a series per text.
fn trade_offs(c: &Comparison) -> Group {
    let series = |x: &dyn Fn(&Row) -> Option<Across>| -> Vec<Series> {
        let of_text = |(i, text): (usize, &geb_eval::compare::result::TextInfo)| Series {
            name: text.name.clone(),
            style: i,
            line: false,
            // The points of the other texts are above or below these.
            labels: i == 0,
            points: candidates(c)
                .filter_map(|(_, row)| {
                    let (x, x_bar) = x(row)?;
                    let kl = row.divergence(i)?.kl.mean;
                    Some(Point {
                        x,
                        y: kl.value,
                        x_bar,
                        y_bar: kl.error.map(|e| (kl.value - e, kl.value + e)),
                        label: row.name.clone(),
                    })
                })
                .collect(),
        };
        c.texts.iter().enumerate().map(of_text).collect()
    };
    let size = Plot {
        title: "Size against divergence".into(),
        x: Axis {
            title: "file, MB".into(),
            kind: Kind::Log,
        },
        y: kl_axis(),
        series: series(&|r| Some((r.bytes as f64 / 1e6, None))),
    };
    let mut plots = vec![figure(
        size,
        "Lower and further to the left is better. Bars: standard error.",
    )];
    let lanes = c.rows.first().map_or(0, |r| r.speed.len());
    let best = (0..lanes).max_by_key(|i| c.rows[0].speed[*i].threads);
    if let Some(lane) = best {
        let threads = c.rows[0].speed[lane].threads;
        let speed = Plot {
            title: format!("Decoding speed against divergence, {threads} threads"),
            x: Axis {
                title: "decode, times the base".into(),
                kind: Kind::Linear,
            },
            y: kl_axis(),
            series: series(&|r| {
                let s = r.speed.get(lane)?.decode_ratio;
                Some((s.median, Some((s.low, s.high))))
            }),
        };
        plots.push(figure(speed, "Lower and further to the right is better. Bars: quarters of the rounds, and standard error."));
    }
    if c.texts.is_empty() {
        plots.clear();
    }
    Group {
        title: "What is gained, what is lost".into(),
        legend: legend(c.texts.iter().enumerate().map(|(i, t)| (i, t.name.clone()))),
        note: String::new(),
        small: false,
        plots,
    }
}

/// KL by position, a plot per text.
fn positions(c: &Comparison) -> Group {
    let plot = |(i, text): (usize, &geb_eval::compare::result::TextInfo)| Plot {
        title: format!("By position, {}", text.name),
        x: Axis {
            title: "position in the window, tokens".into(),
            kind: Kind::Linear,
        },
        y: kl_axis(),
        series: candidates(c)
            .filter_map(|(style, row)| {
                let points = row.divergence(i)?.kl_by_position.iter().map(|p| Point {
                    x: (p.first + p.last) as f64 / 2.0,
                    y: p.kl.value,
                    ..Point::default()
                });
                Some(Series {
                    name: row.name.clone(),
                    style,
                    line: true,
                    labels: false,
                    points: points.collect(),
                })
            })
            .collect(),
    };
    let plots = c.texts.iter().enumerate().map(plot);
    Group {
        title: "Divergence along the window".into(),
        legend: legend(candidates(c).map(|(i, r)| (i, r.name.clone()))),
        note: String::new(),
        small: false,
        plots: plots
            .map(|p| figure(p, ""))
            .filter(|f| !f.svg.is_empty())
            .collect(),
    }
}

/// Relative error of the weights by layer, a plot per kind of tensor.
fn weights(c: &Comparison) -> Group {
    let mut groups: BTreeMap<&str, Vec<Series>> = BTreeMap::new();
    let mut others: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (style, row) in candidates(c) {
        // Another cache does not change the weights.
        if row.weights.is_empty() || c.rows[1..=style].iter().any(|r| r.file == row.file) {
            continue;
        }
        for g in &row.weights {
            let Some(layer) = g.layer else {
                let text = format!("{} {:.2} %", row.name, 100.0 * g.error);
                others.entry(&g.group).or_default().push(text);
                continue;
            };
            let all = groups.entry(&g.group).or_default();
            if all.last().is_none_or(|s| s.style != style) {
                all.push(Series {
                    name: row.name.clone(),
                    style,
                    line: true,
                    labels: false,
                    points: Vec::new(),
                });
            }
            if let Some(series) = all.last_mut() {
                series.points.push(Point {
                    x: layer as f64,
                    y: 100.0 * g.error,
                    ..Point::default()
                });
            }
        }
    }
    // Files keep layer 10 before layer 2.
    for series in groups.values_mut().flatten() {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    let plots = groups.into_iter().map(|(group, series)| Plot {
        title: group.to_owned(),
        x: Axis {
            title: "layer".into(),
            kind: Kind::Count,
        },
        y: Axis {
            title: "error of the weights, %".into(),
            kind: Kind::Log,
        },
        series,
    });
    let plots: Vec<Figure> = plots
        .map(|p| figure(p, ""))
        .filter(|f| !f.svg.is_empty())
        .collect();
    let others = others
        .iter()
        .map(|(group, rows)| format!("{group}: {}", rows.join(", ")));
    let others: Vec<String> = others.collect();
    let others = others.join("; ");
    Group {
        title: "Error of the weights by layer".into(),
        legend: legend(candidates(c).map(|(i, r)| (i, r.name.clone()))),
        note: format!(
            "Root of the mean square difference from the base, relative to the base. Outside the layers: {others}."
        ),
        small: true,
        plots,
    }
}
