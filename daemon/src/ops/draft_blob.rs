//! `PUT /v1/drafts/ID/blobs/DIGEST?size=N[&offset=N]`: one blob, in a body or a descriptor.

use wire::api::Taken;
use wire::{Code, Problem};

use crate::answer::Answer;
use crate::ask::Ask;
use crate::body::{self, Range};
use crate::refusal;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    let query = ask.query(&["size", "offset"])?;
    let id = ask.draft()?;
    let digest = ask.digest()?;
    let size: u64 = query
        .parsed("size")?
        .ok_or_else(|| Problem::new(Code::Usage, "the query lacks \"size\""))?;
    let offset = query.parsed("offset")?.unwrap_or(0);
    let found = ask.app.drafts.find(&id, ask.caller.peer.raw_uid(), ask.caller.connection)?;
    ask.record.workspace = Some(found.workspace.to_string());

    // The job owns the draft: when it ends nobody but the table holds it, and it can be sealed.
    let draft = found.draft;
    let take = move |source: cas::Source<'_>, _| {
        draft.take(&digest, size, source).map_err(refusal::problem)
    };
    let taken = body::bring(ask, Range { offset, size: Some(size) }, take).await?;
    Answer::json(&Taken { digest: taken.digest, size: taken.size })
}
