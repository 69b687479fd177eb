//! Idx files, as MNIST comes in: big-endian u32 words (a magic number that tells element type and axes,
//! then the size of each axis), then the elements. <http://yann.lecun.com/exdb/mnist/>

use std::path::{Path, PathBuf};

use super::source::{Source, check_directory, files_below, scale};
use super::{Dataset, Result};
use crate::error::Error;

/// More elements than this in a file are refused: as f32 they would not fit most memories.
const MAX_ELEMENTS: u64 = 1 << 32;
/// Axes of a file of images, of which the first counts them.
const IMAGE_AXES: std::ops::RangeInclusive<u32> = 2..=4;

/// The four files of a data set in MNIST's format, as [`Dataset::mnist_files`](crate::Dataset::mnist_files) finds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxFiles {
    /// Images and labels of the training set, then of the test set.
    pub paths: [PathBuf; 4],
    /// Number of other files that fit as well.
    pub others: usize,
}

impl Dataset {
    /// The training and the test set of MNIST, or of another data set in its format (Fashion-MNIST, EMNIST), from a
    /// directory that [`mnist_files`](Self::mnist_files) finds them in. Images have one channel, or those of their own
    /// axis. Bytes are divided by 255; elements of other types are taken as they are. There are as many classes as the
    /// largest label says.
    ///
    /// # Errors
    /// [`Error::File`] if a file is missing, is not of the format, or is cut
    /// off or too long; if a compressed file holds more than 1 MiB and more than 64 times
    /// its size; or if the sets have different shapes.
    pub fn mnist(directory: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
        let [images, labels, test_images, test_labels] = Self::mnist_files(directory)?.paths;
        let (shape, pixels, labels) = read(&images, &labels, None)?;
        let (_, test_pixels, test_labels) = read(&test_images, &test_labels, Some(&shape))?;
        let classes = labels.iter().chain(&test_labels).max().map_or(0, |&label| label as usize + 1);
        let train = Dataset::new(pixels, labels, &shape, classes)?;
        Ok((train, Dataset::new(test_pixels, test_labels, &shape, classes)?))
    }

    /// The files that [`mnist`](Self::mnist) reads: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same of
    /// `t10k` or `test`, in the directory or up to three levels below it; each plain or with `.gz` at the end, with
    /// `.idx` for `-idx`, in a folder of its own name, and with the same words before it as in `emnist-letters-train`.
    /// If several files fit, the order of preference is: the nearest directory, the fewest words in the name, uncompressed.
    ///
    /// # Errors
    /// [`Error::File`] if one is missing.
    pub fn mnist_files(directory: impl AsRef<Path>) -> Result<IdxFiles> {
        let directory = directory.as_ref();
        check_directory(directory)?;
        let mut named: Vec<Named> =
            files_below(directory, 3).iter().filter_map(|path| Named::of(directory, path)).collect();
        named.sort();
        let mut sets: Vec<[Vec<&Named>; 4]> = Vec::new();
        for set in named.chunk_by(|a, b| (&a.set, &a.words) == (&b.set, &b.words)) {
            sets.push([0, 1, 2, 3].map(|slot| set.iter().filter(|named| named.slot == slot).collect()));
        }
        let whole = |set: &&[Vec<&Named>; 4]| set.iter().all(|slot| !slot.is_empty());
        let Some(chosen) = sets.iter().find(whole) else {
            // What is missing of the set that lacks least.
            let nearest = sets.iter().max_by_key(|set| set.iter().filter(|slot| !slot.is_empty()).count());
            let missing = nearest.and_then(|set| set.iter().position(Vec::is_empty)).unwrap_or(0);
            let words = nearest.and_then(|set| set.iter().flatten().next()).map_or("", |named| &named.words);
            let name = format!("{words}{}", SLOTS[missing]);
            return Err(Error::file(
                directory,
                format!("has no file {name} or {name}.gz, expected the files of MNIST"),
            ));
        };
        let others = sets.iter().filter(whole).map(|set| set.iter().map(Vec::len).sum::<usize>()).sum::<usize>() - 4;
        Ok(IdxFiles { paths: [0, 1, 2, 3].map(|slot| chosen[slot][0].path.clone()), others })
    }
}

