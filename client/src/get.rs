//! Getting artifacts: every byte that is handed out is hashed here again, on its way to a layout,
//! an archive, a file or a stream; only a descriptor is handed on as it is.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use cas::digest::{Algorithm, Digest};
use cas::disk::{ForeignFile, NewFile};
use cas::media::{self, ArchiveSink, DirSink, Proved, copy};
use cas::oci::{Closure, Descriptor, Manifest, ManifestKind, Node, Refusal, media_type, walk};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::bridge::{blocking, each};
use crate::connection::{Answer, Ask, Connection};
use crate::pool::Client;
use crate::problem::Error;
use crate::progress::{Progress, sum};
use crate::routes::CHECK_PATIENCE;

/// Below this a body is faster than a descriptor.
const SMALL: u64 = 64 << 10;
/// Pieces between the connection and the thread that writes.
const N_PIECES: usize = 8;
/// How often threads are looked after that still write what nobody wants, a second in all.
const N_LOOKS: u32 = 200;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// What a copy consists of: the artifact's root and its members, proved by their digests, without
/// those that may be absent and are.
struct Whole {
    root: Descriptor,
    closure: Closure,
    blobs: Vec<Descriptor>,
}

impl Client {
    /// Copies an artifact into a new OCI layout directory. Nothing may be at `target` yet; the copy
    /// appears there whole. `name` becomes its `org.opencontainers.image.ref.name`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_dir(
        &self,
        artifact: &Digest,
        target: &Path,
        name: Option<&str>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let whole = self.whole(artifact, progress).await?;
        let algorithms: Vec<Algorithm> =
            whole.closure.nodes().iter().map(|node| node.digest().algorithm()).collect();
        let growing = Growing(Some(Arc::new(DirSink::begin(target, &algorithms)?)));
        let mut blobs = whole.blobs.clone();
        blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));

        let (client, into, artifact) = (self.clone(), growing.sink()?, *artifact);
        let counted = progress.clone();
        let working = each(self.n_connections(), blobs, move |blob| {
            let (client, sink, progress) = (client.clone(), Arc::clone(&into), counted.clone());
            async move {
                let descriptor = blob.clone();
                let take = move |bytes: &mut dyn Read| sink.blob(&descriptor, bytes);
                client.deliver(&artifact, &blob, &progress, take).await
            }
        });
        if let Err(error) = working.await {
            growing.give_up().await;
            return Err(error);
        }
        // The workers are gone, and with them every other hold on the sink.
        let sink = growing.grown()?;
        let name = name.map(str::to_owned);
        blocking(move || {
            for manifest in whole.closure.manifests() {
                sink.blob(&manifest.descriptor(), &mut manifest.bytes())?;
            }
            sink.finish(&whole.root, name.as_deref())
        })
        .await
    }

    /// Copies an artifact into a new OCI archive.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_archive(
        &self,
        artifact: &Digest,
        target: &Path,
        name: Option<&str>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let shown = target.display().to_string();
        let file = begin_file(target)?;
        let file = self.write_archive(artifact, file, &shown, name, progress).await?;
        finish_file(file, shown).await
    }

    /// Writes an artifact as an OCI archive to a stream. An archive that was not finished, because
    /// something was wrong, has no `index.json` and no end mark.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn write_archive<W: Write + Send + 'static>(
        &self,
        artifact: &Digest,
        to: W,
        shown: &str,
        name: Option<&str>,
        progress: &Progress,
    ) -> Result<W, Error> {
        let whole = self.whole(artifact, progress).await?;
        let there: HashSet<Digest> = whole.blobs.iter().map(|blob| blob.digest).collect();
        let mut sink = ArchiveSink::begin(to, shown)?;
        for node in whole.closure.nodes() {
            sink = match node {
                Node::Blob(blob) if !there.contains(&blob.digest) => sink,
                Node::Blob(blob) => {
                    let descriptor = blob.clone();
                    let take = move |bytes: &mut dyn Read| {
                        sink.blob(&descriptor, bytes)?;
                        Ok(sink)
                    };
                    self.deliver(artifact, blob, progress, take).await?
                }
                Node::Manifest(manifest) => {
                    let manifest = manifest.clone();
                    blocking(move || {
                        sink.blob(&manifest.descriptor(), &mut manifest.bytes())?;
                        Ok(sink)
                    })
                    .await?
                }
            };
        }
        let (root, name) = (whole.root, name.map(str::to_owned));
        blocking(move || sink.finish(&root, name.as_deref())).await
    }

    /// Copies the bytes of a file artifact, or of one member of any artifact, into a new file.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::NotOneFile`] when no member is named and there are several.
    pub async fn get_file(
        &self,
        artifact: &Digest,
        member: Option<&Digest>,
        target: &Path,
        progress: &Progress,
    ) -> Result<(), Error> {
        let shown = target.display().to_string();
        let file = begin_file(target)?;
        let file = self.write_file(artifact, member, file, progress).await?;
        finish_file(file, shown).await
    }

    /// Writes the bytes of a file artifact, or of one member of any artifact, to a stream. The last
    /// of them are written only once all of them were found right.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::NotOneFile`] when no member is named and there are several.
    pub async fn write_file<W: Write + Send + 'static>(
        &self,
        artifact: &Digest,
        member: Option<&Digest>,
        mut to: W,
        progress: &Progress,
    ) -> Result<W, Error> {
        let descriptor = match member {
            Some(member) => self.member(artifact, member).await?,
            None => self.only_file(artifact).await?,
        };
        progress.set_total(descriptor.size);
        let proved = descriptor.clone();
        self.deliver(artifact, &descriptor, progress, move |bytes| {
            copy(&mut Proved::new(&proved, bytes), &mut to)?;
            Ok(to)
        })
        .await
    }

    /// A read-only descriptor of one member of an artifact: the very file that the daemon hashed to
    /// its end for this answer, and which it never writes to again. Nothing is copied, and nothing is
    /// hashed here: who does not want to rely on the daemon's word uses [`Client::write_file`]. It is
    /// read at offsets: where it stands is nobody's promise.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn descriptor(&self, artifact: &Digest, member: &Digest) -> Result<OwnedFd, Error> {
        let ask = Ask {
            accepts_descriptor: true,
            patience: CHECK_PATIENCE,
            ..self.blob(artifact, member, 0)
        };
        let (mut lease, mut answer) = self.ask(&ask).await?;
        let Some(descriptor) = answer.descriptor.take() else {
            // With it goes the connection, and whatever came in place of a descriptor.
            let reason = "the answer came without one".to_owned();
            return Err(Error::Odd { doing: "asking for a descriptor", reason });
        };
        lease.connection.collect(answer).await?;
        lease.give_back().await;
        Ok(descriptor)
    }

    async fn member(&self, artifact: &Digest, member: &Digest) -> Result<Descriptor, Error> {
        let closure = self.closure(artifact).await?;
        let mut members = closure.members.into_iter().map(|m| m.descriptor);
        let missing = Error::NoMember { artifact: *artifact, member: *member };
        members.find(|descriptor| descriptor.digest == *member).ok_or(missing)
    }

    /// The one layer of a file artifact.
    async fn only_file(&self, artifact: &Digest) -> Result<Descriptor, Error> {
        let closure = self.closure(artifact).await?;
        let root = self.manifest(artifact, &closure.root).await?;
        let root = Manifest::parse(&closure.root, root, &self.limits().await?)
            .map_err(|refusal| Error::HandedOut { artifact: *artifact, refusal })?;
        match (root.kind(), root.config(), root.children()) {
            (ManifestKind::Image, Some(config), [_, layer])
                if config.media_type == media_type::EMPTY =>
            {
                Ok(layer.clone())
            }
            _ => Err(Error::NotOneFile { artifact: *artifact }),
        }
    }

    /// Reads all manifests of an artifact and follows them from its digest down: what is copied
    /// follows from the bytes, not from anybody's list.
    async fn whole(&self, artifact: &Digest, progress: &Progress) -> Result<Whole, Error> {
        let listed = self.closure(artifact).await?;
        let mut documents = HashMap::new();
        for member in listed.members.iter().filter(|m| m.descriptor.is_manifest()) {
            let bytes = self.manifest(artifact, &member.descriptor).await?;
            documents.insert(member.descriptor.digest, bytes);
        }
        let handed_out = |refusal| Error::HandedOut { artifact: *artifact, refusal };
        let mut fetch = |claim: &Descriptor| {
            documents.remove(&claim.digest).ok_or_else(|| Refusal::Missing {
                digest: claim.digest,
                media_type: claim.media_type.clone(),
            })
        };
        let root = Descriptor::new(listed.root.media_type, *artifact, listed.root.size);
        let closure = walk(&root, &self.limits().await?, &mut fetch).map_err(handed_out)?;
        let absent: Vec<Digest> =
            listed.members.iter().filter(|m| m.absent).map(|m| m.descriptor.digest).collect();
        let is_there = |blob: &&Descriptor| !blob.may_be_absent() || !absent.contains(&blob.digest);
        let blobs: Vec<Descriptor> = closure.blobs().filter(is_there).cloned().collect();
        // The manifests are here already.
        let of_manifests = sum(closure.manifests().map(|manifest| manifest.bytes().len() as u64));
        progress.set_total(sum(blobs.iter().map(|blob| blob.size)).saturating_add(of_manifests));
        progress.set_done(of_manifests);
        Ok(Whole { root, closure, blobs })
    }

    /// The bytes of a manifest, whose digest its reader checks.
    async fn manifest(&self, artifact: &Digest, claim: &Descriptor) -> Result<Vec<u8>, Error> {
        let limit = self.limits().await?.manifest_size;
        if claim.size > limit {
            let (digest, size) = (claim.digest, claim.size);
            let refusal = Refusal::TooLarge { digest, size, limit };
            return Err(Error::HandedOut { artifact: *artifact, refusal });
        }
        Ok(self.call(&self.blob(artifact, &claim.digest, claim.size)).await?.into())
    }

    /// Asks for the bytes of one member and gives them to `take`, which must prove them and runs on
    /// a thread of its own.
    async fn deliver<T: Send + 'static>(
        &self,
        artifact: &Digest,
        member: &Descriptor,
        progress: &Progress,
        take: impl FnOnce(&mut dyn Read) -> Result<T, media::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let accepts_descriptor = member.size >= SMALL;
        let ask = Ask { accepts_descriptor, ..self.blob(artifact, &member.digest, member.size) };
        let (mut lease, mut answer) = self.ask(&ask).await?;
        let (digest, progress) = (member.digest, progress.clone());
        // It lives as long as somebody waits: who was interrupted must not write on.
        let wanted = Arc::new(());
        let is_wanted = Arc::downgrade(&wanted);
        if let Some(descriptor) = answer.descriptor.take() {
            lease.connection.collect(answer).await?;
            lease.give_back().await;
            let name = digest.to_string();
            return blocking(move || {
                let file = ForeignFile::adopt(descriptor, &name)?;
                take(&mut Counted { from: FromFile { file, at: 0 }, progress, is_wanted })
            })
            .await;
        }
        let (pieces, coming) = channel(N_PIECES);
        let taking = blocking(move || {
            let from = FromBody { coming, current: Bytes::new(), is_over: false };
            take(&mut Counted { from, progress, is_wanted })
        });
        let feeding = feed(&mut lease.connection, &mut answer, pieces);
        let (taken, fed) = tokio::join!(taking, feeding);
        // When the answer broke off, that says more than what its taker made of it.
        fed?;
        let taken = taken?;
        lease.give_back().await;
        Ok(taken)
    }
}

