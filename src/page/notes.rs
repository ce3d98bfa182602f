//! Tags and notes about points: the only thing that a page can change.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::store::Note;

/// Characters of the longest tag.
const LONGEST_TAG: usize = 40;
/// Tags of a result.
const MOST_TAGS: usize = 50;
/// Bytes of the longest text.
const LONGEST_TEXT: usize = 100_000;

/// A change of a note. What it does not name stays.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoteChange {
    /// Tags to add.
    #[serde(default)]
    add: Vec<String>,
    /// Tags to remove.
    #[serde(default)]
    remove: Vec<String>,
    /// The new text.
    text: Option<String>,
}

impl NoteChange {
    /// Changes a note.
    ///
    /// # Errors
    /// If a tag or the text is not valid.
    pub(super) fn apply(self, note: &mut Note) -> Result<()> {
        let Self { add, remove, text } = self;
        let tags: BTreeSet<String> = add.iter().map(|tag| checked_tag(tag)).collect::<Result<_>>()?;
        note.tags.retain(|tag| !remove.contains(tag));
        note.tags.extend(tags);
        if note.tags.len() > MOST_TAGS {
            return Err(Error::bad_input(format!("a point can't have more than {MOST_TAGS} tags")));
        }
        if let Some(text) = text {
            if text.len() > LONGEST_TEXT {
                return Err(Error::bad_input(format!("the note is longer than {LONGEST_TEXT} bytes")));
            }
            note.text = text.trim_end().to_owned();
        }
        Ok(())
    }
}

/// A tag without spaces around it.
fn checked_tag(tag: &str) -> Result<String> {
    let tag = tag.trim();
    let why = match tag {
        "" => "it is empty".to_owned(),
        tag if tag.chars().count() > LONGEST_TAG => format!("it is longer than {LONGEST_TAG} characters"),
        // A condition could not name it.
        tag if tag.contains(|c: char| c.is_control() || "\"&,".contains(c)) => {
            "it has a comma, a quotation mark, `&` or a control character".to_owned()
        }
        tag => return Ok(tag.to_owned()),
    };
    Err(Error::bad_input(format!("`{}` is not a valid tag: {why}", tag.escape_debug())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(json: &str) -> NoteChange {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn change_leaves_what_it_does_not_name() {
        let mut note =
            Note { tags: ["old".to_owned(), "bad".to_owned()].into(), text: "why".into(), ..Note::default() };
        change(r#"{ "add": [" best "], "remove": ["bad", "unknown"] }"#).apply(&mut note).unwrap();
        assert_eq!(note.tags, BTreeSet::from(["best".to_owned(), "old".to_owned()]));
        assert_eq!(note.text, "why");
        change(r#"{ "text": "new\n" }"#).apply(&mut note).unwrap();
        assert_eq!((note.tags.len(), note.text.as_str()), (2, "new"));
    }

    #[test]
    fn tag_that_no_condition_could_name_is_refused() {
        for tag in ["", "  ", "a,b", "a&&b", "\\\"x\\\"", "a\\nb", &"x".repeat(41)] {
            let mut note = Note::default();
            let error = change(&format!(r#"{{ "add": ["{tag}"] }}"#)).apply(&mut note).unwrap_err();
            assert!(error.to_string().contains("is not a valid tag"), "{error}");
            assert!(note.is_empty());
        }
        assert!(serde_json::from_str::<NoteChange>(r#"{ "tags": [] }"#).is_err());
    }
}
