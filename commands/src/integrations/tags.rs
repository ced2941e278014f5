//! Words of an asker's own, by which requests are found again (integrations.md §25.3, §28).

use crate::Rejection;

/// Most of them on one request.
const MOST: usize = 10;
/// Longest one.
const LONGEST: usize = 64;

/// Whether a request may have these.
pub(super) fn check_tags(tags: &[String]) -> Result<(), Rejection> {
    let plain =
        |tag: &String| (1..=LONGEST).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if tags.len() > MOST || !tags.iter().all(plain) {
        let text = format!("tags: at most {MOST}, each 1 to {LONGEST} visible characters without commas");
        return Err(Rejection::invalid(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_tags;

    #[test]
    fn tags_are_few_and_words() {
        let checked = |tags: &[&str]| check_tags(&tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>()).is_ok();
        assert!(checked(&[]) && checked(&["team:blue", "v1.2/x"]) && checked(&["x"; 10]));
        for wrong in [&["x"; 11][..], &[""], &["a b"], &["a,b"], &["é"], &[&*"x".repeat(65)]] {
            assert!(!checked(wrong), "{wrong:?}");
        }
    }
}
