//! Makes the files under `data/fashion-mnist` from Fashion-MNIST's original IDX files: the first 10,000
//! training and the first 2,000 test images with their labels.
//!
//! `cargo run --example pack_fashion -- ORIGINALS [OUT]`; OUT is `data/fashion-mnist` where it is left out.

use performer_ddpm::data::idx;
use performer_ddpm::{Error, Result};
use std::path::Path;

const TRAIN: usize = 10_000;
const TEST: usize = 2_000;

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [originals] => pack(Path::new(originals), Path::new("data/fashion-mnist")),
        [originals, out] => pack(Path::new(originals), Path::new(out)),
        _ => {
            eprintln!("usage: cargo run --example pack_fashion -- ORIGINALS [OUT]");
            return 2.into();
        }
    };
    match result {
        Ok(()) => 0.into(),
        Err(error) => {
            eprintln!("{error}");
            error.exit_status().into()
        }
    }
}

fn pack(originals: &Path, out: &Path) -> Result<()> {
    for (part, keep) in [("train", TRAIN), ("t10k", TEST)] {
        first::<3>(originals, out, &format!("{part}-images-idx3-ubyte.gz"), keep)?;
        first::<1>(originals, out, &format!("{part}-labels-idx1-ubyte.gz"), keep)?;
    }
    Ok(())
}

fn first<const D: usize>(originals: &Path, out: &Path, name: &str, keep: usize) -> Result<()> {
    let (mut dims, mut data) = idx::read_file::<D>(&originals.join(name))?;
    if dims[0] < keep {
        return Err(Error::invalid(
            originals.join(name).display().to_string(),
            format!("at least {keep} entries"),
            dims[0].to_string(),
            "take the original files",
        ));
    }
    data.truncate(data.len() / dims[0] * keep);
    dims[0] = keep;
    let to = out.join(name);
    let packed = idx::pack(&dims, &data).and_then(|bytes| std::fs::write(&to, &bytes).map(|()| bytes.len()));
    println!("{}: {} bytes", to.display(), packed.map_err(|e| Error::write(&to, e))?);
    Ok(())
}
