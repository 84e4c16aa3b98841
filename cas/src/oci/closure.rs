//! The walk from a root to everything it reaches.

use std::collections::HashMap;

use super::{Descriptor, Limits, Manifest, Refusal};
use crate::digest::Digest;

/// One member of a closure, once, however often it is named.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every node is a blob: boxing them saves nothing"
)]
pub enum Node {
    /// A manifest or index, verified and parsed.
    Manifest(Box<Manifest>),
    /// A config, a layer, or anything else without children that we know of.
    Blob(Descriptor),
}

impl Node {
    /// The digest of the member.
    pub fn digest(&self) -> Digest {
        match self {
            Node::Manifest(manifest) => manifest.digest(),
            Node::Blob(descriptor) => descriptor.digest,
        }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Node::Manifest(manifest) => manifest.bytes().len() as u64,
            Node::Blob(descriptor) => descriptor.size,
        }
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> Descriptor {
        match self {
            Node::Manifest(manifest) => manifest.descriptor(),
            Node::Blob(descriptor) => descriptor.clone(),
        }
    }
}

/// Everything that a root reaches, children before parents, the root last.
#[derive(Clone, Debug)]
pub struct Closure {
    nodes: Vec<Node>,
}

impl Closure {
    /// The members in post-order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The blobs: members without children.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Blob(descriptor) => Some(descriptor),
            Node::Manifest(_) => None,
        })
    }

    /// The manifests and indexes, the root last.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Manifest(manifest) => Some(&**manifest),
            Node::Blob(_) => None,
        })
    }

    /// The member with this digest.
    pub fn get(&self, digest: &Digest) -> Option<&Node> {
        self.nodes.iter().find(|node| node.digest() == *digest)
    }
}

/// Walks from `root`, asking `fetch` for the bytes of each manifest. `fetch` must not return more
/// bytes than the descriptor claims plus one; digests and sizes of manifests are checked here,
/// those of blobs by whoever reads them.
///
/// # Errors
/// A [`Refusal`] as the caller's error type, or what `fetch` failed with. A document whose digest
/// is wrong is still followed, so that a cycle, which only wrong digests can make, is called one.
pub fn walk<E: From<Refusal>>(
    root: &Descriptor,
    limits: &Limits,
    fetch: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>, E>,
) -> Result<Closure, E> {
    let mut walk = Walk {
        limits,
        fetch,
        nodes: Vec::new(),
        met: HashMap::new(),
        above: Vec::new(),
        n_entries: 0,
        n_bytes: 0,
        mismatch: None,
        cycle: false,
    };
    let end = walk.document(root);
    match (end, walk.cycle, walk.mismatch) {
        (Err(error), true, _) => Err(error),
        (_, _, Some(mismatch)) => Err(mismatch.into()),
        (Err(error), _, None) => Err(error),
        (Ok(_), _, None) => Ok(Closure { nodes: walk.nodes.into_iter().flatten().collect() }),
    }
}

struct Walk<'a, E> {
    limits: &'a Limits,
    fetch: &'a mut dyn FnMut(&Descriptor) -> Result<Vec<u8>, E>,
    /// `None` where a blob turned out to be a manifest that comes later.
    nodes: Vec<Option<Node>>,
    met: HashMap<Digest, Met>,
    /// The documents from the root down to the one being read.
    above: Vec<Digest>,
    n_entries: usize,
    /// Bytes of all documents so far.
    n_bytes: u64,
    mismatch: Option<Refusal>,
    cycle: bool,
}

/// A digest that was met before.
#[derive(Clone, Copy)]
struct Met {
    /// The size that was claimed.
    size: u64,
    as_what: As,
}

#[derive(Clone, Copy)]
enum As {
    /// As a blob, which stands there.
    Blob { place: usize },
    /// As a document, with so many on top of each other from it down.
    Document { height: usize },
}

impl<E: From<Refusal>> Walk<'_, E> {
    /// Reads a document and all below it; says how many stand on top of each other from it down.
    fn document(&mut self, claim: &Descriptor) -> Result<usize, E> {
        let digest = claim.digest;
        if self.above.len() >= self.limits.depth {
            return Err(Refusal::TooDeep { digest, limit: self.limits.depth }.into());
        }
        if claim.size > self.limits.manifest_size {
            let limit = self.limits.manifest_size;
            return Err(Refusal::TooLarge { digest, size: claim.size, limit }.into());
        }
        self.n_bytes = self.n_bytes.saturating_add(claim.size);
        if self.n_bytes > self.limits.manifests_size {
            let root = self.above.first().copied().unwrap_or(digest);
            let limit = self.limits.manifests_size;
            return Err(Refusal::ManifestsTooLarge { root, limit }.into());
        }
        let bytes = (self.fetch)(claim)?;
        let manifest = match Manifest::parse(claim, bytes.clone(), self.limits) {
            Err(mismatch @ Refusal::Mismatch { claimed, .. }) if claimed == digest => {
                self.mismatch.get_or_insert(mismatch.clone());
                Manifest::read(claim, bytes).map_err(|_| mismatch)?
            }
            other => other?,
        };
        self.above.push(digest);
        let mut height = 0;
        for child in manifest.children() {
            height = height.max(self.child(child)?);
        }
        self.above.pop();
        height += 1;
        self.met.insert(digest, Met { size: claim.size, as_what: As::Document { height } });
        self.nodes.push(Some(Node::Manifest(Box::new(manifest))));
        Ok(height)
    }

    /// The same for a child; a blob stands on nothing.
    fn child(&mut self, child: &Descriptor) -> Result<usize, E> {
        let digest = child.digest;
        if self.above.contains(&digest) {
            self.cycle = true;
            return Err(Refusal::Cycle { digest }.into());
        }
        self.n_entries += 1;
        if self.n_entries > self.limits.entries {
            let (root, limit) = (self.above[0], self.limits.entries);
            return Err(Refusal::TooManyEntries { root, limit }.into());
        }
        if let Some(&Met { size: actual, as_what }) = self.met.get(&digest) {
            // The same bytes cannot have two sizes. A manifest that was met as a plain blob is a
            // manifest all the same, so then the blob gives way to it.
            if actual != child.size {
                return Err(Refusal::WrongSize { digest, claimed: child.size, actual }.into());
            }
            match as_what {
                As::Blob { place } if child.is_manifest() => self.nodes[place] = None,
                // Who needs it once may not do without it elsewhere.
                As::Blob { place } => {
                    if !child.may_be_absent() {
                        self.nodes[place] = Some(Node::Blob(child.clone()));
                    }
                    return Ok(0);
                }
                // It is not read again. But below here it may stand deeper than where it was met:
                // the limit is for those who read the artifact later, and may follow every path.
                As::Document { height } if self.above.len() + height > self.limits.depth => {
                    return Err(Refusal::TooDeep { digest, limit: self.limits.depth }.into());
                }
                As::Document { height } => return Ok(height),
            }
        }
        if child.is_manifest() {
            return self.document(child);
        }
        let as_what = As::Blob { place: self.nodes.len() };
        self.met.insert(digest, Met { size: child.size, as_what });
        self.nodes.push(Some(Node::Blob(child.clone())));
        Ok(0)
    }
}
