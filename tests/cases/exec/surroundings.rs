//! What a command finds around it: files that are its user's alone, made of what the user has and
//! what the door adds, and gone when the command has ended.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use tests::peers::need;
use tests::run;
use wire::Code;

use super::Bench;

#[test]
fn the_files_are_the_users_alone_and_gone_with_the_command() {
    let bench = Bench::new("");
    let open = bench.open();
    let files = [
        (open.variable("SSL_CERT_FILE").to_owned(), 0o600),
        (open.variable("REGISTRY_AUTH_FILE").to_owned(), 0o600),
        (open.variable("REGCTL_CONFIG").to_owned(), 0o600),
        (open.variable("DOCKER_CONFIG").to_owned(), 0o700),
        (format!("{}/config.json", open.variable("DOCKER_CONFIG")), 0o600),
    ];
    let folder = Path::new(&files[0].0).parent().unwrap().to_owned();
    for (path, mode) in files.iter().map(|(path, mode)| (Path::new(path), mode)) {
        assert!(path.starts_with(&folder), "{path:?}");
        let metadata = std::fs::symlink_metadata(path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, *mode, "{path:?}");
    }
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    let address = open.address().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    std::net::TcpStream::connect(&address).unwrap();
    // Nobody who sees the command's variables or words sees its password.
    let password = open.file(open.variable("REGCTL_CONFIG"))["hosts"][&address]["pass"].clone();
    let password = password.as_str().unwrap().to_owned();
    assert!(password.len() >= 22, "128 bits");
    let shown = format!("{:?}", open.variables);
    assert!(!shown.contains(&password) && !shown.contains(&open.authorization()[6..]));

    assert_eq!(open.close(), Some(1), "read at the end of its input");
    assert!(!folder.exists());
    std::net::TcpStream::connect(&address).expect_err("the port is closed");
    // They are gone however the command ends, and every command has its own.
    let other = bench.script("echo $SSL_CERT_FILE $BOND_REGISTRY; cat $REGCTL_CONFIG; kill -9 $$");
    assert_eq!(other.code, Some(137));
    assert!(!other.text().contains(&password), "{}", other.told());
    assert!(!Path::new(other.text().split(' ').next().unwrap()).exists());
}

#[test]
fn the_users_logins_are_kept() {
    let bench = Bench::new("");
    let docker = json!({
        "auths": { "a.example": { "auth": "ZG9ja2Vy" }, "b.example": { "auth": "ZG9ja2Vy" } },
        "credHelpers": { "h.example": "helper" },
        "currentContext": "remote", "psFormat": "table",
    });
    bench.write(".docker/config.json", &docker);
    bench.write(".docker/contexts/meta/x/meta.json", "{}");
    bench.write(".docker/cli-plugins/docker-buildx", "plugin");
    bench.write(".docker/buildx/current", "{}");
    let podman = json!({ "auths": { "a.example": { "auth": "cG9kbWFu" } } });
    bench.write(".config/containers/auth.json", &podman);
    bench.write(".regctl/config.json", json!({ "hosts": { "r.example": { "user": "u" } } }));
    let before = std::fs::read(bench.at(".docker/config.json")).unwrap();
    let open = bench.open();

    let merged = open.docker();
    for key in ["credHelpers", "currentContext", "psFormat"] {
        assert_eq!(merged[key], docker[key], "{key}");
    }
    assert_eq!(merged["auths"]["a.example"], docker["auths"]["a.example"]);
    for name in ["contexts/meta/x/meta.json", "cli-plugins/docker-buildx", "buildx/current"] {
        let seen = std::fs::read(Path::new(open.variable("DOCKER_CONFIG")).join(name)).unwrap();
        assert_eq!(seen, std::fs::read(bench.at(".docker").join(name)).unwrap(), "{name}");
    }
    let auth = open.file(open.variable("REGISTRY_AUTH_FILE"));
    // As podman would look: its own file first, then docker's.
    assert_eq!(auth["auths"]["a.example"]["auth"], "cG9kbWFu");
    assert_eq!(auth["auths"]["b.example"]["auth"], "ZG9ja2Vy");
    assert_eq!(auth["credHelpers"], docker["credHelpers"]);
    assert_eq!(auth["auths"][open.address()], merged["auths"][open.address()]);
    let regctl = open.file(open.variable("REGCTL_CONFIG"));
    assert_eq!(regctl["hosts"]["r.example"]["user"], "u");
    drop(open);
    assert_eq!(std::fs::read(bench.at(".docker/config.json")).unwrap(), before);
    assert!(bench.at(".docker/cli-plugins/docker-buildx").is_file());
}

