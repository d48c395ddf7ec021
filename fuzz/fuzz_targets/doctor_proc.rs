//! Texts as found under /proc and /etc: no parser panics, and ranges are never reversed.
#![no_main]

use keepgate_ports::proc;
use keepgate_ports::ranges::PortSet;

libfuzzer_sys::fuzz_target!(|text: &str| {
    for line in text.lines() {
        let _ = proc::tcp_line(line, 10);
        let _ = proc::socket_inode(line);
    }
    let _ = proc::if_inet6(text);
    let _ = proc::sockstat(text);
    let _ = proc::counters(text);
    let _ = proc::open_files_limit(text);
    let _ = proc::hosts(text, "localhost");
    let _ = proc::kernel_version(text);
    let _ = proc::file_nr(text);
    if let Some(range) = proc::port_range(text) {
        assert!(range.low <= range.high);
    }
    if let Ok(set) = text.parse::<PortSet>() {
        assert_eq!(set.to_string().parse::<PortSet>().as_ref(), Ok(&set));
    }
});
