//! A network server's read loop: requests of any size pass through pooled buffers of one size, which every connection can reuse.
//!
//! The pool bounds what all connections hold together: when it is at its limit, reading waits, and the network's own flow control slows
//! the clients down. Runs on the loopback device, checks every answer, and ends by itself:
//!
//! ```text
//! cargo run -p ckload-pool --example read_loop
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use ckload_pool::BufferPool;

const CLIENTS: u8 = 4;
const REQUESTS: usize = 50;
const LARGEST: usize = 3 << 20;
const BUFFER: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// Fewer buffers than connections.
const MAX_BYTES: usize = 3 * BUFFER;

/// A request is its length, four bytes, and a body; the answer is the sum of the body's bytes.
fn serve(mut connection: TcpStream, pool: &BufferPool) -> io::Result<()> {
    // A client that falls silent in the middle of a request must not keep a buffer for ever.
    connection.set_read_timeout(Some(PATIENCE))?;
    loop {
        let mut len = [0; 4];
        match connection.read_exact(&mut len) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let len = u32::from_le_bytes(len) as usize;
        if len > LARGEST {
            return Err(io::Error::other(format!(
                "a request of {len} bytes, more than the {LARGEST} allowed"
            )));
        }
        let (mut sum, mut missing) = (0, len);
        while missing > 0 {
            let mut buffer = pool.get(BUFFER);
            let piece = &mut buffer[..missing.min(BUFFER)];
            connection.read_exact(piece)?;
            sum += piece.iter().map(|&byte| u64::from(byte)).sum::<u64>();
            missing -= piece.len();
        }
        connection.write_all(&sum.to_le_bytes())?;
    }
}

fn ask(port: u16, client: u8) -> io::Result<()> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    for request in 0..REQUESTS {
        let len = (request * 977_777 + usize::from(client)) % LARGEST;
        connection.write_all(&(len as u32).to_le_bytes())?;
        connection.write_all(&vec![client; len])?;
        let mut sum = [0; 8];
        connection.read_exact(&mut sum)?;
        assert_eq!(u64::from_le_bytes(sum), len as u64 * u64::from(client));
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let pool = BufferPool::builder()
        .min_buffer_size(4 << 10)
        .max_bytes(MAX_BYTES)
        .build();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::scope(|scope| {
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|client| scope.spawn(move || ask(port, client)))
            .collect();
        for connection in listener.incoming().take(CLIENTS.into()) {
            let connection = connection?;
            scope.spawn(|| {
                if let Err(error) = serve(connection, &pool) {
                    eprintln!("a connection failed: {error}");
                }
            });
        }
        clients
            .into_iter()
            .try_for_each(|client| client.join().expect("an answer was wrong"))
    })?;

    let stats = pool.stats();
    println!(
        "{} reads through {} buffers\n{stats}",
        stats.gets, stats.fresh
    );
    assert!(stats.fresh <= 3 && stats.gets > 100);
    Ok(())
}
