//! Descriptors passed over a Unix socket (`SCM_RIGHTS`, unix(7)).

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Descriptors in one message at most (`SCM_MAX_FD`, include/net/scm.h).
pub(crate) const MOST: usize = 253;
/// Room for them, in the words that keep it aligned.
const CONTROL_WORDS: usize = (MOST * size_of::<RawFd>() + 64) / size_of::<u64>();

/// Sends bytes, and with them copies of these descriptors.
pub(crate) fn send(stream: &UnixStream, bytes: &[u8], each: &[RawFd]) -> io::Result<()> {
    if each.len() > MOST {
        return Err(io::Error::other("more descriptors than one message takes"));
    }
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let length = u32::try_from(size_of_val(each)).map_err(io::Error::other)?;
    // SAFETY: all pointers are to live memory of the lengths beside them, `control` is aligned and
    // larger than CMSG_SPACE of as many descriptors as there may be, and the kernel only reads.
    #[expect(unsafe_code, reason = "std cannot pass descriptors")]
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if !each.is_empty() {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(length) as _;
            let head = libc::CMSG_FIRSTHDR(&raw const message);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(length) as _;
            let data = libc::CMSG_DATA(head).cast::<RawFd>();
            std::ptr::copy_nonoverlapping(each.as_ptr(), data, each.len());
        }
        libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    match usize::try_from(sent) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Receives bytes into `buffer`, and descriptors, which are closed on exec. Returns how many bytes.
pub(crate) fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut each = Vec::new();
    // SAFETY: all pointers are to live memory of the lengths beside them; the control messages are
    // walked as cmsg(3) says, and every descriptor in them is new and belongs to nobody else.
    #[expect(unsafe_code, reason = "std cannot receive descriptors")]
    let (received, flags) = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let received = libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC);
        let mut head = if received < 0 {
            std::ptr::null_mut()
        } else {
            libc::CMSG_FIRSTHDR(&raw const message)
        };
        while !head.is_null() {
            if (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(head).cast::<RawFd>();
                let bytes = (*head).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                for at in 0..bytes / size_of::<RawFd>() {
                    each.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            head = libc::CMSG_NXTHDR(&raw const message, head);
        }
        (received, message.msg_flags)
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    if flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0 {
        return Err(io::Error::other("more descriptors than this process may have"));
    }
    Ok((received, each))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn descriptors_arrive_and_lead_to_the_same_files() {
        let (here, there) = UnixStream::pair().unwrap();
        for count in [0, 1, MOST] {
            let pairs: Vec<_> = (0..count).map(|_| UnixStream::pair().unwrap()).collect();
            let sent: Vec<RawFd> = pairs.iter().map(|(one, _)| one.as_raw_fd()).collect();
            send(&here, b"hello\n", &sent).unwrap();
            let mut buffer = [0; 64];
            let (read, got) = receive(&there, &mut buffer).unwrap();
            assert_eq!((&buffer[..read], got.len()), (&b"hello\n"[..], count));
            for (fd, (_, other)) in got.into_iter().zip(&pairs) {
                let mut got = UnixStream::from(fd);
                got.write_all(b"x").unwrap();
                let mut byte = [0];
                (&mut &*other).read_exact(&mut byte).unwrap();
                assert_eq!(&byte, b"x");
            }
        }
        assert!(send(&here, b"hello\n", &vec![here.as_raw_fd(); MOST + 1]).is_err());
        drop(here);
        assert_eq!(receive(&there, &mut [0; 8]).unwrap().0, 0, "the end");
    }
}
