//! Styles, and text from outside that may not contain any.

use std::borrow::Cow;

use anstyle::{AnsiColor, Style};

use crate::escape::{escape, is_hidden};

/// A warning.
pub(in crate::cli) const YELLOW: Style = AnsiColor::Yellow.on_default();
/// Success.
pub(in crate::cli) const GREEN: Style = AnsiColor::Green.on_default();
/// An error.
pub(in crate::cli) const RED: Style = AnsiColor::Red.on_default().bold();
/// A title.
pub(in crate::cli) const BOLD: Style = Style::new().bold();
/// Less important text.
pub(in crate::cli) const DIM: Style = Style::new().dimmed();

/// Stands for the escape character in our styles until the text is printed. A real escape character always comes from
/// outside and is escaped. Unicode reserves this code point for use inside programs.
const STYLE_MARK: char = '\u{fdd0}';

/// Text in a style. The style is dropped if the output is not a terminal.
pub(in crate::cli) fn paint(style: Style, text: &str) -> String {
    let [on, off] = [style.render().to_string(), style.render_reset().to_string()];
    let marked = |sequence: String| sequence.replace('\u{1b}', STYLE_MARK.encode_utf8(&mut [0; 4]));
    format!("{}{}{}", marked(on), escape(text), marked(off))
}

/// The text as it is printed: hidden characters are escaped, and our styles become escape sequences.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut pieces = text.split(STYLE_MARK);
    let mut out = escape(pieces.next().unwrap_or_default()).into_owned();
    for piece in pieces {
        // A mark from outside can start a style but no other escape sequence.
        let body =
            piece.strip_prefix('[').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
        let is_style = body.is_some_and(|rest| rest.starts_with('m'));
        if is_style {
            out.push('\u{1b}')
        } else {
            out.extend(STYLE_MARK.escape_default())
        }
        out.push_str(&escape(piece));
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_styles_reach_the_terminal() {
        let painted = format!("{} {}", paint(GREEN, "fine \u{1b}[2J"), "\u{1b}]0;title\u{7}\u{202e}");
        assert_eq!(printable(&painted), "\u{1b}[32mfine \\u{1b}[2J\u{1b}[0m \\u{1b}]0;title\\u{7}\\u{202e}");
    }

    #[test]
    fn a_style_mark_from_outside_starts_no_other_sequence() {
        for (text, wanted) in
            [("\u{fdd0}[2J", "\\u{fdd0}[2J"), ("\u{fdd0}]0;x", "\\u{fdd0}]0;x"), ("\u{fdd0}", "\\u{fdd0}")]
        {
            assert_eq!(printable(text), wanted);
        }
        assert_eq!(paint(DIM, "\u{fdd0}[31m").matches(STYLE_MARK).count(), 2, "text in a style is escaped");
    }
}
