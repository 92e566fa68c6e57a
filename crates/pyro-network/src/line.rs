//! The line to QEMU: Ethernet frames over a stream, each behind its length in four bytes, big-endian.

use std::io::{self, Read, Write};

use pyro_protocol::layout::network::{GATEWAY_MAC, GUEST_MAC, MTU};

const LENGTH_BYTES: usize = 4;
const ETHERNET_BYTES: usize = 14;

/// A frame with the largest packet that IP allows, which is a little more than the MTU.
const FRAME_BYTES_MAX: usize = ETHERNET_BYTES + 65_535;
const ON_LINE_BYTES_MAX: usize = LENGTH_BYTES + FRAME_BYTES_MAX;

/// What is read at once. QEMU's end holds about as much.
const INPUT_BYTES: usize = 256 * 1024;

/// What waits for QEMU to take it; beyond that nothing is made that can wait.
const OUTPUT_BYTES: usize = 256 * 1024;

const _: () = assert!(INPUT_BYTES >= 2 * ON_LINE_BYTES_MAX);
const _: () = assert!(MTU as usize + ETHERNET_BYTES <= FRAME_BYTES_MAX);

/// Frames from QEMU, while they arrive.
#[derive(Debug)]
pub(crate) struct Input {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

/// A length that no frame has. What follows it cannot be told apart, so it is the end of the line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BrokenLine;

impl Default for Input {
    fn default() -> Self {
        Self { bytes: vec![0; INPUT_BYTES].into(), start: 0, end: 0 }
    }
}

impl Input {
    /// Reads once. All whole frames were taken before, so there is room.
    pub(crate) fn read_from(&mut self, mut line: impl Read) -> io::Result<usize> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let read = line.read(&mut self.bytes[self.end..])?;
        self.end += read;
        Ok(read)
    }

    /// The next whole frame, if there is one.
    pub(crate) fn next_frame(&mut self) -> Result<Option<&[u8]>, BrokenLine> {
        let arrived = &self.bytes[self.start..self.end];
        let Some((length, rest)) = arrived.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| BrokenLine)?;
        if length > FRAME_BYTES_MAX {
            return Err(BrokenLine);
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        self.start += LENGTH_BYTES + length;
        Ok(Some(frame))
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EtherType {
    Ipv4,
    Ipv6,
    Arp,
}

impl EtherType {
    pub(crate) const fn number(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Ipv6 => 0x86dd,
            Self::Arp => 0x0806,
        }
    }
}

/// Frames for QEMU, as they go onto the line.
#[derive(Debug)]
pub(crate) struct Output {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Output {
    fn default() -> Self {
        let bytes = vec![0; OUTPUT_BYTES + 2 * ON_LINE_BYTES_MAX].into();
        Self { bytes, start: 0, end: 0 }
    }
}

impl Output {
    /// Whether there is room for what can wait until there is; always for one frame more.
    pub(crate) fn has_room(&self) -> bool {
        self.end - self.start < OUTPUT_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Adds a packet to the guest of `length` bytes, filled in by `fill`, which finds what was there before and
    /// says what it made. It is lost where nobody asked whether there is room.
    pub(crate) fn push_typed<R>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> (EtherType, R),
    ) -> R {
        let frame = ETHERNET_BYTES + length;
        let on_line = LENGTH_BYTES + frame;
        if self.bytes.len() - self.end < on_line {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let Some(place) = self.bytes.get_mut(self.end..self.end + on_line) else {
            return fill(&mut vec![0; length]).1;
        };
        let (header, packet) = place.split_at_mut(LENGTH_BYTES + ETHERNET_BYTES);
        let (ether_type, result) = fill(packet);
        let length = u32::try_from(frame).expect("no longer than the buffer");
        header[..4].copy_from_slice(&length.to_be_bytes());
        header[4..10].copy_from_slice(&GUEST_MAC);
        header[10..16].copy_from_slice(&GATEWAY_MAC);
        header[16..].copy_from_slice(&ether_type.number().to_be_bytes());
        self.end += on_line;
        result
    }

    /// The same for a packet whose type is known.
    pub(crate) fn push(
        &mut self,
        ether_type: EtherType,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        self.push_typed(length, |packet| (ether_type, fill(packet)));
    }

    /// Writes until nothing is left, or QEMU takes no more.
    pub(crate) fn write_to(&mut self, mut line: impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match line.write(&self.bytes[self.start..self.end]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.start += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        (self.start, self.end) = (0, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_line(frame: &[u8]) -> Vec<u8> {
        let length = u32::try_from(frame.len()).unwrap();
        [&length.to_be_bytes(), frame].concat()
    }

    #[test]
    fn frames_do_not_depend_on_how_their_bytes_arrive() {
        let stream = [on_line(b"first"), on_line(b""), on_line(&vec![7; FRAME_BYTES_MAX])].concat();
        for pieces in [1, 3, 1000, stream.len()] {
            let mut input = Input::default();
            let mut frames = Vec::new();
            for piece in stream.chunks(stream.len().div_ceil(pieces)) {
                assert_eq!(input.read_from(piece).unwrap(), piece.len());
                while let Some(frame) = input.next_frame().unwrap() {
                    frames.push(frame.to_vec());
                }
            }
            assert_eq!(frames, [b"first".to_vec(), Vec::new(), vec![7; FRAME_BYTES_MAX]]);
        }
    }

    #[test]
    fn a_length_that_no_frame_has_is_the_end_of_the_line() {
        let mut input = Input::default();
        let length = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
        input.read_from(&length.to_be_bytes()[..]).unwrap();
        assert_eq!(input.next_frame(), Err(BrokenLine));
    }

    #[test]
    fn what_qemu_does_not_take_is_kept_and_bounded() {
        let mut output = Output::default();
        let mut frames = 0;
        while output.has_room() {
            output.push(EtherType::Ipv4, usize::from(MTU), |packet| packet.fill(1));
            frames += 1;
        }
        // One more always finds room, and beyond that nothing is kept.
        for _ in 0..10 {
            output.push(EtherType::Ipv4, usize::from(MTU), |packet| packet.fill(1));
        }
        let mut taken = Vec::new();
        output.write_to(&mut taken).unwrap();
        assert!(output.is_empty() && output.has_room());
        let frame = LENGTH_BYTES + ETHERNET_BYTES + usize::from(MTU);
        assert_eq!(taken.len() % frame, 0);
        assert!(taken.len() / frame > frames);
        assert!(taken.len() <= OUTPUT_BYTES + 2 * ON_LINE_BYTES_MAX);
    }
}
