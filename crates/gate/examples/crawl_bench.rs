//! What users wait while a crawler asks fifty times its limit: a hundred users on a gate, with and
//! without the crawler in turn, in one run.
//!
//! `crawl_bench [--seconds N] [--rounds N]`; needs nginx, the upstream. The gate, the crawler and
//! the users are processes of their own.

mod bench;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bench::{Fault, Running, Scratch, cpu_s, free_port, median, nginx, wait_for};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const RATE: u32 = 100;
/// All come from one address here, which is to be no limit.
const LIMITS: &[(&str, &str)] = &[("address", "10000000/s"), ("principal", "100/s")];
const TIMES: u32 = 50;
const USERS: u32 = 100;
/// Each user asks ten times a second, the crawler's connections a hundred times each.
const USER_PAUSE: Duration = Duration::from_millis(100);
const CRAWLER_LINES: u32 = 50;
/// At the beginning of each phase nothing is counted for that long.
const SETTLE: Duration = Duration::from_millis(500);
/// No phase: nothing is counted.
const NONE: u32 = u32::MAX;

fn main() -> Result<(), Fault> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value =
        |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1)).cloned();
    if let (Some(listen), Some(upstream)) = (value("--serve"), value("--upstream")) {
        return bench::Serving::plain(listen.parse()?, upstream).run(LIMITS);
    }
    let seconds: u32 = value("--seconds").map_or(Ok(5), |text| text.parse())?;
    let rounds: u32 = value("--rounds").map_or(Ok(7), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match value("--crawl") {
        Some(gate) => crawl(gate.parse()?, Duration::from_secs(seconds.into())),
        None => runtime.block_on(compare(seconds, rounds)),
    }
}

/// One kept connection, one request at a time.
struct Line {
    stream: TcpStream,
    request: String,
    answer: Vec<u8>,
}

impl Line {
    #[expect(clippy::disallowed_methods, reason = "the benchmark is the caller")]
    async fn to(gate: SocketAddr, user: &str) -> Result<Line, Fault> {
        let stream = TcpStream::connect(gate).await?;
        stream.set_nodelay(true)?;
        let request = format!("GET /orders/7 HTTP/1.1\r\nHost: a\r\nx-user: {user}\r\n\r\n");
        Ok(Line { stream, request, answer: Vec::new() })
    }

    /// The status, when all of the answer is here.
    async fn ask(&mut self) -> Result<u16, Fault> {
        self.stream.write_all(self.request.as_bytes()).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err("the gate closed the connection".into());
            }
            let text = String::from_utf8_lossy(&self.answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            // nginx and the gate write names each in their own way.
            let length = length
                .or_else(|| head.lines().find_map(|line| line.strip_prefix("Content-Length: ")));
            if body.len() >= length.ok_or("no length")?.parse()? {
                let status = head.get(9..12).ok_or("no status")?;
                return Ok(status.parse()?);
            }
        }
    }
}

/// The crawler: fifty times its limit, evenly. Prints `asked admitted seconds`.
///
/// Threads, since their sleeps end within some 50 us; the runtime's timers would send five requests in
/// one burst each millisecond.
fn crawl(gate: SocketAddr, time: Duration) -> Result<(), Fault> {
    let begun = Instant::now();
    let pause = Duration::from_secs(1) * CRAWLER_LINES / (RATE * TIMES);
    let line = |number: u32| -> Result<(u32, u32), Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut line = runtime.block_on(Line::to(gate, "user9999"))?;
        let (mut asked, mut admitted) = (0_u32, 0_u32);
        let mut due = begun + pause * number / CRAWLER_LINES;
        while begun.elapsed() < time {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += pause;
            asked += 1;
            match runtime.block_on(line.ask())? {
                200 => admitted += 1,
                429 => {}
                status => return Err(format!("the crawler was answered {status}").into()),
            }
        }
        Ok((asked, admitted))
    };
    let counts = std::thread::scope(|scope| {
        let ask = |number| scope.spawn(move || line(number).map_err(|error| error.to_string()));
        let lines: Vec<_> = (0..CRAWLER_LINES).map(ask).collect();
        let join = |line: std::thread::ScopedJoinHandle<'_, _>| {
            line.join().unwrap_or_else(|_| Err("a thread of the crawler died".to_owned()))
        };
        lines.into_iter().map(join).collect::<Result<Vec<(u32, u32)>, String>>()
    })?;
    let asked: u32 = counts.iter().map(|count| count.0).sum();
    let admitted: u32 = counts.iter().map(|count| count.1).sum();
    println!("{asked} {admitted} {}", begun.elapsed().as_secs_f64());
    Ok(())
}

/// What one user waited: the phase, and the time in microseconds.
type Waits = Vec<(u32, f64)>;

async fn user(gate: SocketAddr, number: u32, phase: Arc<AtomicU32>) -> Result<Waits, Fault> {
    let mut line = Line::to(gate, &format!("user{number}")).await?;
    let mut waits = Waits::new();
    let mut due = Instant::now() + USER_PAUSE * number / USERS;
    loop {
        tokio::time::sleep_until(due.into()).await;
        due += USER_PAUSE;
        let (at, sent) = (phase.load(Ordering::Relaxed), Instant::now());
        if at == END {
            return Ok(waits);
        }
        let status = line.ask().await?;
        if status != 200 {
            return Err(format!("user {number} was answered {status}").into());
        }
        if at != NONE {
            waits.push((at, sent.elapsed().as_secs_f64() * 1e6));
        }
    }
}

