//! The table of results: printed for people, written as JSON for tools.

use serde_json::{Value, json};

/// What a row must hold.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Ours ÷ raw at least this.
    Ratio(f64),
    /// Ours ÷ raw at most this.
    RatioAtMost(f64),
    /// Ours at least this.
    AtLeast(f64),
    /// Ours at most this.
    AtMost(f64),
    /// Nothing: the figure is for orientation.
    Shown,
}

/// One figure of ours beside the raw one.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name in JSON and for `--only`.
    pub name: &'static str,
    /// What is measured.
    pub what: String,
    /// Ours.
    pub ours: f64,
    /// The substrate's, in the same run.
    pub raw: Option<f64>,
    /// Median of the rounds' ratios.
    pub ratio: Option<f64>,
    /// Unit of both.
    pub unit: &'static str,
    /// What must hold.
    pub target: Target,
}

impl Row {
    fn met(&self) -> Option<bool> {
        match self.target {
            Target::Ratio(least) => self.ratio.map(|ratio| ratio >= least),
            Target::RatioAtMost(most) => self.ratio.map(|ratio| ratio <= most),
            Target::AtLeast(least) => Some(self.ours >= least),
            Target::AtMost(most) => Some(self.ours <= most),
            Target::Shown => None,
        }
    }

    fn target(&self) -> String {
        match self.target {
            Target::Ratio(least) => format!("≥ {least} × raw"),
            Target::RatioAtMost(most) => format!("≤ {most} × raw"),
            Target::AtLeast(least) => format!("≥ {} {}", number(least), self.unit),
            Target::AtMost(most) => format!("≤ {} {}", number(most), self.unit),
            Target::Shown => "–".to_owned(),
        }
    }
}

/// The rows measured so far.
#[derive(Debug, Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// Adds a row.
    pub fn push(&mut self, row: Row) {
        self.0.push(row);
    }

    /// `{"<name>": {"ours": …, "raw": …, "ratio": …, "unit": "…"}}`.
    pub fn json(&self) -> Value {
        let row = |r: &Row| json!({ "ours": r.ours, "raw": r.raw, "ratio": r.ratio, "unit": r.unit });
        Value::Object(self.0.iter().map(|r| (r.name.to_owned(), row(r))).collect())
    }

    /// Prints the table, aligned.
    pub fn print(&self) {
        let header = ["name", "what", "raw", "ours", "ratio", "target", "met"].map(str::to_owned);
        let with_unit = |value: f64, unit: &str| format!("{} {unit}", number(value));
        let rows = self.0.iter().map(|row| {
            [
                row.name.to_owned(),
                row.what.clone(),
                row.raw.map_or_else(|| "–".to_owned(), |raw| with_unit(raw, row.unit)),
                with_unit(row.ours, row.unit),
                row.ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
                row.target(),
                row.met().map_or("", |met| if met { "yes" } else { "NO" }).to_owned(),
            ]
        });
        let lines: Vec<[String; 7]> = std::iter::once(header).chain(rows).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        for line in &lines {
            let cells = line.iter().enumerate().map(|(column, cell)| {
                let pad = " ".repeat(width(column) - cell.chars().count());
                // Figures to the right.
                if (2..5).contains(&column) { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
            });
            println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(" ")
}
