//! What is done to a registry, operation by operation. It knows no clock and no other registry.

use std::fs::File;
use std::os::unix::fs::FileExt;

use benches::fresh::{Blob, Fresh};
use benches::measure::{Doing, Failed, Result};
use benches::registry::{At, By, Manifest, Registry};
use cas::digest::Digest;
use clap::ValueEnum;
use client::Client;
use tokio::task::spawn_blocking;

/// The workspace that every repository is in.
const WORKSPACE: &str = "load";
/// Small artifacts that are there to be read, and tags of their repository.
const N_MANIFESTS: usize = 100;
/// Bytes of a descriptor that are compared at once.
const COMPARED_AT_ONCE: usize = 64 << 10;

/// How large blobs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// 4 KiB.
    #[value(name = "4KiB")]
    Small,
    /// 1 MB.
    #[value(name = "1MB")]
    Medium,
    /// 100 MB.
    #[value(name = "100MB")]
    Large,
}

impl Size {
    pub(crate) const ALL: [Size; 3] = [Size::Small, Size::Medium, Size::Large];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Size::Small => "4 KiB",
            Size::Medium => "1 MB",
            Size::Large => "100 MB",
        }
    }

    pub(crate) fn n_bytes(self) -> usize {
        match self {
            Size::Small => 4096,
            Size::Medium => 1_000_000,
            Size::Large => 100_000_000,
        }
    }

    /// How many of them are there to be pulled.
    fn n_stocked(self) -> usize {
        match self {
            Size::Small => 200,
            Size::Medium => 64,
            Size::Large => 4,
        }
    }
}

/// What one operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A blob is pushed.
    Push(Size),
    /// A blob is pulled and hashed.
    Pull(Size),
    /// A blob of 4 KiB is pushed, and a manifest by its tag.
    Small,
    /// A manifest is pulled.
    Manifest(By),
    /// A manifest is asked about by its tag.
    Head,
    /// The tags of a repository are listed.
    Tags,
    /// Mostly small reads, some blobs of 1 MB, some pushes.
    Mix,
}

impl Work {
    pub(crate) const READS: [Work; 4] =
        [Work::Manifest(By::Tag), Work::Manifest(By::Digest), Work::Head, Work::Tags];

    pub(crate) fn title(self) -> String {
        match self {
            Work::Push(size) => format!("push a blob of {}", size.name()),
            Work::Pull(size) => format!("pull a blob of {}", size.name()),
            Work::Small => "push a small artifact: a blob of 4 KiB, a manifest by tag".to_owned(),
            Work::Manifest(By::Tag) => "pull a manifest by tag".to_owned(),
            Work::Manifest(By::Digest) => "pull a manifest by digest".to_owned(),
            Work::Head => "ask about a manifest by tag (HEAD)".to_owned(),
            Work::Tags => format!("list {N_MANIFESTS} tags"),
            Work::Mix => "a mix: of 20, 3 pushes, 4 pulls of 1 MB, 13 small reads".to_owned(),
        }
    }

    pub(crate) fn only_reads(self) -> bool {
        !matches!(self, Work::Push(_) | Work::Small | Work::Mix)
    }

    /// How figures are counted: so many of these units are one operation.
    pub(crate) fn unit(self) -> (&'static str, f64) {
        match self {
            Work::Push(Size::Large) | Work::Pull(Size::Large) => {
                ("MB/s", Size::Large.n_bytes() as f64 / 1e6)
            }
            _ => ("/s", 1.0),
        }
    }

    /// Blobs of which sizes have to be there.
    fn stocked_sizes(self) -> &'static [Size] {
        match self {
            Work::Pull(Size::Small) => &[Size::Small],
            Work::Pull(Size::Medium) | Work::Mix => &[Size::Medium],
            Work::Pull(Size::Large) => &[Size::Large],
            _ => &[],
        }
    }

    fn needs_manifests(self) -> bool {
        matches!(self, Work::Manifest(_) | Work::Head | Work::Tags | Work::Mix)
    }
}

/// Bytes to push.
pub(crate) struct Goods([Fresh; 3]);

impl Goods {
    pub(crate) fn new() -> Result<Goods> {
        let fresh = |size: Size, n| Fresh::new(size.n_bytes(), n);
        Ok(Goods([fresh(Size::Small, 64)?, fresh(Size::Medium, 16)?, fresh(Size::Large, 4)?]))
    }

    fn next(&self, size: Size) -> Result<Blob> {
        let [small, medium, large] = &self.0;
        match size {
            Size::Small => small.next(),
            Size::Medium => medium.next(),
            Size::Large => large.next(),
        }
    }
}

/// What a registry has before the clock starts.
pub(crate) struct Stock {
    /// Where it is.
    repository: String,
    /// One artifact for each blob.
    blobs: Vec<Stocked>,
    manifests: Vec<Manifest>,
    /// Tags of the repository of the manifests, in order.
    tags: Vec<String>,
}

struct Stocked {
    blob: Blob,
    artifact: Digest,
}

