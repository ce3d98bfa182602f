//! Known violations of the rules. These lists may only shrink.

/// Uses that are part of a cycle of files.
pub(super) const CIRCLES: &[&str] = &[];

/// Files that are too long.
pub(super) const LONG_FILES: &[&str] = &[];

/// Functions that are too long.
pub(super) const LONG_FUNCTIONS: &[&str] = &[];

/// Files with comments that are too wide.
pub(super) const WIDE_COMMENTS: &str = include_str!("wide_comments.txt");
