//! Where lines go. What cannot be written whole is taken back, so that no line is ever cut.

use std::{
    convert::Infallible,
    fmt,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

/// Bytes of a file before it becomes the older one: with that there are at most twice as many.
const LONGEST: u64 = 64 << 20;

/// As an administrator says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    #[default]
    Off,
    Stdout,
    Stderr,
    File(PathBuf),
}

/// What is written to.
#[derive(Debug)]
pub enum Sink {
    Stdout,
    Stderr,
    File(Rotated),
}

/// A file that grows to a bound and is then renamed to `NAME.1`, which takes the place of an earlier one. Several
/// processes may write to the same one, as an agent and the one that replaces it do; and who moves it away finds it
/// made anew.
#[derive(Debug)]
pub struct Rotated {
    path: PathBuf,
    file: File,
    longest: u64,
}

impl FromStr for Target {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "off" | "" => Self::Off,
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            path => Self::File(path.into()),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Sink {
    /// `None`: nothing is to be written.
    ///
    /// # Errors
    /// If the file cannot be made or written to, or the path is of something else.
    pub fn open(target: &Target) -> io::Result<Option<Self>> {
        Ok(Some(match target {
            Target::Off => return Ok(None),
            Target::Stdout => Self::Stdout,
            Target::Stderr => Self::Stderr,
            Target::File(path) => Self::File(Rotated::open(path, LONGEST)?),
        }))
    }

    /// Writes whole lines.
    ///
    /// # Errors
    /// If not all of them were written. Of a file then none was.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => whole(&mut io::stdout().lock(), lines),
            Self::Stderr => whole(&mut io::stderr().lock(), lines),
            Self::File(file) => file.write(lines),
        }
    }
}

fn whole(stream: &mut impl Write, lines: &[u8]) -> io::Result<()> {
    stream.write_all(lines)?;
    stream.flush()
}

impl Rotated {
    fn open(path: &Path, longest: u64) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: open(path)?, longest })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.lock()?;
        let written = self.append(lines);
        let unlocked = self.file.unlock();
        written.and(unlocked)
    }

    /// Locks the file that has the name now; other writers do the same.
    fn lock(&mut self) -> io::Result<()> {
        loop {
            self.file.lock()?;
            let held = self.file.metadata()?;
            match fs::metadata(&self.path) {
                Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                // Closing it unlocks it.
                _ => self.file = open(&self.path)?,
            }
        }
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut length = self.file.metadata()?.len();
        if length > 0 && length + lines.len() as u64 > self.longest {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            fs::rename(&self.path, older)?;
            self.file = open(&self.path)?;
            self.file.lock()?;
            length = 0;
        }
        let written = self.file.write_all(lines);
        if written.is_err() {
            // What fails here was not written either.
            self.file.set_len(length)?;
        }
        written
    }
}

/// Nobody else may read it, whoever made it.
fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path) {
        // Of a pipe, opening it would wait for a reader.
        Ok(found) if !found.is_file() => return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no file")),
        _ => {}
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, and a path in it.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("mesh-audit-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn path(&self) -> PathBuf {
            self.0.join("audit.json")
        }

        fn older(&self) -> PathBuf {
            self.0.join("audit.json.1")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn words_are_places_and_the_rest_are_paths() {
        let read = |text: &str| text.parse::<Target>().unwrap();
        assert_eq!(["off", "stdout", "stderr"].map(read), [Target::Off, Target::Stdout, Target::Stderr]);
        assert_eq!(read("/var/log/audit.json"), Target::File("/var/log/audit.json".into()));
        assert_eq!(read("./off"), Target::File("./off".into()));
        for text in ["off", "stdout", "stderr", "/var/log/audit.json"] {
            assert_eq!(read(text).to_string(), text);
        }
    }

    #[test]
    fn a_file_is_private_and_grows_to_its_bound() {
        let place = Place::new("bound");
        fs::write(place.path(), "before\n").unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o644)).unwrap();
        let mut file = Rotated::open(&place.path(), 20).unwrap();
        assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o777, 0o600);
        let now = || [place.path(), place.older()].map(|path| fs::read_to_string(path).unwrap_or_default());
        file.write(b"first\n").unwrap();
        assert_eq!(now(), ["before\nfirst\n", ""]);
        file.write(b"second\nthird\n").unwrap();
        assert_eq!(now(), ["second\nthird\n", "before\nfirst\n"]);
        file.write(b"4\n5\n").unwrap();
        file.write(b"sixth\n").unwrap();
        assert_eq!(now(), ["sixth\n", "second\nthird\n4\n5\n"]);
        assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o777, 0o600);
        // More than the bound at once is not cut.
        file.write(&[b'x'; 50]).unwrap();
        assert_eq!(now(), ["x".repeat(50), "sixth\n".to_owned()]);
    }

    #[test]
    fn two_writers_lose_nothing_to_each_other_and_moved_files_are_made_anew() {
        let place = Place::new("two");
        let mut writers = [(); 2].map(|()| Rotated::open(&place.path(), 20).unwrap());
        for line in 0..6 {
            writers[line % 2].write(format!("line {line}\n").as_bytes()).unwrap();
        }
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!([place.older(), place.path()].map(read), ["line 2\nline 3\n", "line 4\nline 5\n"]);
        fs::rename(place.path(), place.0.join("moved")).unwrap();
        writers[1].write(b"anew\n").unwrap();
        writers[0].write(b"too\n").unwrap();
        assert_eq!(read(place.path()), "anew\ntoo\n");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let place = Place::new("no file");
        assert!(Sink::open(&Target::File(place.0.clone())).is_err());
        assert!(Sink::open(&Target::File(place.0.join("nowhere/audit.json"))).is_err());
        assert!(Sink::open(&Target::File("/dev/null".into())).is_err());
        assert!(Sink::open(&Target::Off).unwrap().is_none());
    }
}
