//! Makes text from outside safe to print: names, paths, and messages of programs may hold anything.
//!
//! A terminal acts on control characters, bidirectional controls change the order in which a line is shown, and characters
//! without width make two different names look the same. [`escape`] replaces them by `\u{…}`, as Rust writes them.

use std::borrow::Cow;

/// Code points that are invisible or change how the text around them is shown: format characters (category Cf), separators
/// of lines and paragraphs, and characters without a glyph. Control characters and noncharacters are not listed here.
///
/// Arabic, Syriac and Kaithi number marks are in category Cf too, but they are visible, so they are left alone. So are
/// variation selectors, which emoji need.
const INVISIBLE: &[(char, char)] = &[
    ('\u{ad}', '\u{ad}'),       // soft hyphen
    ('\u{34f}', '\u{34f}'),     // combining grapheme joiner
    ('\u{61c}', '\u{61c}'),     // Arabic letter mark
    ('\u{115f}', '\u{1160}'),   // Hangul fillers
    ('\u{17b4}', '\u{17b5}'),   // Khmer inherent vowels
    ('\u{180b}', '\u{180f}'),   // Mongolian selectors and separator
    ('\u{200b}', '\u{200f}'),   // zero-width space and joiners, direction marks
    ('\u{2028}', '\u{202e}'),   // line and paragraph separators, bidirectional embeddings and overrides
    ('\u{2060}', '\u{206f}'),   // word joiner, invisible operators, bidirectional isolates
    ('\u{3164}', '\u{3164}'),   // Hangul filler
    ('\u{feff}', '\u{feff}'),   // byte order mark
    ('\u{ffa0}', '\u{ffa0}'),   // half-width Hangul filler
    ('\u{fff0}', '\u{fffb}'),   // interlinear annotation
    ('\u{1bca0}', '\u{1bca3}'), // shorthand format controls
    ('\u{1d173}', '\u{1d17a}'), // musical format controls
    ('\u{e0000}', '\u{e0fff}'), // tags
];

/// Whether a character is invisible or acts on the terminal. A line break and a tab are not among them.
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control() && c != '\n' && c != '\t';
    }
    c.is_control() || is_noncharacter(c) || INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Code points that Unicode keeps for use inside programs.
fn is_noncharacter(c: char) -> bool {
    ('\u{fdd0}'..='\u{fdef}').contains(&c) || u32::from(c) & 0xfffe == 0xfffe
}

/// The text with every hidden character written out: `\u{202e}`, `\r`. Escaping twice changes nothing more.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn controls_and_invisible_characters_are_written_out() {
        for (text, wanted) in [
            ("a\u{202e}b", r"a\u{202e}b"),
            ("\u{2066}x\u{2069}", r"\u{2066}x\u{2069}"),
            ("pass\u{200b}word", r"pass\u{200b}word"),
            ("\u{1b}[31mred", r"\u{1b}[31mred"),
            ("10%\r20%", r"10%\r20%"),
            ("\u{9b}31m\u{7f}\0", r"\u{9b}31m\u{7f}\u{0}"),
            ("\u{feff}\u{ad}\u{e0041}", r"\u{feff}\u{ad}\u{e0041}"),
            ("\u{fdd0}\u{fffe}\u{2028}", r"\u{fdd0}\u{fffe}\u{2028}"),
        ] {
            assert_eq!(escape(text), wanted);
        }
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in [
            "",
            "two\nlines\tand a tab",
            "naïve cafe\u{301}",
            "日本語 עברית العربية",
            "→ × ✓ 🎉 ⚠\u{fe0f}",
            r"C:\new\u{41}",
        ] {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn escaped_text_has_nothing_hidden_and_escapes_to_itself(text in any::<String>()) {
            let escaped = escape(&text).into_owned();
            prop_assert!(!escaped.chars().any(is_hidden));
            prop_assert_eq!(escape(&escaped), escaped.as_str());
        }
    }
}
