//! What came out: rows of ratios beside their targets, for people and as JSON.
//!
//! A row compares Bonded with one other thing, round by round. It knows nothing of how either
//! figure was taken.

use std::fmt::Write as _;

use serde::Serialize;

use crate::measure::{Failed, Result, median};

/// What a ratio has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Shown for comparison.
    None,
}

impl Target {
    fn is_met_by(self, ratio: f64) -> bool {
        match self {
            Target::AtLeast(least) => ratio >= least,
            Target::AtMost(most) => ratio <= most,
            Target::None => true,
        }
    }

    fn text(self) -> String {
        match self {
            Target::AtLeast(least) => format!("≥ {least}"),
            Target::AtMost(most) => format!("≤ {most}"),
            Target::None => String::new(),
        }
    }
}

/// One comparison.
pub struct Row {
    /// What Bonded is compared with.
    beside: String,
    unit: &'static str,
    /// Bonded's figure and the other's, for each round.
    figures: Result<Vec<(f64, f64)>>,
    ratios: Vec<f64>,
    target: Target,
}

impl Row {
    /// The ratio of Bonded's figure to the other's.
    pub fn new(
        beside: impl Into<String>,
        unit: &'static str,
        ours: &Result<Vec<f64>>,
        theirs: &Result<Vec<f64>>,
        target: Target,
    ) -> Row {
        let figures = ours.clone().and_then(|ours| {
            Ok(ours.into_iter().zip(theirs.clone()?).collect::<Vec<(f64, f64)>>())
        });
        let ratios = figures.iter().flatten().map(|(ours, theirs)| ours / theirs).collect();
        Row { beside: beside.into(), unit, figures, ratios, target }
    }

    /// One figure and the bound that it has to keep.
    pub fn bound(
        beside: impl Into<String>,
        unit: &'static str,
        ours: &Result<Vec<f64>>,
        bound: f64,
    ) -> Row {
        let theirs = ours.clone().map(|ours| vec![bound; ours.len()]);
        Row::new(beside, unit, ours, &theirs, Target::AtMost(1.0))
    }

    fn verdict(&self) -> &'static str {
        match (&self.figures, self.target) {
            (_, Target::None) => "",
            (Err(_), _) => "not measured",
            (Ok(_), target) if target.is_met_by(median(&self.ratios)) => "met",
            (Ok(_), _) => "MISSED",
        }
    }
}

/// Rows about the same work of Bonded's.
pub struct Section {
    /// What the issue calls it, and what is done.
    title: String,
    rows: Vec<Row>,
    /// Where the time goes; told when a target is missed.
    breakdown: Vec<String>,
}

impl Section {
    /// Without rows.
    pub fn new(title: impl Into<String>) -> Section {
        Section { title: title.into(), rows: Vec::new(), breakdown: Vec::new() }
    }

    /// One more row.
    pub fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// One line of where the time goes.
    pub fn explain(&mut self, line: impl Into<String>) {
        self.breakdown.push(line.into());
    }

    fn is_missed(&self) -> bool {
        self.rows.iter().any(|row| row.verdict() == "MISSED")
    }

    /// The section as people read it.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.title);
        for row in &self.rows {
            let beside = &row.beside;
            // Writing to a String never fails.
            let _ = match &row.figures {
                Ok(figures) => {
                    let ours: Vec<f64> = figures.iter().map(|(ours, _)| *ours).collect();
                    let theirs: Vec<f64> = figures.iter().map(|(_, theirs)| *theirs).collect();
                    let least = row.ratios.iter().copied().fold(f64::INFINITY, f64::min);
                    let most = row.ratios.iter().copied().fold(0.0, f64::max);
                    let (ours, theirs) = (figure(median(&ours)), figure(median(&theirs)));
                    let (ratio, unit) = (median(&row.ratios), row.unit);
                    let (target, verdict) = (row.target.text(), row.verdict());
                    writeln!(
                        text,
                        "  {beside:<54} {ours:>7} {theirs:>7} {unit:<5} {ratio:>6.2} \
                         ({least:.2}..{most:.2})  {target:<7} {verdict}"
                    )
                }
                Err(Failed(why)) => {
                    let verdict = row.verdict();
                    writeln!(text, "  {beside:<54} {verdict}: {why}")
                }
            };
        }
        if self.is_missed() {
            for line in &self.breakdown {
                let _ = writeln!(text, "    · {line}");
            }
        }
        text
    }
}

/// What stands above the columns.
pub fn heading() -> String {
    let (beside, ours, theirs, ratio) = ("beside", "Bonded", "beside", "ratio (min..max)");
    format!("  {beside:<54} {ours:>7} {theirs:>7}       {ratio:>16}  target\n")
}

/// How many targets were met, and how many there are.
pub fn score(sections: &[Section]) -> (usize, usize) {
    let verdicts = sections.iter().flat_map(|section| &section.rows).map(Row::verdict);
    let verdicts: Vec<&str> = verdicts.filter(|verdict| !verdict.is_empty()).collect();
    (verdicts.iter().filter(|verdict| **verdict == "met").count(), verdicts.len())
}

fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

#[derive(Serialize)]
struct JsonRow<'a> {
    section: &'a str,
    beside: &'a str,
    unit: &'a str,
    bonded: Vec<f64>,
    other: Vec<f64>,
    ratios: &'a [f64],
    ratio: Option<f64>,
    target: String,
    verdict: &'a str,
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonBreakdown<'a> {
    section: &'a str,
    lines: &'a [String],
}

#[derive(Serialize)]
struct Json<'a> {
    machine: &'a str,
    n_rounds: usize,
    rows: Vec<JsonRow<'a>>,
    breakdowns: Vec<JsonBreakdown<'a>>,
}

/// Everything, round by round, for programs.
pub fn json(machine: &str, n_rounds: usize, sections: &[Section]) -> Result<Vec<u8>> {
    let rows = sections.iter().flat_map(|section| {
        section.rows.iter().map(|row| JsonRow {
            section: &section.title,
            beside: &row.beside,
            unit: row.unit,
            bonded: row.figures.iter().flatten().map(|(ours, _)| *ours).collect(),
            other: row.figures.iter().flatten().map(|(_, theirs)| *theirs).collect(),
            ratios: &row.ratios,
            ratio: (!row.ratios.is_empty()).then(|| median(&row.ratios)),
            target: row.target.text(),
            verdict: row.verdict(),
            problem: row.figures.as_ref().err().map(|Failed(why)| why.as_str()),
        })
    });
    let breakdowns = sections
        .iter()
        .map(|section| JsonBreakdown { section: &section.title, lines: &section.breakdown });
    let all = Json { machine, n_rounds, rows: rows.collect(), breakdowns: breakdowns.collect() };
    serde_json::to_vec_pretty(&all).map_err(|error| Failed(error.to_string()))
}
