//! Arrays in files that other programs write: safetensors, .npz and .npy.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use npyz::{DType, NpyFile, TypeChar};
use safetensors::{Dtype, SafeTensors};
use zip::ZipArchive;
use zip::result::ZipError;

use crate::console::Failure;

/// How much a compressed array may hold: this many bytes, and so many times its size.
const UNPACKED_BYTES: u64 = 1 << 20;
const UNPACKED_FACTOR: u64 = 64;
/// What bytes are divided by, as pixels are.
const BYTE: f32 = 255.0;

/// An array in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Values,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Of an element type of one byte without sign.
    Bytes(Vec<u8>),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Values::Bytes(values) => values.len(),
            Values::Integers(values) => values.len(),
            Values::Floats(values) => values.len(),
        }
    }

    /// Numbers as a network takes them: bytes divided by 255.
    pub fn numbers(self) -> Vec<f32> {
        match self {
            Values::Bytes(values) => values.into_iter().map(|byte| f32::from(byte) / BYTE).collect(),
            Values::Integers(values) => values.into_iter().map(|value| value as f32).collect(),
            Values::Floats(values) => values,
        }
    }

    /// The labels that they are, if they are whole numbers by type.
    pub fn labels(&self) -> Option<Vec<i64>> {
        match self {
            Values::Bytes(values) => Some(values.iter().map(|&byte| byte.into()).collect()),
            Values::Integers(values) => Some(values.clone()),
            Values::Floats(_) => None,
        }
    }
}

/// Whether a file has one of the names that are read here.
pub fn is_known(path: &Path) -> bool {
    matches!(extension(path), "safetensors" | "npz" | "npy")
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

/// The arrays of a file of one of these names; of `x.npy` those of the files beside it as well that are called `y`,
/// `x_test` and `y_test` with what stands before the x.
pub fn read(path: &Path, names: &[&str]) -> Result<BTreeMap<String, Array>, Failure> {
    match extension(path) {
        "safetensors" => read_safetensors(path, names),
        "npz" => read_npz(path, names),
        _ => read_npy(path, names),
    }
}

fn wrong(path: &Path, message: impl Display) -> Failure {
    Failure::usage(format!("{}: {message}", path.display()))
}

fn read_safetensors(path: &Path, names: &[&str]) -> Result<BTreeMap<String, Array>, Failure> {
    let bytes = std::fs::read(path).map_err(|e| wrong(path, format!("cannot be read: {e}")))?;
    let file =
        SafeTensors::deserialize(&bytes).map_err(|e| wrong(path, format!("is not a valid safetensors file: {e}")))?;
    let mut arrays = BTreeMap::new();
    for name in names.iter().filter(|name| file.names().contains(name)) {
        let tensor = file.tensor(name).map_err(|e| wrong(path, e))?;
        let data = tensor.data();
        let values = match tensor.dtype() {
            Dtype::U8 => Values::Bytes(data.to_vec()),
            Dtype::I8 => Values::Integers(data.iter().map(|&byte| i64::from(byte as i8)).collect()),
            Dtype::U16 => Values::Integers(data.as_chunks().0.iter().map(|&b| u16::from_le_bytes(b).into()).collect()),
            Dtype::I16 => Values::Integers(data.as_chunks().0.iter().map(|&b| i16::from_le_bytes(b).into()).collect()),
            Dtype::U32 => Values::Integers(data.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b).into()).collect()),
            Dtype::I32 => Values::Integers(data.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect()),
            Dtype::U64 => {
                let values = data.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b)).collect();
                Values::Integers(unsigned(values).map_err(|e| wrong(path, e))?)
            }
            Dtype::BOOL => Values::Integers(data.iter().map(|&byte| i64::from(byte)).collect()),
            Dtype::I64 => Values::Integers(data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect()),
            Dtype::F32 => Values::Floats(data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
            Dtype::F64 => Values::Floats(data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect()),
            Dtype::F16 => Values::Floats(data.as_chunks().0.iter().map(|&b| half(u16::from_le_bytes(b))).collect()),
            Dtype::BF16 => {
                let widen = |&b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
                Values::Floats(data.as_chunks().0.iter().map(widen).collect())
            }
            other => return Err(wrong(path, format!("tensor {name} is of type {other}; expected integers or floats"))),
        };
        arrays.insert(name.to_string(), Array { shape: tensor.shape().to_vec(), values });
    }
    Ok(arrays)
}

/// A number of half precision.
fn half(bits: u16) -> f32 {
    npyz::half::f16::from_bits(bits).to_f32()
}

fn read_npz(path: &Path, names: &[&str]) -> Result<BTreeMap<String, Array>, Failure> {
    let file = File::open(path).map_err(|e| wrong(path, format!("cannot be read: {e}")))?;
    let archive = ZipArchive::new(BufReader::new(file));
    let mut archive = archive.map_err(|e| wrong(path, format!("is not a valid .npz file: {e}")))?;
    let mut arrays = BTreeMap::new();
    for name in names {
        let of_array = |e: &dyn Display| wrong(path, format!("array {name}: {e}"));
        let entry = match archive.by_name(&format!("{name}.npy")) {
            Err(ZipError::FileNotFound) => continue,
            entry => entry.map_err(|e| of_array(&e))?,
        };
        let bytes = entry.size();
        if bytes > entry.compressed_size().saturating_mul(UNPACKED_FACTOR).saturating_add(UNPACKED_BYTES) {
            return Err(of_array(&format!(
                "unpacks to more than {UNPACKED_FACTOR} times its size, which is refused; save it without compression"
            )));
        }
        let file = NpyFile::new(entry.take(bytes)).map_err(|e| of_array(&e))?;
        arrays.insert(name.to_string(), array(file, bytes).map_err(|e| of_array(&e))?);
    }
    Ok(arrays)
}

