//! What can be measured, by name.

use std::iter::Peekable;
use std::str::{FromStr, Split};

use predictive_coding_kernels::{ConvShape, Level};

use crate::bench::conv::{Conv, Layout, Pass};
use crate::bench::gemm::Gemm;
use crate::console::Failure;
use crate::machine::check_bytes;

/// A kernel and the sizes of its operands.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub name: String,
    /// Multiplications and additions, padding included.
    pub flops: u64,
    pub work: Work,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Gemm(Gemm),
    Conv(Conv),
}

/// Products of convolutional and linear layers, and cubes.
pub const GEMM_SUITE: [&str; 11] = [
    "gemm/64x64x64",
    "gemm/128x128x128",
    "gemm/512x512x512",
    "gemm/1024x1024x1024",
    "gemm/300x605x50",
    "gemm/300x50x605",
    "gemm/256x16384x256",
    "gemm/128x576x1024",
    "gemm/5x90x1936",
    "gemm/10x9x10816",
    "gemm/64x27x1024",
];

/// Layers of image networks whose batch fills the lanes of a vector.
const BATCHES: [&str; 5] = [
    "b300_c1_28x28_o10_k3_s1_p0",
    "b300_c10_13x13_o5_k3_s1_p0",
    "b256_c3_32x32_o64_k3_s1_p1",
    "b256_c64_32x32_o128_k3_s1_p1",
    "b256_c128_16x16_o256_k3_s1_p1",
];

/// Layers of one image, whose channels fill the lanes.
const SINGLE: [&str; 4] = [
    "b1_c64_32x32_o128_k3_s1_p1",
    "b1_c128_16x16_o256_k3_s1_p1",
    "b1_c512_14x14_o512_k3_s1_p1",
    "b1_c64_224x224_o64_k3_s1_p1",
];

/// Layers whose batch does not fill the lanes, large windows, strides, and products of pixels alone.
const SMALL_BATCHES: [&str; 10] = [
    "b2_c64_224x224_o64_k3_s1_p1",
    "b2_c512_14x14_o512_k3_s1_p1",
    "b8_c512_7x7_o512_k3_s1_p1",
    "b64_c32_28x28_o32_k1_s1_p0",
    "b1_c256_56x56_o64_k1_s1_p0",
    "b8_c256_56x56_o64_k1_s1_p0",
    "b8_c256_56x56_o64_k1_s2_p0",
    "b1_c3_224x224_o64_k7_s2_p3",
    "b8_c3_224x224_o64_k7_s2_p3",
    "b8_c64_28x28_o128_k5_s2_p2",
];

/// The names of the suite of convolutions.
pub fn conv_suite() -> Vec<String> {
    let names = |layout: Layout, shapes: &[&str]| -> Vec<String> {
        shapes
            .iter()
            .flat_map(|shape| Pass::ALL.map(|pass| format!("{}/{}/{shape}", layout.name(), pass.name())))
            .collect()
    };
    [
        names(Layout::Images, &BATCHES),
        names(Layout::Channels, &SINGLE),
        names(Layout::Nchw, &BATCHES),
        names(Layout::Nchw, &SMALL_BATCHES),
    ]
    .concat()
}

