//! Cutting a side into blocks of equal size, so that no sliver is left.

use std::ops::Range;

/// `count` consecutive blocks whose sizes differ by one at most, the larger ones first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    count: usize,
    /// The size of the smaller ones.
    size: usize,
    /// How many are larger by one.
    larger: usize,
}

impl Blocks {
    /// The fewest blocks of at most `longest`; one empty block for a length of 0.
    pub(crate) fn new(length: usize, longest: usize) -> Self {
        Blocks::cut(length, length.div_ceil(longest).max(1))
    }

    /// `count` blocks, some of which may be empty.
    pub(crate) fn cut(length: usize, count: usize) -> Self {
        Blocks { count, size: length / count, larger: length % count }
    }

    pub(crate) fn count(self) -> usize {
        self.count
    }

    /// The size of the largest block.
    pub(crate) fn longest(self) -> usize {
        self.size + usize::from(self.larger > 0)
    }

    #[inline(always)]
    pub(crate) fn get(self, index: usize) -> Range<usize> {
        let start = |index: usize| index * self.size + index.min(self.larger);
        start(index)..start(index + 1)
    }

    /// A range of blocks, cut where their size changes.
    #[inline(always)]
    pub(crate) fn of_equal_size(self, blocks: Range<usize>) -> [Range<usize>; 2] {
        let middle = self.larger.clamp(blocks.start, blocks.end);
        [blocks.start..middle, middle..blocks.end]
    }

    #[inline(always)]
    pub(crate) fn iter(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.count).map(move |index| self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::Blocks;

    #[test]
    fn blocks_cover_a_side_in_order_and_differ_by_one_at_most() {
        for length in 0..50 {
            for longest in 1..20 {
                let blocks = Blocks::new(length, longest);
                let sizes: Vec<_> = blocks.iter().map(|block| block.len()).collect();
                assert_eq!(sizes.len(), length.div_ceil(longest).max(1));
                assert_eq!(blocks.iter().flatten().collect::<Vec<_>>(), (0..length).collect::<Vec<_>>());
                assert_eq!(sizes.iter().max(), Some(&blocks.longest()));
                assert!(blocks.longest() <= longest && blocks.longest() - sizes.iter().min().unwrap() <= 1);
            }
        }
    }
}
