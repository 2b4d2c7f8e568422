//! The timecode that test pages draw into their picture. `pages/timecode.js` draws the same.
//!
//! It has 32 x 4 square cells; white is 1, the most significant bit is first. Row 0: the byte 0xA5, then a
//! 24-bit counter; row 1: page time; row 2: event time; row 3: 16 user bits, then the CRC-16 (polynomial
//! 0x1021, start 0xFFFF) of the 14 bytes before it. Times are in tenths of a millisecond.

use crate::media::GrayImage;

/// Cells in a row.
pub const COLUMNS: usize = 32;
/// Rows of cells.
pub const ROWS: usize = 4;
const TIMECODE_LEN: usize = COLUMNS * ROWS / 8;
const SYNC_BYTE: u8 = 0xa5;
const NO_EVENT_TIME: u32 = u32::MAX;
/// Milliseconds after which the clock in a timecode begins anew.
const CLOCK_PERIOD_MS: f64 = 1e8;
// Limited range (16 to 235) is expanded to 0 to 255. Cells between these levels are blurred and not trusted.
const MAX_BLACK_LEVEL: u32 = 96;
const MIN_WHITE_LEVEL: u32 = 160;

/// Position of a timecode in the picture, in pixels.
#[derive(Debug, Clone, Copy)]
pub struct TimecodePosition {
    /// Left edge.
    pub x: usize,
    /// Top edge.
    pub y: usize,
    /// Width and height of a cell.
    pub cell_size: usize,
}

impl TimecodePosition {
    /// Position at which `timecode.js` draws: top left corner, cells of 8 pixels.
    pub const PAGE: Self = Self { x: 0, y: 0, cell_size: 8 };
}

/// Content of a timecode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timecode {
    /// Number of the drawn frame, 24 bits.
    pub counter: u32,
    /// Page time at which the frame was drawn, in 0.1 ms.
    pub page_time: u32,
    /// Page time of the last event, such as a beep, in 0.1 ms.
    pub event_time: Option<u32>,
    /// 16 bits that each page uses for its own purpose.
    pub user_bits: u16,
}

impl Timecode {
    /// Page time in seconds.
    #[must_use]
    pub fn page_s(&self) -> f64 {
        f64::from(self.page_time) / 1e4
    }

    /// Time at which the frame was drawn, in milliseconds since 1970: the one closest to `near_ms`. The page
    /// draws the machine's clock (`?absolute`), of which a timecode holds 28 hours.
    #[must_use]
    pub fn drawn_ms(&self, near_ms: f64) -> f64 {
        let later_by = (f64::from(self.page_time) / 10.0 - near_ms).rem_euclid(CLOCK_PERIOD_MS);
        near_ms + if later_by > CLOCK_PERIOD_MS / 2.0 { later_by - CLOCK_PERIOD_MS } else { later_by }
    }

    /// Event time in seconds.
    #[must_use]
    pub fn event_s(&self) -> Option<f64> {
        self.event_time.map(|t| f64::from(t) / 1e4)
    }

    /// Reads a timecode; `None` if there is none, or it is damaged or cut off.
    #[must_use]
    pub fn read(picture: &GrayImage, position: TimecodePosition) -> Option<Self> {
        if position.x + COLUMNS * position.cell_size > picture.width
            || position.y + ROWS * position.cell_size > picture.height
        {
            return None;
        }
        let mut bytes = [0_u8; TIMECODE_LEN];
        for bit in 0..COLUMNS * ROWS {
            let x = position.x + bit % COLUMNS * position.cell_size;
            let y = position.y + bit / COLUMNS * position.cell_size;
            let white = match cell_mean(picture, x, y, position.cell_size) {
                ..MAX_BLACK_LEVEL => false,
                MIN_WHITE_LEVEL.. => true,
                _ => return None,
            };
            bytes[bit / 8] = bytes[bit / 8] << 1 | u8::from(white);
        }
        Self::from_bytes(&bytes)
    }

    /// Draws the timecode into a picture.
    ///
    /// # Panics
    /// If it does not fit into the picture.
    pub fn draw(&self, picture: &mut GrayImage, position: TimecodePosition) {
        let bytes = self.to_bytes();
        for bit in 0..COLUMNS * ROWS {
            let value = if bytes[bit / 8] >> (7 - bit % 8) & 1 == 1 { 255 } else { 0 };
            let (x, y) = (
                position.x + bit % COLUMNS * position.cell_size,
                position.y + bit / COLUMNS * position.cell_size,
            );
            for row in y..y + position.cell_size {
                let start = row * picture.width + x;
                picture.data[start..start + position.cell_size].fill(value);
            }
        }
    }

