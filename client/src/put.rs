//! Putting artifacts: a layout's closure into one draft over several connections, or one file in
//! one request.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cas::disk::ForeignFile;
use cas::media::{self, Layout, Part};
use cas::oci::{Closure, Descriptor, Node, Refusal};
use cas::workspace::Name;
use wire::api::MOST_NAMES;
use wire::{Code, api};

use crate::bridge::{blocking, each};
use crate::payload::Brings;
use crate::pool::Client;
use crate::problem::Error;
use crate::progress::{Progress, sum};

/// Below this a body is faster than a descriptor: 8 400 against 5 800 requests a second of 4 KiB
/// (FACTS.md, "Input and output").
const SMALL: u64 = 64 << 10;
/// How often a draft is asked how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What is said about a file that is put.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// Its name, one path component of at most 255 bytes: the layer's
    /// `org.opencontainers.image.title`.
    pub title: String,
    /// The layer's media type; `application/octet-stream` when absent.
    pub media_type: Option<String>,
    /// The artifact's type; `application/octet-stream` when absent.
    pub artifact_type: Option<String>,
    /// Names to give it.
    pub names: Vec<Name>,
}

/// The bytes of a file that is put.
pub enum FileBytes {
    /// In memory.
    Whole(Bytes),
    /// An open file, from `offset` to its end.
    File {
        /// The file.
        file: ForeignFile,
        /// Where its bytes begin.
        offset: u64,
    },
    /// A stream that ends some time.
    Stream(Box<dyn Read + Send>),
}

/// Bytes whose number is known, and that can be brought more than once.
enum Known {
    Whole(Bytes),
    Part(Part),
}

impl Known {
    fn len(&self) -> u64 {
        match self {
            Known::Whole(bytes) => bytes.len() as u64,
            Known::Part(part) => part.len(),
        }
    }
}

/// One member of a closure on its way.
enum Member {
    Manifest(Descriptor, Bytes),
    Blob(Descriptor),
}

impl Member {
    fn size(&self) -> u64 {
        match self {
            Member::Manifest(descriptor, _) | Member::Blob(descriptor) => descriptor.size,
        }
    }
}

impl Client {
    /// Puts bytes as an artifact of one file: one request, for which small files are what it is
    /// made for.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put_file(&self, title: &str, bytes: impl Into<Bytes>) -> Result<api::Put, Error> {
        let options = FileOptions { title: title.to_owned(), ..FileOptions::default() };
        self.put_file_with(FileBytes::Whole(bytes.into()), &options, &Progress::default()).await
    }

    /// Puts a file, with everything that can be said about it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put_file_with(
        &self,
        bytes: FileBytes,
        options: &FileOptions,
        progress: &Progress,
    ) -> Result<api::Put, Error> {
        check_names(&options.names)?;
        let unreadable = |source| Error::Source { doing: "putting a file", source };
        let mut query = api::FileQuery {
            title: options.title.clone(),
            size: None,
            offset: None,
            media_type: options.media_type.clone(),
            artifact_type: options.artifact_type.clone(),
            digest: None,
            names: (!options.names.is_empty())
                .then(|| options.names.iter().map(Name::to_string).collect::<Vec<_>>().join(",")),
        };
        let mut before = None;
        let source = match bytes {
            FileBytes::Stream(stream) => {
                let put = self.bring_file(&query, Brings::stream(stream, progress.clone())).await;
                progress.set_done(progress.total());
                return put;
            }
            FileBytes::Whole(bytes) => Known::Whole(bytes),
            FileBytes::File { file, offset } => {
                let stat = file.stat().map_err(unreadable)?;
                let len = stat.size.saturating_sub(offset);
                before = Some(stat);
                Known::Part(Part::File { file: Arc::new(file), offset, len })
            }
        };
        let size = source.len();
        query.size = Some(size);
        progress.set_total(size);
        let put = self.put_source(&mut query, &source).await;
        progress.set_done(if put.is_ok() { size } else { 0 });
        match (put, before, &source) {
            // Between our look at the file and the daemon's it became another one.
            (Err(Error::Answered(problem)), Some(before), Known::Part(Part::File { file, .. }))
                if problem.code == Code::WrongSize
                    && file.stat().is_ok_and(|now| now != before) =>
            {
                Err(Error::SourceChanged { doing: "putting a file" })
            }
            (put, ..) => put,
        }
    }

    async fn put_source(
        &self,
        query: &mut api::FileQuery,
        source: &Known,
    ) -> Result<api::Put, Error> {
        let part = match source {
            Known::Whole(bytes) => {
                return self.bring_file(query, Brings::Bytes(bytes.clone())).await;
            }
            Known::Part(part) => part,
        };
        for brings in ways(part)? {
            query.offset = offset_of(&brings, part);
            match self.bring_file(query, brings).await {
                Err(Error::Answered(problem)) if problem.code == Code::DescriptorRefused => {}
                other => return other,
            }
        }
        Err(refused_every_way())
    }

    /// Puts an artifact of a layout: everything that `root` reaches, largest first, over all the
    /// client's connections, sealed at the end.
    ///
    /// # Errors
    /// See [`Error`]; nothing is kept then.
    pub async fn put_layout(
        &self,
        layout: Arc<Layout>,
        root: &Descriptor,
        names: &[Name],
        progress: &Progress,
    ) -> Result<api::Put, Error> {
        check_names(names)?;
        let (claim, source) = (root.clone(), Arc::clone(&layout));
        let members = blocking(move || members(&source, &source.closure(&claim)?)).await?;
        let size = sum(members.iter().map(Member::size));
        progress.set_total(size);

        let draft: Arc<str> = self.open_draft().await?.into();
        let root = Descriptor::new(root.media_type.clone(), root.digest, root.size);
        let names = names.iter().map(Name::to_string).collect();
        let brought = async {
            self.bring_all(&draft, layout, members, progress).await?;
            self.seal(&draft, &api::Seal { root, names }, size).await
        };
        let put = self.or_give_up(&draft, brought.await).await;
        progress.set_done(if put.is_ok() { size } else { 0 });
        put
    }

    /// A draft that failed is given up, so that its bytes go at once and not when it is stale. When
    /// that fails too, the first error is still the one to tell.
    async fn or_give_up<T>(&self, draft: &str, end: Result<T, Error>) -> Result<T, Error> {
        if end.is_err() {
            let _ = self.give_up_draft(draft).await;
        }
        end
    }

    async fn bring_all(
        &self,
        draft: &Arc<str>,
        layout: Arc<Layout>,
        members: Vec<Member>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let (client, into) = (self.clone(), Arc::clone(draft));
        let working = each(self.n_connections(), members, move |member| {
            let (client, into, layout) = (client.clone(), Arc::clone(&into), Arc::clone(&layout));
            async move { client.bring_member(&into, &layout, member).await }
        });
        // It has a connection of its own, and ends with the workers.
        let watching = self.watch(draft, progress);
        tokio::select! {
            end = working => end,
            () = watching => Ok(()),
        }
    }

    /// Asks again and again how far the draft is, and never ends.
    async fn watch(&self, draft: &str, progress: &Progress) {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let Ok(observer) = self.apart().await else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(PROGRESS_EVERY).await;
            if let Ok(answer) = observer.draft_progress(draft).await {
                progress.set_done(answer.bytes);
            }
        }
    }

    async fn bring_member(
        &self,
        draft: &str,
        layout: &Arc<Layout>,
        member: Member,
    ) -> Result<(), Error> {
        let descriptor = match member {
            Member::Manifest(descriptor, bytes) => {
                let (digest, size) = (descriptor.digest, descriptor.size);
                self.bring(draft, &digest, size, 0, Brings::Bytes(bytes)).await?;
                return Ok(());
            }
            Member::Blob(descriptor) => descriptor,
        };
        let (source, claim) = (Arc::clone(layout), descriptor.clone());
        let part = blocking(move || source.part(&claim)).await?;
        for brings in ways(&part)? {
            let offset = offset_of(&brings, &part).unwrap_or(0);
            let taken =
                self.bring(draft, &descriptor.digest, descriptor.size, offset, brings).await;
            match taken {
                Err(Error::Answered(problem)) if problem.code == Code::DescriptorRefused => {}
                other => return other.map(|_| ()),
            }
        }
        Err(refused_every_way())
    }
}

