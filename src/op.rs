//! The operations that layers are made of, named and meant as in PyTorch, with its defaults.

use std::fmt;
use std::str::FromStr;

use predictive_coding_kernels::{Conv, ConvShape, Divisor, Local};

use crate::error::{Error, Result};
use crate::init::Init;
use crate::loss::is_factor;
use crate::names::names;
use crate::product::ProductShape;
use crate::setters::setters;

/// The most classes, and elements of a pooling window: they are numbered by f32.
pub(crate) const MAX_COUNTED: usize = 1 << 24;
/// Lanes of the widest level, to each of which a network has to fit.
const MAX_LANES: usize = 16;
/// The most bytes of tables of addresses, which grow with the square of the ways in which windows meet the border.
pub(crate) const MAX_TABLES: usize = 1 << 30;

/// One operation of a layer. Pairs are (vertical, horizontal). See [`Network`](crate::Network) for an example.
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "type", rename_all = "snake_case")
)]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// 2-D convolution of `[channels, height, width]`.
    Conv2d(Conv2d),
    /// Transposed 2-D convolution of `[channels, height, width]`: the derivative of a convolution by its input.
    ConvTranspose2d(ConvTranspose2d),
    /// Affine map of a flat input.
    Linear(Linear),
    /// Maximum over windows; padding never wins.
    MaxPool2d(MaxPool2d),
    /// Mean over windows; padding adds zeros.
    AvgPool2d(AvgPool2d),
    /// Mean over windows chosen so that the output has a given size.
    AdaptiveAvgPool2d {
        /// Height and width of the output; 0 for that of the input.
        output_size: [usize; 2],
    },
    /// All elements of a sample normalised to a mean of 0 and a variance of 1, then scaled and shifted element by element.
    LayerNorm(Norm),
    /// All elements of a sample divided by the root of the mean of their squares, then scaled element by element.
    RmsNorm(Norm),
    /// Groups of channels normalised to a mean of 0 and a variance of 1, then scaled and shifted channel by channel.
    GroupNorm {
        /// A divisor of the channels.
        num_groups: usize,
        /// The other arguments.
        #[cfg_attr(feature = "serde", serde(flatten))]
        norm: Norm,
    },
    /// Each channel normalised by running statistics that stay as they are, as in PyTorch's evaluation, then scaled and
    /// shifted. Those of the batch itself would let samples see one another, which predictive coding can not have.
    BatchNorm2d(Norm),
    /// In a step of training, each element is 0 with probability `p`, and 1 / (1 - p) times as large otherwise; else x. See
    /// [`Options::dropout_seed`](crate::Options::dropout_seed).
    Dropout {
        /// At least 0 and below 1, default 0.5.
        #[cfg_attr(feature = "serde", serde(default = "half"))]
        p: f64,
    },
    /// Any shape to one axis.
    Flatten,
    /// One axis to an image, in the order of [`Flatten`](Op::Flatten).
    Unflatten {
        /// Channels, height and width.
        size: [usize; 3],
    },
    /// max(x, 0).
    Relu,
    /// x where x > 0, `negative_slope` x elsewhere.
    LeakyRelu {
        /// Slope for x <= 0.
        negative_slope: f32,
    },
    /// x limited to a range, from -1 to 1 by default.
    Hardtanh {
        /// The least value.
        min_val: f32,
        /// The largest value.
        max_val: f32,
    },
    /// x where x > 0, `alpha` (exp(x) - 1) elsewhere.
    Elu {
        /// Minus the value far below 0, default 1.
        alpha: f32,
    },
    /// The ELU with an alpha of 1.6733, times 1.0507.
    Selu,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// x Phi(x) with the normal distribution function Phi.
    Gelu {
        /// How Phi is computed, as it is by default.
        #[cfg_attr(feature = "serde", serde(default))]
        approximate: Approximation,
    },
    /// x sigmoid(x).
    Silu,
    /// log(1 + exp(beta x)) / beta.
    Softplus {
        /// How steep the bend is, default 1.
        #[cfg_attr(feature = "serde", serde(default = "usual_beta"))]
        beta: f32,
        /// Where beta x is above, the result is x; default 20, from where on that makes no difference.
        #[cfg_attr(feature = "serde", serde(default = "usual_threshold"))]
        threshold: f32,
    },
    /// x.
    Identity,
}

/// How a [`Gelu`](Op::Gelu) computes the normal distribution function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Approximation {
    /// As it is.
    #[default]
    None,
    /// As (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    Tanh,
}

names!(Approximation, "approximation", { None => "none", Tanh => "tanh" });

