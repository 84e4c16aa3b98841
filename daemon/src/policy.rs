//! Which peer may do what in which workspace. Pure rules: no sockets, no store.

use std::collections::BTreeMap;

use cas::digest::Algorithm;
use nix::unistd::{Uid, User};
use serde::{Deserialize, Deserializer};

use crate::peer::Peer;

/// One thing that a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Bring artifacts in.
    Put,
    /// Know of them and have them handed out.
    Read,
    /// End the workspace's hold on them.
    Retire,
    /// Keep the house: gc, doctor, metrics. It belongs to no workspace.
    Admin,
}

/// All that one peer may do in one workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

/// A rule as it stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleText {
    uid: Option<u32>,
    user: Option<String>,
    gid: Option<u32>,
    group: Option<String>,
    #[serde(default)]
    anonymous: bool,
    registry_user: Option<String>,
    workspaces: Vec<Pattern>,
    may: Vec<Right>,
}

/// A workspace, or several: `*` stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// A tag, or several: `*` stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPattern(Pattern);

/// The rules, with names looked up.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    who: Who,
    workspaces: Vec<Pattern>,
    may: Rights,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Uid(u32),
    Gid(u32),
    Anonymous,
    RegistryUser(String),
    EveryRegistryUser,
}

/// What those may do at the TCP listener who do not say who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Nothing.
    #[default]
    Nothing,
    /// Read, where the rules let them.
    Read,
    /// What the rules let them.
    Everything,
}

/// In a rule's `registry_user` this stands for all of them, so nobody may be called so.
pub const EVERY_USER: &str = "*";

// === impl Anonymous ===

impl<'de> Deserialize<'de> for Anonymous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Anonymous, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            All(bool),
            Some(String),
        }
        match Either::deserialize(deserializer) {
            Ok(Either::All(false)) => Ok(Anonymous::Nothing),
            Ok(Either::All(true)) => Ok(Anonymous::Everything),
            Ok(Either::Some(text)) if text == "read" => Ok(Anonymous::Read),
            Ok(Either::Some(_)) | Err(_) => {
                Err(serde::de::Error::custom("it is false, true or \"read\""))
            }
        }
    }
}

// === impl Right ===

impl Right {
    const ALL: [Right; 4] = [Right::Put, Right::Read, Right::Retire, Right::Admin];

    /// Its name in the configuration and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Right::Put => "put",
            Right::Read => "read",
            Right::Retire => "retire",
            Right::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

// === impl Rights ===

impl Rights {
    /// Whether this one is among them.
    pub fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    fn and(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    /// Of them only this one.
    fn within(self, right: Right) -> Rights {
        Rights(self.0 & right.bit())
    }

    /// Their names.
    pub fn names(self) -> Vec<String> {
        Right::ALL.into_iter().filter(|r| self.has(*r)).map(|r| r.name().to_owned()).collect()
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Rights {
        Rights(rights.into_iter().fold(0, |bits, right| bits | right.bit()))
    }
}

// === impl RuleText ===

impl RuleText {
    /// Whether the rule makes sense, and its names are known on this machine.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.compile().map(drop)
    }

    fn compile(&self) -> Result<Rule, String> {
        let named = [
            self.uid.map(Who::Uid).map(Ok),
            self.user.as_deref().map(|name| uid_of_name(name).map(Who::Uid)),
            self.gid.map(Who::Gid).map(Ok),
            self.group.as_deref().map(|name| crate::peer::group_of_name(name).map(Who::Gid)),
            self.anonymous.then_some(Ok(Who::Anonymous)),
            self.registry_user.clone().map(|name| match name.as_str() {
                EVERY_USER => Ok(Who::EveryRegistryUser),
                _ => Ok(Who::RegistryUser(name)),
            }),
        ];
        let mut named = named.into_iter().flatten();
        let (Some(who), None) = (named.next(), named.next()) else {
            let one = "a rule has exactly one of uid, user, gid, group, registry_user and \
                       anonymous = true";
            return Err(one.to_owned());
        };
        let who = who?;
        if self.may.contains(&Right::Admin) {
            match who {
                Who::Uid(_) | Who::Gid(_) => {}
                Who::Anonymous => {
                    return Err("nobody keeps the house without saying who it is".to_owned());
                }
                Who::RegistryUser(_) | Who::EveryRegistryUser => {
                    return Err("the house is kept over the socket: no user of the registry has \
                                \"admin\""
                        .to_owned());
                }
            }
        }
        if self.workspaces.is_empty() || self.may.is_empty() {
            return Err("a rule names at least one workspace and one right".to_owned());
        }
        if self.may.contains(&Right::Admin) && !self.workspaces.iter().any(|w| w.0 == "*") {
            return Err(
                "\"admin\" is for the whole house: it needs workspaces = [\"*\"]".to_owned()
            );
        }
        let may = self.may.iter().copied().collect();
        Ok(Rule { who, workspaces: self.workspaces.clone(), may })
    }
}

fn uid_of_name(name: &str) -> Result<u32, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("there is no user {name:?} on this machine")),
        Err(error) => Err(format!("the user {name:?} could not be looked up: {error}")),
    }
}