/// A layout that several workers write to. When this is dropped before they are through, because
/// one failed or the user gave up, its folder goes at once: a worker's thread may take long to
/// notice.
struct Growing(Option<Arc<DirSink>>);

impl Growing {
    fn sink(&self) -> Result<Arc<DirSink>, Error> {
        self.0.clone().ok_or_else(Growing::odd)
    }

    /// The sink alone, once no worker has it any more.
    fn grown(mut self) -> Result<DirSink, Error> {
        self.0.take().and_then(Arc::into_inner).ok_or_else(Growing::odd)
    }

    /// Removes what there is, and waits a moment for the workers' threads to let go of it: what they
    /// still make goes with the last hold on it, which is then this one.
    async fn give_up(self) {
        let Some(sink) = &self.0 else { return };
        sink.discard();
        for _ in 0..N_LOOKS {
            if Arc::strong_count(sink) == 1 {
                return;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    fn odd() -> Error {
        Error::Odd { doing: "getting", reason: "a worker still writes".to_owned() }
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        if let Some(sink) = &self.0 {
            sink.discard();
        }
    }
}

/// Passes an answer on piece by piece. Its end is said, so that a broken answer is not taken for a
/// short one.
async fn feed(
    connection: &mut Connection,
    answer: &mut Answer,
    pieces: Sender<Option<Bytes>>,
) -> Result<(), Error> {
    loop {
        let piece = connection.next(answer).await?;
        let is_end = piece.is_none();
        if pieces.send(piece).await.is_err() || is_end {
            return Ok(());
        }
    }
}

fn begin_file(target: &Path) -> Result<NewFile, Error> {
    NewFile::beside(target).map_err(|source| making(target.display().to_string(), source).into())
}

async fn finish_file(file: NewFile, shown: String) -> Result<(), Error> {
    blocking(move || file.finish().map_err(|source| making(shown, source))).await
}

fn making(path: String, source: io::Error) -> media::Error {
    match source.kind() {
        io::ErrorKind::AlreadyExists => media::Error::Exists { path },
        _ => media::Error::Write { what: path, source },
    }
}

/// Counts what is read, as long as anybody wants it.
struct Counted<R> {
    from: R,
    progress: Progress,
    is_wanted: Weak<()>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.is_wanted.strong_count() == 0 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let n = self.from.read(buf)?;
        self.progress.add_done(n as u64);
        Ok(n)
    }
}

/// A descriptor from its first byte on; its own position is shared with the daemon.
struct FromFile {
    file: ForeignFile,
    at: u64,
}

impl Read for FromFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// The body of an answer.
struct FromBody {
    coming: Receiver<Option<Bytes>>,
    current: Bytes,
    is_over: bool,
}

impl Read for FromBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.is_over {
            match self.coming.blocking_recv() {
                Some(Some(bytes)) => self.current = bytes,
                Some(None) => self.is_over = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let n = buf.len().min(self.current.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}
