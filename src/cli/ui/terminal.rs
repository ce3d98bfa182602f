//! The terminal's size, and text that is wrapped to its width.

use std::borrow::Cow;
use std::os::fd::AsFd;

use anstream::adapter::strip_str;
use rustix::termios::tcgetwinsize;
use textwrap::WordSeparator;
use textwrap::core::{Word, display_width};
use textwrap::wrap_algorithms::wrap_first_fit;

use super::table::{Breaks, pieces};

/// No text is wrapped to less.
const NARROWEST: usize = 20;
/// A second column that begins after more columns than these is not aligned.
const LABELS: usize = 16;

/// The columns and rows of a terminal. `None` if the stream is not a terminal, or its size is unknown.
pub(super) fn size(stream: impl AsFd) -> Option<(usize, usize)> {
    let size = tcgetwinsize(stream).ok().filter(|size| size.ws_col > 0)?;
    Some((usize::from(size.ws_col).max(NARROWEST), usize::from(size.ws_row)))
}

/// Text with its long lines wrapped between words. A path or a name of a point that is longer than a line is broken
/// between its parts. The second line of a long one is indented as far as its second column, or by two more than the
/// first, or by `indent` if the first is indented by less.
pub(super) fn wrap(text: &str, width: Option<usize>, indent: Option<usize>) -> Cow<'_, str> {
    let Some(width) = width.filter(|width| text.len() > *width) else { return Cow::Borrowed(text) };
    let lines: Vec<_> = text.split('\n').map(|line| wrap_line(line, width, indent)).collect();
    Cow::Owned(lines.join("\n"))
}

fn wrap_line<'a>(line: &'a str, width: usize, indent: Option<usize>) -> Cow<'a, str> {
    if display_width(line) <= width {
        return Cow::Borrowed(line);
    }
    let plain = strip_str(line).to_string();
    if is_quoted_source(&plain) {
        return Cow::Owned(cut(&plain, width).into_owned());
    }
    let words = line.trim_start_matches(' ');
    let start = line.len() - words.len();
    let indent = indent.filter(|indent| *indent > start).unwrap_or_else(|| hanging(&plain)).min(width / 2);
    let widths = [width - start.min(width / 2), width - indent].map(|width| width as f64);
    let parts = |word: Word<'a>| match display_width(word.word) > width - indent {
        true => pieces(word.word, Breaks::BetweenWords).into_iter().map(Word::from).collect(),
        false => vec![word],
    };
    let words: Vec<Word<'_>> = WordSeparator::AsciiSpace.find_words(words).flat_map(parts).collect();
    let mut text = " ".repeat(start);
    for (number, words) in wrap_first_fit(&words, &widths).iter().enumerate() {
        if number > 0 {
            text.truncate(text.trim_end_matches(' ').len());
            text.push_str(&format!("\n{}", " ".repeat(indent)));
        }
        words.iter().for_each(|word| text.extend([word.word, word.whitespace]));
    }
    Cow::Owned(text)
}

/// Where the second line of a long one begins.
fn hanging(line: &str) -> usize {
    let words = line.trim_start_matches(' ');
    let start = line.len() - words.len();
    let column = words.find("  ").map(|gap| (gap, words[gap..].len() - words[gap..].trim_start_matches(' ').len()));
    match column {
        Some((gap, spaces)) if gap + spaces <= LABELS => start + words[..gap].chars().count() + spaces,
        _ => start + 2,
    }
}

/// Whether a line of an error quotes a pipeline file, or marks a place in the line above: `12 | lr = 3`, `   | ^^`.
fn is_quoted_source(line: &str) -> bool {
    let Some((number, quoted)) = line.split_once("| ") else { return false };
    let is_mark = number.trim().is_empty() && quoted.trim_start().starts_with('^');
    let is_line = !number.trim().is_empty() && number.trim().chars().all(|c| c.is_ascii_digit());
    is_mark || is_line
}

/// The beginning of a text without styles that fits in `width` columns, with a `…` if something is missing.
pub(super) fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if display_width(text) <= width {
        return Cow::Borrowed(text);
    }
    let mut end = 0;
    for (start, c) in text.char_indices() {
        let next = start + c.len_utf8();
        if display_width(&text[..next]) >= width {
            break;
        }
        end = next;
    }
    Cow::Owned(format!("{}…", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_break_between_words_and_continue_below_their_text() {
        let text = "short\n\
                    miss  ad@lr=0.001  epochs 3 → 5; 3 of 5 epochs cached\n\
                    \x20 input       data from the first stage of all\n\
                    a-very-long-name@with=values,of=axes: it failed";
        insta::assert_snapshot!(wrap(text, Some(40), None), @r"
        short
        miss  ad@lr=0.001  epochs 3 → 5; 3 of 5
              epochs cached
          input       data from the first stage
                      of all
        a-very-long-name@with=values,of=axes: it
          failed
        ");
        assert_eq!(wrap(text, None, None), text);
        assert_eq!(wrap("    done it in 2.0s", Some(14), Some(9)), "    done it in\n       2.0s", "half of the width");
    }

    #[test]
    fn path_and_point_that_are_longer_than_a_line_break_between_their_parts() {
        let path = "cache/logs/20261122-100405123-1f3a0/vad@distribution=gaussian,latent_dim=8.log";
        insta::assert_snapshot!(wrap(&format!("  log: {path}"), Some(40), None), @r"
          log: cache/logs/
            20261122-100405123-1f3a0/vad@
            distribution=gaussian,
            latent_dim=8.log
        ");
        // What has no parts stays whole.
        let digest = "9".repeat(64);
        assert_eq!(wrap(&format!("  key {digest}"), Some(40), None), format!("  key\n    {digest}"));
        assert_eq!(wrap(&digest, Some(40), None), digest);
    }

    #[test]
    fn styles_have_no_width_and_quoted_lines_are_cut() {
        let styled = "\u{1b}[32mdone\u{1b}[0m ad in 2.0s";
        assert_eq!(wrap(styled, Some(20), None), styled);
        let quoted = "error: `kind` is wrong\n12 | kind = \"train-ad\"  # comment\n   | ^^^^ this one";
        assert_eq!(
            wrap(quoted, Some(20), None),
            "error: `kind` is\n  wrong\n12 | kind = \"train-…\n   | ^^^^ this one"
        );
        let table = "| a table that a program printed |";
        assert_eq!(wrap(table, Some(20), None), "| a table that a\n  program printed |");
        assert_eq!((cut("日本語", 5), cut("日本語", 6)), ("日本…".into(), "日本語".into()));
    }
}
