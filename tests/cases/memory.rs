//! A large layer in and out, by every way, with the daemon's memory measured at its highest.

use std::fs::File;
use std::process::Command;

use cas::digest::Digest;
use serde_json::json;
use tests::layout::{digest, types};
use tests::{Daemon, Layout, archive, file, oci, run, tree};

#[test]
fn a_layer_of_any_size_goes_through_a_little_memory() {
    const MOST: u64 = 64 << 20;
    let size: u64 = if tests::is_long() { 4 << 30 } else { 1 << 30 };
    let daemon = Daemon::start();
    // A hole with something at its end: large, quickly made, and not all the same.
    let large = daemon.folder().join("large");
    let made = File::create(&large).unwrap();
    made.set_len(size).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&made, b"the end", size - 7).unwrap();
    drop(made);
    let layer = json!({
        "mediaType": types::LAYER, "digest": tree::digest(&large).to_string(), "size": size,
    });
    let mut layout = Layout::default();
    let config = layout.config("large");
    let root = layout.manifest(&config, &[layer.clone()]);
    layout.list(&root);
    let folder = daemon.folder().join("layout");
    layout.write(&folder);
    let blob = folder.join(tests::layout::blob_file(&digest(&layer)));
    std::fs::rename(&large, &blob).unwrap();
    let reference = digest(&root).to_string();
    let mut seen = Vec::new();
    let mut is_small = |daemon: &Daemon, what: &'static str| {
        let most = daemon.most_memory();
        seen.push(format!("{what} {} MiB", most >> 20));
        assert!(most < MOST, "{what}: {most} bytes were resident; {seen:?}");
    };

    daemon.bond(&["put", &oci(&folder)]).ok();
    is_small(&daemon, "put");
    daemon.bond(&["put", &oci(&folder)]).ok();
    is_small(&daemon, "put again");
    daemon.bond(&["verify", &reference]).ok();
    is_small(&daemon, "verify");

    // Out by descriptor, to a file that is thrown away at once; and as a stream, by hand.
    let got = daemon.folder().join("got.tar");
    daemon.bond(&["get", &reference, &archive(&got)]).ok();
    is_small(&daemon, "get");
    std::fs::remove_file(&got).unwrap();
    let mut connection = daemon.connect();
    let path = format!("/v1/workspaces/default/artifacts/{reference}/blobs/{}", digest(&layer));
    connection.send(tests::raw::head("GET", &path, 0)).unwrap();
    assert_eq!(connection.answer_unkept(), Some(size));
    is_small(&daemon, "get as a stream");

    // In as a stream of bytes that are new, and as one file.
    daemon.bond(&["retire", &reference]).ok();
    daemon.bond(&["gc"]).ok();
    daemon.bond_piped(&["put", "-", "--title", "large"], &blob).ok();
    is_small(&daemon, "put as a stream");
    daemon.bond(&["put", &file(&blob), "--title", "large"]).ok();
    is_small(&daemon, "put as a file");
    tests::say(&format!("measured: resident at most, {} GiB: {}", size >> 30, seen.join(", ")));
}

#[test]
fn what_is_compressed_stays_compressed() {
    let daemon = Daemon::start();
    let unpacked = daemon.folder().join("unpacked");
    let bomb = 256 << 20;
    File::create(&unpacked).unwrap().set_len(bomb).unwrap();
    let packed = run(Command::new("gzip").args(["-n", "-1", "-c"]).arg(&unpacked)).ok().out;
    assert!(packed.len() < 2 << 20, "{} bytes are a bomb of {bomb}", packed.len());
    let mut layout = Layout::default();
    let config = layout.config("bomb");
    let layer = layout.blob(&format!("{}+gzip", types::LAYER), &packed);
    let root = layout.manifest(&config, &[layer]);
    layout.list(&root);
    let (put, got) = (daemon.folder().join("layout"), daemon.folder().join("got"));
    layout.write(&put);
    let reference = digest(&root).to_string();

    daemon.bond(&["put", &oci(&put)]).ok();
    daemon.bond(&["verify", &reference]).ok();
    daemon.bond(&["get", &reference, &oci(&got)]).ok();

    let kept: usize = tree::files(&daemon.store().join("blobs")).values().map(Vec::len).sum();
    assert!(kept < 2 * packed.len(), "{kept} bytes are kept of {}", packed.len());
    let blob = got.join(tests::layout::blob_file(&Digest::of(&packed)));
    assert_eq!(std::fs::read(blob).unwrap(), packed);
    assert!(daemon.most_memory() < 64 << 20);
}
