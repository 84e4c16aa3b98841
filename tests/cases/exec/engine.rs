//! docker and buildx in a command: the engine makes the connection, and has to be in the network
//! namespace of the command.

use tests::engine::{Engine, pushed};
use tests::peers::need;
use tests::run;

use super::{Bench, WORKSPACE};

#[test]
fn docker_builds_pushes_and_pulls() {
    let Some(engine) = Engine::start("exec, docker_builds_pushes_and_pulls") else { return };
    let bench = Bench::new("");
    let ran = bench
        .script(&format!(
            "export DOCKER_HOST={}
             docker build -q -t $BOND_REGISTRY/app:1 {} >&2
             docker push $BOND_REGISTRY/app:1
             docker rmi $BOND_REGISTRY/app:1 >&2
             docker pull $BOND_REGISTRY/app:1 >&2
             docker image inspect --format '{{{{.Id}}}}' $BOND_REGISTRY/app:1",
            engine.host(),
            engine.context()
        ))
        .ok();
    assert_eq!(pushed(&ran), Some(bench.stored("app", "1").as_str()), "{}", ran.told());
    // The id of what came back is the digest of the config that was pushed.
    let manifest = bench.ask(&tests::v2::get(format!("/v2/{WORKSPACE}/app/manifests/1"))).json();
    assert_eq!(manifest["config"]["digest"], *ran.lines().last().unwrap(), "{}", ran.told());

    // The login is the command's and not the engine's: without it nobody is let in.
    let open = bench.open();
    let image = format!("{}/app:1", open.address());
    let refused = run(&mut engine.docker(&bench.at("other"), &["pull", &image]));
    assert_ne!(refused.code, Some(0), "{}", refused.told());
    assert!(refused.err.contains("no basic auth credentials"), "{}", refused.told());
}

#[test]
fn buildx_builds_and_pushes() {
    const TEST: &str = "exec, buildx_builds_and_pushes";
    let Some(_) = need(TEST, "buildx") else { return };
    let Some(engine) = Engine::start(TEST) else { return };
    let bench = Bench::new("");
    let ran = bench
        .script(&format!(
            "export DOCKER_HOST={}
             buildx build --push --metadata-file said -t $BOND_REGISTRY/app:1 {}",
            engine.host(),
            engine.context()
        ))
        .ok();
    let said = std::fs::read(bench.at("said")).unwrap();
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(said["containerimage.digest"], bench.stored("app", "1"), "{}", ran.told());
}
