//! What it costs to read along an HTTP/2 connection (`wire::h2`), a request: nanoseconds of one
//! thread, for a first request in literals and for the ones after it, out of the table.
//!
//! `h2_bench [--requests N]`; alone on a core. Beside it: moving the same bytes without a look.

use std::time::Instant;

use bytes::BytesMut;
use keepgate_gate::wire::h2::Watch;

type Fault = Box<dyn std::error::Error + Send + Sync>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const ROUNDS: usize = 7;

fn main() -> Result<(), Fault> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let asked = args.iter().position(|arg| arg == "--requests").and_then(|i| args.get(i + 1));
    let requests: usize = asked.map_or(Ok(200_000), |text| text.parse())?;
    println!("| a request's head | bytes | ns, read along | ns, moved | ns, the look |");
    println!("|---|---|---|---|---|");
    let headers = [
        (":authority", "shop.example"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("cookie", "session=0123456789abcdef0123456789abcdef0123456789abcdef"),
    ];
    let mut literal = vec![0x82, 0x86];
    field(&mut literal, 0x40, ":path", "/api/orders/4711?expand=lines");
    let mut first = literal.clone();
    let mut again = vec![0x82, 0x86];
    field(&mut again, 0x40, ":path", "/api/orders/4711?expand=lines");
    for (name, value) in headers {
        field(&mut literal, 0, name, value);
        field(&mut first, 0x40, name, value);
    }
    // The newest six but the path, which was put in after them.
    again.extend((63..=68).map(|index: u8| 0x80 | index));
    row("in literals", &literal, &literal, requests);
    row("out of the table", &first, &again, requests);
    Ok(())
}

/// A literal field with a literal name; `bits` says whether it goes into the table.
fn field(block: &mut Vec<u8>, bits: u8, name: &str, value: &str) {
    block.push(bits);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).unwrap_or(126).min(126));
        block.extend(text.bytes().take(126));
    }
}

fn frame(block: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(block.len()).unwrap_or(0).to_be_bytes();
    let mut frame = vec![a, b, c, 1, 5, 0, 0, 0, 1];
    frame.extend(block);
    frame
}

fn row(what: &str, first: &[u8], again: &[u8], requests: usize) {
    let (first, again) = (frame(first), frame(again));
    let looked = median(|| {
        let (mut watch, mut from, mut to) = (Watch::default(), BytesMut::new(), BytesMut::new());
        from.extend_from_slice(PREFACE);
        from.extend_from_slice(&first);
        watch.pass(&mut from, &mut to);
        timed(&again, requests, |from, to| watch.pass(from, to))
    });
    let moved = median(|| timed(&again, requests, |from, to| to.unsplit(from.split())));
    println!("| {what} | {} | {looked:.0} | {moved:.0} | {:.0} |", again.len(), looked - moved);
}

fn timed(bytes: &[u8], requests: usize, mut pass: impl FnMut(&mut BytesMut, &mut BytesMut)) -> f64 {
    let (mut from, mut to) = (BytesMut::new(), BytesMut::new());
    let begun = Instant::now();
    for _ in 0..requests {
        from.extend_from_slice(bytes);
        pass(&mut from, &mut to);
        assert_eq!(to.len(), bytes.len(), "all is passed on");
        to.clear();
    }
    begun.elapsed().as_secs_f64() * 1e9 / requests as f64
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut all: Vec<f64> = (0..ROUNDS).map(|_| run()).collect();
    all.sort_by(f64::total_cmp);
    all.get(ROUNDS / 2).copied().unwrap_or_default()
}
