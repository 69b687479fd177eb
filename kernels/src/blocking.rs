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

    /// The blocks of a range, cut where their size changes, without empty ones.
    #[inline(always)]
    pub(crate) fn equal(self, blocks: Range<usize>) -> impl Iterator<Item = EqualBlocks> {
        let middle = self.larger.clamp(blocks.start, blocks.end);
        [(blocks.start..middle, self.size + 1), (middle..blocks.end, self.size)].into_iter().filter_map(
            move |(blocks, size)| {
                let start = self.get(blocks.start).start;
                (!blocks.is_empty() && size > 0).then_some(EqualBlocks { start, count: blocks.len(), size })
            },
        )
    }

    /// All blocks, cut where their size changes, without empty ones.
    pub(crate) fn all_equal(self) -> impl Iterator<Item = EqualBlocks> {
        self.equal(0..self.count)
    }

    #[inline(always)]
    pub(crate) fn iter(self) -> impl Iterator<Item = Range<usize>> + Clone {
        (0..self.count).map(move |index| self.get(index))
    }
}

/// Consecutive blocks of one size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EqualBlocks {
    pub(crate) start: usize,
    pub(crate) count: usize,
    pub(crate) size: usize,
}

#[cfg(test)]
mod tests {
    use super::Blocks;

    #[test]
    fn equal_blocks_are_the_blocks_in_order() {
        for (length, count) in (0..30).flat_map(|length| (1..8).map(move |count| (length, count))) {
            let blocks = Blocks::cut(length, count);
            for range in (0..=count).flat_map(|cut| [0..cut, cut..count]) {
                let equal = blocks.equal(range.clone()).flat_map(|equal| {
                    (0..equal.count).map(move |i| equal.start + i * equal.size..equal.start + (i + 1) * equal.size)
                });
                let expected = range.map(|i| blocks.get(i)).filter(|block| !block.is_empty());
                assert_eq!(equal.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn blocks_cover_a_side_in_order_and_differ_by_one_at_most() {
        for (length, longest) in (0..50).flat_map(|length| (1..20).map(move |longest| (length, longest))) {
            let blocks = Blocks::new(length, longest);
            let sizes: Vec<_> = blocks.iter().map(|block| block.len()).collect();
            assert_eq!(sizes.len(), length.div_ceil(longest).max(1));
            assert_eq!(blocks.iter().flatten().collect::<Vec<_>>(), (0..length).collect::<Vec<_>>());
            assert_eq!(sizes.iter().max(), Some(&blocks.longest()));
            assert!(blocks.longest() <= longest && blocks.longest() - sizes.iter().min().unwrap() <= 1);
        }
    }
}