impl Stock {
    /// Pushes what the work needs and pulls its blobs once, in repositories whose names begin with
    /// `prefix`.
    pub(crate) async fn fill(at: &At, prefix: &str, work: Work, goods: &Goods) -> Result<Stock> {
        let repository = format!("{WORKSPACE}/{prefix}/stock");
        let mut stock =
            Stock { repository, blobs: Vec::new(), manifests: Vec::new(), tags: Vec::new() };
        let mut registry = Registry::connect(at, &stock.repository).await?;
        registry.push_config().await.doing("filling the registry")?;
        for size in work.stocked_sizes() {
            for i in 0..size.n_stocked() {
                let blob = goods.next(*size)?;
                let pushed = registry.push_artifact(&format!("blob-{i}"), &blob).await;
                let artifact = pushed.doing("filling the registry")?.digest;
                stock.blobs.push(Stocked { blob, artifact });
            }
        }
        // Everybody's are in the page cache then. Bonded writes large ones past it, the others do not,
        // and how fast the disk reads is not what is to be measured.
        for Stocked { blob, .. } in &stock.blobs {
            let pulled = registry.pull_blob(&blob.digest, blob.size()).await;
            pulled.doing("reading what the registry was filled with")?;
        }
        if work.needs_manifests() {
            registry.visit(&stock.documents());
            registry.push_config().await.doing("filling the registry")?;
            for i in 0..N_MANIFESTS {
                let blob = goods.next(Size::Small)?;
                let pushed = registry.push_artifact(&format!("tag-{i:03}"), &blob).await;
                stock.manifests.push(pushed.doing("filling the registry")?);
            }
            stock.tags = stock.manifests.iter().map(|manifest| manifest.tag.clone()).collect();
        }
        Ok(stock)
    }

    fn documents(&self) -> String {
        format!("{}/documents", self.repository)
    }
}

/// One client.
pub(crate) struct Caller {
    registry: Registry,
    /// Where it pushes.
    own: String,
    documents: String,
    /// Where blobs are asked for through Bonded's own client.
    files: Option<Client>,
    n_done: usize,
}

impl Caller {
    /// Connects. With `files`, blobs come as descriptors.
    pub(crate) async fn connect(
        at: &At,
        prefix: &str,
        i: usize,
        stock: &Stock,
        files: Option<&std::path::Path>,
    ) -> Result<Caller> {
        let own = format!("{WORKSPACE}/{prefix}/client-{i}");
        let mut registry = Registry::connect(at, &own).await?;
        registry.push_config().await.doing("connecting")?;
        let files = match files {
            Some(socket) => {
                let client = Client::connect_with(socket, 1).await.doing("connecting")?;
                Some(client.in_workspace(WORKSPACE).doing("connecting")?)
            }
            None => None,
        };
        Ok(Caller { registry, own, documents: stock.documents(), files, n_done: i })
    }

    /// Does the work once.
    pub(crate) async fn once(&mut self, work: Work, goods: &Goods, stock: &Stock) -> Result<()> {
        self.n_done += 1;
        match work {
            Work::Mix => Box::pin(self.mixed(goods, stock)).await,
            work => self.simple(work, goods, stock).await,
        }
    }

    async fn simple(&mut self, work: Work, goods: &Goods, stock: &Stock) -> Result<()> {
        let manifest = || stock.manifests.get(self.n_done % stock.manifests.len().max(1));
        match work {
            Work::Push(size) => {
                self.registry.visit(&self.own);
                self.registry.push_blob(&goods.next(size)?).await
            }
            Work::Small => {
                self.registry.visit(&self.own);
                let tag = format!("tag-{}", self.n_done);
                self.registry.push_artifact(&tag, &goods.next(Size::Small)?).await.map(drop)
            }
            Work::Pull(_) => {
                let Some(stocked) = stock.blobs.get(self.n_done % stock.blobs.len().max(1)) else {
                    return Ok(());
                };
                if let Some(files) = &self.files {
                    let taken = files.descriptor(&stocked.artifact, &stocked.blob.digest).await;
                    let file = File::from(taken.doing("taking a descriptor")?);
                    let blob = stocked.blob.clone();
                    let compared = spawn_blocking(move || compare(&file, &blob));
                    return compared.await.doing("comparing")?;
                }
                self.registry.visit(&stock.repository);
                self.registry.pull_blob(&stocked.blob.digest, stocked.blob.size()).await
            }
            Work::Manifest(by) => {
                let Some(manifest) = manifest() else { return Ok(()) };
                self.registry.visit(&self.documents);
                self.registry.pull_manifest(manifest, by).await
            }
            Work::Head => {
                let Some(manifest) = manifest() else { return Ok(()) };
                self.registry.visit(&self.documents);
                self.registry.head_manifest(manifest, By::Tag).await
            }
            Work::Tags => {
                self.registry.visit(&self.documents);
                self.registry.list_tags(&stock.tags).await
            }
            Work::Mix => Ok(()),
        }
    }

    async fn mixed(&mut self, goods: &Goods, stock: &Stock) -> Result<()> {
        let work = match self.n_done % 20 {
            0 | 10 => Work::Small,
            5 => Work::Push(Size::Medium),
            2 | 7 | 12 | 17 => Work::Pull(Size::Medium),
            1 | 6 | 11 | 16 => Work::Head,
            3 | 8 | 13 | 18 => Work::Manifest(By::Tag),
            15 => Work::Tags,
            _ => Work::Manifest(By::Digest),
        };
        self.simple(work, goods, stock).await
    }
}

/// Whether a file holds exactly these bytes. Bonded has hashed it for whoever took it; that these are
/// the bytes that were pushed is the driver's own doubt.
fn compare(file: &File, blob: &Blob) -> Result<()> {
    let (mut buffer, mut at) = (vec![0; COMPARED_AT_ONCE], 0);
    for part in blob.parts.iter().flat_map(|part| part.chunks(COMPARED_AT_ONCE)) {
        let read = &mut buffer[..part.len()];
        file.read_exact_at(read, at).doing("reading a descriptor")?;
        if read != part {
            return Err(Failed(format!("other bytes than were pushed after {at}")));
        }
        at += part.len() as u64;
    }
    match file.metadata().doing("looking at a descriptor")?.len() == at {
        true => Ok(()),
        false => Err(Failed("more bytes than were pushed".to_owned())),
    }
}