fn read_npy(path: &Path, names: &[&str]) -> Result<BTreeMap<String, Array>, Failure> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let before = stem.strip_suffix('x');
    let mut arrays = BTreeMap::new();
    for name in names {
        let place = match (*name, before) {
            ("x", _) => path.to_path_buf(),
            (name, Some(before)) => path.with_file_name(format!("{before}{name}.npy")),
            (_, None) => PathBuf::new(),
        };
        if *name != "x" && !place.is_file() {
            continue;
        }
        let file = File::open(&place).map_err(|e| wrong(&place, format!("cannot be read: {e}")))?;
        let bytes = file.metadata().map_err(|e| wrong(&place, format!("cannot be read: {e}")))?.len();
        let file =
            NpyFile::new(BufReader::new(file)).map_err(|e| wrong(&place, format!("is not a valid .npy file: {e}")))?;
        arrays.insert(name.to_string(), array(file, bytes).map_err(|e| wrong(&place, e))?);
    }
    Ok(arrays)
}

/// An array of any number type, in row-major order, from a file that holds so many bytes.
fn array(file: NpyFile<impl Read>, bytes: u64) -> Result<Array, String> {
    let shape: Vec<usize> = file.shape().iter().map(|&size| size as usize).collect();
    let column_major = file.order() == npyz::Order::Fortran;
    let DType::Plain(kind) = file.dtype() else { return Err("is a structured array; expected numbers".into()) };
    let size = kind.size_field().max(1);
    let announced = file.shape().iter().try_fold(size, |product, &size| product.checked_mul(size));
    if announced.is_none_or(|announced| announced > bytes) {
        return Err(format!("has shape {shape:?}, which is more than its {bytes} bytes hold; save it again"));
    }
    let text = |error: std::io::Error| error.to_string();
    let values = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Uint, 1) => Values::Bytes(file.into_vec::<u8>().map_err(text)?),
        (TypeChar::Uint, 2) => integers(file.into_vec::<u16>().map_err(text)?),
        (TypeChar::Uint, 4) => integers(file.into_vec::<u32>().map_err(text)?),
        (TypeChar::Uint, 8) => Values::Integers(unsigned(file.into_vec::<u64>().map_err(text)?)?),
        (TypeChar::Bool, _) => integers(file.into_vec::<bool>().map_err(text)?),
        (TypeChar::Int, 1) => integers(file.into_vec::<i8>().map_err(text)?),
        (TypeChar::Int, 2) => integers(file.into_vec::<i16>().map_err(text)?),
        (TypeChar::Int, 4) => integers(file.into_vec::<i32>().map_err(text)?),
        (TypeChar::Int, 8) => integers(file.into_vec::<i64>().map_err(text)?),
        (TypeChar::Float, 2) => {
            let values = file.into_vec::<npyz::half::f16>().map_err(text)?;
            Values::Floats(values.into_iter().map(npyz::half::f16::to_f32).collect())
        }
        (TypeChar::Float, 4) => Values::Floats(file.into_vec::<f32>().map_err(text)?),
        (TypeChar::Float, 8) => {
            Values::Floats(file.into_vec::<f64>().map_err(text)?.into_iter().map(|value| value as f32).collect())
        }
        _ => return Err(format!("holds elements of type {kind}; expected integers or floats of up to 64 bits")),
    };
    if values.len() != shape.iter().product::<usize>() {
        return Err(format!("holds {} elements; expected those of shape {shape:?}", values.len()));
    }
    Ok(Array { values: if column_major { row_major(values, &shape) } else { values }, shape })
}

/// Numbers that may be too large for a label.
fn unsigned(values: Vec<u64>) -> Result<Vec<i64>, String> {
    let label = |value: u64| i64::try_from(value).map_err(|_| format!("holds {value}; expected at most {}", i64::MAX));
    values.into_iter().map(label).collect()
}

fn integers<T: Into<i64>>(values: Vec<T>) -> Values {
    Values::Integers(values.into_iter().map(Into::into).collect())
}

/// Values whose first axis varies fastest, with the last one fastest.
fn row_major(values: Values, shape: &[usize]) -> Values {
    let place = |mut index: usize| {
        let mut place = 0;
        for (axis, &size) in shape.iter().enumerate().rev() {
            let stride: usize = shape[..axis].iter().product();
            place += index % size * stride;
            index /= size;
        }
        place
    };
    fn ordered<T: Copy>(values: &[T], place: impl Fn(usize) -> usize) -> Vec<T> {
        (0..values.len()).map(|index| values[place(index)]).collect()
    }
    match values {
        Values::Bytes(values) => Values::Bytes(ordered(&values, place)),
        Values::Integers(values) => Values::Integers(ordered(&values, place)),
        Values::Floats(values) => Values::Floats(ordered(&values, place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_major_arrays_are_turned() {
        // [[1, 2, 3], [4, 5, 6]] by columns.
        let turned = row_major(Values::Integers(vec![1, 4, 2, 5, 3, 6]), &[2, 3]);
        assert_eq!(turned, Values::Integers(vec![1, 2, 3, 4, 5, 6]));
    }

    #[test]
    fn bytes_are_pixels_or_labels() {
        let bytes = Values::Bytes(vec![0, 51, 255]);
        assert_eq!(bytes.labels(), Some(vec![0, 51, 255]));
        assert_eq!(bytes.numbers(), [0.0, 0.2, 1.0]);
    }
}
