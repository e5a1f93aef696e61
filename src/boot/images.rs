//! No image is written by two machines: each is locked while its guest runs.
//!
//! The lock is one of open file descriptions over the whole file (fcntl(2), `F_OFD_SETLK`): QEMU and its tools heed it
//! too. A file system without locks gives none. The nodes of a pair do without: what keeps them apart holds over hosts.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_WRLCK, SEEK_SET, flock};

use super::DiskArg;

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The same file or device under two names.
    #[error("Disk image {path:?} is given twice; give each once, or only to be read (,ro)")]
    Twice {
        /// The later one.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error("Disk image {path:?} is in use by another process; end that, or let both only read it (,ro)")]
    Busy {
        /// The image.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("Disk image {path:?} cannot be locked")]
    Refused {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Fails where an image that is written is given twice. What is not there is not looked at.
pub fn check(disks: &[DiskArg]) -> Result<(), ImageError> {
    let mut seen: Vec<(Image, bool)> = Vec::new();
    for disk in disks {
        let Some(image) = Image::of(disk) else { continue };
        if seen.iter().any(|(other, read_only)| *other == image && !(*read_only && disk.read_only)) {
            return Err(ImageError::Twice { path: disk.path.clone() });
        }
        seen.push((image, disk.read_only));
    }
    Ok(())
}

/// Locks every image, until what is returned is dropped.
pub fn lock(disks: &[DiskArg]) -> Result<Vec<File>, ImageError> {
    let lock = |disk: &DiskArg| {
        let path = || disk.path.clone();
        let refused = |source| ImageError::Refused { path: path(), source };
        let file = OpenOptions::new().read(true).write(!disk.read_only).open(&disk.path).map_err(refused)?;
        let kind = if disk.read_only { F_RDLCK } else { F_WRLCK };
        // Length 0: to the end, wherever that will be.
        let whole = flock { l_type: kind as i16, l_whence: SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            Err(Errno::EAGAIN | Errno::EACCES) => Err(ImageError::Busy { path: path() }),
            // A file system without locks.
            Ok(_) | Err(_) => Ok(file),
        }
    };
    disks.iter().map(lock).collect()
}

/// Which file or device it is, whatever it is called.
#[derive(Debug, PartialEq, Eq)]
enum Image {
    File { device: u64, inode: u64 },
    Device(u64),
}

impl Image {
    fn of(disk: &DiskArg) -> Option<Image> {
        let metadata = std::fs::metadata(&disk.path).ok()?;
        Some(match metadata.file_type().is_block_device() {
            true => Image::Device(metadata.rdev()),
            false => Image::File { device: metadata.dev(), inode: metadata.ino() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_written_is_one_guest_s() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, link) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&path, [0; 512]).expect("written");
        std::fs::hard_link(&path, &link).expect("linked");
        let disk = |path: &PathBuf, read_only| DiskArg { path: path.clone(), read_only };
        for (first, second, fine) in
            [(false, false, false), (false, true, false), (true, false, false), (true, true, true)]
        {
            assert_eq!(check(&[disk(&path, first), disk(&link, second)]).is_ok(), fine);
            let held = lock(&[disk(&path, first)]).expect("nobody has it");
            assert_eq!(lock(&[disk(&link, second)]).is_ok(), fine, "{first} {second}");
            drop(held);
        }
        lock(&[disk(&path, false)]).expect("and it is free again");
    }
}
