//! Taking the kernel proper out of the image that a boot loader would unpack:
//! QEMU starts the ELF inside directly, which saves the guest the unpacking.
//!
//! The layout is that of the kernel's `Documentation/x86/boot.rst`; the
//! payload is an LZ4 stream in the old ("legacy") format, followed by the
//! unpacked size. The file comes out of a signed package, but nothing here
//! relies on that.

use lz4_flex::block::decompress_into;

/// Debian's cloud kernel unpacks to 53 MB.
const VMLINUX_BYTES_MAX: usize = 256 << 20;

/// Every legacy block but the last unpacks to exactly this size.
const LZ4_BLOCK_BYTES: usize = 8 << 20;

const LZ4_LEGACY_MAGIC: u32 = 0x184C_2102;

const SECTOR_BYTES: usize = 512;

/// The first protocol version with `payload_offset` and `payload_length`.
const BOOT_PROTOCOL_MIN: u16 = 0x0208;

/// Offsets in the setup header.
mod offset {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const PROTOCOL: usize = 0x206;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

/// A kernel image that cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BzImageError {
    #[error("the image ends before its {part}")]
    Truncated { part: &'static str },

    #[error("it is not a bzImage of boot protocol 2.08 or newer")]
    NotBzImage,

    #[error("its payload is not an LZ4 stream")]
    NotLz4,

    #[error("its payload is damaged")]
    DamagedPayload,

    #[error("it unpacks to more than {VMLINUX_BYTES_MAX} bytes")]
    TooLarge,

    #[error("it does not hold a 64-bit ELF image with a PVH entry point")]
    NoPvhEntry,
}

/// The `vmlinux` inside of `image`, checked to be bootable by QEMU.
pub(crate) fn extract_vmlinux(image: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let vmlinux = unpack_legacy_lz4(payload(image)?)?;
    if has_pvh_note(&vmlinux) { Ok(vmlinux) } else { Err(BzImageError::NoPvhEntry) }
}

fn payload(image: &[u8]) -> Result<&[u8], BzImageError> {
    let truncated = BzImageError::Truncated { part: "header" };
    if bytes_at::<4>(image, offset::MAGIC).ok_or(truncated)? != *b"HdrS" {
        return Err(BzImageError::NotBzImage);
    }
    let protocol = bytes_at(image, offset::PROTOCOL).map(u16::from_le_bytes).ok_or(truncated)?;
    if protocol < BOOT_PROTOCOL_MIN {
        return Err(BzImageError::NotBzImage);
    }
    let setup_sectors = match image.get(offset::SETUP_SECTORS).ok_or(truncated)? {
        0 => 4, // as boot.rst defines it, for the sake of old images
        &count => usize::from(count),
    };
    let start = u32_at(image, offset::PAYLOAD_OFFSET)
        .and_then(|payload| payload.checked_add((setup_sectors + 1) * SECTOR_BYTES))
        .ok_or(truncated)?;
    let length = u32_at(image, offset::PAYLOAD_LENGTH).ok_or(truncated)?;
    start
        .checked_add(length)
        .and_then(|end| image.get(start..end))
        .ok_or(BzImageError::Truncated { part: "payload" })
}

fn unpack_legacy_lz4(payload: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let magic = bytes_at(payload, 0).map(u32::from_le_bytes);
    if magic != Some(LZ4_LEGACY_MAGIC) {
        return Err(BzImageError::NotLz4);
    }
    // The kernel's build appends the unpacked size: take it off the blocks.
    let (stream, size) = payload.split_last_chunk::<4>().ok_or(BzImageError::NotLz4)?;
    let size = u32::from_le_bytes(*size) as usize;
    if size > VMLINUX_BYTES_MAX {
        return Err(BzImageError::TooLarge);
    }
    let mut blocks = stream.get(4..).ok_or(BzImageError::NotLz4)?;
    let mut unpacked = Vec::new();
    let mut block_buffer = vec![0; LZ4_BLOCK_BYTES.min(size)];
    while !blocks.is_empty() {
        let length = u32_at(blocks, 0).ok_or(BzImageError::DamagedPayload)?;
        let end = length.checked_add(4).ok_or(BzImageError::DamagedPayload)?;
        let block = blocks.get(4..end).ok_or(BzImageError::DamagedPayload)?;
        let count = decompress_into(block, &mut block_buffer)
            .map_err(|_unpacking| BzImageError::DamagedPayload)?;
        if unpacked.len() + count > size {
            return Err(BzImageError::DamagedPayload);
        }
        unpacked.extend_from_slice(&block_buffer[..count]);
        blocks = &blocks[end..];
    }
    if unpacked.len() == size { Ok(unpacked) } else { Err(BzImageError::DamagedPayload) }
}

/// Whether QEMU's `-kernel` will take it: a 64-bit ELF whose notes hold
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
fn has_pvh_note(vmlinux: &[u8]) -> bool {
    const ELF64_LITTLE_ENDIAN: &[u8] = b"\x7fELF\x02\x01";
    /// `namesz` 4, `descsz` 4 or 8, type 18, name "Xen\0".
    const NOTE_TYPE_AND_NAME: &[u8] = b"\x12\0\0\0Xen\0";
    vmlinux.starts_with(ELF64_LITTLE_ENDIAN)
        && note_segments(vmlinux).any(|notes| {
            notes.windows(NOTE_TYPE_AND_NAME.len()).any(|window| window == NOTE_TYPE_AND_NAME)
        })
}

fn note_segments(elf: &[u8]) -> impl Iterator<Item = &[u8]> {
    const PT_NOTE: u32 = 4;
    let table = u64_at(elf, 0x20).unwrap_or(usize::MAX);
    let entry_bytes = bytes_at(elf, 0x36).map_or(0, u16::from_le_bytes);
    let count = bytes_at(elf, 0x38).map_or(0, u16::from_le_bytes);
    (0..usize::from(count)).filter_map(move |index| {
        let start = table.checked_add(index.checked_mul(usize::from(entry_bytes))?)?;
        let header = elf.get(start..)?;
        let kind = bytes_at(header, 0).map(u32::from_le_bytes)?;
        let offset = u64_at(header, 0x08)?;
        let end = offset.checked_add(u64_at(header, 0x20)?)?;
        (kind == PT_NOTE).then(|| elf.get(offset..end)).flatten()
    })
}

fn bytes_at<const COUNT: usize>(bytes: &[u8], offset: usize) -> Option<[u8; COUNT]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<usize> {
    bytes_at(bytes, offset).map(|bytes| u32::from_le_bytes(bytes) as usize)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes_at(bytes, offset)?)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The smallest ELF that passes: a header, one note segment, the note.
    fn vmlinux() -> Vec<u8> {
        let mut elf = vec![0; 0x78];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40; // program headers follow the file header
        elf[0x36] = 0x38;
        elf[0x38] = 1;
        elf[0x40] = 4; // PT_NOTE
        elf[0x48] = 0x78;
        elf[0x60] = 20;
        elf.extend_from_slice(b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\0\0\0\x01");
        elf
    }

    fn bzimage(vmlinux: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(vmlinux);
        let mut payload = LZ4_LEGACY_MAGIC.to_le_bytes().to_vec();
        payload.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        payload.extend(block);
        payload.extend(u32::try_from(vmlinux.len()).unwrap().to_le_bytes());

        let mut image = vec![0; 2 * SECTOR_BYTES];
        image[offset::SETUP_SECTORS] = 1;
        image[offset::MAGIC..offset::MAGIC + 4].copy_from_slice(b"HdrS");
        image[offset::PROTOCOL..offset::PROTOCOL + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        image[offset::PAYLOAD_LENGTH..offset::PAYLOAD_LENGTH + 4].copy_from_slice(&length);
        image.extend(payload);
        image
    }

    #[test]
    fn the_kernel_comes_out_as_it_went_in() {
        assert_eq!(extract_vmlinux(&bzimage(&vmlinux())), Ok(vmlinux()));
    }

    #[test]
    fn what_is_no_kernel_image_is_refused() {
        assert_eq!(extract_vmlinux(&vec![0; 4096]), Err(BzImageError::NotBzImage));
        assert_eq!(extract_vmlinux(b""), Err(BzImageError::Truncated { part: "header" }));
    }

    #[test]
    fn a_kernel_without_a_pvh_entry_is_refused() {
        let mut elf = vmlinux();
        elf[0x40] = 1; // PT_LOAD
        assert_eq!(extract_vmlinux(&bzimage(&elf)), Err(BzImageError::NoPvhEntry));
    }

    #[test]
    fn a_size_beyond_the_limit_is_refused_before_anything_is_unpacked() {
        let mut image = bzimage(&vmlinux());
        let end = image.len();
        image[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(extract_vmlinux(&image), Err(BzImageError::TooLarge));
    }

    proptest! {
        #[test]
        fn a_truncated_image_is_refused(keep in 0.0..1.0f64) {
            let image = bzimage(&vmlinux());
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share of a small length")]
            let length = (image.len() as f64 * keep) as usize;
            prop_assert!(extract_vmlinux(&image[..length]).is_err());
        }

        #[test]
        fn damage_anywhere_gives_an_error_or_the_kernel_but_no_panic(
            position: prop::sample::Index,
            value: u8,
        ) {
            let mut image = bzimage(&vmlinux());
            let position = position.index(image.len());
            image[position] = value;
            // Padding and most of the header mean nothing to the unpacker, and
            // the format has no checksum: that is what the package's is for.
            if let Ok(unpacked) = extract_vmlinux(&image) {
                prop_assert_eq!(unpacked.len(), vmlinux().len());
            }
        }
    }
}
