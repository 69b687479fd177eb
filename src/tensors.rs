//! Named tensors in safetensors files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32fast::Hasher;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, View};

use crate::error::{Error, Result};
use crate::files::{self, write_atomically};
use crate::finite::not_finite;
use crate::parameters::{ParameterSpec, Parameters};

/// The bytes before a file's header: its length.
const PREFIX: u64 = 8;
/// Longer headers are refused, as the format's own readers do.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes that a checksum is taken of at a time.
const HASHED_BYTES: usize = 1 << 20;

/// A safetensors file, whose header has been checked against its size. Tensors are read when they are asked
/// for, so that none takes memory whose shape is not the one expected.
pub(crate) struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where the data begins.
    start: u64,
}

impl TensorFile {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        // Looked at first: to open a pipe waits for its other end.
        let metadata = std::fs::metadata(path).map_err(|e| files::io_error(path, "read", &e))?;
        if !metadata.is_file() && !metadata.is_dir() {
            return Err(Error::file(path, "is not a regular file, expected safetensors"));
        }
        let mut file = files::open(path)?;
        let wrong = |what: &str| {
            Error::file(path, format!("is not a valid safetensors file ({what}); save it again or use another"))
        };
        let length = file.metadata().map_err(|e| files::io_error(path, "read", &e))?.len();
        let mut prefix = [0; PREFIX as usize];
        if length < PREFIX {
            return Err(wrong("it is shorter than the length of its header"));
        }
        file.read_exact(&mut prefix).map_err(|e| files::io_error(path, "read", &e))?;
        // A zip archive, or a pickle of protocol 2 and on.
        if prefix.starts_with(b"PK\x03\x04") || (prefix[0] == 0x80 && (2..=5).contains(&prefix[1]) && prefix[7] != 0) {
            return Err(Error::file(
                path,
                "is in the format of torch.save, expected safetensors; save it with safetensors.torch.save_file",
            ));
        }
        let announced = u64::from_le_bytes(prefix);
        if announced > MAX_HEADER.min(length - PREFIX) {
            return Err(wrong(&format!(
                "its header would have {announced} bytes, expected at most {}",
                MAX_HEADER.min(length - PREFIX)
            )));
        }
        let text = files::read_at_most(path, Read::by_ref(&mut file).take(announced), announced)?;
        let header: Metadata = serde_json::from_slice(&text).map_err(|error| wrong(&error.to_string()))?;
        let start = PREFIX + announced;
        match (header.data_len() as u64).checked_add(start) {
            Some(end) if end == length => Ok(TensorFile { path: path.to_path_buf(), file, header, start }),
            _ => Err(wrong("its size differs from what its header says; it is cut off or too long")),
        }
    }

    /// The names in the order of their data.
    pub(crate) fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    pub(crate) fn dtype(&self, name: &str) -> Result<Dtype> {
        Ok(self.info(name)?.dtype)
    }

    pub(crate) fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.info(name)?.shape)
    }

    /// A tensor of any finite values of this shape.
    pub(crate) fn finite_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.all_finite(name, shape, self.f32(name, shape)?)
    }

    fn all_finite(&self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<Vec<f32>> {
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(self.wrong(not_finite(format_args!("tensor {name}"), values[at], at, shape))),
        }
    }

    /// A tensor of finite floating-point numbers of this shape: of half precision widened, of double precision rounded.
    pub(crate) fn finite_floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        let dtype = info.dtype;
        let widen: fn(&[u8]) -> f32 = match dtype {
            Dtype::F32 => return self.finite_f32(name, shape),
            Dtype::F64 => |bytes| f64::from_le_bytes(bytes.try_into().unwrap_or_default()) as f32,
            Dtype::F16 => |bytes| half_precision(u16::from_le_bytes(bytes.try_into().unwrap_or_default())),
            Dtype::BF16 => {
                |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes.try_into().unwrap_or_default())) << 16)
            }
            other => {
                return Err(
                    self.wrong(format!("tensor {name} is of type {other}, expected F32, F16, BF16 or F64; convert it"))
                );
            }
        };
        let size = dtype.bitsize() / 8;
        let values: Vec<f32> = self.elements(name, dtype, shape)?.chunks_exact(size).map(widen).collect();
        self.all_finite(name, shape, values)
    }

    pub(crate) fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.elements(name, Dtype::F32, shape)?.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect())
    }

    pub(crate) fn f64(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        Ok(self.elements(name, Dtype::F64, shape)?.as_chunks().0.iter().copied().map(f64::from_le_bytes).collect())
    }

    pub(crate) fn i64(&self, name: &str, shape: &[usize]) -> Result<Vec<i64>> {
        Ok(self.elements(name, Dtype::I64, shape)?.as_chunks().0.iter().copied().map(i64::from_le_bytes).collect())
    }

    /// A tensor for each parameter, under its name in `names`, as `read` reads it.
    pub(crate) fn parameters(
        &self,
        specs: &Arc<[ParameterSpec]>,
        names: &[String],
        read: fn(&Self, &str, &[usize]) -> Result<Vec<f32>>,
    ) -> Result<Parameters> {
        // All shapes before anything is read.
        for (spec, name) in specs.iter().zip(names) {
            self.find(name, self.dtype(name)?, &spec.shape)?;
        }
        let mut parameters = Parameters::zeros(specs.clone());
        for (spec, name) in specs.iter().zip(names) {
            let values = read(self, name, &spec.shape)?;
            parameters.values_mut()[spec.range.clone()].copy_from_slice(&values);
        }
        Ok(parameters)
    }

    /// The checksum of all metadata but that under `key`, and of the names and bytes of all tensors.
    pub(crate) fn checksum(&self, key: &str) -> Result<String> {
        let metadata = self.header.metadata().as_ref().into_iter().flatten().filter(|(found, _)| *found != key);
        let metadata = metadata.map(|(key, value)| (key.as_str(), value.as_str()));
        checksum(metadata, self.names(), |name, hasher| {
            let (from, to) = self.info(name)?.data_offsets;
            hasher.update(&((to - from) as u64).to_le_bytes());
            let mut block = vec![0; HASHED_BYTES.min(to - from)];
            for at in (from..to).step_by(HASHED_BYTES) {
                let block = &mut block[..HASHED_BYTES.min(to - at)];
                self.read_at(at, block)?;
                hasher.update(block);
            }
            Ok(())
        })
    }

    pub(crate) fn wrong(&self, message: impl std::fmt::Display) -> Error {
        Error::file(&self.path, message)
    }

    /// The bytes of a tensor of this type and shape.
    fn elements(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Vec<u8>> {
        self.bytes(self.find(name, dtype, shape)?)
    }

    fn find(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&TensorInfo> {
        let info = self.info(name)?;
        if info.dtype != dtype {
            return Err(self.wrong(format!("tensor {name} is of type {}, expected {dtype}; convert it", info.dtype)));
        }
        if info.shape != shape {
            return Err(self.wrong(format!("tensor {name} has shape {:?}, expected {shape:?}", info.shape)));
        }
        Ok(info)
    }

    fn bytes(&self, info: &TensorInfo) -> Result<Vec<u8>> {
        let (from, to) = info.data_offsets;
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(to - from).is_err() {
            let size = (to - from) >> 30;
            return Err(self.wrong(format!(
                "holds a tensor of {size} GiB, more than the memory of this machine; use a smaller batch or network"
            )));
        }
        bytes.resize(to - from, 0);
        self.read_at(from, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `bytes` from an offset of the data on.
    fn read_at(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start + offset as u64))
            .and_then(|_| file.read_exact(bytes))
            .map_err(|e| files::io_error(&self.path, "read", &e))
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| {
            let mut names = self.names();
            names.sort();
            const SHOWN: usize = 8;
            let more = if names.len() > SHOWN { ", ..." } else { "" };
            names.truncate(SHOWN);
            self.wrong(format!("has no tensor {name}; it holds {}{more}", names.join(", ")))
        })
    }
}

