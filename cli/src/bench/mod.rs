//! `bench`: the speed of the kernels, held against the machine's FMA peak.

mod case;
mod check;
mod conv;
mod gemm;

use std::str::FromStr;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use predictive_coding_kernels::{Buffer, Level, fma_peak};
use serde_json::json;

use crate::bench::case::{Case, GEMM_SUITE, Work, conv_suite};
use crate::console::{Failure, print};
use crate::machine::on_threads;
use crate::options::Threads;
use crate::relaxing::ConvolutionName;
use crate::table::{percent, table};
use crate::timing::Times;

/// Measure matrix products and convolutions, compared with peak FMA throughput.
///
/// Every result is checked before it is timed. Rates are those of the median time.
#[derive(Args, Clone, Debug)]
pub struct Bench {
    /// A case, such as gemm/512x512x512 or conv/forward/b300_c1_28x28_o10_k3_s1_p0; can be repeated
    ///
    /// gemm/MxKxN is a matrix product. /ta or /tb at the end means that A or B is stored transposed, /packed that A is packed
    /// beforehand. conv/PASS/SHAPE is a convolution with one image per lane, conv-channels/PASS/SHAPE with one channel per
    /// lane, conv-nchw/PASS/SHAPE on plain NCHW tensors. PASS is forward, backward-data or backward-weights. SHAPE has the
    /// batch, channels, input, outputs, kernel, stride and padding; _d2 at the end is a dilation, _d1_g10 that each of 10
    /// channels is convolved by itself. k, s, p and d can be pairs, as in k3x1.
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<Case>,
    /// A set of cases [default: all, if there is no --case]
    #[arg(long, value_enum)]
    suite: Option<Suite>,
    /// Algorithm of convolutions
    #[arg(long, value_enum, default_value = "auto")]
    convolution: ConvolutionName,
    #[command(flatten)]
    threads: Threads,
    /// Seconds to repeat each case for; each case runs at least three times
    #[arg(long, value_name = "S", default_value_t = 0.5, value_parser = seconds, allow_hyphen_values = true)]
    min_time: f64,
    /// Print one line of JSON for each case
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Matrix products
    Gemm,
    /// Convolutions, all passes and layouts
    Conv,
    /// Both
    All,
}

impl Suite {
    fn names(self) -> Vec<String> {
        let gemm = if self == Suite::Conv { Vec::new() } else { GEMM_SUITE.map(String::from).to_vec() };
        let conv = if self == Suite::Gemm { Vec::new() } else { conv_suite() };
        [gemm, conv].concat()
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let longest = 3600.0;
    match text.parse() {
        Ok(seconds) if (0.0..=longest).contains(&seconds) => Ok(seconds),
        _ => Err(format!("expected a number of seconds from 0 to {longest}")),
    }
}

/// What a case took, and the scratch that it took it with.
#[derive(Clone, Copy, Debug)]
struct Measured {
    times: Times,
    scratch_bytes: usize,
}

/// A buffer of NaN: what is read before it is written, or never written, shows in the result.
fn poisoned(len: usize) -> Buffer {
    let mut buffer = Buffer::zeros(len);
    buffer.fill(f32::NAN);
    buffer
}

impl Bench {
    pub fn run(self) -> Result<(), Failure> {
        let level = Level::from_environment().map_err(Failure::usage)?;
        let cases = self.cases()?;
        cases.iter().try_for_each(|case| case.check(level))?;
        on_threads(self.threads.count(), || self.measure(level, &cases))
    }

    /// The suite and the cases that are named.
    fn cases(&self) -> Result<Vec<Case>, Failure> {
        let suite = self.suite.or(self.cases.is_empty().then_some(Suite::All));
        let names = suite.map_or(Vec::new(), Suite::names);
        let suite = names.iter().map(|name| Case::from_str(name)).collect::<Result<Vec<_>, _>>();
        Ok([suite.map_err(Failure::run)?, self.cases.clone()].concat())
    }

    fn measure(&self, level: Level, cases: &[Case]) -> Result<(), Failure> {
        let threads = rayon::current_num_threads();
        let peak = fma_peak(level);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}");
        let bar =
            ProgressBar::new(cases.len() as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let mut rows = Vec::new();
        for case in cases {
            bar.set_message(case.name.clone());
            let measured = match &case.work {
                Work::Gemm(gemm) => gemm.measure(level, self.min_time),
                Work::Conv(conv) => conv.measure(level, self.convolution.algorithm(), self.min_time),
            };
            let measured = measured.map_err(|error| Failure::run(format!("{}: {error}", case.name)))?;
            let Measured { times, scratch_bytes } = measured;
            let gflops = case.flops as f64 * 1e-9 / times.median;
            if self.json {
                let line = json!({
                    "case": case.name,
                    "threads": threads,
                    "level": level.name(),
                    "median_seconds": times.median,
                    "min_seconds": times.min,
                    "flops": case.flops,
                    "gflops": gflops,
                    "fraction_of_peak": gflops / peak,
                    "scratch_bytes": scratch_bytes,
                });
                bar.suspend(|| print(&line.to_string()))?;
            } else {
                rows.push(vec![
                    case.name.clone(),
                    format!("{:.4}", 1e3 * times.median),
                    format!("{:.4}", 1e3 * times.min),
                    format!("{gflops:.1}"),
                    percent(gflops / peak),
                    scratch_bytes.to_string(),
                ]);
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if self.json {
            return Ok(());
        }
        let header = ["case", "median ms", "min ms", "GFLOP/s", "of peak", "scratch bytes"];
        print(&format!(
            "level {level}, {threads} {}, FMA peak {peak:.1} GFLOP/s\n{}",
            if threads == 1 { "thread" } else { "threads" },
            table(&header, &rows)
        ))
    }
}