/// Arguments of a 2-D convolution.
///
/// ```
/// use predictive_coding::{Conv2d, Op};
///
/// let halving = Op::Conv2d(Conv2d::new(8, [3, 3]).with_stride([2, 2]).with_padding([1, 1]));
/// assert_eq!(halving.output_shape(&[3, 32, 32])?, [8, 16, 16]);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Conv2d {
    /// Number of output channels.
    pub out_channels: usize,
    /// Height and width of the kernel.
    pub kernel_size: [usize; 2],
    /// Step between windows, default 1.
    pub stride: [usize; 2],
    /// Zeros added around the image, default none.
    pub padding: Padding,
    /// Step between the taps of a window, default 1.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other, default 1. As many as there are channels make a depthwise
    /// convolution.
    #[cfg_attr(feature = "serde", serde(default = "one_group"))]
    pub groups: usize,
    /// Whether a bias is added, default true.
    pub bias: bool,
    /// Factor of the product, but not of the bias, default 1.
    #[cfg_attr(feature = "serde", serde(default = "one"))]
    pub scale: f64,
    /// How its weights are drawn, default as PyTorch's.
    #[cfg_attr(feature = "serde", serde(default))]
    pub init: Init,
}

impl Conv2d {
    /// A convolution with PyTorch's defaults.
    pub fn new(out_channels: usize, kernel_size: [usize; 2]) -> Self {
        Conv2d {
            out_channels,
            kernel_size,
            stride: [1, 1],
            padding: Padding::Zeros([0, 0]),
            dilation: [1, 1],
            groups: 1,
            bias: true,
            scale: 1.0,
            init: Init::Pytorch,
        }
    }

    /// The same with another [`padding`](Self::padding).
    pub fn with_padding(self, padding: impl Into<Padding>) -> Self {
        Conv2d { padding: padding.into(), ..self }
    }

    /// Zeros on each side, and at the end besides.
    fn zeros(&self) -> [[usize; 2]; 2] {
        match self.padding {
            Padding::Zeros(zeros) => [zeros, [0, 0]],
            Padding::Same => {
                let all =
                    [0, 1].map(|axis| self.kernel_size[axis].saturating_sub(1).saturating_mul(self.dilation[axis]));
                [all.map(|all| all / 2), all.map(|all| all % 2)]
            }
        }
    }

    /// As the kernels take it, of an input of this shape.
    pub(crate) fn shape(&self, input: &[usize]) -> ConvShape {
        let [padding, extra] = self.zeros();
        ConvShape {
            input: [input[1], input[2]],
            kernel: self.kernel_size,
            stride: self.stride,
            padding,
            extra,
            dilation: self.dilation,
            ..ConvShape::linear(input[0], self.out_channels)
        }
    }
}

/// Arguments of a transposed 2-D convolution. Its weight is `[in, out / groups, height, width]`.
///
/// ```
/// use predictive_coding::{ConvTranspose2d, Op};
///
/// let doubling = Op::ConvTranspose2d(ConvTranspose2d::new(3, [4, 4]).with_stride([2, 2]).with_padding([1, 1]));
/// assert_eq!(doubling.output_shape(&[8, 16, 16])?, [3, 32, 32]);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConvTranspose2d {
    /// Number of output channels.
    pub out_channels: usize,
    /// Height and width of the kernel.
    pub kernel_size: [usize; 2],
    /// Step between the windows that the elements of the input make, default 1.
    pub stride: [usize; 2],
    /// Elements that are cut off on each side, default 0.
    pub padding: [usize; 2],
    /// Elements of the output besides, at the end, fewer than the stride; default 0.
    pub output_padding: [usize; 2],
    /// Step between the taps of a window, default 1.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other, default 1.
    #[cfg_attr(feature = "serde", serde(default = "one_group"))]
    pub groups: usize,
    /// Whether a bias is added, default true.
    pub bias: bool,
    /// How its weights are drawn, default as PyTorch's.
    #[cfg_attr(feature = "serde", serde(default))]
    pub init: Init,
}

impl ConvTranspose2d {
    /// A transposed convolution with PyTorch's defaults.
    pub fn new(out_channels: usize, kernel_size: [usize; 2]) -> Self {
        ConvTranspose2d {
            out_channels,
            kernel_size,
            stride: [1, 1],
            padding: [0, 0],
            output_padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
            bias: true,
            init: Init::Pytorch,
        }
    }

