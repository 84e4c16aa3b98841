//! Stock clients, unmodified and without a flag that concerns the registry: what they report as
//! pushed is what the store has, and what they pull is what was pushed.
//!
//! Each has a home without any configuration of its own but for what their store needs on a machine
//! of tests, and no way out of this machine.

use std::process::Command;

use cas::digest::Digest;
use serde_json::json;
use tests::archive::Tar;
use tests::layout::{noise, types};
use tests::peers::{need, need_root};
use tests::{Layout, run};

use super::{Bench, WORKSPACE};

/// A bench with an image that every client accepts, in the layout `image`, tagged `v1`.
fn bench() -> (Bench, String) {
    let bench = Bench::new("");
    let mut layout = Layout::default();
    let mut tar = Tar::default();
    tar.folder("etc/").file("etc/os-release", b"ID=debian\nVERSION_ID=\"12\"\n");
    tar.folder("usr/").file("usr/noise", &noise("a layer", 200_000));
    std::fs::write(bench.at("layer.tar"), tar.end()).unwrap();
    let packed = run(Command::new("gzip").args(["-n", "-c"]).arg(bench.at("layer.tar"))).ok().out;
    let layer = layout.blob(&format!("{}+gzip", types::LAYER), packed);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/true"] },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&tar.end()).to_string()] },
        "history": [{ "created_by": "the harness" }],
    });
    let config = layout.document(types::CONFIG, &config);
    let root = layout.manifest(&config, &[layer]);
    layout.list_as(&root, "v1");
    layout.write(&bench.at("image"));
    // Where a machine of tests has no policy for signatures, containers' tools ask for one.
    let policy = json!({ "default": [{ "type": "insecureAcceptAnything" }] });
    bench.write(".config/containers/policy.json", policy);
    (bench, tests::layout::digest(&root).to_string())
}

/// Where podman and buildah keep their images.
fn storage(bench: &Bench) -> String {
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
        bench.at("graph"),
        bench.at("run")
    );
    let path = bench.write("storage.conf", storage);
    format!("export CONTAINERS_STORAGE_CONF={}\n", path.display())
}

/// A client, and a script in which it pushes `image` as `app:NAME`, prints the digest that it
/// reports last, and pulls it into the layout `pulled`.
const CLIENTS: &[(&str, &str)] = &[
    (
        "crane",
        "crane push image $BOND_REGISTRY/app:crane
         crane pull --format oci $BOND_REGISTRY/app:crane pulled
         crane validate --remote $BOND_REGISTRY/app:crane
         crane copy $BOND_REGISTRY/app:crane $BOND_REGISTRY/team/other:1
         crane ls $BOND_REGISTRY/team/other
         crane digest $BOND_REGISTRY/app:crane",
    ),
    (
        "skopeo",
        "skopeo copy --digestfile said oci:image:v1 docker://$BOND_REGISTRY/app:skopeo
         skopeo copy docker://$BOND_REGISTRY/app:skopeo oci:pulled:v1
         skopeo list-tags docker://$BOND_REGISTRY/app
         cat said",
    ),
    (
        "regctl",
        "regctl image copy ocidir://image:v1 $BOND_REGISTRY/app:regctl
         regctl image copy $BOND_REGISTRY/app:regctl ocidir://pulled:v1
         echo note | regctl artifact put --artifact-type application/vnd.example.note \
             --subject $BOND_REGISTRY/app:regctl
         regctl artifact list $BOND_REGISTRY/app:regctl | grep vnd.example.note
         regctl tag ls $BOND_REGISTRY/app
         regctl image digest $BOND_REGISTRY/app:regctl",
    ),
    (
        "oras",
        "oras cp --from-oci-layout image:v1 $BOND_REGISTRY/app:oras
         oras cp --to-oci-layout $BOND_REGISTRY/app:oras pulled:v1
         echo note >note.txt
         oras attach --artifact-type application/vnd.example.note $BOND_REGISTRY/app:oras note.txt
         oras discover $BOND_REGISTRY/app:oras | grep vnd.example.note
         oras push $BOND_REGISTRY/files:1 note.txt
         oras pull -o out $BOND_REGISTRY/files:1 && cmp note.txt out/note.txt
         oras resolve $BOND_REGISTRY/app:oras",
    ),
];

#[test]
fn clients_copy_in_and_out() {
    for (name, script) in CLIENTS {
        let Some(_) = need("exec, clients_copy_in_and_out", name) else { continue };
        let (bench, image) = bench();
        let ran = bench.script(script).ok();
        let reported = ran.lines().last().copied().unwrap_or_default();
        assert_eq!(reported, image, "{}", ran.told());
        assert_eq!(bench.stored("app", name), image, "{name}");
        let pulled = format!("oci:{}", bench.at("pulled").display());
        let put = bench.daemon.bond(&["--workspace", "pulled", "put", &pulled]).ok();
        assert_eq!(put.digest().to_string(), image, "{name} pulled something else");
    }
}

/// A client that has a store of its own; the script commits or loads an image there, pushes it as
/// `app:NAME`, prints its id, drops it, and prints the id of what it pulls.
const KEEPERS: &[(&str, &str)] = &[
    (
        "buildah",
        "made=$(buildah from scratch)
         buildah copy -q $made image/index.json /
         buildah commit -q $made $BOND_REGISTRY/app:buildah
         buildah push -q --digestfile said $BOND_REGISTRY/app:buildah
         buildah rm $made >/dev/null; buildah rmi --all --force >/dev/null
         buildah pull -q $BOND_REGISTRY/app:buildah",
    ),
    (
        "podman",
        "id=$(podman pull -q oci:image:v1)
         podman tag $id $BOND_REGISTRY/app:podman
         podman push -q --digestfile said $BOND_REGISTRY/app:podman
         podman rmi --all --force >/dev/null
         podman pull -q $BOND_REGISTRY/app:podman",
    ),
];

