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
        sizes: HashMap::new(),
        above: Vec::new(),
        n_entries: 0,
        mismatch: None,
        cycle: false,
    };
    let end = walk.document(root);
    match (end, walk.cycle, walk.mismatch) {
        (Err(error), true, _) => Err(error),
        (_, _, Some(mismatch)) => Err(mismatch.into()),
        (Err(error), _, None) => Err(error),
        (Ok(()), _, None) => Ok(Closure { nodes: walk.nodes }),
    }
}

struct Walk<'a, E> {
    limits: &'a Limits,
    fetch: &'a mut dyn FnMut(&Descriptor) -> Result<Vec<u8>, E>,
    nodes: Vec<Node>,
    /// The size that was claimed for each digest already met.
    sizes: HashMap<Digest, u64>,
    /// The documents from the root down to the one being read.
    above: Vec<Digest>,
    n_entries: usize,
    mismatch: Option<Refusal>,
    cycle: bool,
}

impl<E: From<Refusal>> Walk<'_, E> {
    fn document(&mut self, claim: &Descriptor) -> Result<(), E> {
        let digest = claim.digest;
        if self.above.len() >= self.limits.depth {
            return Err(Refusal::TooDeep { digest, limit: self.limits.depth }.into());
        }
        if claim.size > self.limits.manifest_size {
            let limit = self.limits.manifest_size;
            return Err(Refusal::TooLarge { digest, size: claim.size, limit }.into());
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
        for child in manifest.children() {
            self.child(child)?;
        }
        self.above.pop();
        self.sizes.insert(digest, claim.size);
        self.nodes.push(Node::Manifest(Box::new(manifest)));
        Ok(())
    }

    fn child(&mut self, child: &Descriptor) -> Result<(), E> {
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
        if let Some(actual) = self.sizes.get(&digest) {
            // Met before: the same bytes cannot have two sizes. A manifest met as a plain blob is
            // still a manifest, so it is only skipped when it was read as one or need not be.
            if *actual != child.size {
                let (claimed, actual) = (child.size, *actual);
                return Err(Refusal::WrongSize { digest, claimed, actual }.into());
            }
            let seen_as_blob =
                || self.nodes.iter().position(|n| matches!(n, Node::Blob(d) if d.digest == digest));
            match child.is_manifest().then(seen_as_blob).flatten() {
                Some(place) => drop(self.nodes.remove(place)),
                None => return Ok(()),
            }
        }
        if child.is_manifest() {
            return self.document(child);
        }
        self.sizes.insert(digest, child.size);
        self.nodes.push(Node::Blob(child.clone()));
        Ok(())
    }
}