    /// Height and width of the output: (size - 1) stride - 2 padding + extent + output_padding. None if that is below 1 or
    /// too large.
    fn output(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let windows = size[axis].checked_sub(1)?.checked_mul(self.stride[axis])?;
            let all = windows.checked_add(extent(self.kernel_size[axis], self.dilation[axis])?)?;
            let all = all.checked_add(self.output_padding[axis])?;
            all.checked_sub(self.padding[axis].checked_mul(2)?).filter(|&output| output > 0)
        };
        Some([along(0)?, along(1)?])
    }

    /// The convolution whose transpose it is, of an input of this shape.
    fn convolution(&self, input: &[usize], output: [usize; 2]) -> ConvShape {
        ConvShape {
            input: output,
            kernel: self.kernel_size,
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
            ..ConvShape::linear(self.out_channels, input[0])
        }
    }
}

setters!(ConvTranspose2d {
    with_stride(stride: [usize; 2]),
    with_padding(padding: [usize; 2]),
    with_output_padding(output_padding: [usize; 2]),
    with_dilation(dilation: [usize; 2]),
    with_groups(groups: usize),
    with_bias(bias: bool),
    with_init(init: Init),
});

/// Arguments of a normalisation.
///
/// ```
/// use predictive_coding::{Norm, Op};
///
/// let groups = Op::GroupNorm { num_groups: 2, norm: Norm::default().with_affine(false) };
/// assert_eq!(groups.output_shape(&[4, 8, 8])?, [4, 8, 8]);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Norm {
    /// What is added to the variance, above 0; default 1e-5.
    pub eps: f64,
    /// Whether the result is scaled and shifted by parameters; default true.
    pub affine: bool,
}

impl Default for Norm {
    fn default() -> Self {
        Norm { eps: 1e-5, affine: true }
    }
}

setters!(Norm { with_eps(eps: f64), with_affine(affine: bool) });

/// The zeros around the image of a [`Conv2d`].
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Padding {
    /// As many as keep the size of the image, for strides of 1. Of an odd number the larger half is at the end.
    #[cfg_attr(feature = "serde", serde(rename = "same"))]
    Same,
    /// So many above and below, and so many left and right.
    #[cfg_attr(feature = "serde", serde(untagged))]
    Zeros([usize; 2]),
}

impl From<[usize; 2]> for Padding {
    fn from(zeros: [usize; 2]) -> Self {
        Padding::Zeros(zeros)
    }
}

/// Arguments of an affine map.
///
/// ```
/// use predictive_coding::{Linear, Op};
///
/// let readout = Op::Linear(Linear::new(10).with_bias(false));
/// assert_eq!(readout.output_shape(&[128])?, [10]);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Linear {
    /// Number of outputs.
    pub out_features: usize,
    /// Whether a bias is added, default true.
    pub bias: bool,
    /// Factor of the product, but not of the bias, default 1.
    #[cfg_attr(feature = "serde", serde(default = "one"))]
    pub scale: f64,
    /// How its weights are drawn, default as PyTorch's.
    #[cfg_attr(feature = "serde", serde(default))]
    pub init: Init,
}

impl Linear {
    /// An affine map with PyTorch's defaults.
    pub fn new(out_features: usize) -> Self {
        Linear { out_features, bias: true, scale: 1.0, init: Init::Pytorch }
    }
}

/// Arguments of max pooling.
///
/// ```
/// use predictive_coding::{MaxPool2d, Op};
///
/// let pool = Op::MaxPool2d(MaxPool2d::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]));
/// assert_eq!(pool.output_shape(&[8, 28, 28])?, [8, 14, 14]);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MaxPool2d {
    /// Height and width of a window.
    pub kernel_size: [usize; 2],
    /// Step between windows, default `kernel_size`.
    pub stride: [usize; 2],
    /// Padding on each side, at most half of the window, default 0.
    pub padding: [usize; 2],
    /// Step between the elements of a window, default 1.
    pub dilation: [usize; 2],
    /// Whether a window may reach beyond the padding at the end, default false.
    #[cfg_attr(feature = "serde", serde(default))]
    pub ceil_mode: bool,
}

impl MaxPool2d {
    /// A pooling with PyTorch's defaults.
    pub fn new(kernel_size: [usize; 2]) -> Self {
        MaxPool2d { kernel_size, stride: kernel_size, padding: [0, 0], dilation: [1, 1], ceil_mode: false }
    }

    /// Its windows, as those of a convolution of each channel by itself.
    pub(crate) fn shape(&self, input: &[usize]) -> ConvShape {
        ConvShape {
            input: [input[1], input[2]],
            kernel: self.kernel_size,
            stride: self.stride,
            padding: self.padding,
            extra: self.beyond([input[1], input[2]]),
            dilation: self.dilation,
            ..ConvShape::linear(input[0], input[0])
        }
    }

