//! Shortens long text for people. JSON, CSV and Markdown are not shortened.

use std::borrow::Cow;

/// The most characters of a name or a value.
const WORD: usize = 200;
/// The most characters of a line.
const LINE: usize = 2000;

/// A name or a value for a table or a message. If it is too long, its middle is left out.
pub(in crate::cli) fn shorten(text: &str) -> String {
    without_middle(text, WORD).into_owned()
}

/// A text whose lines are too long without their middles.
pub(super) fn shorten_lines(text: &str) -> Cow<'_, str> {
    if text.len() <= LINE {
        return Cow::Borrowed(text);
    }
    let lines: Vec<_> = text.split('\n').map(|line| without_middle(line, LINE)).collect();
    Cow::Owned(lines.join("\n"))
}

/// `abcdef…uvwxyz (1000000 characters)`.
fn without_middle(text: &str, most: usize) -> Cow<'_, str> {
    // A text has at most as many characters as bytes.
    if text.len() <= most || text.chars().count() <= most {
        return Cow::Borrowed(text);
    }
    let count = text.chars().count();
    let note = format!(" ({count} characters)");
    let kept = most.saturating_sub(note.len() + 1);
    let head = kept - kept / 3;
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(count - kept / 3).collect();
    Cow::Owned(format!("{start}…{end}{note}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_and_lines_lose_their_middle() {
        assert_eq!(shorten("vad@lr=0.001"), "vad@lr=0.001");
        let whole = "ä".repeat(WORD);
        assert_eq!(shorten(&whole), whole);
        let long = format!("start{}end", "x".repeat(1 << 20));
        let short = shorten(&long);
        assert_eq!(short.chars().count(), WORD);
        assert!(short.starts_with("startx") && short.ends_with("xend (1048584 characters)"), "{short}");
        let lines = format!("one\n{long}\nthree");
        let shown = shorten_lines(&lines);
        let shown: Vec<_> = shown.lines().collect();
        assert_eq!((shown.len(), shown[0], shown[2], shown[1].chars().count()), (3, "one", "three", LINE));
        assert_eq!(shorten_lines("one\ntwo\n"), "one\ntwo\n");
    }
}
