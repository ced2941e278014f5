//! Pages of the authorization server: for browsers, without scripts, and never kept.

use std::fmt::Write as _;

use axum::{
    http::header,
    response::{Html, IntoResponse},
};
use serde::Serialize;
use serde_json::json;

/// A page that sends forms to these origins and does nothing else.
pub(crate) fn page(body: &str, form_action: &str) -> impl IntoResponse + use<> {
    let policy = format!("default-src 'none'; form-action {form_action}; frame-ancestors 'none'; base-uri 'none'");
    let page =
        format!("<!doctype html><html lang=en><meta charset=utf-8><title>Symbia</title><body>{body}</body></html>");
    ([(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-store".to_owned())], Html(page))
}

/// Text as it may stand anywhere in a page.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// The texts of a flat object as fields of a form that nobody sees.
pub(super) fn hidden(fields: &impl Serialize) -> String {
    let mut form = String::new();
    for (name, value) in json!(fields).as_object().into_iter().flatten() {
        if let Some(value) = value.as_str() {
            // Writing to a text does not fail.
            let _ = write!(form, "<input type=hidden name={name} value=\"{}\">", escaped(value));
        }
    }
    form
}