    /// How far the last windows reach beyond the padding. As in PyTorch, a window that begins there is none.
    fn beyond(&self, size: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let extent = extent(self.kernel_size[axis], self.dilation[axis]).unwrap_or(usize::MAX);
            let (stride, padding) = (self.stride[axis], self.padding[axis]);
            let padded = size[axis].saturating_add(padding.saturating_mul(2));
            if !self.ceil_mode || stride == 0 {
                return 0;
            }
            match padded.checked_sub(extent) {
                // A window that is larger than all it could be on begins at its begin, if the next would be outside.
                None => {
                    if extent - padded < stride {
                        extent - padded
                    } else {
                        0
                    }
                }
                Some(room) => {
                    let next = (room / stride).saturating_add(1).saturating_mul(stride);
                    if room % stride > 0 && next < size[axis] + padding { next - room } else { 0 }
                }
            }
        })
    }
}

/// Arguments of average pooling.
///
/// ```
/// use predictive_coding::{AvgPool2d, Op};
///
/// let pool = Op::AvgPool2d(AvgPool2d::new([2, 2]));
/// assert_eq!(pool.output_shape(&[8, 28, 28])?, [8, 14, 14]);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AvgPool2d {
    /// Height and width of a window.
    pub kernel_size: [usize; 2],
    /// Step between windows, default `kernel_size`.
    pub stride: [usize; 2],
    /// Padding on each side, at most half of the window, default 0.
    pub padding: [usize; 2],
    /// Whether a window may reach beyond the padding at the end, default false. What is beyond never counts.
    #[cfg_attr(feature = "serde", serde(default))]
    pub ceil_mode: bool,
    /// Whether padding counts in what a sum is divided by, default true.
    #[cfg_attr(feature = "serde", serde(default = "yes"))]
    pub count_include_pad: bool,
    /// What a sum is divided by, default the number of elements of the window.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub divisor_override: Option<usize>,
}

impl AvgPool2d {
    /// A pooling with PyTorch's defaults.
    pub fn new(kernel_size: [usize; 2]) -> Self {
        AvgPool2d {
            kernel_size,
            stride: kernel_size,
            padding: [0, 0],
            ceil_mode: false,
            count_include_pad: true,
            divisor_override: None,
        }
    }

    /// Its windows, as those of a convolution of each channel by itself.
    pub(crate) fn shape(&self, input: &[usize]) -> ConvShape {
        self.windows().shape(input)
    }

    fn windows(&self) -> MaxPool2d {
        let AvgPool2d { kernel_size, stride, padding, ceil_mode, .. } = *self;
        MaxPool2d { kernel_size, stride, padding, dilation: [1, 1], ceil_mode }
    }

    pub(crate) fn divisor(&self) -> Divisor {
        match self.divisor_override {
            Some(number) => Divisor::Number(number),
            None if self.count_include_pad => Divisor::Padded,
            None => Divisor::Inside,
        }
    }
}

/// The size of the output of an adaptive pooling.
pub(crate) fn adaptive_size(output: [usize; 2], input: &[usize]) -> [usize; 2] {
    [0, 1].map(|axis| if output[axis] == 0 { input[axis + 1] } else { output[axis] })
}

setters!(Conv2d {
    with_groups(groups: usize),
    with_stride(stride: [usize; 2]),
    with_dilation(dilation: [usize; 2]),
    with_bias(bias: bool),
    with_scale(scale: f64),
    with_init(init: Init),
});
setters!(Linear { with_bias(bias: bool), with_scale(scale: f64), with_init(init: Init) });
setters!(MaxPool2d {
    with_stride(stride: [usize; 2]),
    with_padding(padding: [usize; 2]),
    with_dilation(dilation: [usize; 2]),
    with_ceil_mode(ceil_mode: bool),
});
setters!(AvgPool2d {
    with_stride(stride: [usize; 2]),
    with_padding(padding: [usize; 2]),
    with_ceil_mode(ceil_mode: bool),
    with_count_include_pad(count_include_pad: bool),
    with_divisor_override(divisor_override: Option<usize>),
});

impl Op {
    /// With PyTorch's defaults.
    pub const DROPOUT: Op = Op::Dropout { p: 0.5 };
    /// With PyTorch's defaults.
    pub const LEAKY_RELU: Op = Op::LeakyRelu { negative_slope: 0.01 };
    /// With PyTorch's defaults.
    pub const HARDTANH: Op = Op::Hardtanh { min_val: -1.0, max_val: 1.0 };
    /// With PyTorch's defaults.
    pub const ELU: Op = Op::Elu { alpha: 1.0 };
    /// With PyTorch's defaults.
    pub const GELU: Op = Op::Gelu { approximate: Approximation::None };
    /// With PyTorch's defaults.
    pub const SOFTPLUS: Op = Op::Softplus { beta: 1.0, threshold: 20.0 };

