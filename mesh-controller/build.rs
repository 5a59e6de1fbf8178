//! Puts the dashboard's built files into the program: a table of path and gzip for `dashboard/files.rs`.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

const BUILT: &str = "dashboard/dist";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={BUILT}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").ok_or("no CARGO_MANIFEST_DIR")?).join(BUILT);
    let mut names = fs::read_dir(&folder)
        .map_err(|error| format!("{}: {error}; `cargo xtask dashboard` builds it", folder.display()))?
        .map(|entry| Ok(entry?.file_name().into_string().map_err(|_| "a file's name is no text")?))
        .collect::<Result<Vec<String>, Box<dyn Error>>>()?;
    names.sort();
    let mut table = String::from("const FILES: &[(&str, &[u8])] = &[\n");
    for name in names {
        let packed = out.join(format!("{name}.gz"));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&fs::read(folder.join(&name))?)?;
        fs::write(&packed, encoder.finish()?)?;
        writeln!(table, "    ({:?}, include_bytes!({:?})),", format!("/{name}"), packed)?;
    }
    table.push_str("];\n");
    fs::write(out.join("dashboard.rs"), table)?;
    Ok(())
}
