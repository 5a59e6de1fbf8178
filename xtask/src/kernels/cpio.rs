//! Writes a folder as the archive that the kernel unpacks into its first file system: "newc" without checksums
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Everything belongs to root.

use std::{
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use anyhow::{Context, Result};

const END: &str = "TRAILER!!!";
/// Names and contents begin at multiples of this.
const ALIGNMENT: usize = 4;

/// Writes what lies in `folder`, folders before what is in them. Devices and sockets are no part of it.
///
/// # Errors
/// Something cannot be read, or is larger than 4 GiB.
pub fn write(folder: &Path, mut out: impl Write) -> Result<()> {
    let mut number = 0;
    write_folder(folder, Path::new(""), &mut number, &mut out)?;
    entry(&mut out, END.as_bytes(), 0, 0, &[]).context("cannot write the archive's end")
}

fn write_folder(root: &Path, inside: &Path, number: &mut u32, out: &mut impl Write) -> Result<()> {
    let folder = root.join(inside);
    let failed = |path: &Path| format!("cannot read {}", path.display());
    let entries = fs::read_dir(&folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let mut entries = entries.with_context(|| failed(&folder))?;
    // The same folder gives the same archive.
    entries.sort_by_key(fs::DirEntry::file_name);
    for item in entries {
        let path = item.path();
        let name = inside.join(item.file_name());
        let about = path.symlink_metadata().with_context(|| failed(&path))?;
        let content = if about.is_symlink() {
            fs::read_link(&path).with_context(|| failed(&path))?.as_os_str().as_bytes().to_vec()
        } else if about.is_file() {
            fs::read(&path).with_context(|| failed(&path))?
        } else {
            Vec::new()
        };
        *number += 1;
        entry(out, name.as_os_str().as_bytes(), *number, about.mode(), &content)
            .with_context(|| format!("cannot archive {}", path.display()))?;
        if about.is_dir() {
            write_folder(root, &name, number, out)?;
        }
    }
    Ok(())
}

fn entry(out: &mut impl Write, name: &[u8], number: u32, mode: u32, content: &[u8]) -> io::Result<()> {
    let size = u32::try_from(content.len()).map_err(|_| io::Error::other("larger than 4 GiB"))?;
    let name_size = u32::try_from(name.len() + 1).map_err(|_| io::Error::other("its name is too long"))?;
    // inode, mode, uid, gid, links, time, size, device (2), kind of device (2), length of the name, checksum
    let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    let mut header = b"070701".to_vec();
    fields.iter().try_for_each(|field| write!(header, "{field:08x}"))?;
    header.extend_from_slice(name);
    header.push(0);
    out.write_all(&header)?;
    out.write_all(padding(header.len()))?;
    out.write_all(content)?;
    out.write_all(padding(content.len()))
}

fn padding(length: usize) -> &'static [u8] {
    &[0; ALIGNMENT][..length.next_multiple_of(ALIGNMENT) - length]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn folders_files_and_links_stand_in_it_at_aligned_places() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/sh"), "#!").unwrap();
        symlink("bin/sh", dir.path().join("init")).unwrap();
        let mut archive = Vec::new();
        write(dir.path(), &mut archive).unwrap();

        let mut at = 0;
        let mut seen = Vec::new();
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |index: usize| {
                let from = at + 6 + index * 8;
                usize::from_str_radix(std::str::from_utf8(&archive[from..from + 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(archive[at + 110..at + 110 + name_size - 1].to_vec()).unwrap();
            let content = (at + 110 + name_size).next_multiple_of(4);
            at = (content + size).next_multiple_of(4);
            if name == END {
                break;
            }
            seen.push((name, mode & 0o170_000, archive[content..content + size].to_vec()));
        }
        assert_eq!(at, archive.len());
        let expected = [
            ("bin".to_owned(), 0o040_000, b"".to_vec()),
            ("bin/sh".to_owned(), 0o100_000, b"#!".to_vec()),
            ("init".to_owned(), 0o120_000, b"bin/sh".to_vec()),
        ];
        assert_eq!(seen, expected);
    }
}
