//! How the images of a batch lie in vectors, and the way to and from rows of samples.

use std::fmt;
use std::str::FromStr;

use crate::level::Level;
use crate::names::NameError;
use crate::simd::{Kernel, Simd, dispatch, lanes};

/// What the lanes of a vector are. A *tile* is the smallest piece of a batch that a layout holds: as many images as
/// a vector or some vectors have lanes, or a few.
///
/// ```
/// use predictive_coding_kernels::{Layout, Level};
///
/// let (level, layout) = (Level::detect(), Layout::Images);
/// let mut tile = vec![0.0; layout.len(level, [3, 4])];
/// layout.load(level, &[1.0; 12], [3, 4], &mut tile);
/// let mut row = [0.0; 12];
/// layout.store(level, &tile, [3, 4], &mut row, 1, 12);
/// assert_eq!(row, [1.0; 12]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// One image per lane, `[channels][height][width][LANES]`; good for few channels and full batches.
    Images,
    /// LANES channels of an image in a vector, `[images][channels / LANES][height][width][LANES]`, for so many images,
    /// which then meet the same weights: for many channels and any batch. No product reads lanes beyond the last channel,
    /// and every product writes 0 there.
    Channels(usize),
    /// One image per lane of so many vectors, `[features][vectors][LANES]`; for networks of matrices, which then use each
    /// weight for more images at a time.
    Batch(usize),
}

impl fmt::Display for Layout {
    /// The [name](Self::name).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Layout {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        NameError::find("layout", name, &[Layout::Images, Layout::Channels(1)])
    }
}

