//! Bonded beside its peers and beside the limits of the machine, in one run: `make bench`.
//!
//! Durable against durable: a peer's copy is synced (`sync -f`) before its time is taken. Everything
//! is measured in turns and several times; a ratio is taken within a round, and the table shows the
//! median of the ratios, the least and the most. The targets are those that the project set itself;
//! where one is missed, the lines below it say what the time is spent on.

#![allow(
    clippy::disallowed_methods,
    reason = "a measurement makes files and tasks of its own, none of them in a store"
)]

mod limits;
mod workloads;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use benches::machine::machine;
use benches::{cache, corpus, daemon, measure, programs, registries, registry, table};
use clap::{Parser, ValueEnum};

use corpus::{Bytes, Image, image};
use limits::Memory;
use measure::{Doing, Failed, Result};
use programs::Programs;
use table::Section;
use workloads::put::Wanted;
use workloads::{Bench, again, check, memory, put, small};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Compares Bonded with its peers and with the limits of the machine
#[derive(Debug, Parser)]
struct Args {
    /// Where corpora are kept and everything is written; one disk for all
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    dir: PathBuf,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<What>,
    /// How many small files are put
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    small: usize,
    /// Write all figures there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Putting what is new.
    Put,
    /// Putting what is there.
    Again,
    /// Verifying and resolving.
    Check,
    /// Small artifacts.
    Small,
    /// Memory and room on the disk.
    Memory,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(why)) => {
            eprintln!("compare: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    fs::create_dir_all(&args.dir).doing(format!("making {}", args.dir.display()))?;
    let dir = fs::canonicalize(&args.dir).doing(format!("finding {}", args.dir.display()))?;
    let machine = machine(&dir);
    println!("{machine}\n");
    let (programs, memory) = (Programs::find(), Memory::new()?);
    let bench =
        Bench { programs: &programs, memory: &memory, dir: &dir, n_rounds: args.rounds.max(1) };
    let wants = |what| args.only.is_empty() || args.only.contains(&what);

    let mut sections = Vec::new();
    print!("{}", table::heading());
    let mut told = |section: Result<Section>| -> Result<()> {
        let section = section?;
        println!("{}", section.text());
        sections.push(section);
        Ok(())
    };
    if wants(What::Put) || wants(What::Again) || wants(What::Check) {
        let four = image(&dir, "four layers of 256 MiB", 4, 256 * MIB, Bytes::Random)?;
        let one = image(&dir, "one layer of 1 GiB", 1, GIB, Bytes::Random)?;
        let of = |image: &Image| match image.layers.len() {
            1 => Wanted { of_oras: 1.5, of_limit: None },
            _ => Wanted { of_oras: 1.3, of_limit: Some(0.85) },
        };
        for image in [&four, &one] {
            if wants(What::Put) {
                told(put::measure(&bench, image, &of(image)))?;
            }
            if wants(What::Again) {
                told(again::measure(&bench, image))?;
            }
            if wants(What::Check) {
                told(check::measure(&bench, image))?;
            }
        }
    }
    if wants(What::Small) {
        told(small::measure(&bench, args.small.max(1)))?;
    }
    if wants(What::Memory) {
        let large = image(&dir, "one layer of 4 GiB", 1, 4 * GIB, Bytes::Hole)?;
        told(memory::measure(&bench, &large))?;
    }

    let (n_met, n_targets) = table::score(&sections);
    println!("{n_met} of {n_targets} targets met, in {} rounds", bench.n_rounds);
    if let Some(path) = &args.json {
        let json = table::json(&machine, bench.n_rounds, &sections)?;
        fs::write(path, json).doing(format!("writing {}", path.display()))?;
    }
    Ok(())
}
