//! Packs: lists of pieces, locations of pieces, and reading a blob from a pack.

use std::fs;

use super::{folder, with_database};
use crate::artifact::BlobEntry;
use crate::key::Digest;
use crate::store::old_chunks::CHUNK;
use crate::store::pack::{self, PackLocation};
use crate::store::pieces::{self, key};
use crate::store::tree::{self, PIECE, PieceList};

/// Blobs of more pieces are not tried, to keep the fuzzer fast.
const PIECES: u64 = 3;
/// Runs a closure and returns the most bytes that it had allocated at any one time.
type Peak = fn(&mut dyn FnMut()) -> u64;

/// What reading may allocate besides the blob.
const FIXED: u64 = 64 << 10;

/// One pack and one blob in it.
struct Input<'a> {
    /// The list of pieces has the names of the bytes that are in the pack; otherwise, names of other bytes.
    is_named: bool,
    /// A bit of the pack is flipped after the names were computed.
    is_flipped: bool,
    /// The pack is cut short by one byte after the names were computed.
    is_cut: bool,
    /// Every piece has this length in its location, whatever the blob's size.
    length: Option<u32>,
    size: u64,
    offset: u64,
    flip: usize,
    pack: &'a [u8],
}

impl<'a> Input<'a> {
    /// 32 bytes of numbers, then the content of the pack.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (head, pack) = bytes.split_first_chunk::<32>()?;
        let word = |at: usize| head[at..at + 8].iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        let flag = |bit: u8| head[0] & 1 << bit != 0;
        Some(Self {
            is_named: flag(0),
            is_flipped: flag(1),
            is_cut: flag(2),
            length: flag(3).then(|| word(24) as u32),
            size: word(8),
            offset: word(16),
            flip: usize::from(head[1]) << 8 | usize::from(head[2]),
            pack,
        })
    }
}

/// A blob that is read has the digest it is known by, and every blob that is whole is read. Entries that are decoded
/// and encoded again are the same.
pub(crate) fn check(bytes: &[u8], peak: Peak) {
    if let Some(location) = PackLocation::decode(bytes) {
        assert!(location.encode() == bytes, "a location is encoded to other bytes");
    }
    for piece in [PIECE, CHUNK] {
        if let Some(list) = PieceList::decode(bytes, piece) {
            assert!(list.encode() == bytes, "a list is encoded to other bytes");
        }
    }
    if let Some(input) = Input::read(bytes).filter(|input| input.size.div_ceil(PIECE as u64) <= PIECES) {
        blob(&input, peak);
    }
}

fn blob(input: &Input<'_>, peak: Peak) {
    // A blob of several pieces needs more bytes than a fuzzer makes: the rest is zeros.
    let mut pack = input.pack.to_vec();
    if input.size > pack.len() as u64 && input.is_named {
        pack.resize(input.size as usize + 16, 0);
    }
    let start = usize::try_from(input.offset).unwrap_or(usize::MAX);
    let content = start.checked_add(input.size as usize).and_then(|end| pack.get(start..end)).map(<[u8]>::to_vec);
    let pieces = input.size.div_ceil(PIECE as u64);
    let names: Vec<Digest> = match &content {
        Some(content) if input.is_named => {
            content.chunks(PIECE).enumerate().map(|(i, piece)| tree::name(i, input.size, [piece, &[]])).collect()
        }
        _ => (0..pieces).map(|i| Digest::of(&i.to_le_bytes())).collect(),
    };
    let Some(digest) = tree::root(&names, input.size) else { return };
    let mut is_damaged = false;
    if input.is_flipped && !pack.is_empty() {
        let at = input.flip % pack.len();
        pack[at] ^= 1;
        is_damaged |= (start..start.saturating_add(input.size as usize)).contains(&at);
    }
    if input.is_cut && pack.pop().is_some() {
        is_damaged |= start.saturating_add(input.size as usize) > pack.len();
    }
    let folder = folder();
    let name = Digest::of(b"pack");
    let packs = pack::folder(folder.path());
    let written = fs::create_dir(&packs).and_then(|()| fs::write(packs.join(name.to_string()), &pack));
    written.unwrap_or_else(|e| panic!("can't write a pack: {e}"));
    let list = PieceList { size: input.size, pieces: names.clone() };
    let mut entries = vec![(key(b'l', &digest).to_vec(), list.encode())];
    for (i, piece) in (0..).zip(&names) {
        let before = i * PIECE as u64;
        let len = input.length.unwrap_or((input.size - before).min(PIECE as u64) as u32);
        let location = PackLocation { pack: name, offset: input.offset.wrapping_add(before), len };
        is_damaged |= u64::from(len) != (input.size - before).min(PIECE as u64);
        entries.push((key(b'p', piece).to_vec(), location.encode()));
    }
    let entry = BlobEntry { digest, size: input.size };
    let found = with_database(&entries, |db| {
        let Ok(Some(located)) = pieces::locate(db, folder.path(), &entry) else {
            panic!("a list that fits its digest is not found")
        };
        let mut found = None;
        let used = peak(&mut || found = Some(located.read(0)));
        assert!(used <= FIXED + 2 * input.size, "reading {} bytes allocated {used}", input.size);
        found
    });
    let Some(found) = found else { panic!("the blob was not read") };
    match found.unwrap_or_else(|e| panic!("damage is mistaken for a system error: {e}")) {
        Ok((head, rest)) => {
            let bytes = [head, rest].concat();
            assert_eq!(bytes.len() as u64, input.size);
            assert_eq!(Digest::of(&bytes), digest, "a blob with other bytes is returned");
            assert!(content.is_none_or(|content| content == bytes));
        }
        Err(corruption) => {
            let is_whole = input.is_named && content.is_some() && !is_damaged;
            assert!(!is_whole, "a whole blob is refused: {}", corruption.why);
        }
    }
}
