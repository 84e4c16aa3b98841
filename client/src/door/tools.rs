//! What each tool must find so that it works with the front door without a flag: variables, and
//! files in a private folder, made of what the user has and what the front door adds.
//!
//! The user's own files are read and never changed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::folder::{self, Folder};
use super::listener::Door;
use super::logins::{self, Login};
use crate::problem::Error;

/// Where systems keep the authorities that they trust; the first that is there counts, as for Go's
/// programs.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The name by which a tool knows the program that gives it the login.
const HELPER: &str = "bond-exec";

/// The user's variables, and who the user is.
pub(crate) struct Surroundings {
    /// The variables.
    pub(crate) variables: HashMap<OsString, OsString>,
    /// The user id.
    pub(crate) uid: u32,
}

/// What a command is started with. The files are gone with it.
pub(crate) struct Prepared {
    /// All variables of the command.
    pub(crate) variables: HashMap<OsString, OsString>,
    /// What the user should know.
    pub(crate) notes: Vec<String>,
    _folder: Folder,
}

/// Prepares everything for a command.
///
/// # Errors
/// [`Error::Output`] when the files cannot be made, [`Error::Source`] when the bundle that the user
/// names cannot be read.
pub(crate) fn prepare(door: &Door, user: Surroundings) -> Result<Prepared, Error> {
    let failed = |source| Error::Output { what: "the files of the command", source };
    let folder = Folder::private(user.variable("XDG_RUNTIME_DIR").cloned()).map_err(failed)?;
    let address = door.address();
    let login = Login { address: &address, credential: door.credential() };
    let mut notes = Vec::new();

    let bundle = bundle(&user, door.authority())?;
    let mut set = vec![("BOND_REGISTRY", OsString::from(&address))];
    let mut write = |name: &'static str, file: &str, bytes: &[u8]| -> io::Result<()> {
        set.push((name, folder.file(file, bytes)?.into()));
        Ok(())
    };
    write("SSL_CERT_FILE", "certificates.pem", &bundle).map_err(failed)?;
    let auth = logins::containers(user.container_logins(&mut notes), &login);
    write("REGISTRY_AUTH_FILE", "auth.json", auth.to_string().as_bytes()).map_err(failed)?;
    let regctl = logins::regctl(user.regctl(&mut notes), &login);
    write("REGCTL_CONFIG", "regctl.json", regctl.to_string().as_bytes()).map_err(failed)?;

    let docker = user.docker_folder();
    let file = docker.as_ref().map(|docker| docker.join(DOCKER_FILE));
    let file = file.and_then(|file| json(&file, &mut notes)).unwrap_or_default();
    let (config, needs_helper) = logins::docker(file, &login, HELPER);
    let ours = folder.folder("docker").map_err(failed)?;
    folder.file("docker/config.json", config.to_string()).map_err(failed)?;
    if let Some(docker) = docker {
        // Contexts, plugins and builders.
        Folder::link_all(&ours, &docker, DOCKER_FILE).map_err(failed)?;
    }
    set.push(("DOCKER_CONFIG", ours.into()));
    if needs_helper {
        let bin = folder.folder("bin").map_err(failed)?;
        let program = format!("bin/docker-credential-{HELPER}");
        folder.program(&program, logins::helper(&login)).map_err(failed)?;
        let mut path = bin.into_os_string();
        if let Some(theirs) = user.variable("PATH") {
            path.push(":");
            path.push(theirs);
        }
        set.push(("PATH", path));
    }
    let mut variables = user.variables;
    variables.extend(set.into_iter().map(|(name, value)| (name.into(), value)));
    Ok(Prepared { variables, notes, _folder: folder })
}

/// Docker's file in docker's folder.
const DOCKER_FILE: &str = "config.json";

/// The bundle of authorities that the user has, with one more.
fn bundle(user: &Surroundings, authority: &str) -> Result<Vec<u8>, Error> {
    let mut bundle = match user.variable("SSL_CERT_FILE") {
        Some(path) => {
            // Without it the command would trust what the user did not say.
            let read = folder::read(Path::new(path));
            let read = read.and_then(|bytes| bytes.ok_or(io::ErrorKind::NotFound.into()));
            read.map_err(|source| Error::Source { doing: "reading SSL_CERT_FILE", source })?
        }
        None => {
            let found = BUNDLES.iter().find_map(|path| folder::read(Path::new(path)).ok()?);
            found.unwrap_or_default()
        }
    };
    if bundle.last().is_some_and(|last| *last != b'\n') {
        bundle.push(b'\n');
    }
    bundle.extend_from_slice(authority.as_bytes());
    Ok(bundle)
}

/// A file of JSON; one that cannot be used is told and does without.
fn json(path: &Path, notes: &mut Vec<String>) -> Option<Map<String, Value>> {
    let parsed = match folder::read(path) {
        Ok(None) => return None,
        Ok(Some(bytes)) => logins::parse(&bytes),
        Err(error) => Err(error.to_string()),
    };
    match parsed {
        Ok(file) => Some(file),
        Err(reason) => {
            notes.push(format!("the command does without {}: {reason}", path.display()));
            None
        }
    }
}

// === impl Surroundings ===

impl Surroundings {
    /// The process's own.
    pub(crate) fn own() -> Surroundings {
        Surroundings {
            variables: std::env::vars_os().collect(),
            uid: nix::unistd::Uid::effective().as_raw(),
        }
    }

    fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables.get(&OsString::from(name)).filter(|value| !value.is_empty())
    }

    fn named(&self, variable: &str) -> Option<PathBuf> {
        self.variable(variable).map(PathBuf::from)
    }

    fn at(&self, variable: &str, below: &str) -> Option<PathBuf> {
        self.variable(variable).map(|path| Path::new(path).join(below))
    }

    fn docker_folder(&self) -> Option<PathBuf> {
        self.named("DOCKER_CONFIG").or_else(|| self.at("HOME", ".docker"))
    }

    /// The files of logins in which skopeo, podman and buildah would look, those first that count
    /// more (containers-auth.json(5)).
    fn container_logins(&self, notes: &mut Vec<String>) -> Vec<Map<String, Value>> {
        let files =
            match self.named("REGISTRY_AUTH_FILE") {
                Some(named) => vec![Some(named)],
                None => vec![
                    Some(self.at("XDG_RUNTIME_DIR", "containers/auth.json").unwrap_or_else(|| {
                        format!("/run/containers/{}/auth.json", self.uid).into()
                    })),
                    self.at("XDG_CONFIG_HOME", "containers/auth.json")
                        .or_else(|| self.at("HOME", ".config/containers/auth.json")),
                    self.docker_folder().map(|folder| folder.join(DOCKER_FILE)),
                ],
            };
        files.into_iter().flatten().filter_map(|path| json(&path, notes)).collect()
    }

    fn regctl(&self, notes: &mut Vec<String>) -> Map<String, Value> {
        let path = self.named("REGCTL_CONFIG").or_else(|| self.at("HOME", ".regctl/config.json"));
        path.and_then(|path| json(&path, notes)).unwrap_or_default()
    }
}
