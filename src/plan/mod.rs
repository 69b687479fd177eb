//! A network planned for a SIMD level and a layout: the steps to compute, and where everything lies.
//!
//! What is left of a layer is chains of steps: one for each branch that it sums, and behind the sum the *tail*. A layer with
//! one branch has only the tail. Chains lie one after the other, those of a branch before the tail, so that step b of a
//! chain reads what step b - 1 has written.

mod builder;
mod samples;

use std::ops::Range;

use predictive_coding_kernels::{Layout, Level, Local};

use crate::affine::Affine;
use crate::dropout::Dropout;
use crate::product::Product;
use crate::wave::{Front, Wave};

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) level: Level,
    pub(crate) layout: Layout,
    /// Samples of a tile.
    pub(crate) images: usize,
    pub(crate) input: InputPlan,
    pub(crate) steps: Vec<Step>,
    pub(crate) layers: Vec<LayerPlan>,
    /// The beliefs that several links read, or none: layers from 0, and none for a free input.
    pub(crate) shared: Vec<Option<usize>>,
    /// The places of the values that each step reads and writes.
    pub(crate) inputs: Vec<Place>,
    pub(crate) outputs: Vec<Place>,
    /// The place in the scratch of the difference at the input of each step, where it is kept; those between layers are the
    /// relaxation's.
    pub(crate) differences: Vec<Range<usize>>,
    pub(crate) sizes: Sizes,
}

/// The network's input v_0.
#[derive(Debug)]
pub(crate) struct InputPlan {
    /// Channels and pixels.
    pub(crate) image: [usize; 2],
    pub(crate) value: Place,
    /// Its place among all layers' outputs; empty where it is clamped.
    pub(crate) output: Range<usize>,
    /// What its deviation from the given x is weighted by.
    pub(crate) precision: f64,
    /// What its step size is multiplied by.
    pub(crate) rate: f64,
}

/// Elements of the buffers of a session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) packed: usize,
    pub(crate) values: usize,
    pub(crate) differences: usize,
    pub(crate) band: usize,
    pub(crate) pulled: usize,
    /// Of the largest gradient on its way back through a chain.
    pub(crate) gradient: usize,
    /// Of the largest sum of branches.
    pub(crate) sum: usize,
    /// Of the largest input of a product.
    pub(crate) product_input: usize,
    /// Scratch for products and the weight gradients of convolutions.
    pub(crate) product_scratch: usize,
    /// The gradients that are summed tile by tile.
    pub(crate) partial: usize,
    /// The operands of the weight gradients of matrices, per sample.
    pub(crate) row: usize,
    /// Those of one relaxation, where a sample has two.
    pub(crate) side: usize,
    /// Scratch for the weight gradients of matrices, for each thread.
    pub(crate) gemm_scratch: usize,
}

/// Where values lie.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In the scratch: the network's input where it is clamped, and what is inside of layers.
    Inside(Range<usize>),
    /// Among the tile's activations.
    Output(Range<usize>),
}

impl Place {
    pub(crate) fn len(&self) -> usize {
        let (Place::Inside(range) | Place::Output(range)) = self;
        range.len()
    }
}

/// The belief that a chain reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Link {
    /// Index of the layer from 0; none for the network's input.
    pub(crate) source: Option<usize>,
    /// Whether it is the only link to its source.
    pub(crate) alone: bool,
}

/// What the tail of a layer reads.
#[derive(Debug)]
pub(crate) enum Inlet {
    Belief(Link),
    Sum(Sum),
}

/// A sum of branches.
#[derive(Debug)]
pub(crate) struct Sum {
    pub(crate) branches: Vec<Branch>,
    pub(crate) value: Range<usize>,
    pub(crate) difference: Range<usize>,
}

/// A chain of steps, or none, from a belief to a sum.
#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) link: Link,
    pub(crate) steps: Range<usize>,
    /// The place of the difference at its end, if that is made by a local operation.
    pub(crate) difference: Range<usize>,
}