impl Case {
    /// Refuses what does not fit the kernels or this machine's memory.
    pub fn check(&self, level: Level) -> Result<(), Failure> {
        let bytes = match &self.work {
            Work::Gemm(gemm) => gemm.bytes(),
            Work::Conv(conv) => {
                conv.check(level).map_err(|error| Failure::usage(format!("{}: {error}", self.name)))?;
                conv.bytes(level)
            }
        };
        check_bytes(bytes, &self.name, "use a smaller shape")
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(name: &str) -> Result<Case, String> {
        let (kind, rest) = name.split_once('/').unwrap_or((name, ""));
        let work = match kind {
            "gemm" => Work::Gemm(gemm(rest)?),
            "conv" => Work::Conv(conv(Layout::Images, rest)?),
            "conv-channels" => Work::Conv(conv(Layout::Channels, rest)?),
            "conv-nchw" => Work::Conv(conv(Layout::Nchw, rest)?),
            _ => {
                return Err(format!(
                    "unknown kind {kind:?}, expected gemm/MxKxN, or conv, conv-channels or conv-nchw with /PASS/SHAPE"
                ));
            }
        };
        let flops = match &work {
            Work::Gemm(gemm) => gemm.flops(),
            Work::Conv(conv) => conv.flops(),
        };
        let flops = u64::try_from(flops).map_err(|_| "it has more than 2^64 operations; use a smaller shape")?;
        Ok(Case { name: name.to_string(), flops, work })
    }
}

/// `512x512x512`, with `/ta`, `/tb` and `/packed` behind.
fn gemm(text: &str) -> Result<Gemm, String> {
    let (sizes, options) = text.split_once('/').map_or((text, None), |(sizes, options)| (sizes, Some(options)));
    let expected = || format!("found {sizes:?}; expected m x k x n as in 512x256x64, each at least 1");
    let sizes = sizes.split('x').map(|size| number(size, 1)).collect::<Option<Vec<_>>>().ok_or_else(expected)?;
    let [m, k, n] = sizes[..] else { return Err(expected()) };
    let mut gemm = Gemm { m, k, n, a_transposed: false, b_transposed: false, packed: false };
    for option in options.map_or(Vec::new(), |options| options.split('/').collect()) {
        let set = match option {
            "ta" => &mut gemm.a_transposed,
            "tb" => &mut gemm.b_transposed,
            "packed" => &mut gemm.packed,
            _ => return Err(format!("unknown option {option:?}, expected ta, tb or packed")),
        };
        if std::mem::replace(set, true) {
            return Err(format!("option {option:?} was given twice"));
        }
    }
    Ok(gemm)
}

/// `forward/b300_c1_28x28_o10_k3_s1_p0`, with `_d2` behind, or `_d1_g10` for 10 channels each by itself.
fn conv(layout: Layout, text: &str) -> Result<Conv, String> {
    let (pass, shape) = text.split_once('/').unwrap_or((text, ""));
    let names = Pass::ALL.map(Pass::name).join(", ");
    let pass = Pass::ALL
        .into_iter()
        .find(|candidate| candidate.name() == pass)
        .ok_or_else(|| format!("unknown pass {pass:?}, expected one of {names}"))?;
    let mut fields = Fields(shape.split('_').peekable());
    // In the order of the name.
    let batch = fields.single("b")?;
    let in_channels = fields.single("c")?;
    let input = fields.size()?;
    let out_channels = fields.single("o")?;
    let kernel = fields.pair("k", 1)?;
    let stride = fields.pair("s", 1)?;
    let padding = fields.pair("p", 0)?;
    let dilation = if fields.0.peek().is_some() { fields.pair("d", 1)? } else { [1, 1] };
    let groups = if fields.0.peek().is_some() { fields.single("g")? } else { 1 };
    if let Some(rest) = fields.0.next() {
        return Err(format!("found {rest:?} after the end of the shape"));
    }
    if groups != 1 && [in_channels, out_channels] != [groups; 2] {
        return Err(format!("{groups} groups of {in_channels} to {out_channels} channels, expected 1 or one for each"));
    }
    for axis in [0, 1] {
        let window = (kernel[axis] - 1) * dilation[axis] + 1;
        let padded = input[axis] + 2 * padding[axis];
        if window > padded {
            return Err(format!("a window of {window} is larger than the padded input of {padded}"));
        }
    }
    let linear = ConvShape::linear(in_channels, out_channels);
    let shape = ConvShape { input, kernel, stride, padding, dilation, groups, ..linear };
    Ok(Conv { layout, pass, batch, shape })
}

/// The fields of a shape's name that are left.
struct Fields<'a>(Peekable<Split<'a, char>>);

impl Fields<'_> {
    fn single(&mut self, letter: &str) -> Result<usize, String> {
        self.field(letter, &format!("{letter}N, N at least 1"), |text| number(text, 1))
    }

    fn pair(&mut self, letter: &str, smallest: usize) -> Result<[usize; 2], String> {
        self.field(letter, &format!("{letter}N or {letter}NxN, N at least {smallest}"), |text| {
            numbers(text, smallest).or_else(|| number(text, smallest).map(|n| [n, n]))
        })
    }

    fn size(&mut self) -> Result<[usize; 2], String> {
        self.field("", "HxW, the height and width of the input, at least 1", |text| numbers(text, 1))
    }

    fn field<T>(&mut self, letter: &str, form: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let field = self.0.next().unwrap_or("");
        field
            .strip_prefix(letter)
            .and_then(parse)
            .ok_or_else(|| format!("found {field:?}, expected {form}, as in b300_c1_28x28_o10_k3x1_s1_p0_d1"))
    }
}

fn numbers(text: &str, smallest: usize) -> Option<[usize; 2]> {
    let (first, second) = text.split_once('x')?;
    Some([number(first, smallest)?, number(second, smallest)?])
}

