//! Packed images: the pages of a sparse file that are not zero, one after the other, with a table of
//! where they belong and a checksum.
//!
//! ```text
//!   magic │ size of the file │ number of runs │ runs (first page, pages) │ checksum │ pages …
//! ```
//!
//! Unlike a sparse file it is the same on every file system, its length tells whether it is whole,
//! and it is read in one go. The checksum finds damage, not malice: the file belongs to the user whom
//! it serves.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use crc32fast::Hasher;

const MAGIC: [u8; 8] = *b"pyropack";

/// The unit in which zeros are left out.
const PAGE_BYTES: usize = 4096;

/// Read and written at once.
const CHUNK_PAGES: usize = 256;

/// More runs than any image of 32 GiB has in practice; bounds what a damaged table can allocate.
const RUNS_MAX: u64 = 1 << 22;

const HEADER_BYTES: usize = 8 + 8 + 8;
const RUN_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;

/// Why a packed image cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("it cannot be read or written")]
    Io { source: io::Error },
    #[error("it is damaged: {what}")]
    Damaged { what: &'static str },
}

/// Consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first_page: u32,
    pages: u32,
}

/// Packs `source` into `target`, which is empty.
pub(crate) fn pack(source: &File, target: &File) -> io::Result<()> {
    let size = source.metadata()?.len();
    let runs = runs_with_data(source, size)?;
    let table = table(size, &runs);
    let mut writer = BufWriter::with_capacity(CHUNK_PAGES * PAGE_BYTES, target);
    writer.write_all(&table)?;
    writer.write_all(&[0; CHECKSUM_BYTES])?;
    let mut checksum = Hasher::new();
    checksum.update(&table);
    let mut buffer = vec![0; CHUNK_PAGES * PAGE_BYTES];
    for (offset, length) in pieces(&runs) {
        let piece = &mut buffer[..length];
        // The last page may reach beyond the end.
        piece.fill(0);
        read_up_to(source, piece, offset)?;
        checksum.update(piece);
        writer.write_all(piece)?;
    }
    writer.flush()?;
    drop(writer);
    target.write_all_at(&checksum.finalize().to_le_bytes(), table.len() as u64)
}

/// Unpacks `source` into `target`, which has no data yet; its size becomes the original's.
pub(crate) fn unpack(source: &File, target: &File) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Io { source };
    let damaged = |what| UnpackError::Damaged { what };
    let mut header = [0; HEADER_BYTES];
    source.read_exact_at(&mut header, 0).map_err(truncated)?;
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
    let (size, run_count) = (word(8), word(16));
    if header[..8] != MAGIC || run_count > RUNS_MAX {
        return Err(damaged("its header makes no sense"));
    }
    let size_in_pages = size.checked_next_multiple_of(PAGE_BYTES as u64);
    let size_in_pages = size_in_pages.ok_or_else(|| damaged("its size makes no sense"))?;
    let table_bytes = HEADER_BYTES + usize::try_from(run_count).expect("bounded") * RUN_BYTES;
    let mut table = vec![0; table_bytes];
    source.read_exact_at(&mut table, 0).map_err(truncated)?;
    let runs: Vec<_> = table[HEADER_BYTES..].chunks_exact(RUN_BYTES).map(Run::from_bytes).collect();
    if !runs.iter().all(|run| run.end_bytes() <= size_in_pages) {
        return Err(damaged("a page lies beyond its end"));
    }
    let mut expected = [0; CHECKSUM_BYTES];
    source.read_exact_at(&mut expected, table_bytes as u64).map_err(truncated)?;

    target.set_len(size).map_err(failed)?;
    let mut checksum = Hasher::new();
    checksum.update(&table);
    let mut buffer = vec![0; CHUNK_PAGES * PAGE_BYTES];
    let mut position = (table_bytes + CHECKSUM_BYTES) as u64;
    for (offset, length) in pieces(&runs) {
        let piece = &mut buffer[..length];
        source.read_exact_at(piece, position).map_err(truncated)?;
        position += length as u64;
        checksum.update(piece);
        let inside = usize::try_from(size - offset).unwrap_or(usize::MAX).min(length);
        target.write_all_at(&piece[..inside], offset).map_err(failed)?;
    }
    if checksum.finalize().to_le_bytes() != expected {
        return Err(damaged("its checksum is wrong"));
    }
    Ok(())
}