#[test]
fn clients_with_a_store_push_and_pull() {
    const TEST: &str = "exec, clients_with_a_store_push_and_pull";
    for (name, script) in KEEPERS {
        let Some(_) = need(TEST, name).filter(|_| need_root(TEST)) else { continue };
        let (bench, _) = bench();
        let ran = bench.script(&format!("{}{script}", storage(&bench))).ok();
        let said = std::fs::read_to_string(bench.at("said")).unwrap();
        assert_eq!(bench.stored("app", name), said.trim(), "{}", ran.told());
        // The id of what came back is the digest of the config that was pushed.
        let manifest = bench.ask(&tests::v2::get(format!("/v2/{WORKSPACE}/app/manifests/{name}")));
        let config = manifest.json()["config"]["digest"].as_str().unwrap().to_owned();
        let pulled = format!("sha256:{}", ran.lines().last().unwrap());
        assert_eq!(pulled, config, "{}", ran.told());
    }
}

#[test]
fn helm_pushes_and_pulls_a_chart() {
    let Some(_) = need("exec, helm_pushes_and_pulls_a_chart", "helm") else { return };
    let bench = Bench::new("");
    let ran = bench
        .script(
            "helm create chart >&2
             helm package chart >&2
             helm push chart-0.1.0.tgz oci://$BOND_REGISTRY/charts 2>&1
             mkdir pulled
             helm pull -d pulled oci://$BOND_REGISTRY/charts/chart --version 0.1.0 >&2
             cmp chart-0.1.0.tgz pulled/chart-0.1.0.tgz",
        )
        .ok();
    let reported = ran.text().split("Digest: ").nth(1).map(str::trim).map(str::to_owned);
    assert_eq!(reported.unwrap(), bench.stored("charts/chart", "0.1.0"), "{}", ran.told());
}

/// A version of cosign, and a script in which it signs what is pushed as `signed:1`, and verifies.
/// The flags are about the transparency log, which is not on this machine.
const SIGNERS: &[(&str, &str)] = &[
    (
        "cosign2",
        "cosign2 sign --key cosign.key --tlog-upload=false -y $BOND_REGISTRY/signed@$digest
         cosign2 verify --key cosign.pub --insecure-ignore-tlog=true $BOND_REGISTRY/signed:1",
    ),
    (
        "cosign",
        "cosign sign --key cosign.key --tlog-upload=false --use-signing-config=false -y \
             $BOND_REGISTRY/signed@$digest
         cosign verify --key cosign.pub --insecure-ignore-tlog=true $BOND_REGISTRY/signed:1",
    ),
];

#[test]
fn cosign_signs_and_verifies() {
    for (name, script) in SIGNERS {
        const TEST: &str = "exec, cosign_signs_and_verifies";
        let (Some(_), Some(_)) = (need(TEST, name), need(TEST, "crane")) else { continue };
        let (bench, image) = bench();
        let keys = format!(
            "export COSIGN_PASSWORD=
             {name} generate-key-pair
             crane push image $BOND_REGISTRY/signed:1
             digest=$(crane digest $BOND_REGISTRY/signed:1)\n"
        );
        let ran = bench.script(&format!("{keys}{script}")).ok();
        assert_eq!(bench.stored("signed", "1"), image);
        assert!(ran.text().contains(&image), "{}", ran.told());
        // Version 2 makes a tag of the digest, version 3 a referrer; whoever else has signed is not
        // believed.
        let other = bench.script(&format!(
            "export COSIGN_PASSWORD=
             rm cosign.key cosign.pub; {name} generate-key-pair
             {name} verify --key cosign.pub --insecure-ignore-tlog=true $BOND_REGISTRY/signed:1"
        ));
        assert_ne!(other.code, Some(0), "{}", other.told());
        let tags = bench.ask(&tests::v2::get(format!("/v2/{WORKSPACE}/signed/tags/list")));
        let has_tag = tags.json()["tags"].to_string().contains(".sig");
        let referrers = format!("/v2/{WORKSPACE}/signed/referrers/{image}");
        let referrers = bench.ask(&tests::v2::get(referrers)).json();
        let n_referrers = referrers["manifests"].as_array().unwrap().len();
        assert_eq!((has_tag, n_referrers), (*name == "cosign2", usize::from(*name == "cosign")));
    }
}

#[test]
fn a_client_without_rights_is_told_by_its_tool() {
    let Some(_) = need("exec, a_client_without_rights", "crane") else { return };
    let own = nix::unistd::Uid::effective().as_raw();
    let (full, image) = bench();
    full.script("crane push image $BOND_REGISTRY/app:1").ok();
    for (workspace, sees) in [("*", true), ("other", false)] {
        let rule =
            format!("[[policy]]\nuid = {own}\nworkspaces = [\"{workspace}\"]\nmay = [\"read\"]\n");
        let restricted = Bench::new(&rule);
        std::os::unix::fs::symlink(full.at("image"), restricted.at("image")).unwrap();
        let pushed = restricted.script("crane push image $BOND_REGISTRY/app:1");
        assert_eq!(pushed.code, Some(1), "{}", pushed.told());
        let says = if sees { "DENIED" } else { "NAME_UNKNOWN" };
        assert!(pushed.err.contains(says), "{}", pushed.told());
    }
    let same = full.script("crane digest $BOND_REGISTRY/app:1").ok();
    assert_eq!(same.lines(), [image]);
}
