//! `POST /v1/workspaces/W/files`: one file, wrapped in a manifest and sealed in one request.

use wire::Problem;

use super::{names, put};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::body::{self, Range};
use crate::policy::Right;
use crate::refusal;

/// The keys of `wire::api::FileQuery`.
const QUERY: [&str; 7] =
    ["title", "size", "offset", "media_type", "artifact_type", "digest", "names"];

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    let query = ask.query(&QUERY)?;
    let title = query.need("title")?.to_owned();
    cas::workspace::check_title(&title).map_err(|refused| refusal::name(&refused))?;
    let range = Range { offset: query.parsed("offset")?.unwrap_or(0), size: query.parsed("size")? };
    let claimed = body::digest(query.get("digest"))?;
    let names = names(query.get("names").into_iter().flat_map(|list| list.split(',')))?;
    let workspace = ask.workspace()?;
    ask.check(Right::Put, &workspace, None)?;

    let app = ask.app.clone();
    let take = move |source: cas::Source<'_>, size| {
        let draft = app.store.draft(&workspace).map_err(refusal::problem)?;
        let taken = draft.take_file(size, claimed, source).map_err(refusal::problem)?;
        app.prepare(&workspace).map_err(refusal::problem)?;
        let (artifact_type, media_type) = (query.get("artifact_type"), query.get("media_type"));
        let (sealed, receipt) = draft
            .seal_file(&title, artifact_type, media_type, &taken, &names, &|tag| app.may_move(tag))
            .map_err(refusal::problem)?;
        let media_type = cas::oci::media_type::IMAGE_MANIFEST.to_owned();
        Ok(put(&app.metrics, &sealed, receipt, media_type, Some(taken.digest)))
    };
    let done = body::bring(ask, range, take).await?;
    ask.record.digest = Some(done.digest);
    Answer::made(&done)
}
