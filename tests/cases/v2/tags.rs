//! The list of tags, page by page, and tags that are made once.

use std::fs;

use cas::digest::Algorithm;
use serde_json::json;
use tests::v2::{Door, case, daemon, delete, get};
use tests::{Layout, oci};

use super::{Image, Step, run, steps};

const LIST: &str = "/v2/{r}/tags/list";

#[test]
fn tags_are_listed_in_the_order_of_their_bytes() {
    let image = Image::new(Algorithm::Sha256, "tagged");
    let page = |query: &str, tags: &[&str]| {
        get(format!("{LIST}{query}")).json("/tags", json!(tags)).json("/name", json!("{r}"))
    };
    let next = |query: &str| format!("</v2/{{r}}/tags/list?{query}>; rel=\"next\"");
    run(&[
        case(
            "pages",
            steps([
                image.blobs("{r}"),
                ["c", "a", "B", "1.2"].map(|tag| image.manifest("{r}", tag)).to_vec(),
                vec![
                    page("", &["1.2", "B", "a", "c"])
                        .lacks("link")
                        .eq("content-type", "application/json"),
                    page("?n=2", &["1.2", "B"]).eq("link", next("n=2&last=B")),
                    page("?n=2&last=B", &["a", "c"]).lacks("link"),
                    page("?n=1", &["1.2"]).eq("link", next("n=1&last=1%2E2")),
                    page("?n=1&last=1%2E2", &["B"]),
                    page("?last=B", &["a", "c"]).lacks("link"),
                    page("?last=b", &["c"]),
                    page("?last=c", &[]),
                    page("?n=0", &[]).lacks("link"),
                    page("?n=4", &["1.2", "B", "a", "c"]).lacks("link"),
                    page("?n=99999999999999999999999", &["1.2", "B", "a", "c"]).lacks("link"),
                    get(format!("{LIST}?n=-1")).fails(400, "UNSUPPORTED"),
                    get(format!("{LIST}?n=x")).fails(400, "UNSUPPORTED"),
                    get(format!("{LIST}?n=")).fails(400, "UNSUPPORTED"),
                ],
            ]),
        ),
        case("as many as are on a page", many(1000)),
        case(
            "after the last one is gone",
            steps([
                image.push("{r}", "1"),
                vec![
                    delete("/v2/{r}/manifests/1"),
                    page("", &[]),
                    get(format!("/v2/{{r}}/manifests/{}", image.digest())),
                ],
            ]),
        ),
        case(
            "a tag moves",
            steps([
                image.push("{r}", "1"),
                Image::new(Algorithm::Sha256, "tagged next").push("{r}", "1"),
                vec![
                    get("/v2/{r}/manifests/1")
                        .gives(Image::new(Algorithm::Sha256, "tagged next").bytes()),
                    get(format!("/v2/{{r}}/manifests/{}", image.digest())).gives(image.bytes()),
                    page("", &["1"]),
                ],
            ]),
        ),
    ]);
}

/// So many tags, made some at once, and their list.
fn many(n: usize) -> Vec<Step> {
    let image = Image::new(Algorithm::Sha256, "of many names");
    let tags: Vec<String> = (0..n).map(|i| format!("t{i:03}")).collect();
    let made = tags.chunks(64).map(|tags| {
        let query: String = tags.iter().map(|tag| format!("&tag={tag}")).collect();
        image.manifest("{r}", &format!("{}?{}", image.digest(), &query[1..]))
    });
    let made = made.collect();
    let listed =
        |query: &str, tags: &[String]| get(format!("{LIST}{query}")).json("/tags", json!(tags));
    let lists = vec![
        listed("", &tags).lacks("link"),
        listed("?n=3", &tags[..3]),
        listed("?last=t254", &tags[255..]).lacks("link"),
    ];
    steps([image.blobs("{r}"), made, lists])
}

