//! `GET /v1/workspaces/W/artifacts/DIGEST`: what an artifact reaches. Its structure is checked and
//! its manifests are hashed; its blobs are not.

use std::collections::HashSet;

use cas::digest::Digest;
use cas::oci::Node;
use wire::Problem;
use wire::api::{Closure, Member};

use super::line;
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge::Kind;
use crate::policy::Right;
use crate::refusal;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    let workspace = ask.workspace()?;
    let digest = ask.digest()?;
    let what = digest.to_string();
    ask.check(Right::Read, &workspace, Some(&what))?;

    let store = ask.app.store.clone();
    let look = move || {
        let told = |error| refusal::inside(error, &what, &workspace);
        let sealed = store.sealed(&workspace, &digest).map_err(told)?;
        let cas::Reached { closure, absent, .. } = &sealed.closure().map_err(told)?;
        let artifact = line(store.summary(&workspace, &digest).map_err(told)?);
        let members: Vec<Member> =
            closure.nodes().iter().map(|node| member(node, absent)).collect();
        let root = members.last().map(|last| last.descriptor.clone());
        let root = root.ok_or_else(|| refusal::not_found(&what, &workspace))?;
        Ok(Closure { artifact, root, members })
    };
    let closure = ask.run(Kind::Short, look).await?;
    Answer::json(&closure)
}

fn member(node: &Node, absent: &HashSet<Digest>) -> Member {
    let (children, subject) = match node {
        Node::Manifest(manifest) => {
            (manifest.children().to_vec(), manifest.subject().map(|subject| subject.digest))
        }
        Node::Blob(_) => (Vec::new(), None),
    };
    let descriptor = node.descriptor();
    let absent = absent.contains(&descriptor.digest);
    Member { descriptor, children, subject, absent }
}
