//! Packed images that nobody packed.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use arbitrary::{Arbitrary, Unstructured};
use crc32fast::Hasher;
use rustix::fs::MemfdFlags;

use crate::packed::{pack, unpack};

const PAGE_BYTES: usize = 4096;

/// Images up to this size are compared byte by byte.
const COMPARED_BYTES_MAX: u64 = 1 << 20;

/// Any file, or one that looks like an image: unpacking it writes no more than the file holds and
/// nothing beyond the size that it declares; and what comes out can be packed again.
pub fn packed(data: &[u8]) {
    let image = match data.split_first() {
        None => return,
        Some((0..128, bytes)) => bytes.to_vec(),
        Some((_, description)) => {
            let Ok(sketch) = Sketch::arbitrary_take_rest(Unstructured::new(description)) else {
                return;
            };
            sketch.draw()
        }
    };
    let target = memfd();
    let outcome = unpack(&file_with(&image), &target);
    let metadata = target.metadata().expect("a memfd has a size");
    let declared = image.get(8..16).map(|word| u64::from_le_bytes(word.try_into().expect("8")));
    match outcome {
        Ok(()) => assert_eq!(Some(metadata.len()), declared),
        Err(_) => assert!(metadata.len() == 0 || Some(metadata.len()) == declared),
    }
    let allocated_bytes = metadata.blocks() * 512;
    assert!(allocated_bytes <= image.len() as u64, "{allocated_bytes} bytes from {}", image.len());
    if outcome.is_ok() && metadata.len() <= COMPARED_BYTES_MAX {
        let content = content(&target);
        assert!(content == unpacked(&image, metadata.len()), "a page is not where it belongs");
        let (again, twice) = (memfd(), memfd());
        pack(&target, &again).expect("memory can be read and written");
        unpack(&again, &twice).expect("what was packed can be unpacked");
        assert!(content == self::content(&twice), "packing changes what is packed");
    }
}

/// An image that is right but for what makes it wrong, because no fuzzer finds a checksum.
#[derive(Debug, Arbitrary)]
struct Sketch {
    pages: u8,
    last_page_bytes: u16,
    /// First page, pages, and what is in them.
    runs: Vec<(u8, u8, u8)>,
    declared_bytes: Option<u64>,
    declared_runs: Option<u64>,
    missing_bytes: Option<u16>,
    checksum: Option<u32>,
}

/// Pages drawn, runs, and pages of each: what matters does not need more, and an image stays small.
const PAGES_MAX: u8 = 12;
const RUNS_MAX: usize = 4;
const RUN_PAGES_MAX: u8 = 4;

impl Sketch {
    fn draw(self) -> Vec<u8> {
        let drawn = u64::from(self.pages % PAGES_MAX) * PAGE_BYTES as u64
            + u64::from(self.last_page_bytes) % PAGE_BYTES as u64;
        let runs: Vec<_> = self.runs.into_iter().take(RUNS_MAX).collect();
        let mut image = b"pyropack".to_vec();
        image.extend(self.declared_bytes.unwrap_or(drawn).to_le_bytes());
        image.extend(self.declared_runs.unwrap_or(runs.len() as u64).to_le_bytes());
        for (first, pages, _) in &runs {
            image.extend(u32::from(first % (PAGES_MAX + 2)).to_le_bytes());
            image.extend(u32::from(pages % RUN_PAGES_MAX).to_le_bytes());
        }
        let mut pages = Vec::new();
        for (_, count, fill) in &runs {
            pages.resize(pages.len() + usize::from(count % RUN_PAGES_MAX) * PAGE_BYTES, *fill);
        }
        let mut checksum = Hasher::new();
        checksum.update(&image);
        checksum.update(&pages);
        image.extend(self.checksum.unwrap_or(checksum.finalize()).to_le_bytes());
        image.extend(pages);
        image.truncate(image.len() - usize::from(self.missing_bytes.unwrap_or(0)).min(image.len()));
        image
    }
}

/// What an image means, put together in the simplest way.
fn unpacked(image: &[u8], size: u64) -> Vec<u8> {
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("4")) as usize;
    let run_count = word(16);
    let mut pages = image[24 + run_count * 8 + 4..].chunks_exact(PAGE_BYTES);
    let mut content = vec![0; usize::try_from(size).expect("small").next_multiple_of(PAGE_BYTES)];
    for run in 0..run_count {
        let (first, count) = (word(24 + run * 8), word(28 + run * 8));
        assert!((first + count) * PAGE_BYTES <= content.len(), "a run ends beyond the end");
        for place in content.chunks_exact_mut(PAGE_BYTES).skip(first).take(count) {
            place.copy_from_slice(pages.next().expect("as many as the runs say"));
        }
    }
    content.truncate(usize::try_from(size).expect("small"));
    content
}

fn memfd() -> File {
    let memory = rustix::fs::memfd_create("pyro-fuzz", MemfdFlags::CLOEXEC);
    memory.expect("memory is there").into()
}

fn file_with(bytes: &[u8]) -> File {
    let file = memfd();
    file.write_all_at(bytes, 0).expect("memory can be written");
    file
}

fn content(file: &File) -> Vec<u8> {
    let length = file.metadata().expect("a memfd has a size").len();
    let mut bytes = vec![0; usize::try_from(length).expect("small")];
    file.read_exact_at(&mut bytes, 0).expect("memory can be read");
    bytes
}
