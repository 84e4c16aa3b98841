//! The configuration: every limit with its default, read from TOML, refused with file and line.
//!
//! A key that is not known is an error, so that a misspelt limit cannot be a limit that does not
//! hold. `daemon/bonded.toml` shows all keys at their defaults; a test holds the two together.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::args::LogFormat;
use crate::policy::{Anonymous, Pattern, RuleText, TagPattern};
use crate::units::{Mode, Size, Span};

/// A configuration file with every key at its default and a comment on each.
pub const EXAMPLE: &str = include_str!("../bonded.toml");

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The store.
    pub store: StoreSection,
    /// The socket.
    pub socket: SocketSection,
    /// The front door beside the socket.
    pub registry: RegistrySection,
    /// Bounds on what peers may ask.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// The log.
    pub log: LogSection,
    /// Who may do what.
    pub policy: Vec<Spanned<RuleText>>,
    /// Which groups may read sealed layouts in place.
    pub in_place: Vec<InPlace>,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// Its folder.
    pub path: Option<PathBuf>,
    /// Bytes that one workspace may hold; 0 is no bound.
    pub quota: Size,
    /// Bytes that must stay free on its filesystem.
    pub min_free: Size,
    /// Between whom the same bytes are there only once.
    pub dedup: cas::Dedup,
    /// Bytes of memory for the index.
    pub index_cache: Size,
}

/// The socket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SocketSection {
    /// Where it is.
    pub path: Option<PathBuf>,
    /// Its permission bits.
    pub mode: Mode,
    /// The group that it is given to, by name or number.
    pub group: Option<GroupId>,
}

/// The front door beside the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySection {
    /// An address to listen on.
    pub listen: Option<SocketAddr>,
    /// A file with the certificate for it, and its chain.
    pub tls_certificate: Option<PathBuf>,
    /// A file with the certificate's key.
    pub tls_key: Option<PathBuf>,
    /// A file with its users and the hashes of their passwords.
    pub users: Option<PathBuf>,
    /// What those may do there who do not say who they are.
    pub allow_anonymous: Anonymous,
    /// Tags that are made once and not moved.
    pub create_only_tags: Vec<TagPattern>,
}

/// Bounds on what peers may ask.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of one manifest or index.
    pub manifest_size: Size,
    /// Bytes of all manifests and indexes of one closure.
    pub manifests_size: Size,
    /// Bytes of manifests and indexes that all requests at once may hold in memory.
    pub manifests_in_memory: Size,
    /// Indexes on top of each other.
    pub depth: usize,
    /// Descriptors in one closure.
    pub entries: usize,
    /// Bytes of a request's header.
    pub header_size: Size,
    /// Fields of a request's header.
    pub header_fields: usize,
    /// Open connections.
    pub connections: usize,
    /// Open connections of one uid.
    pub connections_per_uid: usize,
    /// Open drafts of one uid.
    pub drafts_per_uid: usize,
    /// Open uploads at the front door.
    pub uploads: usize,
    /// Open uploads at the front door of one uid.
    pub uploads_per_uid: usize,
    /// Bytes of manifests on their way in that all requests at once may hold in memory.
    pub bodies_in_memory: Size,
    /// Jobs at once that hash large blobs; 0 is two for each core, and two more.
    pub hashing_jobs: usize,
    /// Long bodies at once that come in, at their client's pace.
    pub receiving_jobs: usize,
    /// Bodies at once that go out, at their client's pace.
    pub sending_jobs: usize,
    /// Jobs at once that are short.
    pub short_jobs: usize,
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From a request's first byte to the end of its header.
    pub header: Span,
    /// A body, in or out, without progress.
    pub stall: Span,
    /// A connection without a request.
    pub keep_alive: Span,
    /// A request that waits for its turn.
    pub queue: Span,
    /// Requests in flight when the daemon is told to stop.
    pub drain: Span,
    /// A draft that nothing is done with.
    pub draft_idle: Span,
    /// A draft whose every connection is gone.
    pub draft_abandoned: Span,
    /// An upload at the front door that nothing is done with.
    pub upload_idle: Span,
    /// A pushed blob that nothing needs.
    pub lease: Span,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// How lines look.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives of tracing's filter.
    pub level: String,
}

