//! Files of a data set: found plain or compressed, unpacked no further than expected.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};
use crate::files;

/// How much a compressed file may hold: this many bytes, and so many times its size. MNIST is 5 times its files,
/// nothing but zeros a thousand times.
const UNPACKED_BYTES: u64 = 1 << 20;
const UNPACKED_FACTOR: u64 = 64;

/// A file of a data set, being read.
pub(super) struct Source {
    path: PathBuf,
    reader: Box<dyn Read>,
    /// Bytes that may still come.
    allowance: u64,
}

/// The file `name` or else `name.gz` of a directory, if it is there.
pub(super) fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    [name.to_string(), format!("{name}.gz")].map(|name| directory.join(name)).into_iter().find(|path| path.exists())
}

/// The most files that are looked at.
const MOST_FILES: usize = 100_000;

/// The files in a directory and up to so many levels below it, in the order of their paths at each level. What cannot
/// be read is left out.
pub(super) fn files_below(directory: &Path, levels: usize) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut level = vec![directory.to_path_buf()];
    for _ in 0..=levels {
        let mut next = Vec::new();
        for directory in level {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().take(MOST_FILES - files.len());
            for path in entries.map(|entry| entry.path()) {
                if path.is_dir() { next.push(path) } else { files.push(path) }
            }
        }
        next.sort();
        level = next;
    }
    files.sort();
    files
}

/// Refuses a directory that is not there.
pub(super) fn check_directory(directory: &Path) -> Result<()> {
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::file(directory, "is a file; expected the directory of the data set")),
        Err(error) => Err(files::io_error(directory, "read", &error)),
    }
}

impl Source {
    /// Opens the file `name` or `name.gz`; `what` tells the data set in the error if neither is there.
    pub(super) fn find(directory: &Path, name: &str, what: &str) -> Result<Source> {
        let path = find(directory, name).ok_or_else(|| {
            Error::file(directory, format!("has no file {name} or {name}.gz, expected the files of {what}"))
        })?;
        Source::open(&path)
    }

    pub(super) fn open(path: &Path) -> Result<Source> {
        let file = files::open(path)?;
        let path = path.to_path_buf();
        if path.extension().is_none_or(|extension| extension != "gz") {
            return Ok(Source { path, reader: Box::new(file), allowance: u64::MAX });
        }
        let bytes = file.metadata().map_err(|e| files::io_error(&path, "read", &e))?.len();
        let allowance = bytes.saturating_mul(UNPACKED_FACTOR).saturating_add(UNPACKED_BYTES);
        Ok(Source { path, reader: Box::new(MultiGzDecoder::new(BufReader::new(file))), allowance })
    }

    /// The next `N` bytes.
    pub(super) fn header<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut header = [0; N];
        match self.up_to(N as u64)? {
            bytes if bytes.len() == N => header.copy_from_slice(&bytes),
            bytes => {
                return Err(self.wrong(format!(
                    "is cut off: it has {} bytes, expected a header of {N}; download it again",
                    bytes.len()
                )));
            }
        }
        Ok(header)
    }

    /// All that is left, refused unless it is exactly `expected` bytes.
    pub(super) fn rest(&mut self, expected: u64) -> Result<Vec<u8>> {
        let bytes = self.up_to(expected.saturating_add(1))?;
        let found = bytes.len() as u64;
        if found < expected {
            return Err(self.wrong(format!(
                "is cut off: its header is for {expected} bytes of data, found {found}; download it again"
            )));
        }
        if found > expected {
            return Err(self.wrong(format!(
                "is too long: its header is for {expected} bytes of data, found more; download it again"
            )));
        }
        Ok(bytes)
    }

    /// The next `limit` bytes, or fewer if there are no more.
    pub(super) fn up_to(&mut self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let most = limit.min(self.allowance.saturating_add(1));
        match (&mut self.reader).take(most).read_to_end(&mut bytes) {
            Ok(read) if read as u64 > self.allowance => Err(self.wrong(format!(
                "holds more than {UNPACKED_FACTOR} times its size, and is not unpacked for that; if you trust it, \
                 unpack it"
            ))),
            Ok(read) => {
                self.allowance -= read as u64;
                Ok(bytes)
            }
            Err(error) => Err(self.wrong(format!("cannot be read ({error}); download it again"))),
        }
    }

    pub(super) fn wrong(&self, message: impl std::fmt::Display) -> Error {
        Error::file(&self.path, message)
    }
}

/// Pixel bytes to f32 in 0..=1.
pub(super) fn scale(pixels: &[u8]) -> Vec<f32> {
    pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect()
}
