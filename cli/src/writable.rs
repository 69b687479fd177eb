//! Places to write to, tried before any work is done for them.

use std::path::Path;

use crate::console::Failure;

/// Creates the directory of a run's results, if it is not there.
pub fn directory(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|e| {
        Failure::usage(format!("{}: the directory cannot be created: {e}; choose another", path.display()))
    })?;
    take_files(path, path)
}

/// Refuses a file that cannot be made, or replaced, in its directory.
pub fn file(path: &Path) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::usage(format!("{}: cannot be written: {why}", path.display())));
    let parent = directory_of(path);
    match path.metadata() {
        _ if !parent.is_dir() => refused("its directory does not exist; create it or choose another"),
        Ok(metadata) if metadata.is_dir() => refused("it is a directory; expected a file"),
        // A device is written to where it is.
        Ok(metadata) if !metadata.is_file() => Ok(()),
        _ => take_files(parent, path),
    }
}

/// Refuses a file to be written that is one of those with another use.
pub fn apart<'a>(path: &Path, others: impl IntoIterator<Item = (&'a str, &'a Path)>) -> Result<(), Failure> {
    let place = |path: &Path| match (path.canonicalize(), path.file_name()) {
        (Err(_), Some(name)) => directory_of(path).canonicalize().map(|directory| directory.join(name)),
        (place, _) => place,
    };
    let Ok(target) = place(path) else { return Ok(()) };
    let same = |&(_, other): &(&str, &Path)| place(other).is_ok_and(|other| other == target && !is_device(&other));
    match others.into_iter().find(same) {
        None => Ok(()),
        Some((what, _)) => {
            Err(Failure::usage(format!("{}: would be overwritten, but is {what}; choose another file", path.display())))
        }
    }
}

/// The directory that a file is or would be in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn is_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Whether files can be made in a directory, for `path`.
fn take_files(directory: &Path, path: &Path) -> Result<(), Failure> {
    tempfile::tempfile_in(directory).map(drop).map_err(|e| {
        Failure::usage(format!(
            "{}: cannot be written, because no file can be created in {}: {}; check its owner and permissions, or choose another",
            path.display(),
            directory.display(),
            e.kind()
        ))
    })
}