/// The last phase: users leave.
const END: u32 = NONE - 1;

async fn compare(seconds: u32, rounds: u32) -> Result<(), Fault> {
    let scratch = Scratch::new("crawl-bench")?;
    let (upstream, gate) = (free_port()?, free_port()?);
    let body = "x".repeat(1024);
    let config = format!("server {{ listen {upstream}; location / {{ return 200 '{body}'; }} }}");
    let _upstream = nginx(&scratch.0, "upstream", &config)?;
    let program = std::env::current_exe()?;
    let child = Command::new(&program)
        .args(["--serve", &format!("127.0.0.1:{gate}")])
        .args(["--upstream", &format!("http://127.0.0.1:{upstream}")])
        .spawn()?;
    let child = Running(child);
    wait_for(gate)?;
    let gate = SocketAddr::from(([127, 0, 0, 1], gate));

    let phase = Arc::new(AtomicU32::new(NONE));
    let local = tokio::task::LocalSet::new();
    let users: Vec<_> =
        (0..USERS).map(|n| local.spawn_local(user(gate, n, Arc::clone(&phase)))).collect();
    let crawls = local
        .run_until(async {
            let mut crawls = Vec::new();
            for number in 0..2 * rounds {
                // Every second phase has the crawler; each is counted once it has settled.
                let crawler = (number % 2 == 1).then(|| crawler(&program, gate, seconds));
                let crawler = crawler.transpose()?;
                let cpu = cpu_s(child.0.id());
                tokio::time::sleep(SETTLE).await;
                phase.store(number, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(seconds.into()) - SETTLE).await;
                phase.store(NONE, Ordering::Relaxed);
                let cpu = cpu_s(child.0.id()) - cpu;
                let crawled = match crawler {
                    Some(mut crawler) => {
                        let out = crawler.0.stdout.take().ok_or("no output")?;
                        let line = tokio::task::spawn_blocking(|| std::io::read_to_string(out));
                        Some(line.await??)
                    }
                    None => None,
                };
                crawls.push((cpu / f64::from(seconds), crawled));
            }
            phase.store(END, Ordering::Relaxed);
            Ok::<_, Fault>(crawls)
        })
        .await?;
    let mut waits = Waits::new();
    local
        .run_until(async {
            for user in users {
                waits.extend(user.await??);
            }
            Ok::<_, Fault>(())
        })
        .await?;
    report(&waits, &crawls, seconds, rounds)
}

fn crawler(program: &std::path::Path, gate: SocketAddr, seconds: u32) -> Result<Running, Fault> {
    // A crawler has a machine of its own: here it takes what the others leave of the processors, and
    // says how much it asked.
    let child = Command::new("chrt")
        .args(["--idle", "0"])
        .arg(program)
        .args(["--crawl", &gate.to_string(), "--seconds", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    Ok(Running(child))
}

/// The value that this share of the phase's waits is at most.
fn quantile(waits: &Waits, phase: u32, share: f64) -> f64 {
    let mut of_it: Vec<f64> = waits.iter().filter(|wait| wait.0 == phase).map(|w| w.1).collect();
    of_it.sort_by(f64::total_cmp);
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "an index")]
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let index = ((of_it.len() as f64 * share).ceil() as usize).saturating_sub(1);
    of_it.get(index).copied().unwrap_or(f64::NAN)
}

fn report(
    waits: &Waits,
    crawls: &[(f64, Option<String>)],
    seconds: u32,
    rounds: u32,
) -> Result<(), Fault> {
    let phases = |with: u32| (0..rounds).map(move |round| 2 * round + with);
    let of = |with: u32, share: f64| -> f64 {
        median(&phases(with).map(|phase| quantile(waits, phase, share)).collect::<Vec<_>>())
    };
    let cpu = |with: usize| {
        median(&crawls.iter().skip(with).step_by(2).map(|c| c.0 * 100.0).collect::<Vec<_>>())
    };
    println!(
        "{USERS} users, {} requests, all answered 200; {rounds} phases each of {seconds} s, medians\n",
        waits.len()
    );
    println!("| users wait | p50 us | p99 us | gate, % of a core |\n|---|---|---|---|");
    println!("| alone | {:.0} | {:.0} | {:.0} |", of(0, 0.5), of(0, 0.99), cpu(0));
    println!("| beside the crawler | {:.0} | {:.0} | {:.0} |", of(1, 0.5), of(1, 0.99), cpu(1));
    println!("| ratio | {:.2} | {:.2} | |\n", of(1, 0.5) / of(0, 0.5), of(1, 0.99) / of(0, 0.99));
    println!("| crawl | asked | times its limit | admitted | exact: burst + rate x time |");
    println!("|---|---|---|---|---|");
    for (number, line) in crawls.iter().filter_map(|crawl| crawl.1.as_deref()).enumerate() {
        let mut words = line.split_whitespace().map(str::parse::<f64>);
        let (Some(asked), Some(admitted), Some(time)) = (words.next(), words.next(), words.next())
        else {
            return Err("the crawler said nothing".into());
        };
        let (asked, admitted, time) = (asked?, admitted?, time?);
        let rate = f64::from(RATE);
        println!(
            "| {} | {asked:.0} | {:.1} | {admitted:.0} | {:.1} |",
            number + 1,
            asked / time / rate,
            rate + rate * time
        );
    }
    Ok(())
}
