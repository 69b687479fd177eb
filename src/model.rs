//! The model file: a network in TOML.
//!
//! ```toml
//! input = [1, 28, 28]
//! loss = "mse"
//!
//! [[layer]]
//! ops = [
//!   { type = "conv2d", out_channels = 10, kernel_size = 3, padding = [1, 0] },
//!   { type = "relu" },
//!   { type = "flatten" },
//! ]
//!
//! [[layer]]
//! ops = [ { type = "linear", out_features = 10 } ]
//! ```

use std::fmt::Write;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use toml::{Spanned, Table, Value};

use crate::error::{Error, Result};
use crate::files;
use crate::init::Init;
use crate::loss::{Loss, Reduction};
use crate::network::{Branch, LayerSpec, Network, Scaling};
use crate::op::{Approximation, AvgPool2d, Conv2d, ConvTranspose2d, Linear, MaxPool2d, Norm, Op, Padding};

/// No description of a chain of layers needs more bytes than this.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    input: Vec<usize>,
    loss: Spanned<LossTable>,
    scaling: Option<Spanned<String>>,
    init: Option<Spanned<String>>,
    layer: Vec<LayerTable>,
}

/// A name, or a name with what is not as usual.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected the name of a loss, or { type, reduction, weight } with reduction and weight left out for 1 times the mean"
)]
enum LossTable {
    Name(String),
    Table(LossArguments),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LossArguments {
    r#type: String,
    reduction: Option<String>,
    weight: Option<f64>,
}

impl LossTable {
    fn read(&self) -> Result<Loss> {
        let (name, reduction, weight) = match self {
            LossTable::Name(name) => (name, None, None),
            LossTable::Table(LossArguments { r#type, reduction, weight }) => (r#type, reduction.as_deref(), *weight),
        };
        let usual: Loss = name.parse()?;
        let reduction = reduction.map_or(Ok(usual.reduction), str::parse)?;
        Ok(usual.with_reduction(reduction).with_weight(weight.unwrap_or(usual.weight)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerTable {
    name: Option<String>,
    branches: Option<Vec<BranchTable>>,
    ops: Option<Vec<Spanned<Table>>>,
    precision: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BranchTable {
    from: Option<Spanned<String>>,
    #[serde(default)]
    ops: Vec<Spanned<Table>>,
}

impl Network {
    /// The network that a model file describes: `input` is the shape of one sample, `loss` is
    /// `cross_entropy` or `mse`, or a table as in
    /// `{ type = "mse", reduction = "sum", weight = 0.5 }` ([`Loss`]), and each `[[layer]]` has a list `ops` of
    /// operations and, if it is hidden, may have a `precision` ([`Network::with_precision`]). Operations take the arguments of [`Op`] under their names there; sizes are an integer or a pair.
    ///
    /// # Errors
    /// [`Error::Network`], one line, for anything that is not understood: the line or the
    /// operation, by the numbers that are in the names of its tensors, what was found and what was expected.
    pub fn from_toml(text: &str) -> Result<Self> {
        let line = |offset: usize| text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1;
        let model: Model = toml::from_str(text).map_err(|error| {
            let place = error.span().map_or(String::new(), |span| format!("line {}: ", line(span.start)));
            Error::Network(format!("{place}{}", error.message().trim().replace('\n', ", ")))
        })?;
        let loss = model.loss.get_ref().read().map_err(|message| {
            let line = line(model.loss.span().start);
            Error::Network(format!("line {line}: {message}"))
        })?;
        let named = |name: &Spanned<String>, error: Error| {
            let line = line(name.span().start);
            Error::Network(format!("line {line}: {error}"))
        };
        let scaling =
            model.scaling.map(|name| name.get_ref().parse().map_err(|error| named(&name, error))).transpose()?;
        let init = match (model.init, scaling) {
            (Some(name), _) => name.get_ref().parse().map_err(|error| named(&name, error))?,
            (None, Some(Scaling::Mupc)) => Init::StandardNormal,
            (None, None) => Init::default(),
        };
        let read_ops = |chain: &str, ops: &[Spanned<Table>]| {
            let read = |(o, table): (usize, &Spanned<Table>)| {
                read_op(table.get_ref(), init).map_err(|message| {
                    let line = line(table.span().start);
                    Error::Network(format!("line {line}, operation {chain}.{o}: {message}"))
                })
            };
            ops.iter().enumerate().map(read).collect::<Result<Vec<Op>>>()
        };
        let mut layers: Vec<LayerSpec> = Vec::with_capacity(model.layer.len());
        for (l, LayerTable { name, branches, ops, precision }) in model.layer.into_iter().enumerate() {
            let mut read = Vec::new();
            for (index, BranchTable { from, ops }) in branches.iter().flatten().enumerate() {
                let from = match from {
                    None => l,
                    Some(from) => source(from.get_ref(), &layers).map_err(|message| {
                        let line = line(from.span().start);
                        Error::Network(format!("line {line}, layer {}, branch {index}: {message}", l + 1))
                    })?,
                };
                read.push(Branch::new(from, read_ops(&format!("{l}.branches.{index}"), ops)?));
            }
            if branches.is_some_and(|branches| branches.is_empty()) {
                return Err(Error::Network(format!(
                    "layer {}: branches is empty, expected at least one; leave it out to read the layer before",
                    l + 1
                )));
            }
            if read.is_empty() && ops.is_none() {
                return Err(Error::Network(format!("layer {}: has neither ops nor branches, expected either", l + 1)));
            }
            let layer = LayerSpec::from(read_ops(&l.to_string(), &ops.unwrap_or_default())?);
            layers.push(layer.with_name(name).with_branches(read).with_precision(precision.unwrap_or(1.0)));
        }
        let network = Network::new(&model.input, loss, layers)?;
        Ok(match scaling {
            Some(scaling) => network.with_scaling(scaling),
            None => network,
        })
    }

    /// As [`from_toml`](Self::from_toml), from a file.
    ///
    /// # Errors
    /// [`Error::File`] with its path, whose source is that of [`from_toml`](Self::from_toml).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = files::read_at_most(path, files::open(path)?, MAX_BYTES)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::file(path, "is not UTF-8 text, expected a network in TOML; is it the right file?"))?;
        Network::from_toml(&text).map_err(|error| Error::file(path, &error).because(error))
    }

    /// The model file of this network, with every argument spelled out. Networks of the same text
    /// compute the same.
    pub fn to_toml(&self) -> String {
        let mut text = format!("input = {:?}\nloss = {}\n", self.input_shape(), write_loss(self.loss()));
        let names = self.names();
        for (l, layer) in self.layers().iter().enumerate() {
            text.push_str("\n[[layer]]\n");
            if let Some(name) = &names[l + 1] {
                let _ = writeln!(text, "name = {}", quoted(name));
            }
            if layer.precision() != 1.0 {
                let _ = writeln!(text, "precision = {:?}", layer.precision());
            }
            if !layer.is_plain(l) {
                text.push_str("branches = [\n");
                for branch in layer.branches() {
                    let from = names[branch.from()].as_deref().unwrap_or_default();
                    let _ = writeln!(text, "  {{ from = {}, ops = [", quoted(from));
                    branch.ops().iter().for_each(|op| write_op(&mut text, op));
                    text.push_str("  ] },\n");
                }
                text.push_str("]\n");
            }
            text.push_str("ops = [\n");
            layer.ops().iter().for_each(|op| write_op(&mut text, op));
            text.push_str("]\n");
        }
        text
    }

    /// The names by which branches know the input and the layers: their own, or one for those that are read by a branch.
    fn names(&self) -> Vec<Option<String>> {
        let given = self.layers().iter().map(|layer| layer.name().map(str::to_string));
        let mut names: Vec<_> = std::iter::once(Some("input".to_string())).chain(given).collect();
        for (l, layer) in self.layers().iter().enumerate() {
            for from in layer.branches().iter().map(Branch::from).filter(|_| !layer.is_plain(l)) {
                if names[from].is_none() {
                    let candidates = (0..).map(|n| format!("layer{from}{}", "_".repeat(n)));
                    names[from] = candidates.into_iter().find(|name| !names.contains(&Some(name.clone())));
                }
            }
        }
        names
    }
}

/// A string of TOML.
fn quoted(name: &str) -> Value {
    Value::String(name.to_string())
}

/// The earlier layer of this name, from 1, or 0 for the input.
fn source(name: &str, layers: &[LayerSpec]) -> std::result::Result<usize, String> {
    if name == "input" {
        return Ok(0);
    }
    let found = layers.iter().position(|layer| layer.name.as_deref() == Some(name));
    found.map(|l| l + 1).ok_or_else(|| {
        let known: Vec<&str> = layers.iter().filter_map(|layer| layer.name.as_deref()).collect();
        format!(
            "from = {name:?}, expected the name of an earlier layer: {}",
            ["input"].into_iter().chain(known).collect::<Vec<_>>().join(", ")
        )
    })
}

fn write_loss(loss: Loss) -> String {
    let Loss { function, reduction, weight } = loss;
    let name = function.name();
    match loss == (Loss { reduction: Reduction::Mean, weight: 1.0, function }) {
        true => format!("\"{name}\""),
        false => format!("{{ type = \"{name}\", reduction = \"{}\", weight = {weight:?} }}", reduction.name()),
    }
}

/// `init`: how weights are drawn of which no more is said.
fn read_op(table: &Table, init: Init) -> std::result::Result<Op, String> {
    let name = match table.get("type") {
        Some(Value::String(name)) => name.as_str(),
        Some(other) => return Err(format!("type is {other}, expected the name of an operation")),
        None => return Err("no type, expected the name of an operation".into()),
    };
    let mut arguments = Arguments { op: name, table, known: vec!["type"] };
    let op = match name {
        "conv2d" => Op::Conv2d(Conv2d {
            out_channels: arguments.count("out_channels")?,
            kernel_size: arguments.size("kernel_size")?,
            stride: arguments.size_or("stride", [1, 1])?,
            padding: arguments.padding()?,
            dilation: arguments.size_or("dilation", [1, 1])?,
            groups: arguments.optional_count("groups")?.unwrap_or(1),
            bias: arguments.flag_or("bias", true)?,
            scale: arguments.real_or("scale", 1.0)?,
            init: arguments.name_or("init", init)?,
        }),
        "conv_transpose2d" => Op::ConvTranspose2d(ConvTranspose2d {
            out_channels: arguments.count("out_channels")?,
            kernel_size: arguments.size("kernel_size")?,
            stride: arguments.size_or("stride", [1, 1])?,
            padding: arguments.size_or("padding", [0, 0])?,
            output_padding: arguments.size_or("output_padding", [0, 0])?,
            dilation: arguments.size_or("dilation", [1, 1])?,
            groups: arguments.optional_count("groups")?.unwrap_or(1),
            bias: arguments.flag_or("bias", true)?,
            init: arguments.name_or("init", init)?,
        }),
        "layer_norm" => Op::LayerNorm(arguments.norm()?),
        "rms_norm" => Op::RmsNorm(arguments.norm()?),
        "batch_norm2d" => Op::BatchNorm2d(arguments.norm()?),
        "group_norm" => Op::GroupNorm { num_groups: arguments.count("num_groups")?, norm: arguments.norm()? },
        "linear" => Op::Linear(Linear {
            out_features: arguments.count("out_features")?,
            bias: arguments.flag_or("bias", true)?,
            scale: arguments.real_or("scale", 1.0)?,
            init: arguments.name_or("init", init)?,
        }),
        "max_pool2d" => {
            let kernel_size = arguments.size("kernel_size")?;
            Op::MaxPool2d(MaxPool2d {
                kernel_size,
                stride: arguments.size_or("stride", kernel_size)?,
                padding: arguments.size_or("padding", [0, 0])?,
                dilation: arguments.size_or("dilation", [1, 1])?,
                ceil_mode: arguments.flag_or("ceil_mode", false)?,
            })
        }
        "avg_pool2d" => {
            let kernel_size = arguments.size("kernel_size")?;
            Op::AvgPool2d(AvgPool2d {
                kernel_size,
                stride: arguments.size_or("stride", kernel_size)?,
                padding: arguments.size_or("padding", [0, 0])?,
                ceil_mode: arguments.flag_or("ceil_mode", false)?,
                count_include_pad: arguments.flag_or("count_include_pad", true)?,
                divisor_override: arguments.optional_count("divisor_override")?,
            })
        }
        "adaptive_avg_pool2d" => Op::AdaptiveAvgPool2d { output_size: arguments.size("output_size")? },
        "unflatten" => Op::Unflatten { size: arguments.image("size")? },
        "dropout" => Op::Dropout { p: arguments.real_or("p", 0.5)? },
        "leaky_relu" => Op::LeakyRelu { negative_slope: arguments.number_or("negative_slope", 0.01)? },
        "hardtanh" => Op::Hardtanh {
            min_val: arguments.number_or("min_val", -1.0)?,
            max_val: arguments.number_or("max_val", 1.0)?,
        },
        "elu" => Op::Elu { alpha: arguments.number_or("alpha", 1.0)? },
        "gelu" => Op::Gelu { approximate: arguments.name_or("approximate", Approximation::None)? },
        "softplus" => {
            Op::Softplus { beta: arguments.number_or("beta", 1.0)?, threshold: arguments.number_or("threshold", 20.0)? }
        }
        other => other.parse().map_err(|error: Error| error.to_string())?,
    };
    arguments.refuse_others()?;
    Ok(op)
}

/// The arguments of one operation; remembers which were asked for.
struct Arguments<'a> {
    op: &'a str,
    table: &'a Table,
    known: Vec<&'static str>,
}

impl<'a> Arguments<'a> {
    fn find(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.table.get(name)
    }

    fn wrong(&self, name: &str, found: &Value, expected: &str) -> String {
        format!("{} has {name} = {found}, expected {expected}", self.op)
    }

    fn missing(&self, name: &str, expected: &str) -> String {
        format!("{} has no {name}, expected {expected}", self.op)
    }

    fn norm(&mut self) -> std::result::Result<Norm, String> {
        let usual = Norm::default();
        Ok(Norm { eps: self.real_or("eps", usual.eps)?, affine: self.flag_or("affine", usual.affine)? })
    }

    fn count(&mut self, name: &'static str) -> std::result::Result<usize, String> {
        self.optional_count(name)?.ok_or_else(|| self.missing(name, COUNT))
    }

    fn optional_count(&mut self, name: &'static str) -> std::result::Result<Option<usize>, String> {
        let Some(value) = self.find(name) else { return Ok(None) };
        whole(value).map(Some).ok_or_else(|| self.wrong(name, value, COUNT))
    }

    /// Of a convolution.
    fn padding(&mut self) -> std::result::Result<Padding, String> {
        match self.table.get("padding") {
            Some(Value::String(name)) => {
                self.known.push("padding");
                match name.as_str() {
                    "same" => Ok(Padding::Same),
                    "valid" => Ok([0, 0].into()),
                    _ => Err(format!(
                        "{} has padding = {name:?}, expected \"same\", \"valid\", a whole number or a pair of them",
                        self.op
                    )),
                }
            }
            _ => Ok(self.size_or("padding", [0, 0])?.into()),
        }
    }

    fn size(&mut self, name: &'static str) -> std::result::Result<[usize; 2], String> {
        self.optional_size(name)?.ok_or_else(|| self.missing(name, "a whole number or a pair of them"))
    }

    fn size_or(&mut self, name: &'static str, default: [usize; 2]) -> std::result::Result<[usize; 2], String> {
        Ok(self.optional_size(name)?.unwrap_or(default))
    }

    fn optional_size(&mut self, name: &'static str) -> std::result::Result<Option<[usize; 2]>, String> {
        let Some(value) = self.find(name) else { return Ok(None) };
        let size = match value {
            Value::Array(pair) => match &pair[..] {
                [vertical, horizontal] => whole(vertical).zip(whole(horizontal)).map(|(v, h)| [v, h]),
                _ => None,
            },
            single => whole(single).map(|size| [size, size]),
        };
        size.map(Some).ok_or_else(|| {
            self.wrong(name, value, "a whole number of at least 0, or a pair [vertical, horizontal] of them")
        })
    }

    fn image(&mut self, name: &'static str) -> std::result::Result<[usize; 3], String> {
        const EXPECTED: &str = "[channels, height, width], whole numbers of at least 0";
        let value = self.find(name).ok_or_else(|| self.missing(name, EXPECTED))?;
        let sizes: Option<Vec<usize>> = value.as_array().and_then(|sizes| sizes.iter().map(whole).collect());
        sizes.and_then(|sizes| sizes.try_into().ok()).ok_or_else(|| self.wrong(name, value, EXPECTED))
    }

    fn flag_or(&mut self, name: &'static str, default: bool) -> std::result::Result<bool, String> {
        match self.find(name) {
            None => Ok(default),
            Some(Value::Boolean(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(name, other, "true or false")),
        }
    }

    fn number_or(&mut self, name: &'static str, default: f32) -> std::result::Result<f32, String> {
        Ok(self.real_or(name, default.into())? as f32)
    }

    fn real_or(&mut self, name: &'static str, default: f64) -> std::result::Result<f64, String> {
        match self.find(name) {
            None => Ok(default),
            Some(Value::Float(number)) => Ok(*number),
            Some(Value::Integer(number)) => Ok(*number as f64),
            Some(other) => Err(self.wrong(name, other, "a number")),
        }
    }

    fn name_or<T: FromStr<Err = Error>>(&mut self, name: &'static str, default: T) -> std::result::Result<T, String> {
        match self.find(name) {
            None => Ok(default),
            Some(Value::String(text)) => text.parse().map_err(|error: Error| format!("{}: {error}", self.op)),
            Some(other) => Err(self.wrong(name, other, "a name")),
        }
    }

    fn refuse_others(&self) -> std::result::Result<(), String> {
        match self.table.keys().find(|key| !self.known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) if self.known.len() == 1 => Err(format!("{} has {key}, but takes no argument", self.op)),
            Some(key) => Err(format!(
                "{} has {key}, which is none of its arguments; it takes {}",
                self.op,
                self.known[1..].join(", ")
            )),
        }
    }
}

const COUNT: &str = "a whole number of at least 1";

fn whole(value: &Value) -> Option<usize> {
    value.as_integer().and_then(|number| usize::try_from(number).ok())
}

fn write_op(text: &mut String, op: &Op) {
    let arguments = match op {
        Op::LayerNorm(Norm { eps, affine })
        | Op::RmsNorm(Norm { eps, affine })
        | Op::BatchNorm2d(Norm { eps, affine }) => {
            format!(", eps = {eps:?}, affine = {affine}")
        }
        Op::GroupNorm { num_groups, norm: Norm { eps, affine } } => {
            format!(", num_groups = {num_groups}, eps = {eps:?}, affine = {affine}")
        }
        Op::ConvTranspose2d(transpose) => {
            let ConvTranspose2d {
                out_channels,
                kernel_size,
                stride,
                padding,
                output_padding,
                dilation,
                groups,
                bias,
                init,
            } = transpose;
            format!(
                ", out_channels = {out_channels}, kernel_size = {kernel_size:?}, stride = {stride:?}, \
                 padding = {padding:?}, output_padding = {output_padding:?}, dilation = {dilation:?}, \
                 groups = {groups}, bias = {bias}, init = \"{init}\""
            )
        }
        Op::Conv2d(Conv2d { out_channels, kernel_size, stride, padding, dilation, groups, bias, scale, init }) => {
            format!(
                ", out_channels = {out_channels}, kernel_size = {kernel_size:?}, stride = {stride:?}, \
             padding = {}, dilation = {dilation:?}, groups = {groups}, bias = {bias}, scale = {scale:?}, init = \"{init}\"",
                match padding {
                    Padding::Same => "\"same\"".into(),
                    Padding::Zeros(zeros) => format!("{zeros:?}"),
                }
            )
        }
        Op::Linear(Linear { out_features, bias, scale, init }) => {
            format!(", out_features = {out_features}, bias = {bias}, scale = {scale:?}, init = \"{init}\"")
        }
        Op::MaxPool2d(MaxPool2d { kernel_size, stride, padding, dilation, ceil_mode }) => format!(
            ", kernel_size = {kernel_size:?}, stride = {stride:?}, padding = {padding:?}, dilation = {dilation:?}, \
             ceil_mode = {ceil_mode}"
        ),
        Op::AvgPool2d(pool) => {
            let AvgPool2d { kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override } = pool;
            let divisor = divisor_override.map_or(String::new(), |divisor| format!(", divisor_override = {divisor}"));
            format!(
                ", kernel_size = {kernel_size:?}, stride = {stride:?}, padding = {padding:?}, ceil_mode = {ceil_mode}, \
                 count_include_pad = {count_include_pad}{divisor}"
            )
        }
        Op::AdaptiveAvgPool2d { output_size } => format!(", output_size = {output_size:?}"),
        Op::Unflatten { size } => format!(", size = {size:?}"),
        Op::Dropout { p } => format!(", p = {p:?}"),
        Op::LeakyRelu { negative_slope } => format!(", negative_slope = {negative_slope:?}"),
        Op::Hardtanh { min_val, max_val } => format!(", min_val = {min_val:?}, max_val = {max_val:?}"),
        Op::Elu { alpha } => format!(", alpha = {alpha:?}"),
        Op::Gelu { approximate } => format!(", approximate = \"{approximate}\""),
        Op::Softplus { beta, threshold } => format!(", beta = {beta:?}, threshold = {threshold:?}"),
        Op::Flatten | Op::Relu | Op::Selu | Op::Tanh | Op::Sigmoid | Op::Silu | Op::Identity => String::new(),
    };
    let _ = writeln!(text, "  {{ type = \"{}\"{arguments} }},", op.name());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_op(op: &str) -> String {
        format!("input = [2, 9, 8]\nloss = \"mse\"\n\n[[layer]]\nops = [\n  {{ type = \"relu\" }},\n  {op},\n]\n")
    }

    fn op(op: &str) -> Op {
        Network::from_toml(&with_op(op)).unwrap().layers()[0].ops()[1].clone()
    }

    fn refusal(text: &str) -> String {
        let message = Network::from_toml(text).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn every_operation_has_the_defaults_of_pytorch() {
        let conv = Conv2d {
            out_channels: 3,
            kernel_size: [2, 2],
            stride: [1, 1],
            padding: [0, 0].into(),
            dilation: [1, 1],
            groups: 1,
            bias: true,
            scale: 1.0,
            init: Init::Pytorch,
        };
        assert_eq!(op("{ type = \"conv2d\", out_channels = 3, kernel_size = 2 }"), Op::Conv2d(conv));
        let pool =
            MaxPool2d { kernel_size: [3, 2], stride: [3, 2], padding: [0, 0], dilation: [1, 1], ceil_mode: false };
        assert_eq!(op("{ type = \"max_pool2d\", kernel_size = [3, 2] }"), Op::MaxPool2d(pool));
        let pool = AvgPool2d {
            kernel_size: [3, 2],
            stride: [3, 2],
            padding: [0, 0],
            ceil_mode: false,
            count_include_pad: true,
            divisor_override: None,
        };
        assert_eq!(op("{ type = \"avg_pool2d\", kernel_size = [3, 2] }"), Op::AvgPool2d(pool));
        for (name, usual) in [
            ("leaky_relu", Op::LEAKY_RELU),
            ("hardtanh", Op::HARDTANH),
            ("elu", Op::ELU),
            ("gelu", Op::GELU),
            ("softplus", Op::SOFTPLUS),
        ] {
            assert_eq!(op(&format!("{{ type = \"{name}\" }}")), usual);
            assert_eq!(name.parse::<Op>().unwrap(), usual);
        }
        let flat = "input = [4]\nloss = \"cross_entropy\"\n[[layer]]\nops = [{ type = \"linear\", out_features = 3 }]";
        let network = Network::from_toml(flat).unwrap();
        assert_eq!(network.layers()[0].ops(), [Op::Linear(Linear::new(3))]);
        assert_eq!(network.loss(), Loss::CROSS_ENTROPY);
    }

    #[test]
    fn sizes_are_an_integer_or_a_pair() {
        let conv = Conv2d {
            out_channels: 3,
            kernel_size: [3, 2],
            stride: [2, 2],
            padding: [1, 0].into(),
            dilation: [1, 2],
            groups: 1,
            bias: false,
            scale: -0.3,
            init: Init::Xavier,
        };
        let text = "{ type = \"conv2d\", out_channels = 3, kernel_size = [3, 2], stride = 2, padding = [1, 0], \
                    dilation = [1, 2], bias = false, scale = -0.3, init = \"xavier\" }";
        assert_eq!(op(text), Op::Conv2d(conv));
        assert_eq!(
            op("{ type = \"adaptive_avg_pool2d\", output_size = [3, 1] }"),
            Op::AdaptiveAvgPool2d { output_size: [3, 1] }
        );
    }

    #[test]
    fn a_written_network_reads_back_as_itself() {
        let all = "input = [2, 9, 8]\nloss = \"mse\"\n[[layer]]\nops = []\n[[layer]]\nops = [\n\
            { type = \"conv2d\", out_channels = 3, kernel_size = [3, 2], stride = 2, padding = 1, bias = false },\n\
            { type = \"leaky_relu\", negative_slope = -1e-20 }, { type = \"leaky_relu\", negative_slope = 2 },\n\
            { type = \"conv2d\", out_channels = 3, kernel_size = [2, 3], padding = \"same\" },\n\
            { type = \"max_pool2d\", kernel_size = 2, stride = 1, dilation = 2, ceil_mode = true },\n\
            { type = \"avg_pool2d\", kernel_size = 2, padding = 1 }, { type = \"avg_pool2d\", kernel_size = 2, \
            stride = 3, padding = 1, ceil_mode = true, count_include_pad = false, divisor_override = 3 },\n\
             { type = \"relu\" }, { type = \"tanh\" },\n\
            { type = \"adaptive_avg_pool2d\", output_size = 2 }, { type = \"flatten\" },\n\
            { type = \"unflatten\", size = [2, 3, 2] }, { type = \"flatten\" } ]\n[[layer]]\nops = [\n\
            { type = \"linear\", out_features = 5, scale = 0.07216878364870322 }, { type = \"sigmoid\" }, { type = \"gelu\" }, { type = \"silu\" },\n\
            { type = \"softplus\" }, { type = \"softplus\", beta = 0.1, threshold = -3 }, { type = \"selu\" },\n\
            { type = \"hardtanh\", min_val = 0.1, max_val = 6 }, { type = \"elu\", alpha = 0.7 },\n\
            { type = \"gelu\", approximate = \"tanh\" }, { type = \"identity\" } ]\n";
        let network = Network::from_toml(all).unwrap();
        let again = Network::from_toml(&network.to_toml()).unwrap();
        assert_eq!(network.input_shape(), again.input_shape());
        assert_eq!(network.layers().len(), 3);
        for (a, b) in network.layers().iter().zip(again.layers()) {
            assert_eq!(a.ops(), b.ops());
            assert_eq!(a.shapes(), b.shapes());
        }
        assert_eq!(network.to_toml(), again.to_toml());

        let graph = "input = [3]\nloss = \"mse\"\n[[layer]]\nops = []\n[[layer]]\nname = \"layer1\"\nops = []\n[[layer]]\n\
            branches = [{}, { from = \"layer1\", ops = [{ type = \"tanh\" }] }, { from = \"input\" }]\nprecision = 2.0\n\
            [[layer]]\nbranches = [{ ops = [{ type = \"linear\", out_features = 2 }] }]";
        let network = Network::from_toml(graph).unwrap();
        assert_eq!(network.layers()[2].branches().iter().map(Branch::from).collect::<Vec<_>>(), [2, 2, 0]);
        assert_eq!(network.layers()[2].branches()[1].ops(), [Op::Tanh]);
        assert_eq!(network.parameters()[0].name, "3.branches.0.0.weight");
        let again = Network::from_toml(&network.to_toml()).unwrap();
        assert_eq!(network.to_toml(), again.to_toml());
        assert_eq!(network.layers()[2].branches(), again.layers()[2].branches());

        // A layer that is read, but has no name, gets one that nobody has.
        let layers = vec![
            LayerSpec::from(vec![Op::Tanh]),
            LayerSpec::from(vec![]).with_name(Some("layer1".into())),
            LayerSpec::from(vec![]).with_branches(vec![Branch::new(1, vec![]), Branch::new(2, vec![])]),
        ];
        let network = Network::new(&[3], Loss::MSE, layers).unwrap();
        let again = Network::from_toml(&network.to_toml()).unwrap();
        assert_eq!(again.layers()[0].name(), Some("layer1_"));
        assert_eq!(again.layers()[2].branches().iter().map(Branch::from).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn scaling_and_init_are_of_all_operations_that_say_nothing_else() {
        let file = |head: &str| {
            let text = format!(
                "input = [4]\nloss = \"mse\"\n{head}\n[[layer]]\nops = [\n{{ type = \"linear\", out_features = 9 }},\n\
                 {{ type = \"linear\", out_features = 3, scale = 0.7, init = \"orthogonal\" }} ]\n\
                 [[layer]]\nops = [ {{ type = \"linear\", out_features = 2 }} ]\n"
            );
            let network = Network::from_toml(&text).unwrap();
            assert_eq!(Network::from_toml(&network.to_toml()).unwrap(), network);
            let linear = |(op, _): (&Op, _)| match op {
                Op::Linear(Linear { scale, init, .. }) => (*scale, init.name()),
                op => panic!("{op}"),
            };
            network.layers().iter().flat_map(|layer| layer.all_ops().map(linear)).collect::<Vec<_>>()
        };
        assert_eq!(file(""), [(1.0, "pytorch"), (0.7, "orthogonal"), (1.0, "pytorch")]);
        assert_eq!(file("init = \"xavier\""), [(1.0, "xavier"), (0.7, "orthogonal"), (1.0, "xavier")]);
        let third = 1.0 / 3.0;
        let normal = [(0.5, "standard_normal"), (0.7, "orthogonal"), (third, "standard_normal")];
        assert_eq!(file("scaling = \"mupc\""), normal);
        let named = file("scaling = \"mupc\"\ninit = \"pytorch\"");
        assert_eq!(named, [(0.5, "pytorch"), (0.7, "orthogonal"), (third, "pytorch")]);
    }

    #[test]
    fn refusals_name_place_finding_and_expectation() {
        for (text, parts) in [
            (
                "{ type = \"conv3d\" }",
                &["line 7, operation 0.1", "unknown operation \"conv3d\"", "conv2d, conv_transpose2d, linear"][..],
            ),
            ("{ kernel_size = 2 }", &["operation 0.1", "no type"]),
            ("{ type = 3 }", &["type is 3"]),
            ("{ type = \"relu\", inplace = true }", &["relu has inplace", "no argument"]),
            (
                "{ type = \"conv2d\", out_channels = 1, kernel_size = 1, channels = 2 }",
                &[
                    "conv2d has channels",
                    "it takes out_channels, kernel_size, stride, padding, dilation, groups, bias, scale, init",
                ],
            ),
            (
                "{ type = \"conv2d\", out_channels = 1, kernel_size = 1, padding = \"full\" }",
                &["padding = \"full\"", "\"same\""],
            ),
            (
                "{ type = \"conv2d\", out_channels = 1, kernel_size = 1, padding = \"same\", stride = 2 }",
                &["conv2d has padding \"same\" with stride [2, 2], expected a stride of 1"],
            ),
            ("{ type = \"avg_pool2d\", kernel_size = 1, divisor_override = 0 }", &["divisor_override 0", "from 1 to"]),
            ("{ type = \"avg_pool2d\", kernel_size = 1, dilation = 2 }", &["avg_pool2d has dilation"]),
            ("{ type = \"conv2d\", kernel_size = 2 }", &["conv2d has no out_channels"]),
            ("{ type = \"max_pool2d\" }", &["max_pool2d has no kernel_size"]),
            ("{ type = \"max_pool2d\", kernel_size = [1, 2, 3] }", &["kernel_size = [1, 2, 3]", "a pair"]),
            ("{ type = \"max_pool2d\", kernel_size = -1 }", &["kernel_size = -1"]),
            ("{ type = \"max_pool2d\", kernel_size = 2.5 }", &["kernel_size = 2.5"]),
            ("{ type = \"max_pool2d\", kernel_size = \"same\" }", &["kernel_size = \"same\""]),
            ("{ type = \"conv2d\", out_channels = 1, kernel_size = 1, bias = 1 }", &["bias = 1", "true or false"]),
            (
                "{ type = \"conv2d\", out_channels = 1, kernel_size = 1, scale = 0 }",
                &["conv2d has scale 0", "other than 0"],
            ),
            ("{ type = \"leaky_relu\", negative_slope = nan }", &["negative_slope NaN"]),
            ("{ type = \"unflatten\", size = [2, 9, 8] }", &["unflatten takes a flat input", "[2, 9, 8]"]),
            ("{ type = \"unflatten\", size = 144 }", &["unflatten has size = 144", "[channels, height, width]"]),
            ("{ type = \"unflatten\", size = [12, 12] }", &["unflatten has size = [12, 12]"]),
            (
                "{ type = \"flatten\" }, { type = \"unflatten\", size = [2, 9, 7] }",
                &["0.2", "size [2, 9, 7] for 144 features"],
            ),
            (
                "{ type = \"conv2d\", out_channels = 1, kernel_size = 1, init = \"normal\" }",
                &["conv2d: unknown init \"normal\", expected pytorch, standard_normal, orthogonal or xavier"],
            ),
            ("{ type = \"elu\", alpha = inf }", &["elu has alpha inf"]),
            ("{ type = \"hardtanh\", min_val = 1 }", &["min_val 1 and max_val 1", "the first below the second"]),
            ("{ type = \"softplus\", beta = 0 }", &["softplus has beta 0", "above 0"]),
            ("{ type = \"softplus\", threshold = nan }", &["softplus has threshold NaN"]),
            (
                "{ type = \"gelu\", approximate = \"erf\" }",
                &["gelu: unknown approximation \"erf\", expected none or tanh"],
            ),
            ("{ type = \"gelu\", approximate = true }", &["gelu has approximate = true, expected a name"]),
            ("{ type = \"max_pool2d\", kernel_size = 10 }", &["operation 0.1", "window of 10"]),
            ("{ type = \"linear\", out_features = 3 }", &["linear takes a flat input", "[2, 9, 8]"]),
            ("{ type = \"relu\"", &["line 8: "]),
        ] {
            let message = refusal(&with_op(text));
            for part in parts {
                assert!(message.contains(part), "{text}: {message:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn the_frame_of_the_file_is_checked() {
        for (text, part) in [
            ("", "missing field `input`"),
            ("input = [3]\nloss = \"nll\"\nlayer = []", "line 2: unknown loss \"nll\", expected cross_entropy or mse"),
            ("input = [3]\nloss = \"mse\"\nlayer = []", "no layer"),
            (
                "input = [3]\nloss = \"mse\"\nscaling = \"mup\"\nlayer = []",
                "line 3: unknown scaling \"mup\", expected mupc",
            ),
            ("input = [3]\nloss = \"mse\"\ninit = \"he\"\nlayer = []", "line 3: unknown init \"he\", expected pytorch"),
            ("input = [-3]\nloss = \"mse\"\nlayer = []", "line 1: "),
            ("input = [3]\nloss = \"mse\"\nepochs = 3\nlayer = []", "line 3: unknown field `epochs`"),
            ("input = [3]\nloss = \"mse\"\n[[layer]]\nops = []\nlabel = 1", "line 5: unknown field `label`"),
            ("input = [3]\nloss = \"mse\"\n[[layer]]\nname = \"a\"", "layer 1: has neither ops nor branches"),
            ("input = [3]\nloss = \"mse\"\n[[layer]]\nbranches = []", "layer 1: branches is empty"),
            (
                "input = [3]\nloss = \"mse\"\n[[layer]]\nname = \"a\"\nops = []\n[[layer]]\nbranches = [{ from = \"b\" }]",
                "line 7, layer 2, branch 0: from = \"b\", expected the name of an earlier layer: input, a",
            ),
            (
                "input = [3]\nloss = \"mse\"\n[[layer]]\nname = \"a\"\nbranches = [{ from = \"a\" }]",
                "line 5, layer 1, branch 0: from = \"a\", expected the name of an earlier layer: input",
            ),
            (
                "input = [3]\nloss = \"mse\"\n[[layer]]\nname = \"input\"\nops = []",
                "layer 1 has the name \"input\", as the input has",
            ),
            (
                "input = [3]\nloss = \"mse\"\n[[layer]]\nbranches = [{}, { ops = [{ type = \"linear\", out_features = 2 }] }]",
                "layer 1: branch 0 ends with the shape [3], branch 1 with [2], expected the same, to be summed",
            ),
            (
                "input = [3]\nloss = \"mse\"\n[[layer]]\nbranches = [{ ops = [{ type = \"tahn\" }] }]",
                "line 4, operation 0.branches.0.0: unknown operation",
            ),
            ("input = [3]\nloss = \"mse\"\n[[layer]]\nops = [3]", "line 4: "),
        ] {
            let message = refusal(text);
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }

    #[test]
    fn a_file_is_named_in_its_errors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.toml");
        assert!(Network::from_file(&path).unwrap_err().to_string().contains("model.toml: cannot be read: it does not"));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(Network::from_file(&path).unwrap_err().to_string().contains("model.toml: is not UTF-8"));
        std::fs::write(&path, "input = 3").unwrap();
        assert!(Network::from_file(&path).unwrap_err().to_string().contains("model.toml: line 1: "));
        let error = Network::from_file(directory.path()).unwrap_err().to_string();
        assert!(error.contains("it is a directory"), "{error}");
    }
}
