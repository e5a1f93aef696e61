//! A kernel's file, as what it can be read by: at a place, or straight into guest RAM.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

use super::{BootError, MIB};

/// What RAM is cleared with.
pub(super) static ZEROS: [u8; 4096] = [0; 4096];

/// A regular file that stays open: a reset reads the file that the machine was built with, even when another has
/// taken its name since. One that is overwritten in place is read as it is then.
#[derive(Debug)]
pub(super) struct BootFile {
    /// What it is called in errors.
    pub path: PathBuf,
    file: File,
}

impl BootFile {
    pub fn open(path: &Path) -> Result<BootFile, BootError> {
        let unreadable = |source| BootError::Unreadable { path: path.into(), source };
        // Without O_NONBLOCK a pipe would be waited for.
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(BootError::NoFile { path: path.into() });
        }
        Ok(BootFile { path: path.into(), file })
    }

    /// Its length now, bytes.
    pub fn bytes(&self) -> Result<u64, BootError> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(|error| self.unreadable(error))
    }

    /// Reads from `at`; what the file does not hold is zero.
    pub fn read_start<const N: usize>(&self, at: u64) -> Result<[u8; N], BootError> {
        let mut bytes = [0; N];
        let mut done = 0;
        while done < N {
            match self.file.read_at(&mut bytes[done..], at + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable(error)),
            }
        }
        Ok(bytes)
    }

    /// Reads `count` bytes from `at`, which is `what` of a file of `file_bytes`.
    pub fn read(&self, file_bytes: u64, at: u64, count: usize, what: &'static str) -> Result<Vec<u8>, BootError> {
        if at.checked_add(count as u64).is_none_or(|end| end > file_bytes) {
            return Err(self.damaged(format!("it ends before its {what}")));
        }
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, at).map_err(|error| self.unreadable(error))?;
        Ok(bytes)
    }

    /// To be read into RAM; the ranges `zeros` of it, in order, are not read: they are written as zeros, or left alone
    /// where RAM is known to hold zeros.
    pub fn reader(&self, zeros: Vec<Range<u64>>, ram_is_zero: bool) -> Result<Reader, BootError> {
        let file = self.file.try_clone().map_err(|error| self.unreadable(error))?;
        Ok(Reader { file, at: 0, zeros, ram_is_zero })
    }

    /// It would fit into `needed_bytes` of guest memory; there are `ram_bytes`.
    pub fn no_room(&self, needed_bytes: u64, ram_bytes: u64) -> BootError {
        let (needed_mib, has_mib) = (needed_bytes.div_ceil(MIB), ram_bytes / MIB);
        BootError::NoRoom { path: self.path.clone(), needed_mib, has_mib }
    }

    pub fn damaged(&self, what: impl Into<String>) -> BootError {
        BootError::Damaged { path: self.path.clone(), what: what.into() }
    }

    pub fn unreadable(&self, source: io::Error) -> BootError {
        BootError::Unreadable { path: self.path.clone(), source }
    }
}

/// What `linux-loader` reads a kernel from: the kernel's own big reads, straight into guest RAM.
#[derive(Debug)]
pub(super) struct Reader {
    file: File,
    at: u64,
    zeros: Vec<Range<u64>>,
    ram_is_zero: bool,
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buf, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

impl Reader {
    /// One read, or one range of zeros.
    fn read_some<B: BitmapSlice>(&mut self, buf: &mut VolatileSlice<'_, B>) -> Result<usize, VolatileMemoryError> {
        let next = self.zeros.iter().find(|range| range.end > self.at);
        let until = |end: u64| usize::try_from(end - self.at).map_or(buf.len(), |left| left.min(buf.len()));
        let count = match next {
            Some(range) if range.start <= self.at && self.ram_is_zero => until(range.end),
            Some(range) if range.start <= self.at => {
                (&ZEROS[..]).read_volatile(&mut buf.subslice(0, until(range.end))?)?
            }
            _ => {
                let most = next.map_or(buf.len(), |range| until(range.start));
                self.file.seek(SeekFrom::Start(self.at)).map_err(VolatileMemoryError::IOError)?;
                self.file.read_volatile(&mut buf.subslice(0, most)?)?
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}

impl ReadVolatile for Reader {
    /// Fills all of `buf` that the file has something for: `linux-loader` takes a short read for the file's end.
    fn read_volatile<B: BitmapSlice>(&mut self, buf: &mut VolatileSlice<'_, B>) -> Result<usize, VolatileMemoryError> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_some(&mut buf.offset(done)?) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(VolatileMemoryError::IOError(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
