//! Netlink datagrams: whatever the bytes, parsing ends, and what comes out can be put in a table.
#![no_main]

use keepgate_ports::diag::{self, Message};
use keepgate_ports::table::SocketTable;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut table = SocketTable::default();
    let mut count = 0;
    for message in diag::messages(bytes) {
        count += 1;
        if let Message::Socket(socket) = message {
            table.add(&socket);
        }
    }
    assert!(count <= bytes.len() / 16, "each message has a header");
    assert!(table.total() <= count as u64);
    let _ = diag::route_source(bytes);
});
