//! `ironclad images`: the images of this node.
//!
//! Reads archives; writes the embedded runtime's image store, which a running server sees at once. Not here: pulling
//! (the kubelet asks the runtime).

use std::{fs::File, io::Write, path::PathBuf};

use anyhow::Context;

use runtime::images::{Images, archive::import};

use crate::config::DataDir;

/// What to do with images.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Import images from an OCI or docker archive
    Import {
        /// The archive; "-" reads standard input
        archive: PathBuf,
        /// Name for an image that the archive does not name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        dirs: DataDir,
    },
    /// List the images
    #[command(alias = "ls")]
    List {
        #[command(flatten)]
        dirs: DataDir,
    },
}

/// Runs the command.
pub fn run(command: Command) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::Import { archive, name, dirs } => {
            let root = images_of(&dirs)?;
            let imported = if archive.as_os_str() == "-" {
                import(&root, std::io::stdin().lock(), name.as_deref())
            } else {
                let file =
                    File::open(&archive).with_context(|| format!("cannot open {}", archive.display()))?;
                import(&root, file, name.as_deref())
            };
            for image in imported.with_context(|| format!("cannot import {}", archive.display()))? {
                for name in &image.names {
                    writeln!(out, "imported {name}")?;
                }
            }
        }
        Command::List { dirs } => {
            for image in Images::open(&images_of(&dirs)?).context("cannot open the image store")?.list()? {
                for name in &image.names {
                    writeln!(out, "{name}")?;
                }
            }
        }
    }
    Ok(())
}

/// Directory of the embedded runtime's images.
pub fn images_of(dirs: &DataDir) -> anyhow::Result<PathBuf> {
    Ok(crate::roles::runtime::options(dirs)?.root)
}
