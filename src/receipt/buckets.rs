//! Histograms of fixed buckets, as metrics have them: cheap to add to, and the same for every function.

/// The upper bounds of times, in nanoseconds: 1, 2.5 and 5 of each power of ten from 1 us to 10 s.
pub const TIME_BOUNDS: &[u64] = &[
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// The upper bounds of sizes, in bytes: powers of four from 64 B to 1 GiB.
pub const SIZE_BOUNDS: &[u64] = &[
    1 << 6,
    1 << 8,
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
    1 << 26,
    1 << 28,
    1 << 30,
];

/// How many values were in each bucket, and what they came to.
#[derive(Debug, Clone)]
pub struct Buckets {
    bounds: &'static [u64],
    /// One more than there are bounds, for what is above them all.
    counts: Box<[u64]>,
    sum: u64,
}

impl Buckets {
    /// Empty ones.
    pub fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1].into(), sum: 0 }
    }

    /// Adds a value: to the first bucket whose bound is not below it.
    pub fn add(&mut self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(value);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many were in each bucket, with its bound; the last has none.
    pub fn iter(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_holds_it() {
        let mut buckets = Buckets::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21, u64::MAX] {
            buckets.add(value);
        }
        assert_eq!(buckets.iter().collect::<Vec<_>>(), [(Some(10), 2), (Some(20), 2), (None, 2)]);
        assert_eq!((buckets.count(), buckets.sum()), (6, u64::MAX));
    }
}
