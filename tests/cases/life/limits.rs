//! Bounds on documents are the daemon's to set: the client asks for them, refuses by itself what
//! would be refused, and takes what is taken, in both directions.

use serde_json::{Value, json};
use tests::layout::{self, digest, types};
use tests::{Daemon, Layout, oci, tree};
use wire::Code;

/// An image whose manifest has about so many bytes.
fn image(layout: &mut Layout, seed: &str, n: usize) -> Value {
    let config = layout.config(seed);
    let mut manifest = layout::manifest(&config, &[]);
    manifest["annotations"]["filling"] = format!("{seed} {}", "x".repeat(n)).into();
    layout.document(types::IMAGE_MANIFEST, &manifest)
}

/// An index of so many images of about so many bytes.
fn images(layout: &mut Layout, n_images: usize, n: usize) -> Value {
    let images: Vec<Value> =
        (0..n_images).map(|seed| image(layout, &seed.to_string(), n)).collect();
    layout.index(&images)
}

/// An image below so many indexes.
fn nested(layout: &mut Layout, n: usize) -> Value {
    let mut root = image(layout, "nested", 0);
    for _ in 0..n {
        root = layout.index(&[root]);
    }
    root
}

/// What is refused by one daemon and taken by another.
struct Row {
    what: &'static str,
    refuses: &'static str,
    takes: &'static str,
    code: Code,
    make: fn(&mut Layout) -> Value,
}

#[test]
fn the_daemons_limits_are_the_clients() {
    use Code::{ManifestTooLarge, TooDeep, TooManyEntries};
    let row = |what, refuses, takes, code, make| Row { what, refuses, takes, code, make };
    let rows = [
        row("a narrow manifest", "manifest_size = \"2 KiB\"", "", ManifestTooLarge, |l| {
            image(l, "one", 3000)
        }),
        row("a wide manifest", "", "manifest_size = \"8 MiB\"", ManifestTooLarge, |l| {
            image(l, "one", 5 << 20)
        }),
        row("narrow manifests", "manifests_size = \"4 KiB\"", "", ManifestTooLarge, |l| {
            images(l, 3, 2000)
        }),
        row("wide manifests", "", "manifests_size = \"128 MiB\"", ManifestTooLarge, |l| {
            images(l, 18, 3_900_000)
        }),
        row("narrow nesting", "depth = 2", "", TooDeep, |l| nested(l, 4)),
        row("wide nesting", "", "depth = 12", TooDeep, |l| nested(l, 10)),
        row("few entries", "entries = 4", "", TooManyEntries, |l| images(l, 4, 0)),
    ];
    for Row { what, refuses, takes, code, make } in rows {
        let mut layout = Layout::default();
        let root = make(&mut layout);
        layout.list(&root);
        let reference = digest(&root).to_string();
        let [strict, lenient] =
            [refuses, takes].map(|limits| Daemon::with(&format!("[limits]\n{limits}\n")));
        let folder = strict.folder().join("layout");
        layout.write(&folder);

        strict.bond(&["put", &oci(&folder)]).fails(code);
        let asked = String::from_utf8(strict.connect().get("/v1/metrics").body).unwrap();
        assert!(!asked.contains("draft_open"), "{what}: it was sent all the same");

        lenient.bond(&["put", &oci(&folder)]).ok();
        lenient.bond(&["verify", &reference]).ok();
        let got = lenient.folder().join("got");
        let words = ["get", &reference, &oci(&got), "--format", "json"];
        let told = lenient.bond(&words).ok().json();
        assert!(tree::blobs(&got) == layout.blobs(), "{what}: not the same came back");
        let n_bytes: usize = layout.blobs().values().map(Vec::len).sum();
        assert_eq!(told["size"], json!(n_bytes), "{what}: manifests count as well");
    }
}
