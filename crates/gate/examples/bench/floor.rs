//! What no proxy on this runtime can be cheaper than: an echo of two reads and two writes a request.
//!
//! Each worker has a thread, a listener, and a current-thread runtime, as the gate's do. Each caller's
//! connection has one of its own to the upstream. Bytes pass unread: one read of the caller is one
//! request, and one read of the upstream its answer, as the load generator and nginx send them.

use std::net::SocketAddr;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Fault, WORKERS};

/// Serves until the process ends.
pub(crate) fn serve(listen: SocketAddr, upstream: SocketAddr) -> Result<(), Fault> {
    let mut threads = Vec::new();
    for _ in 0..WORKERS {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(listen))?;
        socket.listen(1024)?;
        let listener: std::net::TcpListener = socket.into();
        threads.push(std::thread::spawn(move || worker(listener, upstream)));
    }
    for thread in threads {
        thread.join().map_err(|_| "a worker of the floor has panicked")??;
    }
    Ok(())
}

fn worker(listener: std::net::TcpListener, upstream: SocketAddr) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (caller, _) = listener.accept().await?;
            tokio::spawn(async move {
                // How a connection ends is its peers' business.
                let _ = echo(caller, upstream).await;
            });
        }
    })
}

async fn echo(mut caller: TcpStream, upstream: SocketAddr) -> std::io::Result<()> {
    caller.set_nodelay(true)?;
    #[expect(clippy::disallowed_methods, reason = "it is no part of the product")]
    let mut upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let n = caller.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        upstream.write_all(buffer.get(..n).unwrap_or_default()).await?;
        let n = upstream.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        caller.write_all(buffer.get(..n).unwrap_or_default()).await?;
    }
}
