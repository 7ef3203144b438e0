//! Parquet's hybrid of run lengths and packed bits, run by run.

/// Values one after the other.
#[derive(Clone, Copy)]
pub enum Run<'a> {
    Repeated(u32),
    /// Packed from the lowest bit on.
    Packed(&'a [u8]),
}

/// Runs with their lengths; the last may reach behind the last value. `None` in place of a run that is cut short.
pub struct Runs<'a> {
    bytes: &'a [u8],
    /// Bits of a value, 1 to 32.
    width: u8,
}

impl<'a> Runs<'a> {
    pub fn new(bytes: &'a [u8], width: u8) -> Self {
        assert!((1..=32).contains(&width), "{width} bits");
        Self { bytes, width }
    }

    /// A value of a packed run that has it.
    pub fn unpacked(&self, bits: &[u8], at: usize) -> u32 {
        let bit = at * usize::from(self.width);
        let mut bytes = [0; 8];
        let begin = &bits[bit / 8..];
        let known = begin.len().min(bytes.len());
        bytes[..known].copy_from_slice(&begin[..known]);
        // At most 7 + 32 bits of 64.
        (u64::from_le_bytes(bytes) >> (bit % 8) & ((1_u64 << self.width) - 1)) as u32
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0_usize;
        for shift in (0..35).step_by(7) {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= usize::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn run(&mut self) -> Option<(usize, Run<'a>)> {
        let header = self.varint()?;
        let count = header >> 1;
        if header & 1 == 1 {
            let (packed, rest) = self.bytes.split_at_checked(count.checked_mul(usize::from(self.width))?)?;
            self.bytes = rest;
            return Some((count.checked_mul(8)?, Run::Packed(packed)));
        }
        let (value, rest) = self.bytes.split_at_checked(usize::from(self.width.div_ceil(8)))?;
        self.bytes = rest;
        let value = value.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        Some((count, Run::Repeated(value)))
    }
}

impl<'a> Iterator for Runs<'a> {
    type Item = Option<(usize, Run<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let run = self.run();
        if run.is_none() {
            self.bytes = &[];
        }
        Some(run)
    }
}
