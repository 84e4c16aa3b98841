//! Every kind of artifact that a store must take and hand back as it was.

use std::collections::BTreeMap;

use base64::Engine as _;
use cas::digest::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::layout::{Layout, digest, index, manifest, noise, types};

/// One artifact in a layout of its own.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What is special about it.
    pub name: &'static str,
    /// The layout, which lists nothing else.
    pub layout: Layout,
    /// Its root.
    pub root: Value,
    /// What must come back, by digest.
    pub members: BTreeMap<Digest, Vec<u8>>,
    /// What may be missing, and is.
    pub absent: Vec<Digest>,
}

impl Sample {
    fn new(name: &'static str, make: impl FnOnce(&mut Layout) -> Value) -> Sample {
        let mut layout = Layout::default();
        let root = make(&mut layout);
        layout.list(&root);
        let members = layout.blobs();
        Sample { name, layout, root, members, absent: Vec::new() }
    }

    /// The artifact digest.
    pub fn digest(&self) -> Digest {
        digest(&self.root)
    }
}

/// All of them.
pub fn all() -> Vec<Sample> {
    vec![
        image(),
        docker_image(),
        docker_list(),
        nested_index(),
        artifact(),
        referrer(),
        sha512_members(),
        sha512_root(),
        inline_and_file(),
        inline_only(),
        unknown_fields(),
        odd_format(),
        absent_layer(),
        present_foreign_layer(),
        attested(),
        repeated_layer(),
        empty_layer(),
        no_layers(),
        untyped(),
        large_layer(),
    ]
}

fn image() -> Sample {
    Sample::new("image", |l| l.image("image"))
}

