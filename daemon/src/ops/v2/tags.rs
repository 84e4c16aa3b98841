//! `GET /v2/**/tags/list`: the tags of a repository, in the order of their bytes, page by page.

use http::{HeaderValue, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use cas::workspace::Tag;

use super::{job, no_repository, query, repository, target, text};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::policy::Right;
use crate::query::Query;
use crate::status;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::Access;

/// Tags on a page when the client does not say how many, and the most that it gets when it does.
/// Whoever gets fewer than there are gets a `Link` to the rest.
const PAGE: usize = 1000;
const LONGEST_PAGE: usize = 10_000;

#[derive(Serialize)]
struct List<'a> {
    name: &'a str,
    tags: Vec<&'a str>,
}

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let target = target(ask, Access::Read, Right::Read)?;
    let query = query(ask)?;
    let limit = limit(&query)?;
    let after = query.once("last")?.filter(|last| !last.is_empty()).map(str::to_owned);
    let (repository, sought) = (repository(ask, &target), target.clone());
    // Only an empty list can be that of a repository that is not there.
    let looked = repository.tags_at_a_look(after.as_deref(), limit);
    let (tags, more) = match looked.filter(|(tags, _)| !tags.is_empty()) {
        Some(found) => found,
        None => {
            let list = move || {
                let (tags, more) = repository.tags(after.as_deref(), limit)?;
                if tags.is_empty() && !repository.is_known()? {
                    return Err(no_repository(&sought));
                }
                Ok((tags, more))
            };
            job(ask, bridge::Kind::Short, list).await?
        }
    };

    let name = target.to_string();
    let body = List { name: &name, tags: tags.iter().map(Tag::as_str).collect() };
    let mut answer = json(&body, HeaderValue::from_static("application/json"))?;
    if let Some(last) = tags.last().filter(|_| more) {
        let last = utf8_percent_encode(last.as_str(), NON_ALPHANUMERIC);
        let next = format!("</v2/{name}/tags/list?n={limit}&last={last}>; rel=\"next\"");
        answer = answer.header(header::LINK, text(&next)?);
    }
    Ok(answer)
}

fn limit(query: &Query) -> Result<usize, Fault> {
    let Some(text) = query.once("n")? else {
        return Ok(PAGE);
    };
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return Err(Fault::new(Kind::Unsupported, format!("n is a number, and not {text:.40?}")));
    }
    // Digits that are too many for a number ask for more than there can be.
    Ok(text.parse().unwrap_or(usize::MAX).min(LONGEST_PAGE))
}

/// An answer in JSON.
pub(super) fn json(value: &impl Serialize, content_type: HeaderValue) -> Result<Answer, Fault> {
    let bytes = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer is no JSON");
        Fault::new(Kind::Broken, "the answer could not be written")
    })?;
    Ok(Answer::bytes(status::DONE, bytes).header(header::CONTENT_TYPE, content_type))
}
