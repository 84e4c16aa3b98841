//! Bonded's front door under load, beside other registries, in one run: `make bench-registry`.
//!
//! The same work goes to every registry, in turns and in rounds, over the distribution API. Every
//! status, digest and byte that comes back is checked, so it is a test of correctness under load as
//! well, and one wrong answer fails the run. A ratio is taken within a round. The targets are those
//! that the project set itself for eight clients; where one is missed, the lines below it say what
//! the time is spent on.
//!
//! It wants a disk at rest. On ext4 a file that was deleted in the last minutes makes every new one
//! slower, and the end of a run deletes thousands: between two runs wait for five minutes.

#![allow(
    clippy::disallowed_methods,
    reason = "a measurement makes files and tasks of its own, none of them in a store"
)]

mod bare;
mod crowd;
mod section;
mod work;

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use benches::machine::machine;
use benches::measure::{Doing, Failed, Result};
use benches::programs::Programs;
use benches::registries::Peer;
use benches::table;
use clap::{Parser, ValueEnum};

use crowd::Bounds;
use section::{Errors, Setting};
use work::{Goods, Size, Work};

/// Loads Bonded and other registries with the same work
#[derive(Debug, Parser)]
struct Args {
    /// Where the registries keep their files; one disk for all
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    dir: PathBuf,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Only this work
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<What>,
    /// Only blobs of this size
    #[arg(long, value_enum, value_delimiter = ',')]
    sizes: Vec<Size>,
    /// How many clients work at once
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 8, 64])]
    clients: Vec<usize>,
    /// How long one measurement takes, in seconds; thrice as long for blobs of 100 MB
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// After how many operations a measurement ends, if that is sooner
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    operations: usize,
    /// The peers to be started; all that are needed when none is named
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Which>,
    /// A registry that runs already, as http://127.0.0.1:5000, beside them; it keeps what it is given
    #[arg(long, value_name = "URL", value_parser = address)]
    registry: Vec<SocketAddr>,
    /// Write all figures there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Pushing blobs.
    Push,
    /// Pulling blobs.
    Pull,
    /// Pushing small artifacts.
    Small,
    /// Asking for manifests and tags.
    Read,
    /// Some of all.
    Mix,
}

/// Peers by the names of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Olareg,
    Distribution,
    Crane,
    /// Only those that run already.
    None,
}

fn address(url: &str) -> std::result::Result<SocketAddr, String> {
    let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    address.parse().map_err(|_| "an address and a port, as http://127.0.0.1:5000".to_owned())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failed(why)) => {
            eprintln!("load: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether everything that was answered was right.
fn run(args: &Args) -> Result<bool> {
    fs::create_dir_all(&args.dir).doing(format!("making {}", args.dir.display()))?;
    let dir = fs::canonicalize(&args.dir).doing(format!("finding {}", args.dir.display()))?;
    // What earlier runs left behind, and at the end what this one did.
    let dir = dir.join("load");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).doing(format!("making {}", dir.display()))?;
    let machine = machine(&dir);
    println!("{machine}\n");
    println!(
        "Bonded syncs every push to the disk before it answers, and hashes what it serves each time. \
         olareg, distribution and crane do neither. The driver, which checks every answer, runs on \
         the same cores. What is pulled was pulled once before. A body is hashed by the driver; a \
         descriptor is of a file that Bonded has just hashed, and the driver compares it with what \
         was pushed. The disk alone is a program that makes the files of a push as Bonded does, by as \
         many threads, and nothing else: no connection, no hashing, and no log; it syncs each push \
         where its files are.\n"
    );
    let (programs, goods) = (Programs::find(), Arc::new(Goods::new()?));
    let setting = Setting {
        programs: &programs,
        dir: &dir,
        goods: &goods,
        n_rounds: args.rounds.max(1),
        bounds: Bounds {
            n_ops: args.operations.max(1),
            time: Duration::from_secs_f64(args.seconds.clamp(0.05, 3600.0)),
        },
        peers: peers(&args.peers),
        foreign: args.registry.clone(),
        n_dirs: Cell::new(0),
    };
    let mut errors = Errors::default();
    let mut sections = Vec::new();
    print!("{}", table::heading());
    for work in works(args) {
        for n_clients in &args.clients {
            // What is read small is about the cost of one answer: the row of the targets says it.
            if matches!(work, Work::Manifest(_) | Work::Head | Work::Tags) && *n_clients == 64 {
                continue;
            }
            let section = section::measure(&setting, work, (*n_clients).max(1), &mut errors);
            println!("{}", section.text());
            sections.push(section);
        }
    }
    let (n_met, n_targets) = table::score(&sections);
    println!("{n_met} of {n_targets} targets met, in {} rounds", setting.n_rounds);
    print!("{}", errors.text());
    if let Some(path) = &args.json {
        let json = table::json(&machine, setting.n_rounds, &sections)?;
        fs::write(path, json).doing(format!("writing {}", path.display()))?;
    }
    let _ = fs::remove_dir_all(&dir);
    Ok(!errors.any_of_bonded())
}

fn peers(named: &[Which]) -> Vec<Peer> {
    let is_wanted = |peer: &Peer| {
        let which = match peer {
            Peer::Olareg => Which::Olareg,
            Peer::Distribution => Which::Distribution,
            Peer::Crane => Which::Crane,
        };
        named.is_empty() || named.contains(&which)
    };
    Peer::ALL.into_iter().filter(is_wanted).collect()
}

fn works(args: &Args) -> Vec<Work> {
    let wants = |what| args.only.is_empty() || args.only.contains(&what);
    let sizes = Size::ALL.into_iter();
    let sizes: Vec<Size> =
        sizes.filter(|size| args.sizes.is_empty() || args.sizes.contains(size)).collect();
    let mut works = Vec::new();
    if wants(What::Push) {
        works.extend(sizes.iter().map(|size| Work::Push(*size)));
    }
    if wants(What::Small) {
        works.push(Work::Small);
    }
    if wants(What::Pull) {
        works.extend(sizes.iter().map(|size| Work::Pull(*size)));
    }
    if wants(What::Read) {
        works.extend(Work::READS);
    }
    if wants(What::Mix) {
        works.push(Work::Mix);
    }
    works
}