/// A group that may read sealed layouts of some workspaces in place.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InPlace {
    /// Which workspaces.
    pub workspaces: Vec<Pattern>,
    /// The group, by name or number.
    pub group: GroupId,
}

/// A group of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupId(pub u32);

/// Why the configuration is not taken: `FILE:LINE: KEY: REASON`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    file: String,
    line: Option<usize>,
    key: String,
    reason: String,
}

// === impl Config ===

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        // The store's files go through `cas::disk`; this one belongs to the keeper.
        #[allow(clippy::disallowed_methods, reason = "the configuration is no file of the store")]
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: file.clone(),
            line: None,
            key: String::new(),
            reason: error.to_string(),
        })?;
        Config::parse(&file, &text)
    }

    /// Parses and checks a text; `file` stands in the errors.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
        let config: Config =
            toml::from_str(text).map_err(|e| at(file, text, e.span(), e.message()))?;
        config.check().map_err(|(key, reason)| {
            let (table, name) = key.split_once('.').unwrap_or(("", key));
            at(file, text, place_of(text, table, name), &reason).keyed(key)
        })?;
        for rule in &config.policy {
            rule.get_ref().check().map_err(|reason| at(file, text, Some(rule.span()), &reason))?;
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let (limits, timeouts) = (&self.limits, &self.timeouts);
        let at_least_one = [
            ("limits.depth", limits.depth),
            ("limits.entries", limits.entries),
            ("limits.connections", limits.connections),
            ("limits.connections_per_uid", limits.connections_per_uid),
            ("limits.drafts_per_uid", limits.drafts_per_uid),
            ("limits.uploads", limits.uploads),
            ("limits.uploads_per_uid", limits.uploads_per_uid),
            ("limits.receiving_jobs", limits.receiving_jobs),
            ("limits.sending_jobs", limits.sending_jobs),
            ("limits.short_jobs", limits.short_jobs),
        ];
        for (key, value) in at_least_one {
            if value == 0 {
                return Err((key, "must be at least 1".to_owned()));
            }
        }
        let widest = wire::api::DocumentLimits::WIDEST;
        let most = [
            ("limits.depth", limits.depth, widest.depth),
            ("limits.entries", limits.entries, widest.entries),
            ("limits.hashing_jobs", limits.hashing_jobs, 256),
            ("limits.receiving_jobs", limits.receiving_jobs, 1024),
            ("limits.sending_jobs", limits.sending_jobs, 1024),
            ("limits.short_jobs", limits.short_jobs, 1024),
            ("limits.header_fields", limits.header_fields, 1000),
        ];
        for (key, value, most) in most {
            if value > most {
                return Err((key, format!("must be at most {most}")));
            }
        }
        let sizes = [
            ("limits.manifest_size", limits.manifest_size, 1 << 10, widest.manifest_size),
            ("limits.manifests_size", limits.manifests_size, 1 << 10, widest.manifests_size),
            ("limits.header_size", limits.header_size, 8 << 10, 1 << 20),
            ("store.index_cache", self.store.index_cache, 1 << 20, 1 << 40),
        ];
        for (key, Size(bytes), least, most) in sizes {
            if !(least..=most).contains(&bytes) {
                return Err((key, format!("must be between {least} and {most} bytes")));
            }
        }
        if limits.manifests_in_memory.0 < limits.manifests_size.0 {
            let reason = "must be at least limits.manifests_size".to_owned();
            return Err(("limits.manifests_in_memory", reason));
        }
        if limits.bodies_in_memory.0 / 2 < limits.manifest_size.0 {
            // One uid gets at most half, and a manifest must have room in it.
            let reason = "must be at least twice limits.manifest_size".to_owned();
            return Err(("limits.bodies_in_memory", reason));
        }
        let times = [
            ("timeouts.header", timeouts.header),
            ("timeouts.stall", timeouts.stall),
            ("timeouts.keep_alive", timeouts.keep_alive),
            ("timeouts.queue", timeouts.queue),
            ("timeouts.draft_idle", timeouts.draft_idle),
            ("timeouts.upload_idle", timeouts.upload_idle),
            ("timeouts.lease", timeouts.lease),
        ];
        for (key, Span(time)) in times {
            if time.is_zero() {
                return Err((key, "must be longer than nothing".to_owned()));
            }
        }
        if self.socket.path.as_deref().is_some_and(crate::socket::is_abstract) {
            return Err(("socket.path", "abstract sockets are not listened on".to_owned()));
        }
        Ok(())
    }

    /// The bounds on documents, for the store.
    pub fn oci_limits(&self) -> cas::oci::Limits {
        cas::oci::Limits {
            manifest_size: self.limits.manifest_size.0,
            manifests_size: self.limits.manifests_size.0,
            depth: self.limits.depth,
            entries: self.limits.entries,
        }
    }
}

