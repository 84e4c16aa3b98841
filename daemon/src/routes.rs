//! The table of routes: which request is which op.

use http::Method;

use crate::v2::path::{self, Form};

/// One verb of the daemon; its story is in `ops/` under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table in `wire::api` says what each does")]
pub enum Op {
    OpenApi,
    Health,
    Metrics,
    Status,
    Doctor,
    Gc,
    DraftOpen,
    DraftBlob,
    DraftProgress,
    DraftSeal,
    DraftDrop,
    FilePut,
    Refs,
    Artifacts,
    Artifact,
    Check,
    Blob,
    Retire,
    Holders,
    V2Base,
    V2BlobGet,
    V2BlobHead,
    V2BlobDelete,
    V2UploadBegin,
    V2UploadStatus,
    V2UploadPatch,
    V2UploadPut,
    V2UploadCancel,
    V2ManifestGet,
    V2ManifestHead,
    V2ManifestPut,
    V2ManifestDelete,
    V2Tags,
    V2Referrers,
    /// A request that is on no route.
    Unknown,
}

/// A request of this method to a path of this form. `*` stands for one segment.
struct Route {
    method: Method,
    path: &'static str,
    op: Op,
}

/// Segments that stood where a route has `*`.
pub type Captures<'a> = [&'a str; 3];

const fn route(method: Method, path: &'static str, op: Op) -> Route {
    Route { method, path, op }
}

static ROUTES: [Route; 19] = [
    route(Method::GET, "/v1/openapi.json", Op::OpenApi),
    route(Method::GET, "/v1/health", Op::Health),
    route(Method::GET, "/v1/metrics", Op::Metrics),
    route(Method::GET, "/v1/status", Op::Status),
    route(Method::GET, "/v1/doctor", Op::Doctor),
    route(Method::POST, "/v1/gc", Op::Gc),
    route(Method::POST, "/v1/workspaces/*/drafts", Op::DraftOpen),
    route(Method::PUT, "/v1/drafts/*/blobs/*", Op::DraftBlob),
    route(Method::GET, "/v1/drafts/*", Op::DraftProgress),
    route(Method::POST, "/v1/drafts/*/seal", Op::DraftSeal),
    route(Method::DELETE, "/v1/drafts/*", Op::DraftDrop),
    route(Method::POST, "/v1/workspaces/*/files", Op::FilePut),
    route(Method::GET, "/v1/workspaces/*/refs", Op::Refs),
    route(Method::GET, "/v1/workspaces/*/artifacts", Op::Artifacts),
    route(Method::GET, "/v1/workspaces/*/artifacts/*", Op::Artifact),
    route(Method::POST, "/v1/workspaces/*/artifacts/*/check", Op::Check),
    route(Method::GET, "/v1/workspaces/*/artifacts/*/blobs/*", Op::Blob),
    route(Method::DELETE, "/v1/workspaces/*/artifacts/*", Op::Retire),
    route(Method::GET, "/v1/workspaces/*/holders/*", Op::Holders),
];

/// A request of this method at the front door, to a path of this form.
struct Door {
    method: Method,
    form: Form,
    op: Op,
}

const fn door(method: Method, form: Form, op: Op) -> Door {
    Door { method, form, op }
}

static DOORS: [Door; 16] = [
    door(Method::GET, Form::Base, Op::V2Base),
    door(Method::HEAD, Form::Base, Op::V2Base),
    door(Method::GET, Form::Blob, Op::V2BlobGet),
    door(Method::HEAD, Form::Blob, Op::V2BlobHead),
    door(Method::DELETE, Form::Blob, Op::V2BlobDelete),
    door(Method::POST, Form::Uploads, Op::V2UploadBegin),
    door(Method::GET, Form::Upload, Op::V2UploadStatus),
    door(Method::PATCH, Form::Upload, Op::V2UploadPatch),
    door(Method::PUT, Form::Upload, Op::V2UploadPut),
    door(Method::DELETE, Form::Upload, Op::V2UploadCancel),
    door(Method::GET, Form::Manifest, Op::V2ManifestGet),
    door(Method::HEAD, Form::Manifest, Op::V2ManifestHead),
    door(Method::PUT, Form::Manifest, Op::V2ManifestPut),
    door(Method::DELETE, Form::Manifest, Op::V2ManifestDelete),
    door(Method::GET, Form::Tags, Op::V2Tags),
    door(Method::GET, Form::Referrers, Op::V2Referrers),
];