#[test]
fn files_that_the_user_names_come_before_those_at_home() {
    let bench = Bench::new("");
    let login = |text: &str| json!({ "auths": { "a.example": { "auth": text } } });
    bench.write(".docker/config.json", login("aG9tZQ=="));
    bench.write("docker/config.json", login("bmFtZWQ="));
    let auth = bench.write("auth.json", login("YXV0aA=="));
    let runtime = bench.at("runtime");
    bench.write("runtime/containers/auth.json", login("cnVudGltZQ=="));
    for (named, in_auth) in [(None, "cnVudGltZQ=="), (Some(auth), "YXV0aA==")] {
        let mut command = bench.exec(&["sh", "-c", super::SHOW]);
        command.env("DOCKER_CONFIG", bench.at("docker")).env("XDG_RUNTIME_DIR", &runtime);
        if let Some(named) = &named {
            command.env("REGISTRY_AUTH_FILE", named);
        }
        let open = super::Open::new(command);
        assert_eq!(open.docker()["auths"]["a.example"]["auth"], "bmFtZWQ=");
        let auth = open.file(open.variable("REGISTRY_AUTH_FILE"));
        assert_eq!(auth["auths"]["a.example"]["auth"], in_auth);
        // What is gone when the user leaves is where the files are.
        assert!(open.variable("SSL_CERT_FILE").starts_with(runtime.to_str().unwrap()));
    }
    assert_eq!(std::fs::read_dir(&runtime).unwrap().count(), 1, "nothing stays behind");
}

#[test]
fn a_file_that_is_broken_is_told_and_the_command_does_without() {
    let bench = Bench::new("");
    bench.write(".docker/config.json", "{ no JSON");
    let ran =
        bench.script("cat $DOCKER_CONFIG/config.json").ok().says(&["the command does without"]);
    assert!(ran.json()["auths"].is_object());
    // What is not there for this user is no complaint.
    let file = bench.write("file", "no folder");
    let quiet = |name: &str, path: &Path| {
        assert_eq!(run(bench.exec(&["true"]).env(name, path)).ok().err, "", "{name}");
    };
    quiet("DOCKER_CONFIG", &bench.at("nowhere"));
    quiet("DOCKER_CONFIG", &file);
    std::fs::remove_file(bench.at(".docker/config.json")).unwrap();
    quiet("XDG_RUNTIME_DIR", &file);
}

#[test]
fn the_bundle_has_what_the_user_trusts() {
    let bench = Bench::new("");
    let own = "-----BEGIN CERTIFICATE-----\nbXk=\n-----END CERTIFICATE-----";
    let bundle = bench.write("bundle.pem", own);
    let show = ["sh", "-c", "cat $SSL_CERT_FILE"];
    let merged = run(bench.exec(&show).env("SSL_CERT_FILE", &bundle)).ok();
    assert!(merged.text().starts_with(&format!("{own}\n-----BEGIN")), "{}", merged.told());
    assert_eq!(merged.text().matches("BEGIN CERTIFICATE").count(), 2);
    let system = run(bench.exec(&show).env_remove("SSL_CERT_FILE")).ok();
    let of_system = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt");
    if let Ok(of_system) = of_system {
        assert!(system.text().starts_with(&of_system));
    }
    // A bundle that is not there is not passed over: the command would trust something else.
    let missing = run(bench.exec(&["true"]).env("SSL_CERT_FILE", bench.at("missing.pem")));
    missing.fails(Code::LocalIo).says(&["SSL_CERT_FILE"]);
}

#[test]
fn a_store_of_logins_that_knows_nothing_of_the_door_is_not_in_the_way() {
    for name in ["crane", "oras", "regctl", "skopeo"] {
        let Some(_) = need("exec, a_store_of_logins", name) else { continue };
        let bench = Bench::new("");
        let program = "#!/bin/sh\necho 'credentials not found in native keychain'; exit 1\n";
        let program = bench.write("bin/docker-credential-theirs", program);
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        bench.write(".docker/config.json", json!({ "credsStore": "theirs" }));
        // regctl may have been told not to look into docker's file at all.
        bench.write(".regctl/config.json", json!({ "incDockerCred": false }));
        let script = match name {
            "crane" => "crane ls $BOND_REGISTRY/app",
            "oras" => "oras repo tags $BOND_REGISTRY/app",
            "regctl" => "regctl tag ls $BOND_REGISTRY/app",
            _ => "skopeo list-tags docker://$BOND_REGISTRY/app",
        };
        let digest = cas::digest::Digest::of(b"{}");
        let path = format!("/v2/ci/app/blobs/uploads/?digest={digest}");
        let pushed = bench.ask(&tests::v2::ask("POST", path).body("{}"));
        assert_eq!(pushed.status, 201);
        let mut command = bench.exec(&["sh", "-euc", script]);
        let path = command.get_envs().find(|(name, _)| *name == "PATH").unwrap().1.unwrap();
        let path = format!("{}:{}", bench.at("bin").display(), path.to_str().unwrap());
        run(command.env("PATH", path)).ok();
    }
}
