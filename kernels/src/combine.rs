//! What becomes of a result: a linear combination with what is there already.

/// What a product does to its output: `out = alpha sum + beta out + gamma other + bias`.
///
/// With a coefficient of 0, the output or the third tensor is not read, so it may hold anything; an output that takes
/// a step is always read. See [`elementwise::combine`](crate::elementwise::combine) for an example.
#[derive(Clone, Copy, Debug)]
pub struct Combine<'a> {
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old output.
    pub beta: f32,
    /// Factor of a third tensor of the output's shape.
    pub gamma: f32,
    /// The third tensor; needed if `gamma` is not 0.
    pub other: &'a [f32],
    /// One value per output channel, if any.
    pub bias: Option<&'a [f32]>,
    /// One factor for each image of the tile, if any. The combination is then a step, `out += factor combination`.
    pub step: Option<&'a [f32]>,
}

impl Default for Combine<'_> {
    /// The product itself.
    fn default() -> Self {
        Combine { alpha: 1.0, beta: 0.0, gamma: 0.0, other: &[], bias: None, step: None }
    }
}