impl Layout {
    /// `images`, for one vector or several, or `channels`, for one image or several.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Images | Layout::Batch(_) => "images",
            Layout::Channels(_) => "channels",
        }
    }

    /// Images of a tile.
    pub fn images(self, level: Level) -> usize {
        match self {
            Layout::Channels(images) => images,
            Layout::Images | Layout::Batch(_) => self.pixel(level),
        }
    }

    /// Elements of a pixel of a plane.
    pub(crate) fn pixel(self, level: Level) -> usize {
        match self {
            Layout::Images | Layout::Channels(_) => lanes(level),
            Layout::Batch(vectors) => vectors.saturating_mul(lanes(level)),
        }
    }

    /// Planes `[height][width]` of [pixels](Self::images) of a tile with so many channels.
    pub fn planes(self, level: Level, channels: usize) -> usize {
        match self {
            Layout::Images | Layout::Batch(_) => channels,
            Layout::Channels(images) => images.saturating_mul(channels.div_ceil(lanes(level))),
        }
    }

    /// Whether channels lie across the lanes.
    pub fn is_channels(self) -> bool {
        matches!(self, Layout::Channels(_))
    }

    /// The pieces of a tile, each behind the other, that a product meets one by one: their number, and the layout of
    /// each.
    pub(crate) fn pieces(self) -> (usize, Layout) {
        match self {
            Layout::Channels(images) => (images, Layout::Channels(1)),
            Layout::Images | Layout::Batch(_) => (1, self),
        }
    }

    /// Elements of a tile of images of so many channels and pixels. Saturates.
    pub fn len(self, level: Level, [channels, pixels]: [usize; 2]) -> usize {
        self.planes(level, channels).saturating_mul(pixels).saturating_mul(self.pixel(level))
    }

    /// The positions of the elements of an image in a tile, in the order of its channels and pixels.
    ///
    /// # Panics
    /// If the tile has no such image.
    pub fn places(
        self,
        level: Level,
        [channels, pixels]: [usize; 2],
        image: usize,
    ) -> impl Iterator<Item = usize> + Clone {
        assert!(image < self.images(level), "image {image} of a tile of {}", self.images(level));
        let (lanes, width) = (lanes(level), self.pixel(level));
        (0..channels).flat_map(move |channel| {
            let (plane, lane) = match self {
                Layout::Images | Layout::Batch(_) => (channel, image),
                Layout::Channels(_) => (image * channels.div_ceil(lanes) + channel / lanes, channel % lanes),
            };
            (0..pixels).map(move |pixel| (plane * pixels + pixel) * width + lane)
        })
    }

    /// Copies images, each a row `[channels][pixels]`, one after the other, into a tile. All other lanes become 0.
    ///
    /// # Panics
    /// If a length does not fit, or there are more images than the tile holds.
    pub fn load(self, level: Level, rows: &[f32], [channels, pixels]: [usize; 2], tile: &mut [f32]) {
        let elements = channels * pixels;
        let images = rows.len().checked_div(elements).unwrap_or(0);
        assert!(
            images <= self.images(level)
                && images * elements == rows.len()
                && tile.len() == self.len(level, [channels, pixels]),
            "{} elements of images of {channels} x {pixels} do not fit a tile of {}",
            rows.len(),
            tile.len()
        );
        if images == 0 {
            return tile.fill(0.0);
        }
        let (pieces, layout) = self.pieces();
        let per_piece = images.min(layout.images(level));
        let squares = layout.squares(level, [channels, pixels], per_piece);
        let (rows, len) = (rows.chunks_exact(per_piece * elements), tile.len() / pieces);
        rows.zip(tile.chunks_exact_mut(len)).for_each(|(rows, tile)| dispatch(level, Load { rows, tile, squares }));
        tile[images.div_ceil(per_piece) * len..].fill(0.0);
    }

    /// The reverse of [`load`](Self::load) for the first `images` of a tile, to rows that begin `stride` elements
    /// apart; what lies between them stays as it is.
    ///
    /// # Panics
    /// If a length does not fit, rows overlap, or there are more images than the tile holds.
    pub fn store(
        self,
        level: Level,
        tile: &[f32],
        [channels, pixels]: [usize; 2],
        rows: &mut [f32],
        images: usize,
        stride: usize,
    ) {
        let elements = channels * pixels;
        let end = images.saturating_sub(1).checked_mul(stride).and_then(|last| last.checked_add(elements));
        assert!(
            images <= self.images(level)
                && (images < 2 || elements <= stride)
                && tile.len() == self.len(level, [channels, pixels])
                && (images == 0 || end.is_some_and(|end| end <= rows.len())),
            "{images} images of {channels} x {pixels} of a tile of {} do not fit {} elements of rows {stride} apart",
            tile.len(),
            rows.len()
        );
        if images == 0 {
            return;
        }
        let (pieces, layout) = self.pieces();
        let per_piece = images.min(layout.images(level));
        let squares = layout.squares(level, [channels, pixels], per_piece);
        let line_stride = if self.is_channels() { pixels } else { stride };
        for (piece, tile) in tile.chunks_exact(tile.len() / pieces).enumerate().take(images.div_ceil(per_piece)) {
            let rows = rows[piece * per_piece * stride..].as_mut_ptr();
            dispatch(level, Store { tile, rows, squares, stride: line_stride });
        }
    }

    /// The lines of some images of a piece.
    fn squares(self, level: Level, [channels, pixels]: [usize; 2], images: usize) -> Squares {
        let (lanes, width) = (lanes(level), self.pixel(level));
        match self {
            Layout::Images | Layout::Batch(_) => {
                Squares { lines: images, line: channels * pixels, planes: width / lanes, step: lanes, width }
            }
            Layout::Channels(_) => {
                Squares { lines: channels, line: pixels, planes: channels.div_ceil(lanes), step: lanes * pixels, width }
            }
        }
    }
}

/// Lines that become lanes: LANES lines of each plane of vectors, of the last ones fewer or none.
#[derive(Clone, Copy)]
struct Squares {
    lines: usize,
    line: usize,
    planes: usize,
    /// Distances of planes and of the vectors of a plane.
    step: usize,
    width: usize,
}

impl Squares {
    /// The first line of each plane, how many it has, and where its vectors begin.
    #[inline(always)]
    fn each(self, lanes: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..self.planes).map(move |plane| {
            let first = (plane * lanes).min(self.lines);
            (first, lanes.min(self.lines - first), plane * self.step)
        })
    }
}

