//! Tables for a terminal.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

/// A table with a line of headings; columns of numbers are aligned right.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let is_word = |cell: &String| cell.starts_with(|c: char| c.is_ascii_lowercase());
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header.to_vec());
    table.add_rows(rows.to_vec());
    for (i, column) in table.column_iter_mut().enumerate() {
        if !rows.iter().any(|row| row.get(i).is_some_and(is_word)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// A share as a percentage; a dash where there is none.
pub fn percent(share: f64) -> String {
    if share.is_nan() { "-".into() } else { format!("{:.2}%", 100.0 * share) }
}