// === impl Pattern ===

impl Pattern {
    /// Whether it stands for this workspace.
    pub fn fits(&self, workspace: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = workspace.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            let Some(place) = rest.find(part) else {
                return false;
            };
            rest = &rest[place + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-*".contains(&b);
        if text.is_empty() || text.len() > 128 || !text.bytes().all(known) {
            return Err(serde::de::Error::custom(format!(
                "{text:?} is no workspace and no pattern of one"
            )));
        }
        Ok(Pattern(text))
    }
}

// === impl TagPattern ===

impl TagPattern {
    /// Whether it stands for this tag. Tags that a client makes of a digest are nobody's to choose,
    /// and cosign 2 moves them: no pattern stands for one.
    pub fn fits(&self, tag: &str) -> bool {
        let of_digest = |tag: &str| {
            let algorithm = Algorithm::ALL.into_iter().find(|a| tag.starts_with(a.name()))?;
            let rest = tag.strip_prefix(algorithm.name())?.strip_prefix('-')?;
            let hex = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
            Some(hex >= 64)
        };
        !of_digest(tag).unwrap_or(false) && self.0.fits(tag)
    }
}

impl<'de> Deserialize<'de> for TagPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TagPattern, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = |b: u8| b.is_ascii_alphanumeric() || b"._-*".contains(&b);
        if text.is_empty() || text.len() > 128 || !text.bytes().all(known) {
            let message = format!("{text:?} is no tag and no pattern of one");
            return Err(serde::de::Error::custom(message));
        }
        Ok(TagPattern(Pattern(text)))
    }
}

// === impl Policy ===