struct Load<'a> {
    rows: &'a [f32],
    tile: &'a mut [f32],
    squares: Squares,
}

impl Kernel for Load<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Squares { line, width, .. } = self.squares;
        for (first, lines, at) in self.squares.each(S::LANES) {
            let rows = &self.rows[first * line..(first + lines) * line];
            let tile = &mut self.tile[at..][..(line - 1) * width + S::LANES];
            // SAFETY: `lines` rows of `line` elements are readable, and `line` vectors writable.
            unsafe { transpose_lines(s, rows.as_ptr(), line, [lines, line], tile.as_mut_ptr(), width) };
        }
    }
}

struct Store<'a> {
    tile: &'a [f32],
    rows: *mut f32,
    squares: Squares,
    stride: usize,
}

impl Kernel for Store<'_> {
    /// The rows must be valid for the lines.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Store { tile, rows, squares, stride } = self;
        for (first, lines, at) in squares.each(S::LANES).filter(|(_, lines, _)| *lines > 0) {
            let tile = &tile[at..][..(squares.line - 1) * squares.width + S::LANES];
            // SAFETY: `line` vectors are readable, and `line` elements of the rows writable.
            unsafe {
                let rows = rows.add(first * stride);
                transpose_vectors(s, tile.as_ptr(), squares.width, [squares.line, lines], rows, stride);
            }
        }
    }
}

/// Turns `lines` <= LANES lines of `len` elements, `stride` apart, into the lanes of vectors `width` apart, with 0 in
/// the lanes beyond.
///
/// # Safety
/// The lines must be readable, and `to` valid for `len` vectors.
#[inline(always)]
pub(crate) unsafe fn transpose_lines<S: Simd>(
    s: S,
    from: *const f32,
    stride: usize,
    [lines, len]: [usize; 2],
    to: *mut f32,
    width: usize,
) {
    let lanes = S::LANES;
    for at in (0..len).step_by(lanes) {
        // SAFETY: the lines from `at` on are readable, and as many vectors writable, by contract.
        unsafe {
            if lines == lanes && len >= lanes {
                // The last block ends with the lines, and makes some vectors again.
                let at = at.min(len - lanes);
                s.transpose(from.add(at), stride, to.add(at * width), width);
            } else {
                let columns = lanes.min(len - at);
                s.transpose_part(from.add(at), stride, [lines, columns], to.add(at * width), width, lanes);
            }
        }
    }
}

/// Turns `len` vectors, `width` apart, into `lines` <= LANES lines, `stride` apart.
///
/// # Safety
/// The vectors must be readable, and `to` valid for the lines.
#[inline(always)]
pub(crate) unsafe fn transpose_vectors<S: Simd>(
    s: S,
    from: *const f32,
    width: usize,
    [len, lines]: [usize; 2],
    to: *mut f32,
    stride: usize,
) {
    let lanes = S::LANES;
    for at in (0..len).step_by(lanes) {
        // SAFETY: the vectors from `at` on are readable, and as many elements of the lines writable, by contract.
        unsafe {
            if lines == lanes && len >= lanes {
                // The last block ends with the vectors, and makes some elements again.
                let at = at.min(len - lanes);
                s.transpose(from.add(at * width), width, to.add(at), stride);
            } else {
                let columns = lanes.min(len - at);
                s.transpose_part(from.add(at * width), width, [columns, lines], to.add(at), stride, columns);
            }
        }
    }
}

/// Turns planes with channels across lanes into plain rows of `len` pixels, one for each channel, `stride` apart.
///
/// # Safety
/// `to` must be valid for the rows.
pub(crate) unsafe fn store_channels(
    level: Level,
    tile: &[f32],
    [channels, len]: [usize; 2],
    rows: *mut f32,
    stride: usize,
) {
    let squares = Layout::Channels(1).squares(level, [channels, len], 1);
    dispatch(level, Store { tile, rows, squares, stride });
}