/// What there is to bring, largest first. A layer that may be absent and is counts for nothing,
/// whatever size is claimed for it.
fn members(layout: &Layout, closure: &Closure) -> Result<Vec<Member>, media::Error> {
    let mut members = Vec::with_capacity(closure.nodes().len());
    for node in closure.nodes() {
        members.push(match node {
            Node::Manifest(manifest) => {
                Member::Manifest(manifest.descriptor(), manifest.bytes().to_vec().into())
            }
            Node::Blob(blob) => {
                let is_absent = blob.may_be_absent()
                    && matches!(
                        layout.part(blob),
                        Err(media::Error::Refused(Refusal::Missing { .. }))
                    );
                if is_absent {
                    continue;
                }
                Member::Blob(blob.clone())
            }
        });
    }
    members.sort_by_key(|member| std::cmp::Reverse(member.size()));
    Ok(members)
}

/// The daemon would find it too, after everything was brought.
fn check_names(names: &[Name]) -> Result<(), Error> {
    match names.len() {
        0..=MOST_NAMES => Ok(()),
        n => Err(Error::Usage {
            message: format!("one put gives at most {MOST_NAMES} names, not {n}"),
            hint: None,
            candidates: Vec::new(),
        }),
    }
}

/// How the bytes of a part can be brought, the best way first: the daemon refuses descriptors whose
/// reads could wait for somebody else.
fn ways(part: &Part) -> Result<Vec<Brings>, Error> {
    Ok(match part {
        Part::Inline(bytes) => vec![Brings::Bytes(bytes.clone().into())],
        Part::File { len, .. } if *len < SMALL => {
            vec![Brings::Bytes(part.read("the file")?.into())]
        }
        Part::File { file, offset, len } => {
            let range = Brings::Range { file: Arc::clone(file), offset: *offset, len: *len };
            match file.is_local() {
                true => vec![Brings::Descriptor(Arc::clone(file)), range],
                false => vec![range],
            }
        }
    })
}

fn offset_of(brings: &Brings, part: &Part) -> Option<u64> {
    match (brings, part) {
        (Brings::Descriptor(_), Part::File { offset, .. }) => Some(*offset),
        _ => None,
    }
}

/// There is always a way with a body, and a body is no descriptor to refuse.
fn refused_every_way() -> Error {
    let reason = "a body was refused as a descriptor".to_owned();
    Error::Odd { doing: "putting", reason }
}
