//! Makes text from outside safe to print: names, paths and the output of programs may contain any character.
//!
//! A terminal executes control characters, bidirectional controls change the order of a line, and characters without
//! width make two different names look the same. [`escape`] replaces them with Rust's notation, `\u{…}`.
//!
//! The table of invisible characters is ours. Width alone (`unicode-width`) does not tell them from combining marks,
//! which names may contain.

use std::borrow::Cow;

/// Code points that are invisible or change how other text is shown: format characters (category Cf), line and
/// paragraph separators, and characters without a glyph. Control characters and noncharacters are not in this table.
///
/// Arabic, Syriac and Kaithi number marks are visible members of Cf, so they are not in it either. Nor are variation
/// selectors, which emoji need.
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

/// Whether a character is invisible or controls the terminal. A line break and a tab are not hidden.
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control() && c != '\n' && c != '\t';
    }
    c.is_control() || is_noncharacter(c) || INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Code points that Unicode reserves for use inside programs.
fn is_noncharacter(c: char) -> bool {
    ('\u{fdd0}'..='\u{fdef}').contains(&c) || u32::from(c) & 0xfffe == 0xfffe
}

/// The text with every hidden character escaped: `\u{202e}`, `\r`. Escaping it again changes nothing.
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
    fn control_and_invisible_characters_are_escaped() {
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
    fn ordinary_text_is_not_changed() {
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
        fn escaped_text_has_no_hidden_character_and_escapes_to_itself(text in any::<String>()) {
            let escaped = escape(&text).into_owned();
            prop_assert!(!escaped.chars().any(is_hidden));
            prop_assert_eq!(escape(&escaped), escaped.as_str());
        }
    }
}