impl Op {
    /// Every op, in the order of their numbers.
    pub const ALL: [Op; 35] = [
        Op::OpenApi,
        Op::Health,
        Op::Metrics,
        Op::Status,
        Op::Doctor,
        Op::Gc,
        Op::DraftOpen,
        Op::DraftBlob,
        Op::DraftProgress,
        Op::DraftSeal,
        Op::DraftDrop,
        Op::FilePut,
        Op::Refs,
        Op::Artifacts,
        Op::Artifact,
        Op::Check,
        Op::Blob,
        Op::Retire,
        Op::Holders,
        Op::V2Base,
        Op::V2BlobGet,
        Op::V2BlobHead,
        Op::V2BlobDelete,
        Op::V2UploadBegin,
        Op::V2UploadStatus,
        Op::V2UploadPatch,
        Op::V2UploadPut,
        Op::V2UploadCancel,
        Op::V2ManifestGet,
        Op::V2ManifestHead,
        Op::V2ManifestPut,
        Op::V2ManifestDelete,
        Op::V2Tags,
        Op::V2Referrers,
        Op::Unknown,
    ];

    /// Its name in the log and as a label.
    pub fn name(self) -> &'static str {
        match self {
            Op::OpenApi => "openapi",
            Op::Health => "health",
            Op::Metrics => "metrics",
            Op::Status => "status",
            Op::Doctor => "doctor",
            Op::Gc => "gc",
            Op::DraftOpen => "draft_open",
            Op::DraftBlob => "draft_blob",
            Op::DraftProgress => "draft_progress",
            Op::DraftSeal => "draft_seal",
            Op::DraftDrop => "draft_drop",
            Op::FilePut => "file_put",
            Op::Refs => "refs",
            Op::Artifacts => "artifacts",
            Op::Artifact => "artifact",
            Op::Check => "check",
            Op::Blob => "blob",
            Op::Retire => "retire",
            Op::Holders => "holders",
            Op::V2Base => "v2_base",
            Op::V2BlobGet => "v2_blob_get",
            Op::V2BlobHead => "v2_blob_head",
            Op::V2BlobDelete => "v2_blob_delete",
            Op::V2UploadBegin => "v2_upload_begin",
            Op::V2UploadStatus => "v2_upload_status",
            Op::V2UploadPatch => "v2_upload_patch",
            Op::V2UploadPut => "v2_upload_put",
            Op::V2UploadCancel => "v2_upload_cancel",
            Op::V2ManifestGet => "v2_manifest_get",
            Op::V2ManifestHead => "v2_manifest_head",
            Op::V2ManifestPut => "v2_manifest_put",
            Op::V2ManifestDelete => "v2_manifest_delete",
            Op::V2Tags => "v2_tags",
            Op::V2Referrers => "v2_referrers",
            Op::Unknown => "unknown",
        }
    }

    /// Whether it is asked again and again by machines, and not worth a line in the log.
    pub fn is_routine(self) -> bool {
        matches!(self, Op::Health | Op::Metrics | Op::Status | Op::DraftProgress | Op::V2Base)
    }
}

/// The op of a request at the front door, and what its path says.
pub fn find_at_door<'a>(method: &Method, path: &'a str) -> (Op, Option<path::Path<'a>>) {
    let Some(path) = path::parse(path) else {
        return (Op::Unknown, None);
    };
    let found = DOORS.iter().find(|door| door.form == path.form && door.method == *method);
    (found.map_or(Op::Unknown, |door| door.op), Some(path))
}

/// The methods that a form of the front door has.
pub fn methods(form: Form) -> String {
    let fitting = DOORS.iter().filter(|door| door.form == form);
    fitting.map(|door| door.method.as_str()).collect::<Vec<_>>().join(", ")
}

/// The op of a request, and the segments that say about what; [`Op::Unknown`] when it is on no
/// route. Segments are as they stand in the path, still percent-encoded.
pub fn find<'a>(method: &Method, path: &'a str) -> (Op, Captures<'a>) {
    if path::is_ours(path) {
        return (find_at_door(method, path).0, [""; 3]);
    }
    for route in &ROUTES {
        if route.method == *method
            && let Some(captures) = fit(route.path, path)
        {
            return (route.op, captures);
        }
    }
    (Op::Unknown, [""; 3])
}

/// Whether the path is one, by whatever method.
pub fn is_path(path: &str) -> bool {
    ROUTES.iter().any(|route| fit(route.path, path).is_some())
}

