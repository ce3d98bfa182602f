//! BLAKE3's tree over the pieces of a blob. Each piece is hashed once, on any thread, and each can be verified alone.
//!
//! BLAKE3 cuts its input into chunks of 1 KiB and joins their chaining values in a binary tree whose left side is
//! always a full power of two. An aligned piece of 2¹⁰ chunks (1 MiB; the last one may be shorter) is a subtree of that
//! tree. Its chaining value is the piece's name; a piece that is a whole blob is named by the blob's digest. The blob's
//! digest, which equals `blake3::hash` of all its bytes, follows from the names alone. So a list of names that joins to
//! the digest is the right list, and a piece that hashes to its name is the right piece. A chaining value depends on
//! its offset, so equal bytes have the same name only at equal offsets.
//!
//! A blob that never leaves its cache and is soon replaced may have checksums as the names of its pieces instead. They
//! take a fraction of the time and detect accidental damage as reliably, but not deliberate changes. The blob's digest
//! follows from these names in the same way. It is then not the hash of the blob's bytes.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use twox_hash::XxHash3_128;

use crate::key::Digest;

/// Bytes of a piece.
pub(super) const PIECE: usize = 1 << 20;

/// A blob's length and the names of its pieces.
#[derive(Clone, Debug)]
pub(super) struct PieceList {
    pub(super) size: u64,
    pub(super) pieces: Vec<Digest>,
}

impl PieceList {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.size.to_le_bytes().to_vec();
        self.pieces.iter().for_each(|piece| bytes.extend_from_slice(&piece.0));
        bytes
    }

    /// None unless the number of pieces, of `piece` bytes each, fits the length. So a wrong length can't ask for absurd
    /// amounts of memory.
    pub(super) fn decode(bytes: &[u8], piece: usize) -> Option<Self> {
        let (size, digests) = bytes.split_first_chunk::<8>()?;
        let (pieces, rest) = digests.as_chunks::<32>();
        let size = u64::from_le_bytes(*size);
        let fits = rest.is_empty() && pieces.len() as u64 == size.div_ceil(piece as u64);
        fits.then(|| Self { size, pieces: pieces.iter().map(|piece| Digest(*piece)).collect() })
    }
}

/// The second half of a name that is a checksum. A chaining value ends with it by chance once in 2¹²⁸.
const CHECKSUM: [u8; 16] = *b"XXH3 of a piece:";

/// The checksum of piece `index` of a blob as its name. The piece's bytes are these parts, one after the other.
pub(super) fn checksum(index: usize, parts: [&[u8]; 2]) -> Digest {
    let mut hasher = XxHash3_128::with_seed(index as u64);
    parts.iter().for_each(|part| hasher.write(part));
    let mut name = [0; 32];
    name[..16].copy_from_slice(&hasher.finish_128().to_le_bytes());
    name[16..].copy_from_slice(&CHECKSUM);
    Digest(name)
}

/// Whether piece `index` of a blob of `size` bytes, which consists of these parts, has this name.
pub(super) fn is_named(name: &Digest, index: usize, size: u64, parts: [&[u8]; 2]) -> bool {
    let own = if name.0.ends_with(&CHECKSUM) { checksum(index, parts) } else { self::name(index, size, parts) };
    own == *name
}

/// The name of piece `index` of a blob of `size` bytes. The piece's bytes are these parts, one after the other.
pub(super) fn name(index: usize, size: u64, parts: [&[u8]; 2]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    if size <= PIECE as u64 {
        return Digest(*hasher.update(parts[0]).update(parts[1]).finalize().as_bytes());
    }
    hasher.set_input_offset(index as u64 * PIECE as u64);
    hasher.update(parts[0]).update(parts[1]);
    Digest(hasher.finalize_non_root())
}

/// The digest of a blob of `size` bytes from the names of its pieces; `None` if their number doesn't fit the size.
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
    // There is more than one piece, so the left side is a whole number of pieces.
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

        #[test]
        fn name_fits_only_its_piece(
            piece in prop::collection::vec(any::<u8>(), 1..3000),
            cut in 0_usize..3000,
            flipped in 0_usize..3000,
            bit in 0_u32..8,
            index in 0_usize..5,
        ) {
            let (cut, size) = (cut.min(piece.len()), 6 * PIECE as u64);
            let mut other = piece.clone();
            other[flipped % piece.len()] ^= 1 << bit;
            let whole = [piece.as_slice(), &[]];
            for name in [name(index, size, whole), checksum(index, whole)] {
                prop_assert!(is_named(&name, index, size, [&piece[..cut], &piece[cut..]]));
                prop_assert!(!is_named(&name, index, size, [&other[..cut], &other[cut..]]));
                prop_assert!(!is_named(&name, index, size, [&piece[1..], &[]]));
                prop_assert!(!is_named(&name, index + 1, size, whole));
            }
        }
    }
}
