//! BLAKE3's tree over pieces of a blob, so that pieces are hashed once, on any thread, and each can be verified alone.
//!
//! BLAKE3 cuts its input into chunks of 1 KiB and joins their chaining values in a binary tree whose left side is always
//! a full power of two. An aligned piece of 2¹⁰ chunks (1 MiB; the last one may be shorter) is a subtree of that tree,
//! and its chaining value is what we name the piece by (one that is all of its blob, by its digest). The blob's digest, the same as `blake3::hash` of all of it,
//! follows from the names alone: a list of names that joins to the digest is the right list, and a piece that hashes to
//! its name is the right piece. Since a chaining value knows its place, equal bytes have one name only at equal offsets.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::key::Digest;

/// Bytes of a piece.
pub(super) const PIECE: usize = 1 << 20;

/// The name of piece `index` of a blob of `size` bytes, whose own bytes are these one after the other.
pub(super) fn name(index: usize, size: u64, parts: [&[u8]; 2]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    if size <= PIECE as u64 {
        return Digest(*hasher.update(parts[0]).update(parts[1]).finalize().as_bytes());
    }
    hasher.set_input_offset(index as u64 * PIECE as u64);
    hasher.update(parts[0]).update(parts[1]);
    Digest(hasher.finalize_non_root())
}

/// The digest of a blob of `size` bytes from its pieces' names; none if their number doesn't fit the size.
pub(super) fn root(names: &[Digest], size: u64) -> Option<Digest> {
    if size.div_ceil(PIECE as u64) != names.len() as u64 {
        return None;
    }
    if let [one] = names {
        return Some(*one);
    }
    if names.is_empty() {
        return Some(Digest::of(&[]));
    }
    let (left, right) = halves(names, size);
    Some(Digest(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()))
}

fn halves(names: &[Digest], size: u64) -> (ChainingValue, ChainingValue) {
    // More than one piece, so the left side is at least one and a multiple of it.
    let left = left_subtree_len(size);
    let (before, after) = names.split_at(usize::try_from(left / PIECE as u64).unwrap_or(usize::MAX));
    (joined(before, left), joined(after, size - left))
}

fn joined(names: &[Digest], size: u64) -> ChainingValue {
    match names {
        [one] => one.0,
        _ => {
            let (left, right) = halves(names, size);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn names_of_pieces_join_to_the_digest(pieces in 0_usize..7, rest in 0_usize..3000, cut in 0_usize..PIECE) {
            let mut bytes = vec![0; pieces * PIECE + rest];
            blake3::Hasher::new().update(&rest.to_le_bytes()).finalize_xof().fill(&mut bytes);
            let parts = |piece: &'_ [u8]| piece.len().min(cut);
            let size = bytes.len() as u64;
            let names: Vec<Digest> = bytes
                .chunks(PIECE)
                .enumerate()
                .map(|(i, piece)| name(i, size, [&piece[..parts(piece)], &piece[parts(piece)..]]))
                .collect();
            prop_assert_eq!(root(&names, size), Some(Digest::of(&bytes)));
            prop_assert_eq!(root(&names[..names.len().saturating_sub(1)], size + u64::from(size == 0)), None);
        }
    }
}