fn fit<'a>(form: &str, path: &'a str) -> Option<Captures<'a>> {
    let mut captures = [""; 3];
    let mut free = captures.iter_mut();
    let (mut wanted, mut segments) = (form.split('/'), path.split('/'));
    loop {
        match (wanted.next(), segments.next()) {
            (None, None) => return Some(captures),
            (Some("*"), Some(segment)) if !segment.is_empty() => *free.next()? = segment,
            (Some(literal), Some(segment)) if literal == segment => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_op_has_one_route_and_no_two_routes_meet() {
        let ops: HashSet<&str> = ROUTES.iter().map(|route| route.op.name()).collect();
        assert_eq!(ops.len(), ROUTES.len());
        let doors: HashSet<&str> = DOORS.iter().map(|door| door.op.name()).collect();
        assert_eq!(ops.len() + doors.len() + 1, Op::ALL.len());
        for (number, op) in Op::ALL.iter().enumerate() {
            assert_eq!(*op as usize, number, "{op:?}");
        }
        for route in &ROUTES {
            let path = route.path.replace('*', "x");
            let fitting = ROUTES
                .iter()
                .filter(|other| other.method == route.method && fit(other.path, &path).is_some());
            assert_eq!(fitting.count(), 1, "{} {path}", route.method);
            assert_eq!(find(&route.method, &path).0, route.op);
        }
    }

    #[test]
    fn the_front_door_has_every_route_once_and_says_which_methods_it_has() {
        for door in &DOORS {
            let path = door.form.text().replace("**", "w/r").replace('*', "x");
            assert_eq!(find(&door.method, &path).0, door.op, "{} {path}", door.method);
        }
        assert_eq!(find(&Method::POST, "/v2/").0, Op::Unknown);
        assert_eq!(find(&Method::GET, "/v2/_catalog").0, Op::Unknown);
        assert_eq!(methods(Form::Blob), "GET, HEAD, DELETE");
    }

    #[test]
    fn the_table_of_the_front_door_is_the_one_in_the_document() {
        // The rows of its table of routes: | `METHOD /v2/…` | …
        let told: HashSet<(&str, &str)> = include_str!("../../docs/http.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next()?.split_once(' '))
            .filter(|(_, path)| path.starts_with("/v2/"))
            .collect();
        let ours: HashSet<(&str, &str)> =
            DOORS.iter().map(|door| (door.method.as_str(), door.form.text())).collect();
        assert_eq!(told, ours);
    }

    /// A path with `*` for every segment that a page or document has a name for.
    fn form(path: &str) -> String {
        let is_free = |s: &str| matches!(s, "W" | "ID" | "DIGEST") || s.starts_with('{');
        path.split('/').map(|s| if is_free(s) { "*" } else { s }).collect::<Vec<_>>().join("/")
    }

    /// The rows of a table of routes: PREFIX`METHOD /v1/path[?query]` …
    fn rows(page: &str, prefix: &str) -> Vec<(String, String)> {
        page.lines()
            .filter_map(|line| line.strip_prefix(prefix)?.split_once(' '))
            .filter_map(|(method, rest)| {
                Some((method.to_owned(), form(rest.split(['?', '`', '[']).next()?)))
            })
            .filter(|(_, path)| path.starts_with("/v1/"))
            .collect()
    }

    #[test]
    fn the_table_is_the_one_of_the_wire_and_of_the_documents() {
        let mut ours: Vec<(String, String)> =
            ROUTES.iter().map(|r| (r.method.to_string(), r.path.to_owned())).collect();
        ours.sort();
        let document: serde_json::Value =
            serde_json::from_str(crate::ops::openapi::DOCUMENT).expect("a document");
        let mut described = Vec::new();
        for (path, operations) in document["paths"].as_object().expect("paths") {
            for (method, operation) in operations.as_object().expect("operations") {
                let method: Method = method.to_uppercase().parse().expect("a method");
                described.push((method.to_string(), form(path)));
                // Its name is the op's, and each free segment is a parameter.
                let path = form(path).replace('*', "x");
                assert_eq!(operation["operationId"], find(&method, &path).0.name());
            }
        }
        let tables = [
            ("wire::api", rows(include_str!("../../client/wire/src/api.rs"), "//! | `")),
            ("docs/http.md", rows(include_str!("../../docs/http.md"), "| `")),
            ("docs/openapi.json", described),
        ];
        for (whose, mut told) in tables {
            told.sort();
            assert_eq!(told, ours, "{whose}");
        }
    }

    #[test]
    fn segments_are_captured_in_order() {
        let (op, captures) =
            find(&Method::GET, "/v1/workspaces/w/artifacts/sha256:a/blobs/sha256:b");
        assert_eq!((op, captures), (Op::Blob, ["w", "sha256:a", "sha256:b"]));
        for path in ["", "/", "/v1", "/v1/health/", "/v1/workspaces//drafts", "/v1/drafts/a/b"] {
            assert_eq!(find(&Method::GET, path).0, Op::Unknown, "{path}");
        }
        assert_eq!(find(&Method::POST, "/v1/health").0, Op::Unknown);
        assert!(is_path("/v1/health") && !is_path("/v2/"));
    }
}
