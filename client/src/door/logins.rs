//! Files of logins, as the tools have them: the user's own, with the front door's login added.
//!
//! Nothing of the user's is lost but what is said for the front door's address. This room knows the
//! formats and no files.

use serde_json::{Map, Value, json};

use super::credential::{Credential, USER};

/// The front door's login, as the files hold it.
pub(super) struct Login<'a> {
    /// `127.0.0.1:PORT`
    pub(super) address: &'a str,
    /// What lets one in.
    pub(super) credential: &'a Credential,
}

/// Logins of a file: for each host a name and a password.
const LOGINS: &str = "auths";
/// Programs of a file: for each host one that is asked for its login.
const HELPERS: &str = "credHelpers";
/// The program of a file that is asked for all other hosts.
const STORE: &str = "credsStore";

/// Reads a file of the user's.
///
/// # Errors
/// Why it is none.
pub(super) fn parse(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(file)) => Ok(file),
        Ok(_) => Err("it is no JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Docker's `config.json` with the login, and whether it needs the program [`helper`] by this name.
///
/// Where the user has a `credsStore`, tools ask that program for every host and do not look into the
/// file; it does not know of this one. A program for the host alone comes before it.
pub(super) fn docker(
    mut file: Map<String, Value>,
    login: &Login<'_>,
    helper: &str,
) -> (Value, bool) {
    let has_store = file.get(STORE).and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    section(&mut file, LOGINS).insert(login.address.to_owned(), login.entry());
    if has_store {
        section(&mut file, HELPERS).insert(login.address.to_owned(), helper.into());
    }
    (file.into(), has_store)
}

/// The program that a tool asks for the login (the protocol of docker's credential helpers).
pub(super) fn helper(login: &Login<'_>) -> String {
    let answer = json!({
        "ServerURL": login.address, "Username": USER, "Secret": login.credential.password(),
    });
    // No character of it means anything to a shell within quotes.
    format!(
        "#!/bin/sh\n\
         # Made by `bond exec` for one command.\n\
         case $1 in\n\
         get) printf '%s\\n' '{answer}' ;;\n\
         list) printf '{{}}\\n' ;;\n\
         *) echo 'bond exec: this login is one command'\\''s and is not changed'; exit 1 ;;\n\
         esac\n"
    )
}

/// The `auth.json` of skopeo, podman and buildah with the login: what they would find in these
/// files, of which an earlier one counts more.
pub(super) fn containers(files: Vec<Map<String, Value>>, login: &Login<'_>) -> Value {
    let mut whole = Map::new();
    for mut file in files.into_iter().rev() {
        let [logins, helpers] = [LOGINS, HELPERS].map(|name| match file.remove(name) {
            Some(Value::Object(section)) => section,
            _ => Map::new(),
        });
        for (host, entry) in logins {
            // An entry without a login says that one is kept elsewhere: they look further then.
            if entry.as_object().is_some_and(|entry| !entry.is_empty()) {
                section(&mut whole, HELPERS).remove(&host);
                section(&mut whole, LOGINS).insert(host, entry);
            }
        }
        section(&mut whole, HELPERS).extend(helpers);
    }
    section(&mut whole, HELPERS).remove(login.address);
    section(&mut whole, LOGINS).insert(login.address.to_owned(), login.entry());
    whole.into()
}

/// regctl's configuration with the login: it may have been told not to read docker's.
pub(super) fn regctl(mut file: Map<String, Value>, login: &Login<'_>) -> Value {
    let host = json!({
        "tls": "enabled", "hostname": login.address,
        "user": USER, "pass": login.credential.password(),
    });
    section(&mut file, "hosts").insert(login.address.to_owned(), host);
    file.into()
}

impl Login<'_> {
    fn entry(&self) -> Value {
        json!({ "auth": self.credential.basic() })
    }
}

/// A section of a file, made when it is not there.
fn section<'a>(file: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let section = file.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !section.is_object() {
        *section = Value::Object(Map::new());
    }
    match section {
        Value::Object(section) => section,
        _ => unreachable!("it was made one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "127.0.0.1:5000";

    fn object(value: Value) -> Map<String, Value> {
        parse(value.to_string().as_bytes()).expect("an object")
    }

    #[test]
    fn what_the_user_has_is_kept_and_the_login_is_added() {
        let credential = Credential::random().expect("random bytes");
        let login = Login { address: ADDRESS, credential: &credential };
        let own = json!({ "auth": credential.basic() });
        let cases = [
            (json!({}), json!({ "auths": { ADDRESS: own } }), false),
            (
                json!({
                    "auths": { "ghcr.io": { "auth": "eDp5" }, ADDRESS: { "auth": "b2xk" } },
                    "credHelpers": { "gcr.io": "gcloud" },
                    "currentContext": "remote", "HttpHeaders": { "x": "y" },
                }),
                json!({
                    "auths": { "ghcr.io": { "auth": "eDp5" }, ADDRESS: own },
                    "credHelpers": { "gcr.io": "gcloud" },
                    "currentContext": "remote", "HttpHeaders": { "x": "y" },
                }),
                false,
            ),
            (
                json!({ "credsStore": "desktop", "auths": { "ghcr.io": {} } }),
                json!({
                    "credsStore": "desktop", "auths": { "ghcr.io": {}, ADDRESS: own },
                    "credHelpers": { ADDRESS: "ours" },
                }),
                true,
            ),
            (
                json!({ "credsStore": "", "auths": 7 }),
                json!({ "credsStore": "", "auths": { ADDRESS: own } }),
                false,
            ),
        ];
        for (user, expected, needs_helper) in cases {
            let merged = docker(object(user.clone()), &login, "ours");
            assert_eq!(merged, (expected, needs_helper), "{user}");
        }
        let merged = regctl(object(json!({ "hosts": { "a": { "user": "u" } }, "x": 1 })), &login);
        assert_eq!((&merged["hosts"]["a"]["user"], &merged["x"]), (&json!("u"), &json!(1)));
        assert_eq!(merged["hosts"][ADDRESS]["pass"], credential.password());
    }

    #[test]
    fn of_several_files_an_earlier_one_counts_more() {
        let credential = Credential::random().expect("random bytes");
        let login = Login { address: ADDRESS, credential: &credential };
        let files = [
            json!({ "auths": { "a": { "auth": "1" }, "b": {} }, "credHelpers": { "c": "h1" } }),
            json!({
                "auths": { "a": { "auth": "2" }, "b": { "auth": "2" }, "c": { "auth": "2" } },
                "credHelpers": { "a": "h2", "d": "h2", ADDRESS: "h2" }, "credsStore": "s",
            }),
        ];
        let merged = containers(files.map(object).to_vec(), &login);
        let expected = json!({
            "auths": {
                "a": { "auth": "1" }, "b": { "auth": "2" }, "c": { "auth": "2" },
                ADDRESS: { "auth": credential.basic() },
            },
            // Within one file a helper comes first, and so it does here.
            "credHelpers": { "c": "h1", "d": "h2" },
        });
        assert_eq!(merged, expected);
    }

    #[test]
    fn what_is_no_file_of_logins_is_not_taken_for_one() {
        for text in ["", "[]", "null", "{", "{} x"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b" {\"auths\": {}} ").is_ok());
    }
}