/// A number of IEEE 754's half precision.
fn half_precision(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    let magnitude = match exponent {
        // 2^-24 of a whole number is exact.
        0 => (fraction as f32 * f32::from_bits((127 - 24) << 23)).to_bits(),
        0x1f => 0xff << 23 | fraction << 13,
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// The CRC-32 of keys with values and of names with what `add` hashes for them, whatever their order.
pub(crate) fn checksum<'a>(
    metadata: impl Iterator<Item = (&'a str, &'a str)>,
    mut names: Vec<String>,
    add: impl Fn(&str, &mut Hasher) -> Result<()>,
) -> Result<String> {
    let mut metadata: Vec<_> = metadata.collect();
    metadata.sort_unstable();
    names.sort_unstable();
    let mut hasher = Hasher::new();
    for (key, value) in metadata {
        hash(&mut hasher, key.as_bytes());
        hash(&mut hasher, value.as_bytes());
    }
    for name in &names {
        hash(&mut hasher, name.as_bytes());
        add(name, &mut hasher)?;
    }
    Ok(format!("{:08x}", hasher.finalize()))
}

/// Hashes a part after its length.
pub(crate) fn hash(hasher: &mut Hasher, part: &[u8]) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part);
}

/// A tensor to be written.
pub(crate) struct TensorBytes {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl TensorBytes {
    pub(crate) fn f32(shape: &[usize], values: &[f32]) -> Self {
        TensorBytes::of(Dtype::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub(crate) fn f64(shape: &[usize], values: &[f64]) -> Self {
        TensorBytes::of(Dtype::F64, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub(crate) fn i64(shape: &[usize], values: &[i64]) -> Self {
        TensorBytes::of(Dtype::I64, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn of(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        TensorBytes { dtype, shape: shape.to_vec(), bytes }
    }
}

impl View for TensorBytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.bytes).into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes tensors and, unless there is none, text by key.
pub(crate) fn write(
    path: &Path,
    tensors: Vec<(String, TensorBytes)>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let bytes = safetensors::serialize(tensors, metadata)
        .map_err(|error| Error::file(path, format!("cannot be written as safetensors: {error}")))?;
    write_atomically(path, &bytes)
}

/// Writes named f32 tensors with their row-major shapes as a safetensors file, atomically replacing an older one.
///
/// # Errors
/// [`Error::File`] if the file cannot be written.
///
/// # Panics
/// If a tensor has another number of values than its shape says.
pub fn write_tensors(path: impl AsRef<Path>, tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Result<()> {
    let tensors = tensors.iter().map(|(name, shape, values)| {
        let expected: usize = shape.iter().product();
        assert_eq!(values.len(), expected, "{name} has {} values for the shape {shape:?}", values.len());
        (name.clone(), TensorBytes::f32(shape, values))
    });
    write(path.as_ref(), tensors.collect(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file made by hand after the format's description: u64 length, JSON header, data.
    fn raw(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    fn read(bytes: &[u8]) -> Result<TensorFile> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.safetensors");
        std::fs::write(&path, bytes).unwrap();
        TensorFile::read(&path)
    }

    #[test]
    fn a_file_made_by_hand_is_read() {
        let data = [1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat();
        let file = read(&raw(r#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#, &data)).unwrap();
        assert_eq!(file.finite_f32("a", &[2, 1]).unwrap(), [1.5, -2.0]);
        let shape = file.f32("a", &[1, 2]).unwrap_err().to_string();
        assert!(shape.ends_with("tensor a has shape [2, 1], expected [1, 2]"), "{shape}");
        let dtype = file.i64("a", &[2, 1]).unwrap_err().to_string();
        assert!(dtype.ends_with("tensor a is of type F32, expected I64; convert it"), "{dtype}");
        let missing = file.f32("b", &[2, 1]).unwrap_err().to_string();
        assert!(missing.ends_with("has no tensor b; it holds a"), "{missing}");
    }

    #[test]
    fn values_that_are_not_finite_are_named() {
        let data = [0.0f32, 1.0, 2.0, f32::NEG_INFINITY].map(f32::to_le_bytes).concat();
        let file = read(&raw(r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#, &data)).unwrap();
        let error = file.finite_f32("a", &[2, 2]).unwrap_err().to_string();
        assert!(error.ends_with("tensor a holds -inf at [1, 1], expected finite numbers"), "{error}");
    }

    #[test]
    fn numbers_of_half_precision() {
        let known = [
            (0x0000, 0.0),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
            (0x7c00, f32::INFINITY),
        ];
        for (bits, number) in known {
            assert_eq!(half_precision(bits).to_bits(), number.to_bits(), "{bits:#06x}");
        }
        assert!(half_precision(0x7e00).is_nan());
    }

    #[test]
    fn what_torch_saves_is_named() {
        for bytes in [&b"PK\x03\x04\x00\x00\x08\x08\x00\x00"[..], b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."] {
            let error = read(bytes).err().unwrap().to_string();
            assert!(error.contains("format of torch.save"), "{error}");
        }
    }

    /// A header whose tensors end where 64 bits do.
    fn eighths() -> String {
        let eighth = 1u64 << 61;
        let tensor = |i: u64| {
            let (from, to) = (i * eighth, (i + 1).saturating_mul(eighth));
            format!(r#""{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{from},{to}]}}"#, to - from)
        };
        format!("{{{}}}", (0..8).map(tensor).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn broken_files_are_refused_in_one_line() {
        let good = raw(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]);
        assert!(read(&good).is_ok());
        for length in 0..good.len() {
            let error = read(&good[..length]).err().unwrap_or_else(|| panic!("cut to {length} bytes")).to_string();
            assert!(error.contains("is not a valid safetensors file") && !error.contains('\n'), "{error}");
        }
        for bytes in [
            [&good[..], &[0]].concat(),
            raw("{", &[]),
            raw("[[[[", &[]),
            raw(&"[".repeat(100_000), &[]),
            raw(r#"{"a":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,8]}}"#, &[0; 8]),
            raw(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, &[0; 8]),
            // Eight times an eighth of the address space, and the bytes that are there once more.
            raw(&eighths(), &[]),
            u64::MAX.to_le_bytes().to_vec(),
        ] {
            assert!(read(&bytes).is_err());
        }
    }

    #[test]
    fn written_tensors_are_laid_out_as_the_format_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.safetensors");
        write_tensors(&path, &[("b".into(), vec![1, 2], vec![1.0, -3.5]), ("a".into(), vec![1], vec![8.0])]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        for (name, shape, expected) in [("a", vec![1], &[8.0f32][..]), ("b", vec![1, 2], &[1.0, -3.5])] {
            assert_eq!(header[name]["dtype"], "F32");
            assert_eq!(header[name]["shape"], serde_json::json!(shape));
            let from = 8 + length + header[name]["data_offsets"][0].as_u64().unwrap() as usize;
            let expected: Vec<u8> = expected.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(&bytes[from..from + expected.len()], expected);
        }
    }
}