/// At most 2^31, so that the sizes of a window can be added and multiplied.
fn number(text: &str, smallest: usize) -> Option<usize> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|&number| digits && number <= 1 << 31)?;
    (number >= smallest).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> Work {
        name.parse::<Case>().unwrap_or_else(|error| panic!("{name}: {error}")).work
    }

    #[test]
    fn products() {
        let plain = Gemm { m: 300, k: 605, n: 50, a_transposed: false, b_transposed: false, packed: false };
        assert_eq!(parsed("gemm/300x605x50"), Work::Gemm(plain.clone()));
        assert_eq!(parsed("gemm/300x605x50/tb"), Work::Gemm(Gemm { b_transposed: true, ..plain.clone() }));
        let all = Gemm { a_transposed: true, b_transposed: true, packed: true, ..plain };
        assert_eq!(parsed("gemm/300x605x50/ta/tb/packed"), Work::Gemm(all.clone()));
        assert_eq!(parsed("gemm/300x605x50/packed/ta/tb"), Work::Gemm(all));
    }

    #[test]
    fn convolutions() {
        let shape = ConvShape {
            input: [28, 30],
            kernel: [3, 3],
            stride: [1, 1],
            padding: [0, 0],
            extra: [0, 0],
            dilation: [1, 1],
            ..ConvShape::linear(1, 10)
        };
        let conv = Conv { layout: Layout::Images, pass: Pass::Forward, batch: 300, shape };
        assert_eq!(parsed("conv/forward/b300_c1_28x30_o10_k3_s1_p0"), Work::Conv(conv.clone()));
        let pairs = ConvShape { kernel: [3, 1], stride: [2, 4], padding: [1, 0], dilation: [2, 5], ..conv.shape };
        assert_eq!(
            parsed("conv-nchw/backward-weights/b300_c1_28x30_o10_k3x1_s2x4_p1x0_d2x5"),
            Work::Conv(Conv { layout: Layout::Nchw, pass: Pass::BackwardWeights, batch: 300, shape: pairs })
        );
        let dilated = ConvShape { dilation: [2, 2], ..conv.shape };
        assert_eq!(
            parsed("conv/backward-data/b300_c1_28x30_o10_k3_s1_p0_d2"),
            Work::Conv(Conv { pass: Pass::BackwardData, shape: dilated, ..conv.clone() })
        );
        let depthwise = ConvShape { in_channels: 10, groups: 10, ..conv.shape };
        assert_eq!(
            parsed("conv/forward/b300_c10_28x30_o10_k3_s1_p0_d1_g10"),
            Work::Conv(Conv { shape: depthwise, ..conv })
        );
    }

    /// 2 m k n, and 2 B O Ho Wo C kh kw by hand.
    #[test]
    fn operations_are_counted() {
        let flops = |name: &str| name.parse::<Case>().unwrap().flops;
        assert_eq!(flops("gemm/3x5x7/ta"), 210);
        for pass in Pass::ALL.map(Pass::name) {
            assert_eq!(flops(&format!("conv/{pass}/b2_c3_9x8_o5_k3x2_s2_p1_d2x1")), 2 * 2 * 5 * (4 * 5) * 3 * 6);
        }
    }

    #[test]
    fn suites_can_be_parsed() {
        for name in GEMM_SUITE.map(String::from).into_iter().chain(conv_suite()) {
            parsed(&name);
        }
        assert_eq!(conv_suite().len(), 3 * (2 * BATCHES.len() + SINGLE.len() + SMALL_BATCHES.len()));
    }

    #[test]
    fn what_is_no_case_is_refused() {
        for (name, part) in [
            ("", "unknown kind \"\""),
            ("conv2d/forward/b1", "unknown kind \"conv2d\""),
            ("gemm", "found \"\""),
            ("gemm/3x4", "m x k x n"),
            ("gemm/3x4x5x6", "m x k x n"),
            ("gemm/3x0x5", "at least 1"),
            ("gemm/3x+4x5", "3x+4x5"),
            ("gemm/3x4x99999999999999999999", "99999999999999999999"),
            ("gemm/2147483648x2147483648x2147483648", "2^64"),
            ("gemm/3x4x5/tc", "unknown option \"tc\""),
            ("gemm/3x4x5/", "unknown option \"\""),
            ("gemm/3x4x5/ta/ta", "twice"),
            ("conv/backward/b1_c1_3x3_o1_k3_s1_p0", "unknown pass \"backward\""),
            ("conv/forward", "found \"\", expected bN"),
            ("conv/forward/b0_c1_3x3_o1_k3_s1_p0", "found \"b0\""),
            ("conv/forward/b1_c1x2_3x3_o1_k3_s1_p0", "found \"c1x2\""),
            ("conv/forward/b1_c1_3_o1_k3_s1_p0", "found \"3\", expected HxW"),
            ("conv/forward/b1_c1_3x3_k3_o1_s1_p0", "found \"k3\", expected oN"),
            ("conv/forward/b1_c1_3x3_o1_k3_s0_p0", "found \"s0\""),
            ("conv/forward/b1_c1_3x3_o1_k3_s1", "found \"\", expected pN"),
            ("conv/forward/b1_c1_3x3_o1_k3_s1_p0_d0", "found \"d0\""),
            ("conv/forward/b1_c1_3x3_o1_k3_s1_p0_d1_h1", "found \"h1\""),
            ("conv/forward/b1_c1_9x3_o1_k3_s1_p0_d2", "a window of 5 is larger than the padded input of 3"),
        ] {
            let error = name.parse::<Case>().unwrap_err();
            assert!(error.contains(part), "{name}: {error}");
        }
    }
}
