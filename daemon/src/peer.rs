//! Who is at the other end of a socket: uid, gid and all groups, as the kernel says it, or
//! somebody on this machine whom nobody asked.
//!
//! The pid is never looked at: it may belong to somebody else by the time anybody asks
//! (CVE-2020-15257 and its kin).

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Group;

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    is_nobody: bool,
    is_anonymous: bool,
}

/// No process has this uid: for the kernel it means "leave as it is".
const NO_UID: u32 = u32::MAX;

impl Peer {
    /// A peer from its numbers; `overflow` is what the kernel shows for a uid that it cannot show.
    pub fn new(uid: u32, gid: u32, groups: Vec<u32>, overflow: u32) -> Peer {
        Peer { uid, gid, groups, is_nobody: uid == overflow, is_anonymous: false }
    }

    /// Somebody who came over the network of this machine. All of them are one peer: they share
    /// rights and limits, and the number by which they are counted is nobody's uid.
    pub fn anonymous() -> Peer {
        let groups = Vec::new();
        Peer { uid: NO_UID, gid: NO_UID, groups, is_nobody: true, is_anonymous: true }
    }

    /// Whether nobody knows who it is.
    pub fn is_anonymous(&self) -> bool {
        self.is_anonymous
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

    /// The uid to grant something to; `None` for nobody.
    pub fn uid(&self) -> Option<u32> {
        (!self.is_nobody).then_some(self.uid)
    }

    /// The uid as the kernel shows it, to count and to log.
    pub fn raw_uid(&self) -> u32 {
        self.uid
    }

    /// Who it is, in words that mean the same to the next process.
    pub fn owner(&self) -> String {
        match self.is_anonymous {
            true => "anonymous".to_owned(),
            false => format!("uid {}", self.uid),
        }
    }

    /// Whether the peer is in this group.
    pub fn is_member(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
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
        let mut groups = peer.groups.clone();
        expected.sort_unstable();
        groups.sort_unstable();
        assert_eq!(groups, expected);
        assert!(peer.is_member(nix::unistd::Gid::effective().as_raw()));
    }
}
