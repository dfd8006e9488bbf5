//! What no library lends: the descriptor of a monoio stream, which does not implement [`AsFd`](std::os::fd::AsFd)
//! itself, and two things to ask of a socket.
//!
//! The one place of this crate with `unsafe`.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use monoio::net::TcpStream;
use nix::libc;

/// The descriptor of `stream`, open for as long as the borrow lasts.
pub(super) fn borrow(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: `TcpStream` owns its descriptor, closes it only when dropped, and the returned lifetime is that of
    // the borrow of `stream`. A stream never holds -1: it was made from an `OwnedFd` in `socket.rs`.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// Lets the kernel choose the size of the socket's receive buffer again, after `SO_RCVBUF` has fixed it, or fixes it at its
/// present size (`SO_BUF_LOCK`, Linux 5.14).
pub(super) fn lock_receive_buffer(socket: BorrowedFd<'_>, locked: bool) -> io::Result<()> {
    let locks: libc::c_int = if locked { SOCK_RCVBUF_LOCK } else { 0 };
    // SAFETY: the pointer and the length are those of `locks`, which the kernel only reads, and only during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BUF_LOCK,
            (&raw const locks).cast(),
            LOCKS_BYTES,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that were written to a socket and that its peer has not acknowledged (`SIOCOUTQ`).
pub(super) fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: this request stores one `int` through the pointer, which is that of `bytes`, during the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// The kernel's flag for a receive buffer of fixed size (`linux/socket.h`).
const SOCK_RCVBUF_LOCK: libc::c_int = 2;

/// The size of what `SO_BUF_LOCK` is set to.
const LOCKS_BYTES: libc::socklen_t = 4;
const _: () = assert!(size_of::<libc::c_int>() == 4);

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::fd::{AsFd, AsRawFd},
        thread,
    };

    use socket2::SockRef;

    /// The size of a receive buffer that began at 16 KiB, after 16 MiB have come.
    fn size_after_much(unlocks: bool) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        SockRef::from(&receiver).set_recv_buffer_size(16 * 1024).unwrap();
        if unlocks {
            super::lock_receive_buffer(receiver.as_fd(), false).unwrap();
        }
        let sending = thread::spawn(move || sender.write_all(&vec![0; 16 << 20]));
        receiver.read_exact(&mut vec![0; 16 << 20]).unwrap();
        sending.join().unwrap().unwrap();
        SockRef::from(&receiver).recv_buffer_size().unwrap()
    }

    #[test]
    fn a_fixed_receive_buffer_grows_once_it_is_unlocked() {
        assert_eq!(size_after_much(false), 32 * 1024);
        assert!(size_after_much(true) > 64 * 1024);
    }

    #[test]
    fn a_receive_buffer_locked_as_it_is_keeps_its_size() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        let before = SockRef::from(&receiver).recv_buffer_size().unwrap();
        super::lock_receive_buffer(receiver.as_fd(), true).unwrap();
        let sending = thread::spawn(move || sender.write_all(&vec![0; 16 << 20]));
        receiver.read_exact(&mut vec![0; 16 << 20]).unwrap();
        sending.join().unwrap().unwrap();
        assert_eq!(SockRef::from(&receiver).recv_buffer_size().unwrap(), before);
    }

    #[test]
    fn what_the_peer_has_not_taken_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        assert_eq!(super::unacknowledged_bytes(sender.as_fd()).unwrap(), 0);
        sender.set_nonblocking(true).unwrap();
        while sender.write(&[0; 64 * 1024]).is_ok() {}
        let full = super::unacknowledged_bytes(sender.as_fd()).unwrap();
        receiver.read_exact(&mut vec![0; 1 << 20]).unwrap();
        assert!(super::unacknowledged_bytes(sender.as_fd()).unwrap() < full);
    }

    #[test]
    fn borrowed_descriptor_is_the_stream_s_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().build().unwrap().block_on(async move {
            let std_stream = TcpStream::connect(address).unwrap();
            std_stream.set_nonblocking(true).unwrap();
            let stream = monoio::net::TcpStream::from_std(std_stream).unwrap();
            assert_eq!(super::borrow(&stream).as_raw_fd(), stream.as_raw_fd());
        });
    }
}
