//! `docs/openapi.json` as something to hold values against: the few words of JSON Schema that it
//! uses, and no others. A word that is not known here fails the check, so that none is believed
//! that nobody looked at.
//!
//! It is stricter than JSON Schema in one point: a member of an object that the schema does not
//! name is refused, whether or not the schema is closed. What the daemon says is documented.

use cas::digest::Digest;
use cas::workspace::Workspace;
use serde_json::Value;

/// The document.
#[derive(Debug)]
pub struct Document(pub Value);

/// Words of a schema that say nothing about a value.
const SILENT: [&str; 4] = ["description", "default", "x-codes", "additionalProperties"];

impl Document {
    /// The one in `docs/`.
    ///
    /// # Panics
    /// When it is no JSON.
    pub fn open() -> Document {
        Document(serde_json::from_str(include_str!("../../docs/openapi.json")).expect("JSON"))
    }

    /// A schema, by its name.
    pub fn schema(&self, name: &str) -> &Value {
        &self.0["components"]["schemas"][name]
    }

    /// What a value, or a reference in its place, is.
    pub fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        let found = self.0.pointer(reference.trim_start_matches('#'));
        found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    /// Every operation: its method, its path, and what is said of it.
    pub fn operations(&self) -> impl Iterator<Item = (&str, &str, &Value)> {
        let paths = self.0["paths"].as_object().into_iter().flatten();
        paths.flat_map(|(path, operations)| {
            let operations = operations.as_object().into_iter().flatten();
            operations.map(move |(method, said)| (method.as_str(), path.as_str(), said))
        })
    }

    /// The operation that a request means.
    pub fn operation(&self, method: &str, path: &str) -> Option<(&str, &Value)> {
        let path = path.split('?').next().unwrap_or(path);
        let is_it = |form: &str| {
            let (mut wanted, mut there) = (form.split('/'), path.split('/'));
            let fits = wanted.by_ref().zip(there.by_ref());
            let mut fits = fits.map(|(w, t)| w == t || w.starts_with('{'));
            fits.all(|fits| fits) && form.split('/').count() == path.split('/').count()
        };
        let mut operations = self.operations();
        let method = method.to_lowercase();
        let found = operations.find(|(verb, form, _)| *verb == method && is_it(form));
        found.map(|(_, form, said)| (form, said))
    }

    /// What is wrong with a value, if anything, and where in it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let Some(words) = schema.as_object() else { return Err(format!("{at}: no schema")) };
        for (word, rule) in words {
            self.word(words, word, rule, value, at)?;
        }
        Ok(())
    }

    fn word(
        &self,
        words: &serde_json::Map<String, Value>,
        word: &str,
        rule: &Value,
        value: &Value,
        at: &str,
    ) -> Result<(), String> {
        let told = |is_so: bool| match is_so {
            true => Ok(()),
            false => Err(format!("{at}: {value} is not {word} {rule}")),
        };
        match word {
            "$ref" => {
                let mut whole = serde_json::Map::new();
                whole.insert(word.to_owned(), rule.clone());
                self.check(self.follow(&Value::Object(whole)), value, at)
            }
            "allOf" => {
                let mut parts = rule.as_array().into_iter().flatten();
                parts.try_for_each(|part| self.check(part, value, at))
            }
            "type" => told(match rule.as_str() {
                Some("object") => value.is_object(),
                Some("array") => value.is_array(),
                Some("string") => value.is_string(),
                Some("boolean") => value.is_boolean(),
                Some("integer") => value.is_u64() || value.is_i64(),
                _ => false,
            }),
            "enum" => told(rule.as_array().is_some_and(|all| all.contains(value))),
            "minimum" => told(value.as_f64() >= rule.as_f64()),
            "maximum" => told(value.as_f64() <= rule.as_f64()),
            "maxItems" => told(value.as_array().map(|v| v.len() as u64) <= rule.as_u64()),
            "maxLength" => told(value.as_str().map(|v| v.len() as u64) <= rule.as_u64()),
            // No engine for two patterns: what they stand for is a type of ours.
            "pattern" => told(match value.as_str() {
                Some(text) if *rule == self.schema("Digest")[word] => {
                    text.parse::<Digest>().is_ok()
                }
                Some(text) if *rule == self.schema("Workspace")[word] => {
                    text.parse::<Workspace>().is_ok()
                }
                _ => false,
            }),
            "required" => {
                let names = rule.as_array().into_iter().flatten().filter_map(Value::as_str);
                match names.into_iter().find(|name| value.get(name).is_none()) {
                    Some(name) => Err(format!("{at}: {name} is missing")),
                    None => Ok(()),
                }
            }
            "items" => {
                let mut items = value.as_array().into_iter().flatten().enumerate();
                items.try_for_each(|(n, item)| self.check(rule, item, &format!("{at}[{n}]")))
            }
            "properties" => {
                let mut members = value.as_object().into_iter().flatten();
                // A part of an `allOf` names only what it narrows.
                let is_part = !words.contains_key("type");
                members.try_for_each(|(name, member)| match rule.get(name) {
                    Some(schema) => self.check(schema, member, &format!("{at}.{name}")),
                    None if is_part => Ok(()),
                    None => Err(format!("{at}: nobody knows {name}")),
                })
            }
            "additionalProperties" if rule.is_object() => {
                let mut members = value.as_object().into_iter().flatten();
                members.try_for_each(|(name, member)| {
                    self.check(rule, member, &format!("{at}.{name}"))
                })
            }
            _ if SILENT.contains(&word) => Ok(()),
            _ => Err(format!("{at}: the check knows no {word:?}")),
        }
    }
}
