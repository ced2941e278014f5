//! Writing rows of one shape with one statement: an array per column (DESIGN §5).

/// Splits rows into one array per column, binds them in order and runs a statement over `unnest($1, …)`. Nothing is run for
/// no rows.
macro_rules! write_columns {
    ($conn:expr, $rows:expr, ($($field:ident),+ $(,)?), $sql:expr) => {{
        let rows = $rows;
        if !rows.is_empty() {
            $( let mut $field = Vec::with_capacity(rows.len()); )+
            for row in rows {
                $( $field.push(row.$field); )+
            }
            sqlx::query($sql)$( .bind($field) )+.execute(&mut *$conn).await?;
        }
    }};
}

pub(crate) use write_columns;

/// A text as PostgreSQL can hold it: every character but NUL.
pub(crate) fn text(text: impl Into<String>) -> String {
    let text = text.into();
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// The name of an enum's variant on the wire.
pub(crate) fn name_of(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => other.unwrap_or_default().to_string(),
    }
}
