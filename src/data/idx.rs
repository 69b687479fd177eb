//! MNIST-format idx files: big-endian u32 words (a magic number that tells element type and axes,
//! then the size of each axis), then the bytes. <http://yann.lecun.com/exdb/mnist/>

use std::path::Path;

use super::source::{Source, check_directory, scale};
use super::{Dataset, Result};

const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;
const CLASSES: usize = 10;

/// More pixels than this in a file are refused: as f32 they would not fit most memories.
const MAX_PIXELS: u64 = 1 << 32;

impl Dataset {
    /// The training and the test set of MNIST, or of another data set in its format (Fashion-MNIST
    /// say), from a directory with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
    /// `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, each plain or with `.gz` at the end.
    /// Pixels are divided by 255.
    ///
    /// Errors: [`Error::File`](crate::Error::File) if a file is missing, is not of the format, is cut
    /// off or too long, or holds a label above 9; if a compressed file holds more than a MiB and 64 times
    /// its size; or if the sets have different shapes.
    pub fn mnist(directory: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
        let directory = directory.as_ref();
        check_directory(directory)?;
        let train = read(directory, "train-images-idx3-ubyte", "train-labels-idx1-ubyte", None)?;
        let test = read(directory, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", Some(train.shape()))?;
        Ok((train, test))
    }
}

fn read(directory: &Path, images: &str, labels: &str, shape: Option<&[usize]>) -> Result<Dataset> {
    let mut image_file = Source::find(directory, images, "MNIST")?;
    let [count, height, width] = sizes(&mut image_file, IMAGES, "images")?;
    let found = [1, height as usize, width as usize];
    if let Some(shape) = shape.filter(|&shape| shape != found) {
        return Err(image_file.wrong(format!(
            "holds images of {height} x {width}, expected {} x {} as in the training set",
            shape[1], shape[2]
        )));
    }
    let mut label_file = Source::find(directory, labels, "MNIST")?;
    let [label_count] = sizes(&mut label_file, LABELS, "labels")?;
    if label_count != count {
        return Err(label_file.wrong(format!("holds {label_count} labels, expected {count}, one for each image")));
    }
    let labels = label_file.rest(u64::from(count))?;
    if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &label)| usize::from(label) >= CLASSES) {
        return Err(
            label_file.wrong(format!("label {label} of image {i} is out of range, expected 0..={}", CLASSES - 1))
        );
    }
    let pixels = image_file.rest(u64::from(count) * u64::from(height) * u64::from(width))?;
    Dataset::new(scale(&pixels), labels.into_iter().map(i64::from).collect(), &found, CLASSES)
}

/// Reads and checks the header of a file with `N` axes.
fn sizes<const N: usize>(file: &mut Source, magic: u32, what: &str) -> Result<[u32; N]> {
    let found = u32::from_be_bytes(file.header()?);
    if found != magic {
        return Err(file.wrong(format!(
            "starts with {found:#010x}, expected {magic:#010x} for an idx file of {what}; is it the right file?"
        )));
    }
    let mut sizes = [0; N];
    for size in &mut sizes {
        *size = u32::from_be_bytes(file.header()?);
    }
    let bytes = sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(u64::from(size)));
    match bytes {
        Some(0) => Err(file.wrong(format!("announces {what} of sizes {sizes:?}, expected each to be at least 1"))),
        Some(bytes) if bytes <= MAX_PIXELS => Ok(sizes),
        _ => Err(file.wrong(format!("announces {what} of sizes {sizes:?}, expected at most {MAX_PIXELS} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn idx(magic: u32, sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
        let words: Vec<u8> = [&[magic], sizes].concat().iter().flat_map(|word| word.to_be_bytes()).collect();
        [words, bytes.to_vec()].concat()
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Two training images of 2 x 3 and one test image, one file plain and the others compressed,
    /// except for what `change` does.
    fn mnist(change: impl Fn(&mut Vec<(&str, Vec<u8>)>)) -> std::result::Result<(Dataset, Dataset), String> {
        let mut files = vec![
            ("train-images-idx3-ubyte", idx(IMAGES, &[2, 2, 3], &[0, 255, 51, 0, 0, 0, 102, 0, 0, 0, 0, 255])),
            ("train-labels-idx1-ubyte.gz", gz(&idx(LABELS, &[2], &[9, 0]))),
            ("t10k-images-idx3-ubyte.gz", gz(&idx(IMAGES, &[1, 2, 3], &[1; 6]))),
            ("t10k-labels-idx1-ubyte.gz", gz(&idx(LABELS, &[1], &[3]))),
        ];
        change(&mut files);
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        }
        Dataset::mnist(directory.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn plain_and_compressed_files_are_read() {
        let (train, test) = mnist(|_| ()).unwrap();
        assert_eq!(train.shape(), [1, 2, 3]);
        assert_eq!(train.labels(), [9, 0]);
        assert_eq!(train.images(), [0.0, 1.0, 0.2, 0.0, 0.0, 0.0, 0.4, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!((test.len(), test.labels()[0], test.classes()), (1, 3, 10));
        assert_eq!(test.images(), [1.0 / 255.0; 6]);
    }

    #[test]
    fn broken_files_are_refused_in_one_line() {
        type Change = Box<dyn Fn(&mut Vec<(&str, Vec<u8>)>)>;
        let replace = |i: usize, bytes: Vec<u8>| -> Change { Box::new(move |files| files[i].1 = bytes.clone()) };
        let cases: Vec<(Change, &str)> = vec![
            (Box::new(|files| files.truncate(3)), "has no file t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz"),
            (Box::new(|files| files[0].1.truncate(27)), "train-images-idx3-ubyte: is cut off: its header announces 12"),
            (Box::new(|files| files[0].1.push(0)), "train-images-idx3-ubyte: is too long"),
            (Box::new(|files| files[0].1.truncate(2)), "is cut off: it has 2 bytes, expected a header of 4"),
            (Box::new(|files| files[1].1.truncate(20)), "train-labels-idx1-ubyte.gz: can not be read"),
            (replace(0, idx(LABELS, &[2, 2, 3], &[0; 12])), "starts with 0x00000801, expected 0x00000803"),
            (replace(0, idx(IMAGES, &[2, 0, 3], &[])), "sizes [2, 0, 3], expected each to be at least 1"),
            (replace(0, idx(IMAGES, &[u32::MAX; 3], &[])), "expected at most"),
            (replace(1, gz(&idx(LABELS, &[3], &[0; 3]))), "holds 3 labels, expected 2"),
            (replace(1, gz(&idx(LABELS, &[2], &[1, 10]))), "label 10 of image 1 is out of range, expected 0..=9"),
            (replace(1, b"not gzip".to_vec()), "train-labels-idx1-ubyte.gz: can not be read"),
            (replace(2, gz(&idx(IMAGES, &[1, 3, 2], &[0; 6]))), "holds images of 3 x 2, expected 2 x 3"),
            (replace(3, gz(&idx(LABELS, &[1], &[0; 1000]))), "is too long"),
            (
                Box::new(|files| {
                    files[2].1 = gz(&idx(IMAGES, &[1 << 20, 2, 3], &[0; 6 << 20]));
                    files[3].1 = gz(&idx(LABELS, &[1 << 20], &[0; 1 << 20]));
                }),
                "t10k-images-idx3-ubyte.gz: holds more than 64 times its size",
            ),
        ];
        for (change, part) in cases {
            let error = mnist(change).unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{error:?} lacks {part:?}");
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Dataset::mnist("/nowhere/at/all").unwrap_err().to_string();
        assert_eq!(error, "/nowhere/at/all: can not be read: it does not exist; check the path");
    }
}
