//! Errors in the user's text, with their places.
//!
//! A pipeline consists of several texts: its file, the files that this one includes, and one short text for each
//! `-S path=value`. An [`Origin`] is a place in one of them. Code that finds an error adds a [`Diagnostic`] and
//! continues, so that all errors of a pipeline are reported together.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::error::{Category, Error};
use crate::escape::{escape, is_hidden};

/// A range of bytes in one of the [`Sources`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Index into [`Sources`].
    pub source: usize,
    /// Byte range in that source.
    pub span: Range<usize>,
}

/// One text: its name (a path, or ``-S params.epochs=8``) and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is.
    pub kind: SourceKind,
    /// A path or a description.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// What a text of a pipeline is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The pipeline's file.
    Pipeline,
    /// The file with this path, which another file includes.
    Included(PathBuf),
    /// The value of a `-S`.
    Override,
}

/// All texts of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(pub Vec<Source>);

impl Sources {
    /// Adds a text and returns its index.
    pub fn add(&mut self, kind: SourceKind, name: impl Into<String>, text: impl Into<String>) -> usize {
        self.0.push(Source { kind, name: name.into(), text: text.into() });
        self.0.len() - 1
    }

    /// Adds the text of a file. If it is not UTF-8, reports the first invalid byte and returns `None`.
    pub fn add_bytes(
        &mut self,
        kind: SourceKind,
        name: &str,
        bytes: Vec<u8>,
        diagnostics: &mut Diagnostics,
    ) -> Option<usize> {
        let error = match String::from_utf8(bytes) {
            Ok(text) => return Some(self.add(kind, name, text)),
            Err(error) => error,
        };
        let start = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(start).copied().unwrap_or_default();
        // The decoded text is the same up to there, and has a replacement character there.
        let source = self.add(kind, name, String::from_utf8_lossy(error.as_bytes()));
        let origin = Origin { source, span: start..start + char::REPLACEMENT_CHARACTER.len_utf8() };
        let message = format!("this byte, 0x{byte:02x}, is not valid UTF-8");
        diagnostics.error(&origin, message).help("save the file as UTF-8");
        None
    }

    /// Whether this text is the value of a `-S`.
    pub fn is_override(&self, source: usize) -> bool {
        self.0.get(source).is_some_and(|source| source.kind == SourceKind::Override)
    }

    /// `file:line:column` of an origin, counted from 1, columns in characters.
    pub fn locate(&self, origin: &Origin) -> String {
        let Some(source) = self.0.get(origin.source) else { return String::new() };
        let start = origin.span.start.min(source.text.len());
        let before = source.text.get(..start).unwrap_or(&source.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        format!("{}:{line}:{column}", source.name)
    }
}

/// An error in the user's text, or a warning about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// One sentence without a full stop.
    pub message: String,
    /// The place, if there is one.
    pub origin: Option<Origin>,
    /// A few words to print under the place.
    pub label: Option<String>,
    /// How to fix it: the nearest valid name, the valid range, …
    pub help: Option<String>,
}

/// The most errors that are rendered. Each takes a search for its line in the text.
pub const MOST_SHOWN: usize = 50;

/// Collects diagnostics, so that parsing can continue after the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Adds an error at a place.
    pub fn error(&mut self, origin: &Origin, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Diagnostic { message: message.into(), origin: Some(origin.clone()), label: None, help: None })
    }

    /// Adds an error without a place.
    pub fn error_nowhere(&mut self, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Diagnostic { message: message.into(), origin: None, label: None, help: None })
    }

    fn push(&mut self, diagnostic: Diagnostic) -> &mut Diagnostic {
        let index = self.0.len();
        self.0.push(diagnostic);
        &mut self.0[index]
    }

    /// Whether there are no errors so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Ok` if there are no errors; otherwise one error (exit code 2) with all of them rendered, in the order of their
    /// places and without duplicates. Only the first [`MOST_SHOWN`] are rendered; the others are counted.
    pub fn into_result(mut self, sources: &Sources) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        self.0.retain(|d| seen.insert((d.place(), d.message.clone())));
        self.0.sort_by_key(|d| d.origin.as_ref().map(|o| (o.source, o.span.start)));
        let more = self.0.len().saturating_sub(MOST_SHOWN);
        self.0.truncate(MOST_SHOWN);
        let mut message = self.render(sources);
        if more > 0 {
            message.push_str(&format!(", and {more} more"));
        }
        Err(Error::new(Category::BadInput, message))
    }

    /// Renders all of them with the lines they refer to, and a last line with their number.
    pub fn render(&self, sources: &Sources) -> String {
        let renderer = Renderer::plain();
        let mut out = String::new();
        for diagnostic in &self.0 {
            let _ = writeln!(out, "{}\n", diagnostic.render(Level::ERROR, sources, &renderer));
        }
        let count = self.0.len();
        let _ = write!(out, "{count} error{} in the pipeline", if count == 1 { "" } else { "s" });
        out
    }
}

