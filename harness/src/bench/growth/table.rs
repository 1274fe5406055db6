//! A table of numbers: for documents, and as JSON. Pure.

use serde::Serialize;

use super::super::report::figure;

/// Rows of numbers under named columns. What was not measured is not a number (in JSON null).
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// What grows, and what is held fast.
    pub title: String,
    /// Name and unit of each.
    pub columns: Vec<(&'static str, &'static str)>,
    /// In the order of the columns.
    pub rows: Vec<Vec<f64>>,
}

impl Table {
    /// Without rows yet.
    #[must_use]
    pub fn new(title: &str, columns: &[(&'static str, &'static str)]) -> Table {
        Table { title: title.to_owned(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// For documents.
    #[must_use]
    pub fn markdown(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        let mut text = format!("{}\n\n| {} |\n|{}\n", self.title, names.join(" | "), "---|".repeat(names.len()));
        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&self.columns).map(|(value, (_, unit))| cell(*value, unit)).collect();
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        text
    }
}

fn cell(value: f64, unit: &str) -> String {
    match unit {
        _ if value.is_nan() => "-".to_owned(),
        "count" => format!("{value:.0}"),
        "bytes" => size(value),
        // Latencies, told in the unit in which they are short.
        " us" if value >= 10_000.0 => format!("{:.0} ms", value / 1e3),
        " us" if value >= 1_000.0 => format!("{:.1} ms", value / 1e3),
        _ => figure(value, unit),
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        mib if mib >= 1_048_576.0 => format!("{:.0} MiB", mib / 1_048_576.0),
        kib if kib >= 1_024.0 => format!("{:.0} KiB", kib / 1_024.0),
        few => format!("{few:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_under_their_columns() {
        let columns = [("keys", "count"), ("value", "bytes"), ("get", "/s"), ("p99", " us"), ("stall", " us")];
        let mut table = Table::new("Keys.", &columns);
        table.rows.push(vec![1e6, 102_400.0, 84_200.0, 950.0, f64::NAN]);
        table.rows.push(vec![10.0, 10.0, 900.0, 2_345.0, 45_678.0]);
        let lines = table.markdown();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines[2], "| keys | value | get | p99 | stall |");
        assert_eq!(lines[3], "|---|---|---|---|---|");
        assert_eq!(lines[4], "| 1000000 | 100 KiB | 84k/s | 950 us | - |");
        assert_eq!(lines[5], "| 10 | 10 B | 900/s | 2.3 ms | 46 ms |");
    }
}
