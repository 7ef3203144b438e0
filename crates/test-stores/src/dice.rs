/// Numbers that look like chance and are the same in every run: xorshift64.
pub struct Dice(u64);

impl Dice {
    /// `seed` is not 0.
    pub fn new(seed: u64) -> Self {
        assert!(seed != 0, "0 stays 0");
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    /// Flips a bit of `bytes`, and says which.
    pub fn flip(&mut self, bytes: &mut [u8]) -> usize {
        let bit = self.below(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        bit
    }
}
