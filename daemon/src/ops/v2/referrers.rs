//! `GET /v2/**/referrers/*`: an index of the manifests of a repository that have a digest as their
//! subject, whether or not that is there. A page is as large as a manifest may be: many clients
//! never ask for a second one.

use cas::oci::Descriptor;
use cas::oci::media_type::IMAGE_INDEX;
use http::{HeaderValue, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::tags::json;
use super::{FILTERS_APPLIED, job, path, query, repository, target, text};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::policy::Right;
use crate::v2::fault::Fault;
use crate::v2::path::{Access, digest};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: &'a [Descriptor],
}

fn index(manifests: &[Descriptor]) -> Index<'_> {
    Index { schema_version: 2, media_type: IMAGE_INDEX, manifests }
}

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let target = target(ask, Access::Read, Right::Read)?;
    let subject = path(ask)?.digest()?;
    ask.record.digest = Some(subject);
    let query = query(ask)?;
    let filter = query.once("artifactType")?.filter(|t| !t.is_empty()).map(str::to_owned);
    let after = query.once("last")?.map(digest).transpose()?;
    // What goes around the descriptors counts as well.
    let around = serde_json::to_vec(&index(&[])).map_or(0, |json| json.len());
    let most = usize::try_from(ask.app.config.limits.manifest_size.0).unwrap_or(usize::MAX);
    let room = most.saturating_sub(around);
    let (repository, wanted) = (repository(ask, &target), filter.clone());
    let list =
        move || Ok(repository.referrers(&subject, wanted.as_deref(), after.as_ref(), room)?);
    let (manifests, next) = job(ask, bridge::Kind::Short, list).await?;

    let mut answer = json(&index(&manifests), HeaderValue::from_static(IMAGE_INDEX))?;
    if filter.is_some() {
        answer = answer.header(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let Some(next) = next {
        let filter = filter.map_or(String::new(), |filter| {
            format!("&artifactType={}", utf8_percent_encode(&filter, NON_ALPHANUMERIC))
        });
        let next = format!("</v2/{target}/referrers/{subject}?last={next}{filter}>; rel=\"next\"");
        answer = answer.header(header::LINK, text(&next)?);
    }
    Ok(answer)
}
