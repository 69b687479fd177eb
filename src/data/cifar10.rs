//! CIFAR-10, binary version: records of a label and 3 x 32 x 32 pixels, red, green and blue plane,
//! each row-major. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

use std::path::{Path, PathBuf};

use super::source::{Source, check_directory, files_below, find, scale};
use super::{Dataset, Result};
use crate::error::Error;

const SHAPE: [usize; 3] = [3, 32, 32];
const RECORD: usize = 1 + 3 * 32 * 32;
const MAX_RECORDS: usize = 10_000;
const CLASSES: usize = 10;

impl Dataset {
    /// The directory that [`cifar10`](Self::cifar10) reads: the given one, or the nearest subdirectory, up to two levels below,
    /// that has one of its files, such as `cifar-10-batches-bin`.
    ///
    /// # Errors
    /// [`Error::File`] if the directory is not there.
    pub fn cifar10_directory(directory: impl AsRef<Path>) -> Result<PathBuf> {
        let directory = directory.as_ref();
        check_directory(directory)?;
        let is_batch = |path: &&PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("data_batch_") && (name.ends_with(".bin") || name.ends_with(".bin.gz"))
        };
        let files = files_below(directory, 2);
        let nearest = files.iter().filter(is_batch).min_by_key(|path| path.components().count());
        Ok(nearest.and_then(|path| path.parent()).unwrap_or(directory).to_path_buf())
    }

    /// The training and the test set of CIFAR-10, binary version, from a directory, or one
    /// [below it](Self::cifar10_directory), with `test_batch.bin` and at least one of `data_batch_1.bin` to `data_batch_5.bin`, each plain or
    /// with `.gz` at the end. Pixels are divided by 255.
    ///
    /// # Errors
    /// [`Error::File`] if a file is missing, is not a whole number of
    /// records, has more than 10,000 of them, or holds a label above 9; or if a compressed file holds more
    /// than 1 MiB and more than 64 times its size.
    pub fn cifar10(directory: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
        let directory = &Self::cifar10_directory(directory)?;
        let mut images = Vec::new();
        let mut labels = Vec::new();
        let batches = (1..=5).filter_map(|i| find(directory, &format!("data_batch_{i}.bin")));
        for path in batches {
            read(Source::open(&path)?, &mut images, &mut labels)?;
        }
        if labels.is_empty() {
            return Err(Error::file(
                directory,
                "has none of data_batch_1.bin to data_batch_5.bin, plain or .gz; expected the binary version of CIFAR-10",
            ));
        }
        let train = Dataset::new(images, labels, &SHAPE, CLASSES)?;
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        let test = Source::find(directory, "test_batch.bin", "the binary version of CIFAR-10")?;
        read(test, &mut images, &mut labels)?;
        Ok((train, Dataset::new(images, labels, &SHAPE, CLASSES)?))
    }
}

fn read(mut file: Source, images: &mut Vec<f32>, labels: &mut Vec<i64>) -> Result<()> {
    const LIMIT: usize = MAX_RECORDS * RECORD;
    let bytes = file.up_to(LIMIT as u64 + 1)?;
    if bytes.len() > LIMIT {
        return Err(file.wrong(format!(
            "is too long: expected at most {MAX_RECORDS} records of {RECORD} bytes; is it the binary version of CIFAR-10?"
        )));
    }
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        return Err(file.wrong(format!(
            "is cut off: it has {} bytes, expected a multiple of {RECORD}; download it again",
            bytes.len()
        )));
    }
    images.reserve(bytes.len());
    for (i, record) in bytes.chunks(RECORD).enumerate() {
        if usize::from(record[0]) >= CLASSES {
            return Err(file.wrong(format!(
                "label {} of record {i} is out of range, expected 0..={}",
                record[0],
                CLASSES - 1
            )));
        }
        labels.push(i64::from(record[0]));
        images.extend(scale(&record[1..]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(label: u8, pixel: impl Fn(usize) -> u8) -> Vec<u8> {
        std::iter::once(label).chain((0..RECORD - 1).map(pixel)).collect()
    }

    fn cifar(files: &[(&str, Vec<u8>)]) -> std::result::Result<(Dataset, Dataset), String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        }
        Dataset::cifar10(directory.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_batches_that_are_there_are_read_in_order() {
        let (train, test) = cifar(&[
            ("data_batch_4.bin", record(7, |_| 0)),
            ("data_batch_2.bin", [record(3, |i| (i % 256) as u8), record(5, |_| 255)].concat()),
            ("test_batch.bin", record(9, |_| 51)),
        ])
        .unwrap();
        assert_eq!(train.labels(), [3, 5, 7]);
        assert_eq!(train.shape(), [3, 32, 32]);
        assert_eq!(train.images()[255], 1.0);
        assert_eq!(train.images()[256], 0.0);
        assert_eq!(train.images()[RECORD - 1], 1.0);
        assert_eq!(test.labels(), [9]);
        assert_eq!(test.images(), [0.2; RECORD - 1]);
    }

    #[test]
    fn broken_files_are_refused_in_one_line() {
        let good = || record(1, |_| 0);
        for (files, part) in [
            (vec![("test_batch.bin", good())], "has none of data_batch_1.bin"),
            (vec![("data_batch_1.bin", good())], "has no file test_batch.bin or test_batch.bin.gz"),
            (vec![("data_batch_1.bin", good()[1..].to_vec())], "is cut off: it has 3072 bytes"),
            (vec![("data_batch_1.bin", vec![])], "is cut off: it has 0 bytes"),
            (vec![("data_batch_1.bin", record(10, |_| 0))], "label 10 of record 0 is out of range"),
            (vec![("data_batch_1.bin", vec![0; (MAX_RECORDS + 1) * RECORD])], "is too long"),
            (vec![("data_batch_1.bin.gz", good())], "cannot be read"),
        ] {
            let error = cifar(&files).unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{error:?} lacks {part:?}");
        }
    }
}