/// A layer and the chains that compute it.
#[derive(Debug)]
pub(crate) struct LayerPlan {
    /// All steps, those of the tail at the end.
    pub(crate) steps: Range<usize>,
    pub(crate) inlet: Inlet,
    pub(crate) tail: Range<usize>,
    /// The place of v-hat_l, and of everything of its shape, among all layers' outputs.
    pub(crate) output: Range<usize>,
    /// Channels and pixels of v-hat_l.
    pub(crate) image: [usize; 2],
    /// The step of the tail up to whose input the layer is evaluated anew for the gradients after the beliefs have
    /// moved, if it has any.
    pub(crate) renewed: Option<usize>,
    /// Whether the last step is a local operation that takes its differences from the product before it
    /// band by band.
    pub(crate) fused: bool,
    /// The place of the error pulled back through the last step, if that is a local operation.
    pub(crate) pulled: Range<usize>,
    /// What the layer's error is weighted by; 1 at the output.
    pub(crate) precision: f64,
    /// What the step size of its belief is multiplied by.
    pub(crate) rate: f64,
    /// Where its gradients begin among those that are summed tile by tile, and among the operands of those of matrices. What
    /// the layers below have lies before.
    pub(crate) partial: usize,
    pub(crate) row: usize,
    pub(crate) wave: Wave,
}

impl LayerPlan {
    /// What it reads.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        let (one, branches) = match &self.inlet {
            Inlet::Belief(link) => (Some(link), &[][..]),
            Inlet::Sum(sum) => (None, &sum.branches[..]),
        };
        one.into_iter().chain(branches.iter().map(|branch| &branch.link))
    }

    fn links_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        let (one, branches) = match &mut self.inlet {
            Inlet::Belief(link) => (Some(link), &mut [][..]),
            Inlet::Sum(sum) => (None, &mut sum.branches[..]),
        };
        one.into_iter().chain(branches.iter_mut().map(|branch| &mut branch.link))
    }
}

#[derive(Debug)]
pub(crate) enum Step {
    Product(Box<Product>),
    Affine(Affine),
    Dropout(Dropout),
    Local(Box<Local>),
}

impl Plan {
    /// The place of a source's belief among all layers' outputs; empty for an input that is clamped.
    pub(crate) fn belief(&self, source: Option<usize>) -> Range<usize> {
        source.map_or(&self.input.output, |layer| &self.layers[layer].output).clone()
    }

    /// The precision of a source, and what its step size is multiplied by.
    pub(crate) fn pace(&self, source: Option<usize>) -> (f64, f64) {
        source.map_or((self.input.precision, self.input.rate), |layer| {
            (self.layers[layer].precision, self.layers[layer].rate)
        })
    }

    /// Whether a belief's prediction may leave v-hat, now or later. Else its epsilon is -u.
    pub(crate) fn is_predicted(&self, source: Option<usize>, front: Front) -> bool {
        let later = if front == Front::Parameters { front } else { Front::Beliefs };
        source.is_some_and(|layer| self.layers[layer].wave.is_predicted(later))
    }

    /// The beliefs on which not exactly one layer pulls: their own errors move them by themselves.
    pub(crate) fn pulled_apart(&self, front: Front) -> impl Iterator<Item = Option<usize>> {
        let idle = self.layers.iter().filter(move |layer| !layer.wave.is_wrong(front));
        let alone = idle.flat_map(LayerPlan::links).filter(|link| link.alone).map(|link| link.source);
        self.shared.iter().copied().chain(alone)
    }

    /// Elements of all layers' outputs.
    pub(crate) fn outputs_len(&self) -> usize {
        self.layers[self.layers.len() - 1].output.end
    }

    /// Elements of all beliefs: the outputs of all layers but the last, and a free input.
    pub(crate) fn hidden_len(&self) -> usize {
        self.layers[self.layers.len() - 1].output.start
    }

    /// Elements of one sample of a layer's output.
    pub(crate) fn elements(&self, layer: usize) -> usize {
        self.layers[layer].image.iter().product()
    }
}

impl Step {
    /// Whether there are gradients of what it computes with.
    pub(crate) fn has_parameters(&self) -> bool {
        match self {
            Step::Product(_) => true,
            Step::Affine(affine) => affine.is_trained(),
            Step::Dropout(_) | Step::Local(_) => false,
        }
    }
}