fn docker(l: &mut Layout, seed: &str) -> Value {
    let config = l.blob(types::DOCKER_CONFIG, format!(r#"{{"os":"linux","id":"{seed}"}}"#));
    let layer = l.blob(types::DOCKER_LAYER, noise(seed, 5_000));
    let mut document = manifest(&config, &[layer]);
    document["mediaType"] = types::DOCKER_MANIFEST.into();
    l.document(types::DOCKER_MANIFEST, &document)
}

fn docker_image() -> Sample {
    Sample::new("docker schema 2", |l| docker(l, "docker"))
}

fn docker_list() -> Sample {
    Sample::new("docker manifest list", |l| {
        let mut children = [docker(l, "on amd64"), docker(l, "on arm64")];
        for (child, architecture) in children.iter_mut().zip(["amd64", "arm64"]) {
            child["platform"] = json!({ "os": "linux", "architecture": architecture });
        }
        let mut document = index(&children);
        document["mediaType"] = types::DOCKER_LIST.into();
        l.document(types::DOCKER_LIST, &document)
    })
}

fn nested_index() -> Sample {
    Sample::new("index of indexes", |l| {
        let (one, two) = (l.image("nested one"), l.image("nested two"));
        let inner = l.index(&[one.clone(), two]);
        let middle = l.index(std::slice::from_ref(&inner));
        // The same manifest and the same index on two ways, and a Docker image among OCI's.
        let other = docker(l, "docker inside");
        l.index(&[middle, one, inner, other])
    })
}

fn artifact() -> Sample {
    Sample::new("artifact", |l| {
        let config = l.blob(types::EMPTY, "{}");
        let layer = l.blob("application/spdx+json", r#"{"spdxVersion":"SPDX-2.3"}"#);
        let mut document = manifest(&config, &[layer]);
        document["artifactType"] = "application/vnd.example.sbom.v1".into();
        document["annotations"] = json!({ "org.example.key": "a value with \u{2028} in it" });
        l.document(types::IMAGE_MANIFEST, &document)
    })
}

fn referrer() -> Sample {
    Sample::new("referrer whose subject is elsewhere", |l| {
        let config = l.blob(types::EMPTY, "{}");
        let layer = l.blob("text/plain", "looks good");
        let subject = crate::layout::descriptor(types::IMAGE_MANIFEST, b"not here");
        let mut document = manifest(&config, &[layer]);
        document["subject"] = subject;
        document["artifactType"] = "application/vnd.example.review.v1".into();
        l.document(types::IMAGE_MANIFEST, &document)
    })
}

fn sha512_members() -> Sample {
    Sample::new("sha512 members", |l| {
        let config = l.config("sha512");
        let layers = [
            l.blob_by(Algorithm::Sha512, types::LAYER, noise("sha512 layer", 9_000)),
            l.blob(types::LAYER, noise("sha256 layer", 9_000)),
        ];
        l.manifest(&config, &layers)
    })
}

fn sha512_root() -> Sample {
    Sample::new("sha512 root", |l| {
        let config = l.config("sha512 root");
        let layer = l.blob_by(Algorithm::Sha512, types::LAYER, noise("below sha512", 100));
        let document = manifest(&config, &[layer]).to_string();
        let image = l.blob_by(Algorithm::Sha512, types::IMAGE_MANIFEST, document);
        let document = index(&[image]).to_string();
        l.blob_by(Algorithm::Sha512, types::IMAGE_INDEX, document)
    })
}

/// A config whose descriptor holds its bytes as well.
fn inline(l: &mut Layout) -> (Value, Value) {
    let mut config = l.blob(types::EMPTY, "{}");
    config["data"] = base64::engine::general_purpose::STANDARD.encode("{}").into();
    let layer = l.blob("text/plain", "beside inline data");
    let root = l.manifest(&config, &[layer]);
    (root, config)
}

fn inline_and_file() -> Sample {
    Sample::new("inline data beside its file", |l| inline(l).0)
}

fn inline_only() -> Sample {
    let mut config = Value::Null;
    let mut sample = Sample::new("inline data and no file", |l| {
        let (root, inlined) = inline(l);
        config = inlined;
        root
    });
    // A sealed layout is whole for every tool, those that know nothing of `data` too.
    sample.layout.lose(&config);
    sample
}

fn unknown_fields() -> Sample {
    Sample::new("unknown fields", |l| {
        let mut config = l.config("unknown");
        config["org.example.unknown"] = json!({ "kept": [1, 2.50, "x"] });
        let mut layer = l.blob(types::LAYER, "unknown");
        layer["urls"] = json!(["https://example.org/layer"]);
        let mut document = manifest(&config, &[layer]);
        document["x-unknown"] = json!({ "deeply": { "nested": [null, true, 1e3] } });
        let image = l.document(types::IMAGE_MANIFEST, &document);
        let mut document = index(&[image]);
        document["vendor"] = "kept as well".into();
        l.document(types::IMAGE_INDEX, &document)
    })
}

fn odd_format() -> Sample {
    Sample::new("odd white space, order and escapes", |l| {
        let (config, layer) = (l.config("odd"), l.blob(types::LAYER, "odd"));
        let document = format!(
            "\n{{\t\"layers\" : [ {layer} ] ,\r\n\"conf\\u0069g\":{config}, \
             \"annotations\": {{\"a\\/b\": \"\\u00e9 \\ud83d\\ude00 \u{e9}\"}},\
             \"schemaVersion\":2 }} \n\n"
        );
        l.blob(types::IMAGE_MANIFEST, document)
    })
}

fn foreign(l: &mut Layout) -> (Value, Value) {
    let config = l.config("foreign");
    let layers =
        [l.blob(types::FOREIGN_LAYER, "not for everybody"), l.blob(types::LAYER, "for all")];
    (l.manifest(&config, &layers), layers[0].clone())
}

fn absent_layer() -> Sample {
    let mut layer = Value::Null;
    let mut sample = Sample::new("non-distributable layer, absent", |l| {
        let (root, foreign) = foreign(l);
        layer = foreign;
        root
    });
    sample.layout.lose(&layer);
    sample.members.remove(&digest(&layer));
    sample.absent.push(digest(&layer));
    sample
}

fn present_foreign_layer() -> Sample {
    Sample::new("non-distributable layer, present", |l| foreign(l).0)
}

fn attested() -> Sample {
    Sample::new("image with attestations, as buildx has it", |l| {
        let mut image = l.image("attested");
        image["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        let config = l.config("attestation");
        let layer = l.blob("application/vnd.in-toto+json", r#"{"_type":"statement"}"#);
        let mut attestation = l.manifest(&config, &[layer]);
        attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
        attestation["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": image["digest"],
        });
        l.index(&[image, attestation])
    })
}

fn repeated_layer() -> Sample {
    Sample::new("one layer three times", |l| {
        let (config, layer) = (l.config("repeated"), l.blob(types::LAYER, "again and again"));
        l.manifest(&config, &[layer.clone(), layer.clone(), layer])
    })
}

fn empty_layer() -> Sample {
    Sample::new("layer of no bytes", |l| {
        let (config, layer) = (l.config("empty"), l.blob(types::LAYER, ""));
        l.manifest(&config, &[layer])
    })
}

fn no_layers() -> Sample {
    Sample::new("no layers", |l| {
        let config = l.config("bare");
        l.manifest(&config, &[])
    })
}

fn untyped() -> Sample {
    Sample::new("documents that do not say their type", |l| {
        let (config, layer) = (l.config("untyped"), l.blob(types::LAYER, "untyped"));
        let document = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        let image = l.document(types::IMAGE_MANIFEST, &document);
        let document = json!({ "schemaVersion": 2, "manifests": [image] });
        l.document(types::IMAGE_INDEX, &document)
    })
}

fn large_layer() -> Sample {
    Sample::new("layers above what one thread takes", |l| {
        let config = l.config("large");
        // Not a multiple of any block, so that the last piece is a partial one.
        let layers = [9_000_001, 4_194_304, 4_194_305]
            .map(|n| l.blob(types::LAYER, noise(&format!("large {n}"), n)));
        l.manifest(&config, &layers)
    })
}
