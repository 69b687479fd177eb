//! Reading with bounds and writing without half-written files.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Says in words what the system refused, and what to do.
pub(crate) fn io_error(path: &Path, doing: &str, error: &io::Error) -> Error {
    let message = match error.kind() {
        ErrorKind::NotFound => format!("cannot be {doing}: it does not exist; check the path"),
        ErrorKind::PermissionDenied => format!("cannot be {doing}: permission denied; check its owner and permissions"),
        ErrorKind::IsADirectory => format!("cannot be {doing}: it is a directory; expected a file"),
        ErrorKind::NotADirectory => {
            format!("cannot be {doing}: a directory in its path is a file; check the path")
        }
        ErrorKind::StorageFull => format!("cannot be {doing}: no space is left on the device; free some"),
        _ => format!("cannot be {doing}: {error}"),
    };
    let cause = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
    Error::file(path, message).because(cause)
}

/// Opens a file for reading. A directory is refused.
pub(crate) fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| io_error(path, "read", &e))?;
    let metadata = file.metadata().map_err(|e| io_error(path, "read", &e))?;
    match metadata.is_dir() {
        true => Err(io_error(path, "read", &ErrorKind::IsADirectory.into())),
        false => Ok(file),
    }
}

/// Everything that `reader` gives, refused if it is more than `limit` bytes.
pub(crate) fn read_at_most(path: &Path, reader: impl Read, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(|e| io_error(path, "read", &e))?;
    match bytes.len() as u64 <= limit {
        true => Ok(bytes),
        false => Err(Error::file(path, format!("is larger than {limit} bytes; is it the right file?"))),
    }
}

/// Writes a file atomically: to a temporary file in the same directory, which is synced and renamed. If anything fails, the
/// old file stays. Links are followed, and devices are written directly.
///
/// ```
/// let path = std::env::temp_dir().join(format!("written-{}.txt", std::process::id()));
/// predictive_coding::write_atomically(&path, b"whole")?;
/// assert_eq!(std::fs::read(&path).unwrap(), b"whole");
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), predictive_coding::Error>(())
/// ```
///
/// # Errors
/// [`Error::File`] if it cannot be written; what was there stays.
pub fn write_atomically(path: impl AsRef<Path>, content: &[u8]) -> Result<()> {
    let path = path.as_ref();
    replace(path, content).map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            Error::file(path, "cannot be written: its directory does not exist; create it or choose another")
        }
        _ => io_error(path, "written", &e),
    })
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let target = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        Ok(metadata) if !metadata.is_file() => {
            return fs::OpenOptions::new().write(true).open(path)?.write_all(content);
        }
        Ok(_) => fs::canonicalize(path)?,
        Err(_) => behind_links(path),
    };
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".predictive-coding-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(directory)?;
    temporary.write_all(content)?;
    synced(temporary.as_file().sync_all(), &[ErrorKind::InvalidInput, ErrorKind::Unsupported])?;
    temporary.persist(&target).map_err(|e| e.error)?;
    #[cfg(unix)]
    let synced_directory = File::open(directory).and_then(|directory| directory.sync_all());
    synced(synced_directory, &[ErrorKind::InvalidInput, ErrorKind::Unsupported, ErrorKind::PermissionDenied])?;
    Ok(())
}

/// What a file system has no call for is written all the same: some, as network shares, sync no directories. All else is
/// a failure, as a device that is full or broken.
fn synced(outcome: io::Result<()>, lacking: &[ErrorKind]) -> io::Result<()> {
    outcome.or_else(|error| if lacking.contains(&error.kind()) { Ok(()) } else { Err(error) })
}

/// What links lead to that is not there yet.
fn behind_links(path: &Path) -> PathBuf {
    // As many as systems follow.
    const MOST: usize = 40;
    let mut target = path.to_path_buf();
    for _ in 0..MOST {
        let Ok(link) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(link);
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_replaces_the_file_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_directory_is_named_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing").join("a");
        let error = write_atomically(&path, b"one").unwrap_err().to_string();
        assert!(error.contains("missing/a") && error.contains("directory does not exist"), "{error}");
        let error = write_atomically(directory.path(), b"one").unwrap_err().to_string();
        assert!(error.contains("it is a directory"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let [target, link] = ["target", "link"].map(|name| directory.path().join(name));
        fs::write(&target, "one").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_atomically(&link, b"two").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        fs::remove_file(&target).unwrap();
        write_atomically(&link, b"three").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"three");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        write_atomically("/dev/null", b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_call_that_a_file_system_lacks_is_no_failure() {
        let lacking = [ErrorKind::InvalidInput, ErrorKind::Unsupported];
        let outcome = |code| synced(Err(io::Error::from_raw_os_error(code)), &lacking);
        // EINVAL, ENOTSUP, ENOSYS; ENOSPC, EDQUOT, EIO, ESTALE.
        assert!([22, 95, 38].into_iter().all(|code| outcome(code).is_ok()));
        assert!([28, 122, 5, 116].into_iter().all(|code| outcome(code).is_err()));
    }

    #[test]
    fn an_error_has_the_systems_as_its_source() {
        let error = open(Path::new("/no/such/file")).unwrap_err();
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(ErrorKind::NotFound));
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let path = Path::new("endless");
        let error = read_at_most(path, io::repeat(1), 10).unwrap_err().to_string();
        assert_eq!(error, "endless: is larger than 10 bytes; is it the right file?");
        assert_eq!(read_at_most(path, &[1u8; 10][..], 10).unwrap(), [1; 10]);
    }
}