    /// The name in a model file.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv2d(_) => "conv2d",
            Op::ConvTranspose2d(_) => "conv_transpose2d",
            Op::Linear(_) => "linear",
            Op::MaxPool2d(_) => "max_pool2d",
            Op::AvgPool2d(_) => "avg_pool2d",
            Op::AdaptiveAvgPool2d { .. } => "adaptive_avg_pool2d",
            Op::LayerNorm(_) => "layer_norm",
            Op::RmsNorm(_) => "rms_norm",
            Op::GroupNorm { .. } => "group_norm",
            Op::BatchNorm2d(_) => "batch_norm2d",
            Op::Dropout { .. } => "dropout",
            Op::Flatten => "flatten",
            Op::Unflatten { .. } => "unflatten",
            Op::Relu => "relu",
            Op::LeakyRelu { .. } => "leaky_relu",
            Op::Hardtanh { .. } => "hardtanh",
            Op::Elu { .. } => "elu",
            Op::Selu => "selu",
            Op::Tanh => "tanh",
            Op::Sigmoid => "sigmoid",
            Op::Gelu { .. } => "gelu",
            Op::Silu => "silu",
            Op::Softplus { .. } => "softplus",
            Op::Identity => "identity",
        }
    }

    /// How its parameters are drawn.
    pub(crate) fn init(&self) -> Init {
        match self {
            Op::Conv2d(Conv2d { init, .. })
            | Op::ConvTranspose2d(ConvTranspose2d { init, .. })
            | Op::Linear(Linear { init, .. }) => *init,
            _ => Init::default(),
        }
    }

    /// Whether it multiplies by weights.
    pub(crate) fn is_product(&self) -> bool {
        matches!(self, Op::Conv2d(_) | Op::ConvTranspose2d(_) | Op::Linear(_))
    }

    /// The product that it is, if it is one, of an input that it takes.
    pub(crate) fn product(&self, input: &[usize]) -> Option<ProductShape> {
        let (conv, transposed, groups, scale) = match self {
            Op::Conv2d(conv) => (conv.shape(input), false, conv.groups, conv.scale),
            Op::ConvTranspose2d(transpose) => {
                let output = transpose.output([input[1], input[2]])?;
                (transpose.convolution(input, output), true, transpose.groups, 1.0)
            }
            Op::Linear(linear) => (ConvShape::linear(input[0], linear.out_features), false, 1, linear.scale),
            _ => return None,
        };
        Some(ProductShape { conv, transposed, groups, scale })
    }

    /// The scale of a product.
    pub(crate) fn scale_mut(&mut self) -> Option<&mut f64> {
        match self {
            Op::Conv2d(conv) => Some(&mut conv.scale),
            Op::Linear(linear) => Some(&mut linear.scale),
            _ => None,
        }
    }

    /// How the weights of a product are drawn.
    pub(crate) fn init_mut(&mut self) -> Option<&mut Init> {
        match self {
            Op::Conv2d(conv) => Some(&mut conv.init),
            Op::ConvTranspose2d(transpose) => Some(&mut transpose.init),
            Op::Linear(linear) => Some(&mut linear.init),
            _ => None,
        }
    }

    /// Whether the Jacobian depends on where it is taken.
    pub(crate) fn has_slope(&self) -> bool {
        match self {
            Op::Conv2d(_) | Op::ConvTranspose2d(_) | Op::Linear(_) => false,
            Op::AvgPool2d(_) | Op::AdaptiveAvgPool2d { .. } | Op::BatchNorm2d(_) | Op::Dropout { .. } => false,
            Op::LayerNorm(_) | Op::RmsNorm(_) | Op::GroupNorm { .. } => true,
            Op::Flatten | Op::Unflatten { .. } | Op::Identity => false,
            Op::MaxPool2d(_) | Op::Relu | Op::LeakyRelu { .. } | Op::Hardtanh { .. } => true,
            Op::Elu { .. } | Op::Selu | Op::Tanh | Op::Sigmoid => true,
            Op::Gelu { .. } | Op::Silu | Op::Softplus { .. } => true,
        }
    }

    /// At most so many bytes of tables of addresses does its plan have, given the shape of a sample before.
    pub(crate) fn table_bytes(&self, input: &[usize]) -> usize {
        match self {
            Op::MaxPool2d(pool) => Local::pool_table_bytes(&pool.shape(input)),
            Op::AvgPool2d(pool) => Local::pool_table_bytes(&pool.shape(input)),
            Op::AdaptiveAvgPool2d { output_size } => {
                Local::adaptive_table_bytes([input[1], input[2]], adaptive_size(*output_size, input))
            }
            _ => self.product(input).map_or(0, |product| Conv::table_bytes(&product.conv)),
        }
    }

    /// The shape of a sample after this operation, given its shape before.
    ///
    /// # Errors
    /// [`Error::Network`] if the operation takes no such shape, or its arguments make no sense.
    pub fn output_shape(&self, input: &[usize]) -> Result<Vec<usize>> {
        match self {
            Op::Conv2d(conv) => {
                let [channels, height, width] = self.image(input)?;
                self.positive("out_channels", &[conv.out_channels])?;
                self.groups(conv.groups, [channels, conv.out_channels])?;
                self.scale(conv.scale)?;
                if conv.padding == Padding::Same && conv.stride != [1, 1] {
                    return Err(Error::Network(format!(
                        "conv2d has padding \"same\" with stride {:?}, expected a stride of 1 or numbers for the padding",
                        conv.stride
                    )));
                }
                let [padding, extra] = conv.zeros();
                let [height, width] =
                    self.windows([height, width], conv.kernel_size, conv.stride, [padding, extra], conv.dilation)?;
                match conv.shape(input).refusal(MAX_LANES) {
                    None => Ok(vec![conv.out_channels, height, width]),
                    Some(_) => Err(Error::Network(format!(
                        "conv2d of {input:?} with {conv:?} is beyond what is addressed, expected padded images below \
                         2^32 elements and weights of a channel below 2^28; use fewer channels, a smaller kernel or \
                         less padding"
                    ))),
                }
            }
            Op::ConvTranspose2d(transpose) => {
                let [channels, height, width] = self.image(input)?;
                let ConvTranspose2d { out_channels, kernel_size, stride, output_padding, dilation, groups, .. } =
                    transpose;
                self.positive("out_channels", &[*out_channels])?;
                self.positive("kernel_size", kernel_size)?;
                self.positive("stride", stride)?;
                self.positive("dilation", dilation)?;
                self.groups(*groups, [channels, *out_channels])?;
                if let Some(axis) = (0..2).find(|&axis| output_padding[axis] >= stride[axis]) {
                    return Err(Error::Network(format!(
                        "conv_transpose2d has output_padding {} with a stride of {}, expected less than the stride",
                        output_padding[axis], stride[axis]
                    )));
                }
                let Some([rows, columns]) = transpose.output([height, width]) else {
                    return Err(Error::Network(format!(
                        "conv_transpose2d of {input:?} has no output, as padding {:?} cuts all of it off; use less padding",
                        transpose.padding
                    )));
                };
                match transpose.convolution(input, [rows, columns]).refusal(MAX_LANES) {
                    None => Ok(vec![*out_channels, rows, columns]),
                    Some(_) => Err(Error::Network(format!(
                        "conv_transpose2d of {input:?} with {transpose:?} is beyond what is addressed, expected padded images \
                         below 2^32 elements and weights of a channel below 2^28; use fewer channels or a smaller kernel"
                    ))),
                }
            }
            Op::Linear(linear) => {
                self.positive("out_features", &[linear.out_features])?;
                self.scale(linear.scale)?;
                match input {
                    [_] => Ok(vec![linear.out_features]),
                    _ => Err(Error::Network(format!(
                        "linear takes a flat input, found {input:?}; put a flatten before it"
                    ))),
                }
            }
            Op::MaxPool2d(pool) => {
                let [channels, height, width] = self.image(input)?;
                self.pool_padding(pool.kernel_size, pool.padding, pool.dilation)?;
                let zeros = [pool.padding, pool.beyond([height, width])];
                let windows = self.windows([height, width], pool.kernel_size, pool.stride, zeros, pool.dilation)?;
                let shape = pool.shape(input);
                // To look at the windows takes as long as to measure their tables.
                let few = Local::pool_table_bytes(&shape) <= MAX_TABLES;
                let empty = |axis: usize| Some((axis, shape.empty_window(axis)?));
                if let Some((axis, window)) = [0, 1].into_iter().filter(|_| few).find_map(empty) {
                    return Err(Error::Network(format!(
                        "max_pool2d has a window (number {window} of an axis of {}) all of whose elements are padding, \
                         expected at least one inside; use a smaller padding or dilation",
                        shape.input[axis]
                    )));
                }
                let [height, width] = windows;
                Ok(vec![channels, height, width])
            }
            Op::AvgPool2d(pool) => {
                let [channels, height, width] = self.image(input)?;
                self.pool_padding(pool.kernel_size, pool.padding, [1, 1])?;
                if let Some(divisor) = pool.divisor_override.filter(|divisor| !(1..=MAX_COUNTED).contains(divisor)) {
                    return Err(Error::Network(format!(
                        "avg_pool2d has divisor_override {divisor}, expected a number from 1 to {MAX_COUNTED}"
                    )));
                }
                let zeros = [pool.padding, pool.windows().beyond([height, width])];
                let [height, width] = self.windows([height, width], pool.kernel_size, pool.stride, zeros, [1, 1])?;
                Ok(vec![channels, height, width])
            }
            Op::AdaptiveAvgPool2d { output_size } => {
                let [channels, ..] = self.image(input)?;
                let [height, width] = adaptive_size(*output_size, input);
                Ok(vec![channels, height, width])
            }
            Op::LayerNorm(norm) | Op::RmsNorm(norm) => self.normalised(norm, input),
            Op::GroupNorm { num_groups, norm } => {
                self.positive("num_groups", &[*num_groups])?;
                match input[0].is_multiple_of(*num_groups) {
                    true => self.normalised(norm, input),
                    false => Err(Error::Network(format!(
                        "group_norm has num_groups {num_groups}, expected a divisor of the channels, {}",
                        input[0]
                    ))),
                }
            }
            Op::BatchNorm2d(norm) => {
                self.image(input)?;
                self.normalised(norm, input)
            }
            Op::Dropout { p } => match (0.0..1.0).contains(p) {
                true => Ok(input.to_vec()),
                false => Err(Error::Network(format!("dropout has p {p}, expected a number of at least 0 and below 1"))),
            },
            Op::Flatten => Ok(vec![input.iter().product()]),
            Op::Unflatten { size } => match input {
                [features] if size.iter().try_fold(1usize, |n, &side| n.checked_mul(side)) == Some(*features) => {
                    Ok(size.to_vec())
                }
                [features] => Err(Error::Network(format!(
                    "unflatten has size {size:?} for {features} features, expected sizes whose product is their number"
                ))),
                _ => Err(Error::Network(format!(
                    "unflatten takes a flat input, found {input:?}; put a flatten before it"
                ))),
            },
            &Op::LeakyRelu { negative_slope } => {
                self.finite("negative_slope", negative_slope)?;
                Ok(input.to_vec())
            }
            &Op::Hardtanh { min_val, max_val } => {
                self.finite("min_val", min_val)?;
                self.finite("max_val", max_val)?;
                match min_val < max_val {
                    true => Ok(input.to_vec()),
                    false => Err(Error::Network(format!(
                        "hardtanh has min_val {min_val} and max_val {max_val}, expected the first below the second"
                    ))),
                }
            }
            &Op::Elu { alpha } => {
                self.finite("alpha", alpha)?;
                Ok(input.to_vec())
            }
            &Op::Softplus { beta, threshold } => {
                self.finite("threshold", threshold)?;
                match is_factor(beta.into()) {
                    true => Ok(input.to_vec()),
                    false => Err(Error::Network(format!(
                        "softplus has beta {beta}, expected a number above 0, from 1e-37 to 1e37"
                    ))),
                }
            }
            _ => Ok(input.to_vec()),
        }
    }

    fn image(&self, input: &[usize]) -> Result<[usize; 3]> {
        <[usize; 3]>::try_from(input).map_err(|_| {
            Error::Network(format!("{} takes an input of [channels, height, width], found {input:?}", self.name()))
        })
    }

    fn normalised(&self, norm: &Norm, input: &[usize]) -> Result<Vec<usize>> {
        match is_factor(norm.eps) {
            true => Ok(input.to_vec()),
            false => Err(Error::Network(format!(
                "{} has eps {}, expected a number above 0, from 1e-37 to 1e37",
                self.name(),
                norm.eps
            ))),
        }
    }

    fn finite(&self, argument: &str, value: f32) -> Result<()> {
        match value.is_finite() {
            true => Ok(()),
            false => Err(Error::Network(format!("{} has {argument} {value}, expected a finite number", self.name()))),
        }
    }

    fn positive(&self, argument: &str, values: &[usize]) -> Result<()> {
        match values.contains(&0) {
            true => Err(Error::Network(format!("{} has {argument} 0, expected at least 1", self.name()))),
            false => Ok(()),
        }
    }

    fn groups(&self, groups: usize, channels: [usize; 2]) -> Result<()> {
        self.positive("groups", &[groups])?;
        match channels.iter().find(|&channels| !channels.is_multiple_of(groups)) {
            None => Ok(()),
            Some(channels) => Err(Error::Network(format!(
                "{} has groups {groups}, expected a divisor of the channels, {channels}",
                self.name()
            ))),
        }
    }

    fn scale(&self, scale: f64) -> Result<()> {
        match is_factor(scale.abs()) {
            true => Ok(()),
            false => Err(Error::Network(format!(
                "{} has scale {scale}, expected a number other than 0, of a size from 1e-37 to 1e37",
                self.name()
            ))),
        }
    }

    fn pool_padding(&self, kernel: [usize; 2], padding: [usize; 2], dilation: [usize; 2]) -> Result<()> {
        self.positive("kernel_size", &kernel)?;
        if kernel[0].checked_mul(kernel[1]).is_none_or(|taps| taps > MAX_COUNTED) {
            return Err(Error::Network(format!(
                "{} has kernel_size {kernel:?}, expected at most {MAX_COUNTED} elements",
                self.name()
            )));
        }
        for axis in 0..2 {
            let extent = extent(kernel[axis], dilation[axis]).unwrap_or(usize::MAX);
            if padding[axis] > extent / 2 {
                return Err(Error::Network(format!(
                    "{} has padding {} with a window of {extent}, expected at most half of it ({})",
                    self.name(),
                    padding[axis],
                    extent / 2
                )));
            }
        }
        Ok(())
    }

    /// Number of windows along each axis: floor((size + 2 padding + extra - extent) / stride) + 1.
    fn windows(
        &self,
        size: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        [padding, extra]: [[usize; 2]; 2],
        dilation: [usize; 2],
    ) -> Result<[usize; 2]> {
        self.positive("kernel_size", &kernel)?;
        self.positive("stride", &stride)?;
        self.positive("dilation", &dilation)?;
        let mut windows = [0; 2];
        for axis in 0..2 {
            let padded = padding[axis].checked_mul(2).and_then(|p| p.checked_add(size[axis])?.checked_add(extra[axis]));
            windows[axis] = match (padded, extent(kernel[axis], dilation[axis])) {
                (Some(padded), Some(extent)) if extent <= padded => (padded - extent) / stride[axis] + 1,
                _ => {
                    return Err(Error::Network(format!(
                        "{} has a window of {} with dilation {}, larger than its padded input ({} + 2 x {})",
                        self.name(),
                        kernel[axis],
                        dilation[axis],
                        size[axis],
                        padding[axis]
                    )));
                }
            };
        }
        Ok(windows)
    }
}