impl Run {
    fn to_bytes(self) -> [u8; RUN_BYTES] {
        let mut bytes = [0; RUN_BYTES];
        bytes[..4].copy_from_slice(&self.first_page.to_le_bytes());
        bytes[4..].copy_from_slice(&self.pages.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        Self { first_page: word(0), pages: word(4) }
    }

    fn end_bytes(self) -> u64 {
        (u64::from(self.first_page) + u64::from(self.pages)) * PAGE_BYTES as u64
    }
}

fn table(size: u64, runs: &[Run]) -> Vec<u8> {
    let mut table = MAGIC.to_vec();
    table.extend_from_slice(&size.to_le_bytes());
    table.extend_from_slice(&(runs.len() as u64).to_le_bytes());
    table.extend(runs.iter().flat_map(|run| run.to_bytes()));
    table
}

/// The runs in pieces of at most a chunk: offset in the unpacked file, and length.
fn pieces(runs: &[Run]) -> impl Iterator<Item = (u64, usize)> {
    runs.iter().flat_map(|run| {
        let (first, pages) = (u64::from(run.first_page), run.pages as usize);
        (0..pages).step_by(CHUNK_PAGES).map(move |page| {
            let offset = (first + page as u64) * PAGE_BYTES as u64;
            (offset, (pages - page).min(CHUNK_PAGES) * PAGE_BYTES)
        })
    })
}

/// Finds the pages that are not zero, asking the kernel first where there is data at all.
fn runs_with_data(source: &File, size: u64) -> io::Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut buffer = vec![0; CHUNK_PAGES * PAGE_BYTES];
    let mut offset = 0;
    while let Some((start, end)) = next_extent(source, offset, size)? {
        offset = start / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        while offset < end {
            let length = read_up_to(source, &mut buffer, offset)?;
            for (index, page) in buffer[..length].chunks(PAGE_BYTES).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    let page = offset / PAGE_BYTES as u64 + index as u64;
                    add_page(&mut runs, u32::try_from(page).map_err(io::Error::other)?);
                }
            }
            offset += length as u64;
            if length == 0 {
                break;
            }
        }
    }
    Ok(runs)
}

fn add_page(runs: &mut Vec<Run>, page: u32) {
    match runs.last_mut() {
        Some(last) if last.first_page + last.pages == page => last.pages += 1,
        // An extent may begin in the middle of the page in which the last one ended.
        Some(last) if last.first_page + last.pages > page => {}
        _ => runs.push(Run { first_page: page, pages: 1 }),
    }
}

fn next_extent(mut source: &File, from: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::SeekFrom as Find;
    if from >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(source, Find::Data(from)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(source, Find::Hole(start))?;
    source.seek(SeekFrom::Start(0))?;
    Ok(Some((start, end)))
}

/// Reads until the buffer or the file is at its end.
fn read_up_to(source: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match source.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn truncated(source: io::Error) -> UnpackError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => UnpackError::Damaged { what: "it is too short" },
        _ => UnpackError::Io { source },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file_with(pieces: &[(u64, Vec<u8>)], size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in pieces {
            let inside = bytes.len().min(usize::try_from(size - offset.min(&size)).unwrap());
            file.write_all_at(&bytes[..inside], *offset).unwrap();
        }
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn packed(source: &File) -> File {
        let target = tempfile::tempfile().unwrap();
        pack(source, &target).unwrap();
        target
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_the_same(
            pieces in prop::collection::vec(
                (0_u64..3_000_000, prop::collection::vec(any::<u8>(), 0..20_000)), 0..8,
            ),
            size in 0_u64..3_000_000,
        ) {
            let pieces: Vec<_> = pieces.into_iter().filter(|(at, _)| *at < size).collect();
            let source = file_with(&pieces, size);
            let target = tempfile::tempfile().unwrap();
            unpack(&packed(&source), &target).unwrap();
            prop_assert!(content(&source) == content(&target));
        }

        #[test]
        fn a_flipped_bit_is_noticed_wherever_it_is(position in any::<u64>(), bit in 0_u8..8) {
            let source = file_with(&[(5000, vec![1; 9000]), (100_000, vec![2; 100])], 200_000);
            let packed = packed(&source);
            let position = position % packed.metadata().unwrap().len();
            let mut byte = [0];
            packed.read_exact_at(&mut byte, position).unwrap();
            packed.write_all_at(&[byte[0] ^ (1 << bit)], position).unwrap();
            let target = tempfile::tempfile().unwrap();
            prop_assert!(unpack(&packed, &target).is_err());
        }

        #[test]
        fn a_truncated_image_is_noticed(kept in 0_u64..13_000) {
            let source = file_with(&[(5000, vec![1; 9000])], 20_000);
            let packed = packed(&source);
            packed.set_len(kept.min(packed.metadata().unwrap().len() - 1)).unwrap();
            let target = tempfile::tempfile().unwrap();
            prop_assert!(unpack(&packed, &target).is_err());
        }
    }

    #[test]
    fn a_size_that_no_file_has_is_noticed() {
        for size in [u64::MAX, u64::MAX - 4096, 1 << 63] {
            let packed = packed(&file_with(&[], 0));
            packed.write_all_at(&size.to_le_bytes(), 8).unwrap();
            assert!(unpack(&packed, &tempfile::tempfile().unwrap()).is_err());
        }
    }

    #[test]
    fn zeros_take_no_space() {
        let source = file_with(&[(0, vec![0; 1_000_000])], 1 << 30);
        assert!(packed(&source).metadata().unwrap().len() < 100);
    }
}
