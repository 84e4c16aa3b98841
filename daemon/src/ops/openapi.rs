//! `GET /v1/openapi.json`: the control plane, described for machines. Everybody may ask.
//!
//! The document is a file of `docs/`, written by hand. Tests hold it to the table of routes, the
//! list of codes and their statuses here, and to the types of `wire::api` and a real daemon's
//! answers in `tests/cases/openapi.rs`.

use http::{HeaderValue, header};
use wire::Problem;

use crate::answer::Answer;
use crate::ask::Ask;
use crate::status;

/// The document.
pub(crate) const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

pub(super) fn run(ask: &Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    let json = HeaderValue::from_static("application/json");
    Ok(Answer::bytes(status::DONE, DOCUMENT).header(header::CONTENT_TYPE, json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};
    use wire::Code;
    use wire::api::{ACCEPT_DESCRIPTORS, DEFAULT_SOCKET, DESCRIPTORS, DocumentLimits, MOST_NAMES};

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("a JSON document")
    }

    #[test]
    fn the_document_has_every_code_with_its_status_and_no_other() {
        let document = document();
        let code = &document["components"]["schemas"]["Code"];
        let names: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(code["enum"], json!(names));
        let told = Code::ALL.iter().map(|code| {
            let status = status::of(*code).as_u16();
            let told = json!({"status": status, "exit": code.exit(), "meaning": code.meaning()});
            (code.name().to_owned(), told)
        });
        assert_eq!(code["x-codes"], Value::Object(told.collect::<Map<_, _>>()));
    }

    #[test]
    fn each_answer_of_an_error_has_the_codes_of_its_status() {
        let document = document();
        let answers = document["components"]["responses"].as_object().expect("answers");
        for code in Code::ALL.iter().filter(|code| **code != Code::Unreachable) {
            assert!(answers.contains_key(&format!("E{}", status::of(*code).as_u16())), "{code:?}");
        }
        for (name, answer) in answers.iter().filter(|(name, _)| *name != "Problem") {
            let schema = &answer["content"]["application/json"]["schema"]["allOf"];
            assert_eq!(schema[0], json!({"$ref": "#/components/schemas/ErrorBody"}), "{name}");
            let ours: Vec<&str> = Code::ALL
                .iter()
                .filter(|code| format!("E{}", status::of(**code).as_u16()) == *name)
                .map(|code| code.name())
                .collect();
            let told = &schema[1]["properties"]["error"]["properties"]["code"]["enum"];
            assert_eq!(*told, json!(ours), "{name}");
        }
        // An operation names them by their own status, and none stands under another's.
        for path in document["paths"].as_object().expect("paths").values() {
            for operation in path.as_object().expect("operations").values() {
                for (status, answer) in operation["responses"].as_object().expect("answers") {
                    let Some(reference) = answer["$ref"].as_str() else { continue };
                    let name = if status == "default" { "Problem" } else { &format!("E{status}") };
                    assert_eq!(reference, format!("#/components/responses/{name}"));
                }
            }
        }
    }

    #[test]
    fn the_document_says_what_the_wire_and_the_configuration_say() {
        let document = document();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let components = &document["components"];
        let parameters = &components["parameters"];
        assert_eq!(parameters["Descriptors"]["name"], DESCRIPTORS);
        assert_eq!(parameters["AcceptDescriptors"]["name"], ACCEPT_DESCRIPTORS);
        let servers = document["servers"][0]["description"].as_str().expect("a text");
        assert!(servers.contains(DEFAULT_SOCKET), "{servers}");
        let schemas = &components["schemas"];
        assert_eq!(schemas["Seal"]["properties"]["names"]["maxItems"], MOST_NAMES);
        let bound = |key: &str| &schemas["DocumentLimits"]["properties"][key]["maximum"];
        let widest = serde_json::to_value(DocumentLimits::WIDEST).expect("JSON");
        for (key, most) in widest.as_object().expect("limits") {
            assert_eq!(bound(key), most, "{key}");
        }
        let told = document["info"]["description"].as_str().expect("a text");
        let config = crate::config::Config::default();
        let (limits, times) = (&config.limits, &config.timeouts);
        for text in [
            format!("{} KiB and {} fields", limits.header_size.0 >> 10, limits.header_fields),
            format!("takes at most {} s", times.header.0.as_secs()),
            format!("no progress for {} s", times.stall.0.as_secs()),
            format!("waits at most {} min", times.queue.0.as_secs() / 60),
            format!("ends after {} min", times.keep_alive.0.as_secs() / 60),
            format!("{} connections", limits.connections),
            format!("{} of one uid", limits.connections_per_uid),
        ] {
            assert!(told.contains(&text), "{text}");
        }
    }
}
