//! Matrix products C = A B, every matrix in rows without gaps.

use predictive_coding_kernels::{Buffer, GemmScratch, Level, Lhs, MatMut, MatRef, PackedLhs};

use crate::bench::check::{self, values};
use crate::bench::{Measured, poisoned};
use crate::timing::time;

/// A of m x k times B of k x n.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemm {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// A is stored as k x m.
    pub a_transposed: bool,
    /// B is stored as n x k.
    pub b_transposed: bool,
    /// A is packed beforehand.
    pub packed: bool,
}

/// A matrix of `rows` x `columns`, or the transpose of one that is stored the other way round.
fn view(data: &[f32], rows: usize, columns: usize, transposed: bool) -> MatRef<'_> {
    match transposed {
        true => MatRef::row_major(data, columns, rows).transposed(),
        false => MatRef::row_major(data, rows, columns),
    }
}

impl Gemm {
    pub fn flops(&self) -> u128 {
        2 * [self.m, self.k, self.n].map(|size| size as u128).iter().product::<u128>()
    }

    /// Bytes of A, twice if it is packed, of B and of C.
    pub fn bytes(&self) -> u128 {
        let [m, k, n] = [self.m, self.k, self.n].map(|size| size as u128);
        size_of::<f32>() as u128 * (if self.packed { 2 * m * k } else { m * k } + k * n + m * n)
    }

    /// Multiplies on the current rayon pool: checks the product, then times it.
    pub fn measure(&self, level: Level, seconds: f64) -> Result<Measured, String> {
        let &Gemm { m, k, n, .. } = self;
        let (a, b) = (aligned(&values(1, m * k)), aligned(&values(2, k * n)));
        let lhs = view(&a, m, k, self.a_transposed);
        let rhs = view(&b, k, n, self.b_transposed);
        let packed = self.packed.then(|| PackedLhs::pack(level, lhs));
        let lhs = packed.as_ref().map_or(Lhs::Plain(lhs), Lhs::Packed);
        let mut scratch = poisoned(GemmScratch::new(level, m, k, n).len() * rayon::current_num_threads());
        let mut c = poisoned(m * n);
        let mut product = |c: &mut [f32]| {
            predictive_coding_kernels::gemm(level, 1.0, lhs, rhs, 0.0, MatMut::row_major(c, m, n), &mut scratch);
        };
        product(&mut c);
        check::gemm(self, &a, &b, &c)?;
        let times = time(seconds, || product(&mut c));
        Ok(Measured { times, scratch_bytes: size_of_val(&scratch[..]) })
    }
}

/// A copy that begins on a cache line.
fn aligned(values: &[f32]) -> Buffer {
    let mut buffer = Buffer::zeros(values.len());
    buffer.copy_from_slice(values);
    buffer
}