impl Default for StoreSection {
    fn default() -> StoreSection {
        StoreSection {
            path: None,
            quota: Size(0),
            min_free: Size(64 << 20),
            dedup: cas::Dedup::Store,
            index_cache: Size(4 << 20),
        }
    }
}

impl Default for SocketSection {
    fn default() -> SocketSection {
        SocketSection { path: None, mode: Mode(0o660), group: None }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        let oci = cas::oci::Limits::default();
        Limits {
            manifest_size: Size(oci.manifest_size),
            manifests_size: Size(oci.manifests_size),
            manifests_in_memory: Size(128 << 20),
            depth: oci.depth,
            entries: oci.entries,
            header_size: Size(64 << 10),
            header_fields: 64,
            connections: 512,
            connections_per_uid: 128,
            drafts_per_uid: 64,
            uploads: 1024,
            uploads_per_uid: 64,
            bodies_in_memory: Size(64 << 20),
            hashing_jobs: 0,
            receiving_jobs: 16,
            sending_jobs: 16,
            short_jobs: 32,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = |s| Span(std::time::Duration::from_secs(s));
        Timeouts {
            header: seconds(10),
            stall: seconds(30),
            keep_alive: seconds(300),
            queue: seconds(300),
            drain: seconds(30),
            draft_idle: seconds(3600),
            draft_abandoned: seconds(60),
            upload_idle: seconds(3600),
            lease: seconds(24 * 3600),
        }
    }
}

impl Default for LogSection {
    fn default() -> LogSection {
        LogSection { format: LogFormat::Text, level: "info".to_owned() }
    }
}

impl<'de> Deserialize<'de> for GroupId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<GroupId, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u32),
            Name(String),
        }
        let name = match Either::deserialize(deserializer)? {
            Either::Number(gid) => return Ok(GroupId(gid)),
            Either::Name(name) => name,
        };
        crate::peer::group_of_name(&name).map(GroupId).map_err(serde::de::Error::custom)
    }
}

// === impl ConfigError ===

impl ConfigError {
    /// An error of the command line, or of what it and the file make together.
    pub fn elsewhere(key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError { file: String::new(), line: None, key: key.to_owned(), reason: reason.into() }
    }

    fn keyed(mut self, key: &str) -> ConfigError {
        self.key = key.to_owned();
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
            match self.line {
                Some(line) => write!(f, "{line}: ")?,
                None => f.write_str(" ")?,
            }
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.reason)
    }
}

fn at(file: &str, text: &str, place: Option<Range<usize>>, reason: &str) -> ConfigError {
    let start = place.map(|p| p.start.min(text.len()));
    ConfigError {
        file: file.to_owned(),
        line: start.map(|s| text[..s].matches('\n').count() + 1),
        key: start.map(|s| key_at(text, s)).unwrap_or_default(),
        reason: reason.trim_end().to_owned(),
    }
}

/// The dotted key of the line at `offset`: its own name after that of the table it stands in.
fn key_at(text: &str, offset: usize) -> String {
    let end = text[offset..].find('\n').map_or(text.len(), |n| offset + n);
    let table_of = |line: &str| {
        Some(line.strip_prefix('[')?.split(']').next()?.trim_matches('[').trim().to_owned())
    };
    let mut key = None;
    for line in text[..end].lines().rev().map(str::trim) {
        if let Some(table) = table_of(line) {
            return key.map_or(table.clone(), |key| format!("{table}.{key}"));
        }
        if key.is_none() && !line.starts_with('#') {
            key = line.split_once('=').map(|(name, _)| name.trim().to_owned());
        }
    }
    key.unwrap_or_default()
}

