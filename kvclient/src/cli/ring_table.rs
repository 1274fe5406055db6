//! The ring as a table: which server coordinates which arc, how much of the circle that is, who holds the other copies.

use comfy_table::{CellAlignment, Table, presets};
use common::position::Position;
use serde_json::{Value, json};

use super::out::{Out, Problem};
use crate::address::Address;
use crate::ring::Arc;

/// One row: a stretch of the circle with one coordinator and one set of readers.
#[derive(Clone, PartialEq, Debug)]
struct Row {
    arc: Arc,
    /// Who else may answer reads, in clockwise order: replica 1, replica 2, ...
    replicas: Vec<Address>,
}

pub(super) fn print(coordinators: &[Arc], readers: &[Arc], out: Out) -> Result<(), Problem> {
    let rows = rows(coordinators, readers);
    let json: Vec<Value> = rows.iter().map(to_json).collect();
    out.say(draw(&rows), &json!({ "ok": true, "ring": json }))
}

fn to_json(row: &Row) -> Value {
    json!({
        "server": row.arc.address.as_str(),
        "from": row.arc.from.to_string(),
        "to": row.arc.to.to_string(),
        "share": row.arc.share(),
        "replicas": row.replicas.iter().map(Address::as_str).collect::<Vec<_>>(),
    })
}

/// The arcs of the coordinators, cut where the readers change.
fn rows(coordinators: &[Arc], readers: &[Arc]) -> Vec<Row> {
    coordinators.iter().flat_map(|arc| cut(arc, coordinators, readers)).collect()
}

fn cut(arc: &Arc, coordinators: &[Arc], readers: &[Arc]) -> Vec<Row> {
    // Distances from the arc's start, so that wrapping needs no thought.
    let distance = |position: Position| position.0.wrapping_sub(arc.from.0);
    let length = distance(arc.to);
    let mut borders: Vec<u128> = readers
        .iter()
        .flat_map(|reader| [distance(reader.from), distance(Position(reader.to.0.wrapping_add(1)))])
        .filter(|border| *border <= length)
        .collect();
    borders.push(0);
    borders.sort_unstable();
    borders.dedup();
    let mut rows: Vec<Row> = Vec::new();
    for (nth, start) in borders.iter().enumerate() {
        let end = borders.get(nth + 1).map_or(length, |next| next - 1);
        let from = Position(arc.from.0.wrapping_add(*start));
        let to = Position(arc.from.0.wrapping_add(end));
        let replicas = replicas(from, &arc.address, coordinators, readers);
        match rows.last_mut() {
            Some(last) if last.replicas == replicas => last.arc.to = to,
            _ => rows.push(Row { arc: Arc { from, to, address: arc.address.clone() }, replicas }),
        }
    }
    rows
}

/// The readers at `at` but the coordinator, those first that coordinate the nearest arc clockwise.
fn replicas(at: Position, coordinator: &Address, coordinators: &[Arc], readers: &[Arc]) -> Vec<Address> {
    let mut found: Vec<Address> = readers
        .iter()
        .filter(|reader| reader.contains(at) && reader.address != *coordinator)
        .map(|reader| reader.address.clone())
        .collect();
    let clockwise = |address: &Address| {
        let own = coordinators.iter().filter(|arc| arc.address == *address);
        own.map(|arc| arc.from.0.wrapping_sub(at.0)).min().unwrap_or(u128::MAX)
    };
    found.sort_by_key(|address| (clockwise(address), address.clone()));
    found.dedup();
    found
}

fn draw(rows: &[Row]) -> String {
    let copies = rows.iter().map(|row| row.replicas.len()).max().unwrap_or(0);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec!["coordinator".to_owned(), "from".to_owned(), "to".to_owned(), "share".to_owned()];
    header.extend((1..=copies).map(|nth| format!("replica {nth}")));
    table.set_header(header);
    for row in rows {
        let mut cells = vec![
            row.arc.address.to_string(),
            short(row.arc.from),
            short(row.arc.to),
            format!("{:.1} %", row.arc.share() * 100.0),
        ];
        cells.extend((0..copies).map(|nth| row.replicas.get(nth).map_or("-".to_owned(), Address::to_string)));
        table.add_row(cells);
    }
    if let Some(column) = table.column_mut(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// The first digits of a position: slots differ in them.
fn short(position: Position) -> String {
    format!("{}..", &position.to_string()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arc(from: u128, to: u128, name: &str) -> Arc {
        let high = 120;
        Arc {
            from: Position(from << high),
            to: Position((to << high) | ((1 << high) - 1)),
            address: Address::from(format!("{name}:1")),
        }
    }

    #[test]
    fn replicas_are_the_next_servers_clockwise() {
        let coordinators = [arc(0, 99, "a"), arc(100, 199, "b"), arc(200, 255, "c")];
        let readers = [arc(100, 99, "a"), arc(200, 199, "b"), arc(0, 255, "c")];
        let rows = rows(&coordinators, &readers);
        let names: Vec<String> = rows.iter().map(|row| format!("{} {:?}", row.arc.address, row.replicas)).collect();
        assert_eq!(names, ["a:1 [b:1, c:1]", "b:1 [c:1, a:1]", "c:1 [a:1, b:1]"]);
        assert!(draw(&rows).contains("39.1 %"), "{}", draw(&rows));
    }

    #[test]
    fn an_arc_is_cut_where_its_readers_change() {
        let coordinators = [arc(0, 255, "a")];
        let readers = [arc(0, 255, "a"), arc(10, 19, "b")];
        let rows = rows(&coordinators, &readers);
        let shown: Vec<(u128, u128, usize)> =
            rows.iter().map(|row| (row.arc.from.0 >> 120, row.arc.to.0 >> 120, row.replicas.len())).collect();
        assert_eq!(shown, [(0, 9, 0), (10, 19, 1), (20, 255, 0)]);
    }
}
