//! `PUT /v2/**/manifests/*`: a manifest whose blobs and children are there, by tag or by digest. It
//! seals an artifact: answered, the whole closure is proved and durable, and its tags lead to it.

use cas::digest::{Algorithm, Digest, ParseError};
use cas::oci::{Descriptor, Refusal, media_type, root_media_type};
use cas::workspace::{Reference, Tag};
use cas::{Push, Pushed};
use http::header;
use http_body::Body as _;

use super::{SUBJECT, TAG, job, made, path, query, repository, target, text};
use crate::answer::Answer;
use crate::app::App;
use crate::ask::Ask;
use crate::body;
use crate::bridge;
use crate::policy::Right;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::{Access, tag};

/// Tags that one push may set: the specification asks for ten.
const MOST_TAGS: usize = 64;
/// Up to this much is hashed in the job that seals; more needs a place among those that hash.
const HASHED_AT_ONCE: u64 = 1 << 20;

/// What became of the first job.
enum Step {
    Sealed(Box<Pushed>),
    /// There is much to hash first.
    Prepared(Box<Push>),
}

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let target = target(ask, Access::Write, Right::Put)?;
    let reference = path(ask)?.reference(Access::Write)?;
    let tags = tags(ask, &reference)?;
    let claimed_type = content_type(ask)?;
    let uid = ask.caller.peer.whom();

    // Room first: who waits for it must not fill memory meanwhile.
    let most = ask.app.config.limits.manifest_size.0;
    let announced = ask.body.size_hint().exact().unwrap_or(most);
    if announced > most {
        let message = format!("the manifest has {announced} bytes; the limit is {most}");
        return Err(Fault::new(Kind::TooLarge, message));
    }
    let _room = ask.app.body_room.take(uid, announced).await?;
    let bytes = body::whole(ask, usize::try_from(most).unwrap_or(usize::MAX)).await?;

    let by_digest = matches!(reference, Reference::Digest(_));
    let (app, workspace) = (ask.app.clone(), target.workspace.clone());
    let (repository, seal_tags) = (repository(ask, &target), tags.clone());
    let begin = move || {
        app.prepare(&workspace)?;
        let claim = claim(&reference, claimed_type, &bytes)?;
        let push = repository.prepare(&claim, bytes.into()).map_err(of_manifest)?;
        match push.n_unproved() <= HASHED_AT_ONCE {
            true => seal(&app, push, &seal_tags).map(|done| Step::Sealed(Box::new(done))),
            false => Ok(Step::Prepared(Box::new(push))),
        }
    };
    let pushed = match job(ask, bridge::Kind::Short, begin).await? {
        Step::Sealed(pushed) => pushed,
        Step::Prepared(push) => {
            let (app, tags) = (ask.app.clone(), tags.clone());
            let hash = move || seal(&app, *push, &tags).map(Box::new);
            job(ask, bridge::Kind::Hashing, hash).await?
        }
    };
    let Pushed { sealed, receipt, subject } = *pushed;
    let digest = sealed.digest();
    ask.record.digest = Some(digest);
    ask.app.metrics.put(&receipt);
    let mut answer = made(&target.manifest(&digest), &digest)?;
    if let Some(subject) = subject {
        answer = answer.header(SUBJECT, text(&subject.to_string())?);
    }
    if by_digest && !tags.is_empty() {
        let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
        answer = answer.header(TAG, text(&tags.join(", "))?);
    }
    Ok(answer)
}

/// The tags that are to lead to the manifest.
fn tags(ask: &Ask, reference: &Reference) -> Result<Vec<Tag>, Fault> {
    if let Reference::Tag(tag) = reference {
        return Ok(vec![tag.clone()]);
    }
    let mut tags: Vec<Tag> = Vec::new();
    for text in query(ask)?.all("tag") {
        let tag = tag(text)?;
        if tags.contains(&tag) {
            continue;
        }
        if tags.len() == MOST_TAGS {
            let message = format!("one push sets at most {MOST_TAGS} tags");
            return Err(Fault::new(Kind::TooManyTags, message));
        }
        tags.push(tag);
    }
    Ok(tags)
}

/// The type that the client gives the manifest, without parameters.
fn content_type(ask: &Ask) -> Result<Option<String>, Fault> {
    let Some(value) = ask.head.headers.get(header::CONTENT_TYPE) else {
        return Ok(None);
    };
    let invalid = |_| Fault::new(Kind::ManifestInvalid, "the Content-Type is no text");
    let bare = value.to_str().map_err(invalid)?.split(';').next().unwrap_or_default().trim();
    Ok(Some(bare.to_owned()).filter(|text| !text.is_empty()))
}

/// What the client says that the bytes are. Pushed by tag, a manifest has a SHA-256 digest; pushed
/// by digest, it keeps the client's algorithm.
fn claim(
    reference: &Reference,
    media_type: Option<String>,
    bytes: &[u8],
) -> Result<Descriptor, Fault> {
    let media_type = media_type.unwrap_or_else(|| root_media_type(bytes));
    if !media_type::is_manifest(&media_type) {
        let shown: String = media_type.chars().take(160).collect();
        let message = format!("{shown:?} is no type of a manifest that this registry takes");
        return Err(Fault::new(Kind::ManifestInvalid, message));
    }
    let digest = match reference {
        Reference::Digest(digest) => *digest,
        Reference::Tag(_) => Digest::compute(Algorithm::Sha256, bytes),
    };
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}

fn seal(app: &App, push: Push, tags: &[Tag]) -> Result<Pushed, Fault> {
    push.seal(tags, &|tag| app.may_move(tag)).map_err(of_manifest)
}

/// A digest that is none is the manifest's fault when it stands in the manifest; one of an algorithm that this
/// store does not compute is nobody's.
fn of_manifest(error: cas::Error) -> Fault {
    let inside = match &error {
        cas::Error::Refused(Refusal::Digest { error: ParseError::Algorithm { .. }, .. }) => {
            Some(Kind::Unsupported)
        }
        cas::Error::Refused(Refusal::Digest { .. }) => Some(Kind::ManifestInvalid),
        _ => None,
    };
    let fault = Fault::from(error);
    match inside {
        Some(kind) => fault.seen_as(Kind::DigestInvalid, kind),
        None => fault,
    }
}