/// The usual names of the four files.
const SLOTS: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// A file by what its name says, the plainest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    /// Folders between the directory and its set, and the number of its words.
    depth: usize,
    words_len: usize,
    /// The folder of its set, and the words before `train` or `test`.
    set: PathBuf,
    words: String,
    slot: usize,
    /// Whether it is in a folder of its own, has another dot, is compressed.
    odd: [bool; 3],
    path: PathBuf,
}

impl Named {
    fn of(directory: &Path, path: &Path) -> Option<Named> {
        let file = path.file_name()?.to_str()?;
        let bare = file.strip_suffix(".gz").unwrap_or(file);
        let usual = bare.replace(".idx", "-idx");
        let (stem, kind) = usual.rsplit_once("-idx")?;
        let stem =
            stem.strip_suffix("-images").map(|stem| (stem, 0)).or(stem.strip_suffix("-labels").map(|stem| (stem, 1)));
        let (stem, labels) = stem.filter(|_| kind.starts_with(|c: char| c.is_ascii_digit()))?;
        let split = |name: &str, test: usize| stem.strip_suffix(name).map(|words| (words, test));
        let (words, test) = split("train", 0).or(split("t10k", 2)).or(split("test", 2))?;
        let parent = path.parent()?;
        let folder = parent.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let own = parent != directory && folder.strip_suffix(".gz").unwrap_or(folder).replace(".idx", "-idx") == usual;
        let set = if own { parent.parent()? } else { parent };
        Some(Named {
            depth: set.strip_prefix(directory).ok()?.components().count(),
            words_len: words.len(),
            set: set.to_path_buf(),
            words: words.to_string(),
            slot: test + labels,
            odd: [own, usual != bare, bare != file],
            path: path.to_path_buf(),
        })
    }
}

/// Shape, elements and labels of the images of a set.
fn read(images: &Path, labels: &Path, shape: Option<&[usize]>) -> Result<(Vec<usize>, Vec<f32>, Vec<i64>)> {
    let mut image_file = Source::open(images)?;
    let (kind, sizes) = header(&mut image_file, "images", IMAGE_AXES)?;
    let count = sizes[0];
    let mut found: Vec<usize> = sizes[1..].iter().map(|&size| size as usize).collect();
    if found.len() == 2 {
        found.insert(0, 1);
    }
    if let Some(shape) = shape.filter(|&shape| shape != found) {
        return Err(image_file.wrong(format!("holds images of {found:?}, expected {shape:?} as in the training set")));
    }
    let mut label_file = Source::open(labels)?;
    let (label_kind, label_sizes) = header(&mut label_file, "labels", 1..=1)?;
    if label_sizes[0] != count {
        return Err(label_file.wrong(format!("holds {} labels, expected {count}, one for each image", label_sizes[0])));
    }
    let labels = label_kind.elements(&label_file.rest(u64::from(count) * label_kind.size())?);
    if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &label)| label < 0.0 || label.fract() != 0.0) {
        return Err(label_file
            .wrong(format!("label {label} of image {i} is not a class, expected a whole number of at least 0")));
    }
    let elements = sizes.iter().map(|&size| u64::from(size)).product::<u64>();
    let bytes = image_file.rest(elements * kind.size())?;
    let pixels = match kind {
        Kind::U8 => scale(&bytes),
        _ => kind.elements(&bytes).into_iter().map(|element| element as f32).collect(),
    };
    Ok((found, pixels, labels.into_iter().map(|label| label as i64).collect()))
}

/// The type of a file's elements.
#[derive(Clone, Copy)]
enum Kind {
    U8,
    I8,
    I16,
    I32,
    F32,
    F64,
}

impl Kind {
    fn of(code: u32) -> Option<Kind> {
        Some(match code {
            0x08 => Kind::U8,
            0x09 => Kind::I8,
            0x0b => Kind::I16,
            0x0c => Kind::I32,
            0x0d => Kind::F32,
            0x0e => Kind::F64,
            _ => return None,
        })
    }

