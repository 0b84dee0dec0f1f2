//! Tables for people and for programs.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

/// A section of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    pub title: String,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// What the figures mean, below the table.
    pub notes: Vec<String>,
    /// The same figures unrounded.
    pub figures: serde_json::Value,
}

impl Table {
    pub fn new(title: &str, header: &[&str]) -> Self {
        Self {
            title: title.into(),
            header: header.iter().map(|&cell| cell.into()).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
            figures: serde_json::Value::Null,
        }
    }

    pub fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.to_vec());
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// As Markdown, in columns.
    pub fn markdown(&self) -> String {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().chain([&self.header]);
                cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &[String]| {
            cells.iter().zip(&widths).fold(String::from("|"), |mut line, (cell, width)| {
                let _ = write!(line, " {cell:<width$} |");
                line
            })
        };
        let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
        let mut text = format!("## {}\n\n{}\n{}\n", self.title, line(&self.header), line(&rule));
        for row in &self.rows {
            let _ = writeln!(text, "{}", line(row));
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }
}

/// Writes `bench.json` and `bench.md` into `dir`.
pub fn write(dir: &Path, machine: &str, tables: &[Table]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let json = serde_json::json!({"machine": machine, "tables": tables});
    fs::write(dir.join("bench.json"), serde_json::to_vec_pretty(&json)?)?;
    let mut text = format!("# llmtrace benchmark\n\n{machine}\n");
    for table in tables {
        let _ = write!(text, "\n{}", table.markdown());
    }
    fs::write(dir.join("bench.md"), text)
}

/// Kernel, processors and memory.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("Linux {kernel}, {cores} x {model}")
}

/// The value in the middle; of an even number, the mean of the two there.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Least and most.
pub fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| {
        (low.min(value), high.max(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_a_table() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(range(&[2.0, 1.0, 3.0]), (1.0, 3.0));
        let mut table = Table::new("T", &["a", "long"]);
        table.row(&["12345".into(), "b".into()]);
        assert_eq!(
            table.markdown(),
            "## T\n\n| a     | long |\n| ----- | ---- |\n| 12345 | b    |\n"
        );
    }
}
