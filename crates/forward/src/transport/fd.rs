//! A borrowed descriptor of a monoio stream, which does not implement [`AsFd`](std::os::fd::AsFd) itself.
//!
//! The one place of this crate with `unsafe`.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use monoio::net::TcpStream;

/// The descriptor of `stream`, open for as long as the borrow lasts.
pub(super) fn borrow(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: `TcpStream` owns its descriptor, closes it only when dropped, and the returned lifetime is that of
    // the borrow of `stream`. A stream never holds -1: it was made from an `OwnedFd` in `socket.rs`.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    #[test]
    fn borrowed_descriptor_is_the_stream_s_own() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().build().unwrap().block_on(async move {
            let std_stream = std::net::TcpStream::connect(address).unwrap();
            std_stream.set_nonblocking(true).unwrap();
            let stream = monoio::net::TcpStream::from_std(std_stream).unwrap();
            assert_eq!(super::borrow(&stream).as_raw_fd(), stream.as_raw_fd());
        });
    }
}