    /// Bytes of an element.
    fn size(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 => 1,
            Kind::I16 => 2,
            Kind::I32 | Kind::F32 => 4,
            Kind::F64 => 8,
        }
    }

    fn elements(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Kind::U8 => bytes.iter().map(|&byte| f64::from(byte)).collect(),
            Kind::I8 => bytes.iter().map(|&byte| f64::from(byte as i8)).collect(),
            Kind::I16 => bytes.as_chunks().0.iter().map(|&bytes| f64::from(i16::from_be_bytes(bytes))).collect(),
            Kind::I32 => bytes.as_chunks().0.iter().map(|&bytes| f64::from(i32::from_be_bytes(bytes))).collect(),
            Kind::F32 => bytes.as_chunks().0.iter().map(|&bytes| f64::from(f32::from_be_bytes(bytes))).collect(),
            Kind::F64 => bytes.as_chunks().0.iter().map(|&bytes| f64::from_be_bytes(bytes)).collect(),
        }
    }
}

/// Reads and checks the header of a file: the type of its elements and the sizes of its axes.
fn header(file: &mut Source, what: &str, axes: std::ops::RangeInclusive<u32>) -> Result<(Kind, Vec<u32>)> {
    let magic = u32::from_be_bytes(file.header()?);
    let found = magic & 0xff;
    let kind = Kind::of(magic >> 8).filter(|_| axes.contains(&found)).ok_or_else(|| {
        file.wrong(format!(
            "starts with {magic:#010x}, expected {:#010x} for an idx file of {what}; is it the right file?",
            0x0800 + axes.start().max(&if what == "images" { 3 } else { 1 })
        ))
    })?;
    let mut sizes = Vec::new();
    for _ in 0..found {
        sizes.push(u32::from_be_bytes(file.header()?));
    }
    match sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(u64::from(size))) {
        Some(0) => Err(file.wrong(format!("has {what} of sizes {sizes:?}, expected each to be at least 1"))),
        Some(elements) if elements <= MAX_ELEMENTS => Ok((kind, sizes)),
        _ => Err(file.wrong(format!("has {what} of sizes {sizes:?}, expected at most {MAX_ELEMENTS} elements"))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const IMAGES: u32 = 0x0803;
    const LABELS: u32 = 0x0801;

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
            (Box::new(|files| files[0].1.truncate(27)), "train-images-idx3-ubyte: is cut off: its header is for 12"),
            (Box::new(|files| files[0].1.push(0)), "train-images-idx3-ubyte: is too long"),
            (Box::new(|files| files[0].1.truncate(2)), "is cut off: it has 2 bytes, expected a header of 4"),
            (Box::new(|files| files[1].1.truncate(20)), "train-labels-idx1-ubyte.gz: cannot be read"),
            (
                replace(0, idx(LABELS, &[2, 2, 3], &[0; 12])),
                "starts with 0x00000801, expected 0x00000803 for an idx file of images",
            ),
            (replace(0, idx(IMAGES, &[2, 0, 3], &[])), "sizes [2, 0, 3], expected each to be at least 1"),
            (replace(0, idx(IMAGES, &[u32::MAX; 3], &[])), "expected at most"),
            (replace(1, gz(&idx(LABELS, &[3], &[0; 3]))), "holds 3 labels, expected 2"),
            (replace(1, gz(&idx(0x0901, &[2], &[1, 0xff]))), "label -1 of image 1 is not a class"),
            (replace(1, gz(&idx(0x0d01, &[2], &[0, 0, 0, 0, 0x3f, 0, 0, 0]))), "label 0.5 of image 1 is not a class"),
            (replace(1, b"not gzip".to_vec()), "train-labels-idx1-ubyte.gz: cannot be read"),
            (replace(2, gz(&idx(IMAGES, &[1, 3, 2], &[0; 6]))), "holds images of [1, 3, 2], expected [1, 2, 3]"),
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

    /// Puts four small files at these places, each image of the pixel that its place's number gives.
    fn placed(places: &[&str]) -> (tempfile::TempDir, Result<IdxFiles>) {
        let directory = tempfile::tempdir().unwrap();
        for place in places {
            let path = directory.path().join(place);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let bytes = if place.contains("images") { idx(IMAGES, &[1, 1, 1], &[7]) } else { idx(LABELS, &[1], &[2]) };
            std::fs::write(path, if place.ends_with(".gz") { gz(&bytes) } else { bytes }).unwrap();
        }
        let found = Dataset::mnist_files(directory.path());
        (directory, found)
    }

    #[test]
    fn files_are_found_as_people_have_them() {
        let four = |form: &str, test: &str| -> Vec<String> {
            let names = [("train", "images", 3), ("train", "labels", 1), (test, "images", 3), (test, "labels", 1)];
            let name = |(split, kind, axes): (&str, &str, i32)| {
                form.replace("SPLIT", split).replace("KIND", kind).replace("AXES", &axes.to_string())
            };
            names.map(name).to_vec()
        };
        for (form, test) in [
            ("SPLIT-KIND-idxAXES-ubyte", "t10k"),
            ("SPLIT-KIND.idxAXES-ubyte", "t10k"),
            ("SPLIT-KIND.idxAXES-ubyte.gz", "t10k"),
            ("SPLIT-KIND-idxAXES-ubyte/SPLIT-KIND-idxAXES-ubyte", "t10k"),
            ("SPLIT-KIND.idxAXES-ubyte/SPLIT-KIND-idxAXES-ubyte", "t10k"),
            ("MNIST/raw/SPLIT-KIND-idxAXES-ubyte", "t10k"),
            ("MNIST/raw/SPLIT-KIND-idxAXES-ubyte/SPLIT-KIND-idxAXES-ubyte", "t10k"),
            ("gzip/emnist-letters-SPLIT-KIND-idxAXES-ubyte.gz", "test"),
            ("emnist-letters-SPLIT-KIND-idxAXES-ubyte", "test"),
        ] {
            let places = four(form, test);
            let (directory, found) = placed(&places.iter().map(String::as_str).collect::<Vec<_>>());
            let found = found.unwrap();
            let expected = places.iter().map(|place| directory.path().join(place));
            assert!(found.paths.iter().cloned().eq(expected), "{form}: {found:?}");
            assert_eq!(found.others, 0, "{form}");
            let (train, test) = Dataset::mnist(directory.path()).unwrap();
            assert_eq!((train.images(), test.labels(), test.classes()), (&[7.0 / 255.0][..], &[2][..], 3), "{form}");
        }
        // The plainest of several, and no set of files that do not belong together.
        let plain = four("SPLIT-KIND-idxAXES-ubyte", "t10k");
        let words = four("emnist-mnist-SPLIT-KIND-idxAXES-ubyte", "test");
        let deep = four("raw/SPLIT-KIND-idxAXES-ubyte", "t10k");
        let packed = four("SPLIT-KIND-idxAXES-ubyte.gz", "t10k");
        let all: Vec<&str> = [&words, &deep, &packed, &plain].into_iter().flatten().map(String::as_str).collect();
        let (directory, found) = placed(&all);
        let found = found.unwrap();
        assert!(found.paths.iter().cloned().eq(plain.iter().map(|place| directory.path().join(place))), "{found:?}");
        assert_eq!(found.others, 12);
        let mixed: Vec<&str> = plain[..3].iter().chain(&words[3..]).map(String::as_str).collect();
        let error = placed(&mixed).1.unwrap_err().to_string();
        assert!(error.contains("has no file t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz"), "{error}");
    }

    #[test]
    fn any_size_and_type_is_read() {
        let floats: Vec<u8> = (0..12).flat_map(|i| (i as f32 / 4.0).to_be_bytes()).collect();
        let (train, test) = mnist(|files| {
            files[0].1 = idx(0x0d04, &[2, 3, 1, 2], &floats);
            files[1].1 = gz(&idx(0x0b01, &[2], &[0, 200, 1, 0]));
            files[2].1 = gz(&idx(0x0904, &[1, 3, 1, 2], &[0, 1, 2, 3, 4, 0xff]));
            files[3].1 = gz(&idx(0x0c01, &[1], &[0, 0, 0, 25]));
        })
        .unwrap();
        assert_eq!((train.shape(), train.labels(), train.classes()), (&[3, 1, 2][..], &[200, 256][..], 257));
        assert_eq!(train.images()[5], 1.25);
        assert_eq!((test.images(), test.labels()), (&[0.0, 1.0, 2.0, 3.0, 4.0, -1.0][..], &[25][..]));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Dataset::mnist("/nowhere/at/all").unwrap_err().to_string();
        assert_eq!(error, "/nowhere/at/all: cannot be read: it does not exist; check the path");
    }
}
