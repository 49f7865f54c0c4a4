//! Brings up the loopback interface of a new network namespace with one rtnetlink(7) message: no host program is
//! needed.

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// `RTM_NEWLINK`: sets the state of an interface.
const NEW_LINK: u16 = 16;
/// `NLMSG_ERROR`: the answer; error 0 means success.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ASK_AND_ANSWER: u16 = 1 | 4;
/// `IFF_UP`.
const UP: u32 = 1;
/// Index of the loopback interface in every namespace.
const FIRST: i32 = 1;

pub(super) fn up() -> rustix::io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // struct nlmsghdr { len, type, flags, seq, pid }, struct ifinfomsg { family, pad, type, index, flags, change }.
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(NEW_LINK.to_ne_bytes());
    message.extend(ASK_AND_ANSWER.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(FIRST.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0_u8; 64];
    let (count, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // struct nlmsgerr starts with the negative error, or 0.
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    if count < 20 || kind != ERROR {
        return Err(Errno::PROTO);
    }
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(-error)),
    }
}
