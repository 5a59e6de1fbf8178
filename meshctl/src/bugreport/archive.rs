//! A tar archive (POSIX ustar) in gzip, written as it grows. The one way in, and so the place where secrets are taken
//! out.

use std::{
    fmt::Display,
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;

use super::{contents, redact};

const BLOCK: usize = 512;
/// Bytes of a name in the header.
const NAME: usize = 100;
const PREFIX: usize = 155;

pub struct Archive<W: Write> {
    out: GzEncoder<W>,
    /// The folder that holds everything.
    name: String,
    time: Timestamp,
    /// What could not be had.
    missing: Vec<String>,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W, name: &str, time: Timestamp) -> Self {
        let out = GzEncoder::new(out, Compression::default());
        Self { out, name: name.to_owned(), time, missing: Vec::new() }
    }

    /// A file of text, without the secrets that may be in it.
    pub fn add(&mut self, path: &str, text: &str) -> io::Result<()> {
        let text = redact::text(text);
        self.out.write_all(&header(&self.name, path, text.len(), self.time))?;
        self.out.write_all(text.as_bytes())?;
        let rest = text.len().next_multiple_of(BLOCK) - text.len();
        self.out.write_all(&[0; BLOCK][..rest])
    }

    /// Something that belongs into it could not be had.
    pub fn missing(&mut self, what: &str, why: &(impl Display + ?Sized)) {
        super::progress(&format!("{what}: {why}"));
        self.missing.push(format!("{what}: {why}"));
    }

    /// As [`Self::missing`], in place of [`Self::add`].
    pub fn skip(&mut self, path: &str, why: &(impl Display + ?Sized)) -> io::Result<()> {
        self.missing(path, why);
        Ok(())
    }

    /// Ends it; what is missing.
    pub fn finish(mut self, cluster: bool) -> io::Result<Vec<String>> {
        let table = contents::of(cluster).map(|(path, about)| format!("{path:<34} {about}\n"));
        self.add("contents.txt", &table.collect::<String>())?;
        if !self.missing.is_empty() {
            let text = self.missing.join("\n") + "\n";
            self.add("errors.txt", &text)?;
        }
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.finish()?.flush()?;
        Ok(self.missing)
    }
}

/// Paths that are too long for the format lose their beginning's end, never the file.
fn header(folder: &str, path: &str, size: usize, time: Timestamp) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let (above, name) = match path.rsplit_once('/') {
        Some((above, name)) => (format!("{folder}/{above}"), name),
        None => (folder.to_owned(), path),
    };
    // Other than ASCII is in no name of Kubernetes; cut at bytes, a character could break.
    let cut = |text: &str, most: usize| -> String {
        let text: String = text.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect();
        text[text.len().saturating_sub(most)..].to_owned()
    };
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &cut(name, NAME));
    put(100, "0000600");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, &format!("{:011o}", time.as_second().max(0)));
    // Counted as spaces in its own sum.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(345, &cut(&above, PREFIX));
    let sum = header.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
