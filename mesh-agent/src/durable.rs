//! Files that outlive the agent: whole or not there, root's alone. Whoever reads one that is damaged keeps it aside.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Makes the folder, mode 0700, and the folders above it.
pub fn folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // It may have been there with another mode.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Writes the file, mode 0600, instead of what it was. A crash at any moment leaves the old one or the new one.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = with_suffix(path, "new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    // Before the name: a name without its content would be a damaged file.
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// What the file says; `None`: there is none.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Gives a file that cannot be read another name, so that somebody can look at it; says which.
pub fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = with_suffix(path, "unreadable");
    fs::rename(path, &aside)?;
    Ok(aside)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