impl Policy {
    /// The policy that these rules make. Without any, root and the daemon's own user may do
    /// everything; users of the registry, and anonymous peers, where they are let in at all,
    /// everything but keep the house. `anonymous` bounds what any rule gives to the latter.
    ///
    /// # Errors
    /// What is wrong with the first bad rule.
    pub fn new<'a>(
        rules: impl IntoIterator<Item = &'a RuleText>,
        anonymous: Anonymous,
    ) -> Result<Policy, String> {
        let mut rules = rules.into_iter().map(RuleText::compile).collect::<Result<Vec<_>, _>>()?;
        if rules.is_empty() {
            let everywhere = |who, may: &[Right]| Rule {
                who,
                workspaces: vec![Pattern("*".to_owned())],
                may: may.iter().copied().collect(),
            };
            let own = Uid::effective().as_raw();
            rules = vec![
                everywhere(Who::Uid(0), &Right::ALL),
                everywhere(Who::Uid(own), &Right::ALL),
                everywhere(Who::EveryRegistryUser, &[Right::Put, Right::Read, Right::Retire]),
                everywhere(Who::Anonymous, &[Right::Put, Right::Read, Right::Retire]),
            ];
        }
        for rule in rules.iter_mut().filter(|rule| rule.who == Who::Anonymous) {
            rule.may = match anonymous {
                Anonymous::Nothing => Rights::default(),
                Anonymous::Read => rule.may.within(Right::Read),
                Anonymous::Everything => rule.may,
            };
        }
        Ok(Policy { rules })
    }

    /// What the peer may do in this workspace.
    pub fn rights(&self, peer: &Peer, workspace: &str) -> Rights {
        self.rules_of(peer)
            .filter(|rule| rule.workspaces.iter().any(|pattern| pattern.fits(workspace)))
            .fold(Rights::default(), |rights, rule| rights.and(rule.may))
    }

    /// Whether the peer keeps the house.
    pub fn is_admin(&self, peer: &Peer) -> bool {
        self.rules_of(peer).any(|rule| rule.may.has(Right::Admin))
    }

    /// The users of the registry that rules name.
    pub fn registry_users(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter_map(|rule| match &rule.who {
            Who::RegistryUser(name) => Some(&**name),
            _ => None,
        })
    }

    /// What the peer may do, by pattern.
    pub fn summary(&self, peer: &Peer) -> Vec<(String, Rights)> {
        let mut summary = BTreeMap::<String, Rights>::new();
        for rule in self.rules_of(peer) {
            for pattern in &rule.workspaces {
                let rights = summary.entry(pattern.0.clone()).or_default();
                *rights = rights.and(rule.may);
            }
        }
        summary.into_iter().collect()
    }

    fn rules_of<'a>(&'a self, peer: &'a Peer) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(|rule| match &rule.who {
            Who::Uid(uid) => peer.uid() == Some(*uid),
            Who::Gid(gid) => peer.uid().is_some() && peer.is_member(*gid),
            Who::Anonymous => peer.is_anonymous(),
            Who::RegistryUser(name) => peer.user_name().is_some_and(|user| **user == **name),
            Who::EveryRegistryUser => peer.user_name().is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Rules {
        policy: Vec<RuleText>,
    }

    fn policy(text: &str) -> Policy {
        let rules: Rules = toml::from_str(text).expect(text);
        Policy::new(&rules.policy, Anonymous::Everything).expect(text)
    }

    #[test]
    fn patterns_fit_what_they_say() {
        let cases = [
            ("*", "anything", true),
            ("ci-*", "ci-1", true),
            ("ci-*", "ci", false),
            ("ci-*", "xci-1", false),
            ("ci", "ci", true),
            ("ci", "ci-1", false),
            ("*-x", "a-x", true),
            ("*-x", "a-y", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("a*ab*b", "aab", false),
        ];
        for (pattern, workspace, fits) in cases {
            assert_eq!(Pattern(pattern.to_owned()).fits(workspace), fits, "{pattern} {workspace}");
        }
    }

    #[test]
    fn no_pattern_stands_for_a_tag_that_is_made_of_a_digest() {
        let sha256 = "a1".repeat(32);
        for (pattern, tag, fits) in [
            ("v*", "v1.2", true),
            ("V*", "v1.2", false),
            ("*", "latest", true),
            ("*", &format!("sha256-{sha256}"), false),
            ("*", &format!("sha256-{sha256}.sig"), false),
            ("sha*", &format!("sha512-{sha256}.att"), false),
            ("*", "sha256-of-something", true),
            ("*", &format!("sha1-{sha256}"), true),
        ] {
            assert_eq!(TagPattern(Pattern(pattern.to_owned())).fits(tag), fits, "{pattern} {tag}");
        }
    }

    #[test]
    fn rules_add_up_and_nobody_has_nothing() {
        let policy = policy(
            r#"
            [[policy]]
            uid = 1000
            workspaces = ["ci-*"]
            may = ["put"]
            [[policy]]
            gid = 77
            workspaces = ["ci-1", "shared"]
            may = ["read", "retire"]
            [[policy]]
            uid = 65534
            workspaces = ["*"]
            may = ["read"]
            [[policy]]
            uid = 0
            workspaces = ["*"]
            may = ["admin"]
            "#,
        );
        let names = |peer: &Peer, workspace: &str| policy.rights(peer, workspace).names().join(" ");
        let builder = Peer::new(1000, 1000, vec![77], 65534);
        assert_eq!(names(&builder, "ci-1"), "put read retire");
        assert_eq!(names(&builder, "ci-2"), "put");
        assert_eq!(names(&builder, "shared"), "read retire");
        assert_eq!(names(&builder, "other"), "");
        assert!(!policy.is_admin(&builder));

        let primary = Peer::new(1001, 77, vec![], 65534);
        assert_eq!(names(&primary, "shared"), "read retire");

        // The overflow uid is whoever has no name here: no rule is about it, not even by its groups.
        let nobody = Peer::new(65534, 77, vec![77], 65534);
        assert_eq!(names(&nobody, "shared"), "");
        let elsewhere = Peer::new(65534, 65534, vec![], 4_000_000);
        assert_eq!(names(&elsewhere, "shared"), "read");

        let root = Peer::new(0, 0, vec![], 65534);
        assert!(policy.is_admin(&root));
        assert_eq!(names(&root, "ci-1"), "admin");
        assert_eq!(names(&Peer::Anonymous, "ci-1"), "");
    }

    #[test]
    fn anonymous_peers_have_what_rules_about_them_say() {
        let policy = policy(
            r#"
            [[policy]]
            anonymous = true
            workspaces = ["public-*"]
            may = ["read"]
            [[policy]]
            uid = 4294967295
            workspaces = ["*"]
            may = ["put"]
            "#,
        );
        let names = |workspace: &str| policy.rights(&Peer::Anonymous, workspace).names();
        assert_eq!((names("public-1"), names("ci").len()), (vec!["read".to_owned()], 0));
        let somebody = Peer::new(1000, 1000, vec![], 65534);
        assert_eq!(policy.rights(&somebody, "public-1"), Rights::default());
    }

    #[test]
    fn users_of_the_registry_are_nobody_on_this_machine() {
        let policy = policy(
            r#"
            [[policy]]
            registry_user = "ada"
            workspaces = ["ada-*"]
            may = ["put", "read"]
            [[policy]]
            registry_user = "*"
            workspaces = ["shared"]
            may = ["read"]
            [[policy]]
            user = "root"
            workspaces = ["*"]
            may = ["put", "read", "retire"]
            [[policy]]
            gid = 4294967295
            workspaces = ["*"]
            may = ["retire"]
            "#,
        );
        let names = |peer: &Peer, workspace: &str| policy.rights(peer, workspace).names().join(" ");
        for (user, workspace, may) in [
            ("ada", "ada-1", "put read"),
            ("ada", "shared", "read"),
            ("ada", "other", ""),
            ("bob", "ada-1", ""),
            ("bob", "shared", "read"),
            ("Ada", "ada-1", ""),
            // One who has the name of a user of this machine is not that user.
            ("root", "other", ""),
            ("*", "shared", "read"),
        ] {
            assert_eq!(names(&Peer::user(user), workspace), may, "{user} {workspace}");
        }
        assert_eq!(names(&Peer::Anonymous, "shared"), "");
        assert_eq!(names(&Peer::new(1000, 1000, vec![], 65534), "shared"), "");
    }

    #[test]
    fn what_is_said_of_anonymous_peers_bounds_what_rules_give_them() {
        let rules: Rules = toml::from_str(
            "[[policy]]\nanonymous = true\nworkspaces = [\"a\"]\nmay = [\"put\", \"read\"]",
        )
        .expect("a rule");
        for (anonymous, ruled, unruled) in [
            (Anonymous::Nothing, "", ""),
            (Anonymous::Read, "read", "read"),
            (Anonymous::Everything, "put read", "put read retire"),
        ] {
            let none: &[RuleText] = &[];
            for (rules, may) in [(&rules.policy[..], ruled), (none, unruled)] {
                let policy = Policy::new(rules, anonymous).expect("a policy");
                let names = policy.rights(&Peer::Anonymous, "a").names();
                assert_eq!(names.join(" "), may, "{anonymous:?}");
            }
        }
    }

    #[test]
    fn without_rules_root_and_the_daemons_user_may_do_everything() {
        let policy = Policy::new([], Anonymous::Everything).expect("no rules");
        let own = Uid::effective().as_raw();
        for uid in [0, own] {
            let peer = Peer::new(uid, 5, vec![], 65534);
            assert_eq!(policy.rights(&peer, "x").names().len(), 4);
            assert!(policy.is_admin(&peer));
        }
        let other = Peer::new(own + 7, 0, vec![0], 65534);
        assert_eq!(policy.rights(&other, "x"), Rights::default());
        let anonymous = policy.rights(&Peer::Anonymous, "x");
        assert_eq!(anonymous.names(), ["put", "read", "retire"]);
        assert!(!policy.is_admin(&Peer::Anonymous));
        let user = policy.rights(&Peer::user("ada"), "x");
        assert_eq!(user.names(), ["put", "read", "retire"]);
        assert!(!policy.is_admin(&Peer::user("ada")));
        assert!(!policy.is_admin(&other));
    }

    #[test]
    fn rules_that_say_too_little_or_too_much_are_refused() {
        for text in [
            "workspaces = [\"a\"]\nmay = [\"read\"]",
            "uid = 1\nuser = \"root\"\nworkspaces = [\"a\"]\nmay = [\"read\"]",
            "uid = 1\nworkspaces = []\nmay = [\"read\"]",
            "uid = 1\nworkspaces = [\"a\"]\nmay = []",
            "uid = 1\nworkspaces = [\"a\"]\nmay = [\"admin\"]",
            "anonymous = true\nworkspaces = [\"*\"]\nmay = [\"admin\"]",
            "registry_user = \"*\"\nworkspaces = [\"*\"]\nmay = [\"admin\"]",
            "registry_user = \"a\"\nanonymous = true\nworkspaces = [\"*\"]\nmay = [\"read\"]",
            "anonymous = false\nworkspaces = [\"*\"]\nmay = [\"read\"]",
            "anonymous = true\nuid = 1\nworkspaces = [\"*\"]\nmay = [\"read\"]",
            "user = \"no-such-user-here\"\nworkspaces = [\"a\"]\nmay = [\"read\"]",
        ] {
            let rule: RuleText = toml::from_str(text).expect(text);
            assert!(rule.check().is_err(), "{text}");
        }
        assert!(toml::from_str::<RuleText>("uid=1\nworkspaces=[\"A\"]\nmay=[\"read\"]").is_err());
    }
}
