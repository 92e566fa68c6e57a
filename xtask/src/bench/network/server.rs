//! What guests talk to: a server on the host's loopback that sends, takes, or sends back.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// Serves until this process ends.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) port: u16,
}

/// How much is sent or read at once.
const BLOCK_BYTES: usize = 1 << 20;

impl Server {
    pub(super) fn start() -> Result<Self, String> {
        let failed = |error| format!("cannot serve on the loopback: {error}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // One that fails is missed by the guest, whose measurement fails then.
                std::thread::spawn(|| talk(connection).ok());
            }
        });
        Ok(Self { port })
    }
}

/// The guest says by a letter and a number what it wants.
fn talk(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut request = [0; 5];
    connection.read_exact(&mut request)?;
    let [what, mib @ ..] = request;
    match what {
        b'd' => send(&mut connection, u32::from_be_bytes(mib)),
        b'u' => take(&mut connection),
        _ => echo(&mut connection),
    }
}

fn send(connection: &mut TcpStream, mib: u32) -> io::Result<()> {
    let block = vec![0; BLOCK_BYTES];
    for _ in 0..mib {
        connection.write_all(&block)?;
    }
    Ok(())
}

fn take(connection: &mut TcpStream) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut taken: u64 = 0;
    loop {
        let count = connection.read(&mut block)?;
        if count == 0 {
            return connection.write_all(&taken.to_be_bytes());
        }
        taken += count as u64;
    }
}

fn echo(connection: &mut TcpStream) -> io::Result<()> {
    let mut block = [0; 1024];
    loop {
        let count = connection.read(&mut block)?;
        if count == 0 {
            return Ok(());
        }
        connection.write_all(&block[..count])?;
    }
}