#[cfg(feature = "serde")]
fn yes() -> bool {
    true
}

/// What serde takes for groups that are left out.
#[cfg(feature = "serde")]
fn one_group() -> usize {
    1
}

#[cfg(feature = "serde")]
fn one() -> f64 {
    1.0
}

#[cfg(feature = "serde")]
fn half() -> f64 {
    0.5
}

#[cfg(feature = "serde")]
fn usual_beta() -> f32 {
    1.0
}

#[cfg(feature = "serde")]
fn usual_threshold() -> f32 {
    20.0
}

/// Elements that a dilated window spans.
fn extent(kernel: usize, dilation: usize) -> Option<usize> {
    (kernel.checked_sub(1)?).checked_mul(dilation)?.checked_add(1)
}

impl fmt::Display for Op {
    /// The [name](Self::name).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Op {
    type Err = Error;

    /// The operation of that name with PyTorch's defaults, for those that need no arguments.
    fn from_str(name: &str) -> Result<Self> {
        const NAMES: [&str; 24] = [
            "conv2d",
            "conv_transpose2d",
            "linear",
            "max_pool2d",
            "avg_pool2d",
            "adaptive_avg_pool2d",
            "layer_norm",
            "rms_norm",
            "group_norm",
            "batch_norm2d",
            "dropout",
            "flatten",
            "unflatten",
            "relu",
            "leaky_relu",
            "hardtanh",
            "elu",
            "selu",
            "tanh",
            "sigmoid",
            "gelu",
            "silu",
            "softplus",
            "identity",
        ];
        match name {
            "layer_norm" => Ok(Op::LayerNorm(Norm::default())),
            "rms_norm" => Ok(Op::RmsNorm(Norm::default())),
            "batch_norm2d" => Ok(Op::BatchNorm2d(Norm::default())),
            "dropout" => Ok(Op::DROPOUT),
            "flatten" => Ok(Op::Flatten),
            "relu" => Ok(Op::Relu),
            "leaky_relu" => Ok(Op::LEAKY_RELU),
            "hardtanh" => Ok(Op::HARDTANH),
            "elu" => Ok(Op::ELU),
            "selu" => Ok(Op::Selu),
            "tanh" => Ok(Op::Tanh),
            "sigmoid" => Ok(Op::Sigmoid),
            "gelu" => Ok(Op::GELU),
            "silu" => Ok(Op::Silu),
            "softplus" => Ok(Op::SOFTPLUS),
            "identity" => Ok(Op::Identity),
            name if NAMES.contains(&name) => Err(Error::Argument(format!(
                "{name} has no size by itself, expected an operation that needs no arguments"
            ))),
            _ => Err(Error::unknown("operation", name, &NAMES)),
        }
    }
}