    fn to_bytes(self) -> [u8; TIMECODE_LEN] {
        let mut bytes = [0; TIMECODE_LEN];
        bytes[..4].copy_from_slice(&(u32::from(SYNC_BYTE) << 24 | self.counter & 0xff_ffff).to_be_bytes());
        bytes[4..8].copy_from_slice(&self.page_time.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.event_time.unwrap_or(NO_EVENT_TIME).to_be_bytes());
        bytes[12..14].copy_from_slice(&self.user_bits.to_be_bytes());
        let crc = crc16(&bytes[..14]);
        bytes[14..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads the 16 bytes of a timecode; `None` if they are damaged.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; TIMECODE_LEN] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        if bytes[0] != SYNC_BYTE || half(14) != crc16(&bytes[..14]) {
            return None;
        }
        let event = word(8);
        Some(Self {
            counter: word(0) & 0xff_ffff,
            page_time: word(4),
            event_time: (event != NO_EVENT_TIME).then_some(event),
            user_bits: half(12),
        })
    }
}

/// Indexes of the pictures with which the page began anew: its counter is smaller than in the picture before.
#[must_use]
pub fn page_loads(timecodes: &[Timecode]) -> Vec<usize> {
    (1..timecodes.len()).filter(|at| timecodes[*at].counter < timecodes[at - 1].counter).collect()
}

/// Mean of the inner part of a cell. Its edges have ringing of the codec.
fn cell_mean(picture: &GrayImage, x: usize, y: usize, cell: usize) -> u32 {
    let margin = cell / 4;
    let side = cell - 2 * margin;
    let rows = (y + margin..y + margin + side).map(|row| row * picture.width + x + margin);
    let sum: u32 = rows.flat_map(|start| &picture.data[start..start + side]).map(|v| u32::from(*v)).sum();
    sum / u32::try_from(side * side).unwrap_or(u32::MAX)
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMECODE: Timecode =
        Timecode { counter: 0x12_3456, page_time: 987_654, event_time: Some(1_000_001), user_bits: 0xbeef };

    #[test]
    fn what_is_drawn_is_read() {
        for timecode in [TIMECODE, Timecode { event_time: None, ..TIMECODE }] {
            let mut picture = GrayImage::new(300, 50);
            let position = TimecodePosition { x: 11, y: 7, cell_size: 8 };
            timecode.draw(&mut picture, position);
            assert_eq!(Timecode::read(&picture, position), Some(timecode));
        }
    }

    #[test]
    fn a_wrong_cell_is_noticed() {
        let mut picture = GrayImage::new(256, 32);
        TIMECODE.draw(&mut picture, TimecodePosition::PAGE);
        for bit in 0..COLUMNS * ROWS {
            let mut damaged = picture.clone();
            let (x, y) = (bit % COLUMNS * 8, bit / COLUMNS * 8);
            for row in y..y + 8 {
                damaged.data[row * 256 + x..][..8].iter_mut().for_each(|v| *v = 255 - *v);
            }
            assert_eq!(Timecode::read(&damaged, TimecodePosition::PAGE), None, "cell {bit}");
        }
    }

    #[test]
    fn the_clock_is_read_around_its_end() {
        let timecode = |page_time| Timecode { page_time, ..TIMECODE };
        for (page_time, near_ms, expected_ms) in [
            (10_000_000, 1.7e12, 1.7e12 + 1e6),
            (999_990_000, 1.7e12 + 500.0, 1.7e12 - 1000.0),
            (1_000_000_100, 1.7e12, 1.7e12 + 10.0),
        ] {
            assert_eq!(timecode(page_time).drawn_ms(near_ms), expected_ms);
        }
    }

    #[test]
    fn a_page_begins_anew_with_a_smaller_counter() {
        let timecodes = [7, 7, 9, 0, 1, 0].map(|counter| Timecode { counter, ..TIMECODE });
        assert_eq!(page_loads(&timecodes), [3, 5]);
    }

    #[test]
    fn crc_has_the_published_check_value() {
        assert_eq!(crc16(b"123456789"), 0x29b1);
    }
}
