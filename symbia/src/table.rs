//! Answers as people read them at a terminal: a line for each row.

use serde_json::Value;

/// Prints an answer: as JSON, or its rows as a table of the columns `HEADING` and JSON pointer.
pub fn show(json: bool, answer: &Value, rows: &Value, columns: &[(&str, &str)]) {
    if json {
        println!("{answer}");
        return;
    }
    let rows: Vec<&Value> = rows.as_array().map_or_else(|| vec![rows], |rows| rows.iter().collect());
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|(_, at)| cell(row.pointer(at))).collect()).collect();
    let width = |column: usize, heading: &str| {
        cells.iter().map(|row| row[column].chars().count()).chain([heading.len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(|(n, (heading, _))| width(n, heading)).collect();
    let line = |texts: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = texts.zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(&mut columns.iter().map(|(heading, _)| *heading));
    for row in &cells {
        line(&mut row.iter().map(String::as_str));
    }
}

/// Prints that something is done.
pub fn done(json: bool, answer: &Value, what: &str) {
    if json {
        println!("{answer}");
    } else {
        println!("{what}");
    }
}

// One line, and nothing that moves the cursor: names are other people's texts.
fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => list.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::cell;

    #[test]
    fn a_cell_is_one_line_of_plain_text() {
        assert_eq!(cell(None), "-");
        assert_eq!(cell(Some(&json!(["a", "b"]))), "a,b");
        assert_eq!(cell(Some(&json!("a\n\u{1b}[31mb"))), "a  [31mb");
    }
}
