//! When there is no room: quotas, what must stay free, and disks that are really full.

use std::path::PathBuf;
use std::process::Command;

use tests::{Home, scratch};

use super::*;

/// A file of its own with this many bytes.
fn some_file(folder: &Path, name: &str, n: usize) -> String {
    let path = folder.join(name);
    std::fs::write(&path, noise(name, n)).unwrap();
    file(&path)
}

#[test]
fn a_workspace_holds_no_more_than_its_quota() {
    let mut daemon = Daemon::with("[store]\nquota = \"1 MiB\"\n");
    let folder = daemon.folder().to_owned();
    let [one, two, small] = [("one", 600_000), ("two", 600_000), ("small", 300_000)]
        .map(|(name, n)| some_file(&folder, name, n));
    let first = daemon.bond(&["put", &one]).ok().digest().to_string();
    let before = Before::of(&daemon);

    refused(daemon.bond(&["put", &two]), Code::Quota, "1048576", true);
    before.is_all_there_is(&daemon, "quota");
    let mut layout = Layout::default();
    let config = layout.config("over");
    let layers = [0, 1].map(|n| layout.blob(types::LAYER, noise(&format!("over {n}"), 300_000)));
    let root = layout.manifest(&config, &layers);
    layout.list(&root);
    layout.write(&folder.join("layout"));
    refused(daemon.bond(&["put", &oci(&folder.join("layout"))]), Code::Quota, "1048576", true);
    before.is_all_there_is(&daemon, "quota, a layout");

    // Others have their own, what is held already is not counted twice, and it survives a restart.
    daemon.bond(&["--workspace", "other", "put", &two]).ok();
    daemon.bond(&["put", &one]).ok();
    daemon.bond(&["put", &small]).ok();
    daemon.stop();
    daemon.start_again();
    refused(daemon.bond(&["put", &two]), Code::Quota, "1048576", true);
    daemon.bond(&["put", &one]).ok();

    daemon.bond(&["retire", &first]).ok();
    daemon.bond(&["put", &two]).ok();
}

#[test]
fn what_must_stay_free_stays_free() {
    let daemon = Daemon::with("[store]\nmin_free = \"1000 TiB\"\n");
    let before = Before::of(&daemon);
    let source = some_file(daemon.folder(), "one", 1000);
    refused(daemon.bond(&["put", &source]), Code::DiskFull, "full", true);
    before.is_all_there_is(&daemon, "min_free");
}

/// A small filesystem of its own, unmounted with the test.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    /// Of this kind, with so many MiB; `None` where the machine does not allow it.
    fn new(kind: &str, mebibytes: usize) -> Option<Mounted> {
        let folder = scratch();
        let at = folder.path().join("mounted");
        std::fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        match kind {
            "tmpfs" => {
                mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]);
            }
            _ => {
                let image = folder.path().join("image");
                let file = std::fs::File::create(&image).unwrap();
                file.set_len((mebibytes as u64) << 20).unwrap();
                let made = Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image).output();
                if !made.is_ok_and(|output| output.status.success()) {
                    return None;
                }
                mount.args(["-o", "loop"]).arg(&image);
            }
        }
        let mounted = mount.arg(&at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Mounted { folder })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

#[test]
fn a_full_disk_refuses_keeps_what_it_has_and_can_be_tidied() {
    const TEST: &str = "a_full_disk_refuses_keeps_what_it_has_and_can_be_tidied";
    if !tests::peers::need_root(TEST) {
        return;
    }
    for kind in ["tmpfs", "ext4"] {
        let Some(disk) = Mounted::new(kind, 64) else {
            tests::peers::skip(TEST, &format!("to mount a small {kind}"));
            continue;
        };
        // The check beforehand is turned off, so that the disk itself says no.
        let home = Home::new("[store]\nmin_free = 0\n").store_at(&disk.path().join("store"));
        let mut daemon = home.start();
        let folder = scratch();
        let put = |daemon: &Daemon, name: &str, n: usize| {
            let path = folder.path().join(name);
            let source = some_file(folder.path(), name, n);
            let run = daemon.bond(&["put", &source]);
            std::fs::remove_file(path).unwrap();
            run
        };
        let held: Vec<String> = (0..3)
            .map(|n| put(&daemon, &format!("held-{n}"), 8 << 20).ok().digest().to_string())
            .collect();
        let before = Before::of(&daemon);

        // One that can never fit, by descriptor and by stream, one file and a layout.
        refused(put(&daemon, "large", 60 << 20), Code::DiskFull, "full", true);
        before.is_all_there_is(&daemon, "a large file");
        let large = folder.path().join("large");
        std::fs::write(&large, noise("streamed", 60 << 20)).unwrap();
        let streamed = daemon.bond_piped(&["put", "-"], &large);
        refused(streamed, Code::DiskFull, "full", true);
        before.is_all_there_is(&daemon, "a stream");
        let mut layout = Layout::default();
        let config = layout.config("full");
        let layers: Vec<Value> = (0..8)
            .map(|n| layout.blob(types::LAYER, noise(&format!("full {n}"), 8 << 20)))
            .collect();
        let root = layout.manifest(&config, &layers);
        layout.list(&root);
        layout.write(&folder.path().join("layout"));
        let put_layout = daemon.bond(&["put", &oci(&folder.path().join("layout"))]);
        refused(put_layout, Code::DiskFull, "full", true);
        before.is_all_there_is(&daemon, "a layout");

        // Small ones until nothing fits any more; each is whole or refused.
        let mut n_small = 0;
        let refusal = loop {
            let run = put(&daemon, &format!("small-{n_small}"), 1 << 20);
            match run.code {
                Some(0) => n_small += 1,
                _ => break run,
            }
            assert!(n_small < 64, "{kind}: the disk is never full");
        };
        refused(refusal, Code::DiskFull, "full", true);
        daemon.bond(&["verify", "--all"]).ok();

        // A full disk can be tidied: retire and gc need no room, and then there is room again.
        for reference in &held {
            daemon.bond(&["retire", reference]).ok();
        }
        let freed = daemon.bond(&["gc", "--format", "json"]).ok().json();
        assert!(freed["bytes"].as_u64().unwrap() >= 24 << 20, "{kind}: {freed}");
        put(&daemon, "after", 8 << 20).ok();
        daemon.bond(&["verify", "--all"]).ok();
        daemon.stop();
        daemon.start_again();
        daemon.bond(&["verify", "--all"]).ok();
        daemon.stop();
    }
}
