//! Who is at the other end of a connection: uid, gid and all groups, as the kernel says it; a user of
//! the registry, who said a name and a password; or somebody whom nobody asked.
//!
//! The pid is never looked at: it may belong to somebody else by the time anybody asks
//! (CVE-2020-15257 and its kin).

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use cas::digest::Digest;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Group;

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process on this machine, at the Unix socket.
    Process(Process),
    /// A user of the registry, over TLS.
    User(Arc<str>),
    /// Somebody whom nobody asked. All of them are one peer.
    Anonymous,
}

/// A process, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    is_nobody: bool,
}

/// By what limits are counted: each has its own share of everything, and none has another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whom {
    /// A uid, as the kernel shows it.
    Uid(u32),
    /// A user of the registry, by a number made of the name: the same after a restart, and after
    /// the file of users was written anew.
    User(u64),
    /// All who are anonymous.
    Anonymous,
    /// Whoever connects from this address and has not said who it is.
    Stranger(IpAddr),
}

/// No process has this uid: for the kernel it means "leave as it is".
const NO_UID: u32 = u32::MAX;

// === impl Peer ===

impl Peer {
    /// A process from its numbers; `overflow` is what the kernel shows for a uid that it cannot
    /// show.
    pub fn new(uid: u32, gid: u32, groups: Vec<u32>, overflow: u32) -> Peer {
        Peer::Process(Process { uid, gid, groups, is_nobody: uid == overflow })
    }

    /// A user of the registry.
    pub fn user(name: &str) -> Peer {
        Peer::User(name.into())
    }

    /// Whether nobody knows who it is.
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Peer::Anonymous)
    }

    /// By what its limits are counted.
    pub fn whom(&self) -> Whom {
        match self {
            Peer::Process(process) => Whom::Uid(process.uid),
            Peer::User(name) => Whom::user(name),
            Peer::Anonymous => Whom::Anonymous,
        }
    }

    /// Asks the kernel who connected this socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(socket: &impl AsFd, overflow: u32) -> io::Result<Peer> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        let groups = groups_of(socket)?;
        Ok(Peer::new(credentials.uid(), credentials.gid(), groups, overflow))
    }

    /// The uid to grant something to; `None` for nobody, and for those who are no process.
    pub fn uid(&self) -> Option<u32> {
        match self {
            Peer::Process(process) => (!process.is_nobody).then_some(process.uid),
            Peer::User(_) | Peer::Anonymous => None,
        }
    }

    /// The uid as the kernel shows it, to say it to the peer; for those who are no process, a
    /// number that is nobody's.
    pub fn raw_uid(&self) -> u32 {
        match self {
            Peer::Process(process) => process.uid,
            Peer::User(_) | Peer::Anonymous => NO_UID,
        }
    }

    /// The name of a user of the registry.
    pub fn user_name(&self) -> Option<&Arc<str>> {
        match self {
            Peer::User(name) => Some(name),
            Peer::Process(_) | Peer::Anonymous => None,
        }
    }

    /// Who it is, in words that mean the same to the next process.
    pub fn owner(&self) -> String {
        match self {
            Peer::Process(process) => format!("uid {}", process.uid),
            Peer::User(name) => format!("user {name}"),
            Peer::Anonymous => "anonymous".to_owned(),
        }
    }

    /// Whether the peer is in this group.
    pub fn is_member(&self, gid: u32) -> bool {
        match self {
            Peer::Process(process) => process.gid == gid || process.groups.contains(&gid),
            Peer::User(_) | Peer::Anonymous => false,
        }
    }
}

// === impl Whom ===

impl Whom {
    fn user(name: &str) -> Whom {
        let mut number = [0; 8];
        for (to, from) in number.iter_mut().zip(Digest::of(name.as_bytes()).bytes()) {
            *to = *from;
        }
        Whom::User(u64::from_be_bytes(number))
    }

    /// Whoever connects from this address. What one network of IPv6 hands out to one customer
    /// counts as one.
    pub fn stranger(address: IpAddr) -> Whom {
        Whom::Stranger(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::Uid(uid) => write!(f, "uid {uid}"),
            Whom::User(number) => write!(f, "user {number:016x}"),
            Whom::Anonymous => f.write_str("anonymous"),
            Whom::Stranger(address) => write!(f, "{address}"),
        }
    }
}

/// What the kernel shows for a uid that has no number in our user namespace.
pub fn overflow_uid() -> u32 {
    #[allow(clippy::disallowed_methods, reason = "a number of the kernel, no file of the store")]
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65534)
}

/// The number of a group.
///
/// # Errors
/// A sentence for the keeper.
pub fn group_of_name(name: &str) -> Result<u32, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("there is no group {name:?} on this machine")),
        Err(error) => Err(format!("the group {name:?} could not be looked up: {error}")),
    }
}

/// `SO_PEERGROUPS`: all supplementary groups at the time of the connect. nix 0.31 has no such
/// option, and its helpers for options of its users know only values of a fixed size.
#[allow(unsafe_code, reason = "getsockopt with a length that only the kernel knows")]
fn groups_of(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    use nix::libc;
    use std::os::fd::AsRawFd;

    let mut groups = vec![0u32; 64];
    loop {
        let mut len =
            libc::socklen_t::try_from(groups.len() * size_of::<u32>()).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `len` bytes into `groups`, which has that many, and
        // `len` itself; both live until the call returns.
        let end = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let n_groups = usize::try_from(len).map_err(io::Error::other)? / size_of::<u32>();
        if end == 0 {
            groups.truncate(n_groups);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || n_groups <= groups.len() {
            return Err(error);
        }
        groups.resize(n_groups, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_we_are() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let peer = Peer::of(&ours, overflow_uid()).expect("credentials");
        assert_eq!(peer.raw_uid(), nix::unistd::Uid::effective().as_raw());
        let mut expected: Vec<u32> =
            nix::unistd::getgroups().expect("groups").iter().map(|g| g.as_raw()).collect();
        let Peer::Process(process) = &peer else { panic!("{peer:?} is no process") };
        let mut groups = process.groups.clone();
        expected.sort_unstable();
        groups.sort_unstable();
        assert_eq!(groups, expected);
        assert!(peer.is_member(nix::unistd::Gid::effective().as_raw()));
    }
    #[test]
    fn nobody_is_counted_as_somebody_else() {
        let [v4, mapped]: [IpAddr; 2] =
            ["192.0.2.1", "::ffff:192.0.2.1"].map(|text| text.parse().expect(text));
        let [near, nearer, far]: [IpAddr; 3] =
            ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"]
                .map(|text| text.parse().expect(text));
        let all = [
            Peer::new(0, 0, vec![], 65534).whom(),
            Peer::new(u32::MAX, 0, vec![], 65534).whom(),
            Peer::user("ada").whom(),
            Peer::user("Ada").whom(),
            Peer::Anonymous.whom(),
            Whom::stranger(v4),
            Whom::stranger(near),
            Whom::stranger(far),
        ];
        let different: std::collections::HashSet<Whom> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(Peer::user("ada").whom(), Peer::user("ada").whom());
        assert_eq!(Whom::stranger(v4), Whom::stranger(mapped));
        assert_eq!(Whom::stranger(near), Whom::stranger(nearer));
    }
}