#[test]
fn tags_that_are_made_once_are_not_moved() {
    let daemon = daemon("[registry]\ncreate_only_tags = [\"v*\", \"sha256-*\"]\n");
    let (one, two) =
        (Image::new(Algorithm::Sha256, "once"), Image::new(Algorithm::Sha256, "twice"));
    let signature = format!("sha256-{}.sig", one.digest().hex());
    for door in Door::of(&daemon) {
        door.run(&[case(
            "create-only tags",
            steps([
                one.push("{r}", "v1"),
                two.blobs("{r}"),
                vec![
                    two.manifest("{r}", "v1").fails(409, "DENIED").says("v1"),
                    get("/v2/{r}/manifests/v1").gives(one.bytes()),
                    one.manifest("{r}", "v1"),
                    one.manifest("{r}", "latest"),
                    two.manifest("{r}", "latest"),
                    one.manifest("{r}", &signature),
                    two.manifest("{r}", &signature),
                    get(format!("/v2/{{r}}/manifests/{signature}")).gives(two.bytes()),
                    delete("/v2/{r}/manifests/v1"),
                    two.manifest("{r}", "v1"),
                ],
            ]),
        )]);
    }
}

#[test]
fn a_put_moves_no_tag_that_is_made_once() {
    let daemon = daemon("[registry]\ncreate_only_tags = [\"v*\"]\n");
    let folder = tempfile::tempdir().unwrap();
    let put = |bytes: &str, names: &[&str]| {
        let file = folder.path().join("file");
        fs::write(&file, bytes).unwrap();
        let mut words = vec!["--workspace", "w", "put", file.to_str().unwrap()];
        names.iter().for_each(|name| words.extend(["--name", name]));
        daemon.bond(&words)
    };
    let one = put("one", &["app:v1", "app:latest"]).ok().digest();
    assert_eq!(put("one", &["app:v1"]).ok().digest(), one);
    // What is refused for one of its names is given none of them, in no repository.
    put("two", &["aa:latest", "app:latest", "app:v1"]).fails(wire::Code::TagTaken);
    let resolve = |name: &str| daemon.bond(&["--workspace", "w", "resolve", name]);
    for name in ["app:v1", "app:latest"] {
        assert!(resolve(name).ok().text().contains(one.hex().as_str()), "{name}");
    }
    resolve("aa:latest").fails(wire::Code::NotFound);
    let two = put("two", &["app:latest", "app:v2"]).ok().digest();
    assert!(resolve("app:latest").ok().text().contains(two.hex().as_str()));

    // An image is brought by another request than a file is.
    let image = |seed: &str| {
        let mut layout = Layout::default();
        let root = layout.image(seed);
        let at = folder.path().join(seed);
        layout.list(&root).write(&at);
        daemon.bond(&["--workspace", "w", "put", &oci(&at), "--name", "image:v1"])
    };
    image("once").ok();
    image("once").ok();
    image("twice").fails(wire::Code::TagTaken);
}

/// Of puts that want one name at the same time one gets it, and the others leave nothing.
#[test]
fn puts_at_once_make_a_tag_once_and_leave_nothing() {
    let daemon = daemon("[registry]\ncreate_only_tags = [\"v*\"]\n");
    let folder = tempfile::tempdir().unwrap();
    let rounds = 6;
    for round in 0..rounds {
        let name = format!("app:v{round}");
        let put = |n: usize| {
            let file = folder.path().join(format!("{round}-{n}"));
            fs::write(&file, format!("{round} {n}")).unwrap();
            let own = format!("aa:v{round}-{n}");
            let words = ["--workspace", "w", "put", file.to_str().unwrap(), "--name"];
            let run = daemon.bond(&[&words[..], &[&name, "--name", &own]].concat());
            assert!(matches!(run.code(), None | Some(wire::Code::TagTaken)), "{}", run.told());
            let own = daemon.bond(&["--workspace", "w", "resolve", &own]);
            assert_eq!(own.code == Some(0), run.code == Some(0), "{}", run.told());
            run.code == Some(0)
        };
        let done: Vec<bool> = std::thread::scope(|scope| {
            let puts: Vec<_> = (0..4).map(|n| scope.spawn(move || put(n))).collect();
            puts.into_iter().map(|put| put.join().unwrap()).collect()
        });
        assert_eq!(done.iter().filter(|is_done| **is_done).count(), 1, "{done:?}");
    }
    let listed = daemon.bond(&["--workspace", "w", "ls", "--format", "json"]).ok().json();
    assert_eq!(listed["artifacts"].as_array().map(Vec::len), Some(rounds), "{listed}");
}