impl Diagnostic {
    /// Adds how to fix it.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a few words to print under the place.
    pub fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    /// Its place as numbers that can be compared: source, first byte, end.
    pub fn place(&self) -> Option<(usize, usize, usize)> {
        self.origin.as_ref().map(|o| (o.source, o.span.start, o.span.end))
    }

    /// Renders a warning with the line it refers to. The text does not begin with "warning".
    pub fn render_warning(&self, sources: &Sources) -> String {
        self.render(Level::WARNING.no_name(), sources, &Renderer::plain())
    }

    fn render(&self, level: Level<'_>, sources: &Sources, renderer: &Renderer) -> String {
        let mut groups = vec![];
        // The renderer would replace some hidden characters with `�` and drop others.
        let title = level.primary_title(escape(&self.message));
        let place = self.origin.as_ref().and_then(|o| sources.0.get(o.source).map(|s| (o, s)));
        let help = self.help.as_deref().map(|h| Level::HELP.message(escape(h)));
        match place {
            Some((origin, source)) => {
                let end = origin.span.end.min(source.text.len());
                let (text, span) = quotable(&source.text, origin.span.start.min(end)..end);
                let mark = AnnotationKind::Primary.span(span).label(self.label.as_deref().map(escape));
                let snippet = Snippet::source(text).path(escape(&source.name)).annotation(mark);
                groups.push(title.element(snippet).elements(help));
            }
            None => groups.push(Group::with_title(title).elements(help)),
        }
        renderer.render(&groups)
    }
}

/// The text with a `�` in place of each hidden character that the renderer would print or drop, and the span in it. The
/// columns are those of the file.
fn quotable(text: &str, span: Range<usize>) -> (Cow<'_, str>, Range<usize>) {
    let replaced = |c: char| !c.is_ascii() && is_hidden(c);
    if !text.chars().any(replaced) {
        return (Cow::Borrowed(text), span);
    }
    let quotable = |text: &str| -> String {
        text.chars().map(|c| if replaced(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
    };
    let length = |end: usize| text.get(..end).map_or(0, |before| quotable(before).len());
    (Cow::Owned(quotable(text)), length(span.start)..length(span.end))
}

/// The known name that is most similar to a wrong one.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (likeness(wrong, k), k))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// The known names, the most similar to a wrong one first.
pub fn nearest_first<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_by(|a, b| likeness(wrong, b).total_cmp(&likeness(wrong, a)));
    known
}

fn likeness(wrong: &str, known: &str) -> f64 {
    strsim::jaro_winkler(&wrong.to_lowercase(), &known.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_errors_are_shown_once_each_and_the_others_counted() {
        let (mut sources, mut diagnostics) = (Sources::default(), Diagnostics::default());
        let source = sources.add(SourceKind::Pipeline, "p.toml", "x".repeat(200));
        for n in (0..70).rev().chain(0..70) {
            diagnostics.error(&Origin { source, span: n..n + 1 }, format!("error number {n}"));
        }
        let message = diagnostics.into_result(&sources).unwrap_err().message;
        assert!(message.starts_with("error: error number 0\n") && message.contains("number 49\n"), "{message}");
        assert!(message.ends_with("50 errors in the pipeline, and 20 more"), "{message}");
    }

    #[test]
    fn hidden_characters_are_escaped_in_messages_and_replaced_in_quoted_lines() {
        let (mut sources, mut diagnostics) = (Sources::default(), Diagnostics::default());
        let text = "a = \"\u{202e}\u{200b}\u{9b}x\"  # \u{feff}\n";
        let source = sources.add(SourceKind::Pipeline, "p\u{202e}.toml", text);
        let start = text.find('x').unwrap();
        let error = diagnostics.error(&Origin { source, span: start..start + 1 }, "`\u{202e}x` is unknown");
        error.help("known: \u{2066}y").label("\u{200b}here");
        insta::assert_snapshot!(diagnostics.render(&sources), @r#"
    error: `\u{202e}x` is unknown
     --> p\u{202e}.toml:1:9
      |
    1 | a = "���x"  # �
      |         ^ \u{200b}here
      |
      = help: known: \u{2066}y

    1 error in the pipeline
    "#);
    }
}
