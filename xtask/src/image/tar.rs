//! Writes tar archives (POSIX ustar): sorted, of root, of the first second of 1970, so that the same files give the
//! same bytes.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

const BLOCK: usize = 512;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Without a slash at the beginning.
    pub path: String,
    pub mode: u32,
    pub bytes: Vec<u8>,
}

/// Folders are made as files need them.
///
/// # Errors
/// A path is longer than the format's 100 bytes.
pub fn archive(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut folders = BTreeSet::new();
    for entry in entries {
        let mut path = entry.path.as_str();
        while let Some((above, _)) = path.rsplit_once('/') {
            folders.insert(format!("{above}/"));
            path = above;
        }
    }
    let mut all = folders.iter().map(|path| (path.as_str(), 0o755, &[][..])).collect::<Vec<_>>();
    all.extend(entries.iter().map(|entry| (entry.path.as_str(), entry.mode, entry.bytes.as_slice())));
    all.sort_by_key(|(path, ..)| *path);
    let mut archive = Vec::new();
    for (path, mode, bytes) in all {
        archive.extend(header(path, mode, bytes.len())?);
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    Ok(archive)
}

fn header(path: &str, mode: u32, size: usize) -> Result<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    if path.len() > 100 {
        bail!("{path}: longer than 100 bytes");
    }
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    // Counted as spaces in its own sum.
    put(148, "        ");
    put(156, if path.ends_with('/') { "5" } else { "0" });
    put(257, "ustar\x0000");
    let sum = header.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}