/// Where a key stands in its table.
fn place_of(text: &str, table: &str, name: &str) -> Option<Range<usize>> {
    let (mut inside, mut offset) = (table.is_empty(), 0);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            inside = trimmed.trim_matches(['[', ']', ' ']) == table;
        } else if inside && trimmed.split('=').next().is_some_and(|key| key.trim() == name) {
            return Some(offset..offset + line.len());
        }
        offset += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Config::parse("bonded.toml", text).expect_err(text).to_string()
    }

    #[test]
    fn the_example_is_the_defaults_and_names_every_key() {
        assert_eq!(Config::parse("bonded.toml", EXAMPLE), Ok(Config::default()));
        // Optional keys stand there as `#key = value`, without a blank behind the sign.
        let all: String = EXAMPLE
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|l| l.starts_with(|c: char| c != ' ')).unwrap_or(line)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let all = all.replace("\"bonded\"", "\"root\"").replace("\"ci\"", "\"root\"");
        let full: toml::Table = toml::from_str(&all).expect("the example with all its keys");
        assert!(Config::parse("all", &all).is_ok(), "{:?}", Config::parse("all", &all));
        // What the debug print of the structures calls a field, the example must hold as a key.
        let known = format!("{:?}", Config::default());
        let keys: Vec<String> = full
            .values()
            .flat_map(|v| v.as_table().cloned().into_iter().flatten().map(|(k, _)| k))
            .collect();
        for field in known.split([' ', '{']).filter_map(|word| word.strip_suffix(':')) {
            assert!(full.contains_key(field) || keys.iter().any(|k| k == field), "{field}");
        }
    }

    #[test]
    fn errors_name_the_line_and_the_key() {
        let cases = [
            ("[limits]\ndepht = 3\n", "bonded.toml:2: limits.depht: unknown field"),
            ("[limits]\n\ndepth = \"x\"\n", "bonded.toml:3: limits.depth: invalid type"),
            ("[limits]\n# a\ndepth = 0\n", "bonded.toml:3: limits.depth: must be at least 1"),
            (
                "[limits]\nmanifest_size = \"4 MB\"\n",
                "bonded.toml:2: limits.manifest_size: a size is",
            ),
            (
                "[limits]\nmanifest_size = 7\n",
                "bonded.toml:2: limits.manifest_size: must be between",
            ),
            ("[timeouts]\nstall = \"0s\"\n", "bonded.toml:2: timeouts.stall: must be longer"),
            ("[socket]\nmode = \"rw\"\n", "bonded.toml:2: socket.mode: a mode is"),
            ("[socket]\npath = \"@bonded\"\n", "bonded.toml:2: socket.path: abstract"),
            ("[socket]\ngroup = \"no-such-group\"\n", "bonded.toml:2: socket.group: "),
            (
                "[limits]\nbodies_in_memory = \"4 MiB\"\n",
                "bonded.toml:2: limits.bodies_in_memory: ",
            ),
            ("[registry]\nlisten = \"localhost:1\"\n", "bonded.toml:2: registry.listen: "),
            (
                "[registry]\nallow_anonymous = \"write\"\n",
                "bonded.toml:2: registry.allow_anonymous: it is false, true or \"read\"",
            ),
            (
                "[registry]\ncreate_only_tags = [\"a/b\"]\n",
                "bonded.toml:2: registry.create_only_tags: ",
            ),
            ("[storr]\n", "bonded.toml:1: storr: unknown field"),
            ("[limits\n", "bonded.toml:1: "),
            (
                "[[policy]]\nuid = 1\ngid = 1\nworkspaces = [\"a\"]\nmay = [\"read\"]\n",
                "bonded.toml:1: policy",
            ),
            (
                "[[policy]]\nuid = 1\nworkspaces = [\"a\"]\nmay = [\"fly\"]\n",
                "bonded.toml:4: policy.may: unknown variant",
            ),
            (
                "[[policy]]\nuid = 1\nworkspaces = [\"a\"]\nmay = [\"admin\"]\n",
                "bonded.toml:1: policy",
            ),
        ];
        for (text, expected) in cases {
            let got = refusal(text);
            assert!(got.starts_with(expected), "{text:?}\n     got {got}\nexpected {expected}");
        }
    }
}
