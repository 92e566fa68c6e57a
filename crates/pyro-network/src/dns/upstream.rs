//! One query to one name server of the host, over a socket of its own: whoever wants to forge the answer must
//! guess its port, too.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::Registry;
use mio::net::{TcpStream, UdpSocket};

use crate::sources::SourceId;

const LENGTH_BYTES: usize = 2;

/// How the guest asked, and so how it is passed on: only over TCP do long answers fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug)]
pub(crate) enum Upstream {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, unsent: Vec<u8>, arrived: Vec<u8> },
}

impl Upstream {
    pub(crate) fn ask(
        (transport, server): (Transport, SocketAddr),
        query: &[u8],
        (id, registry): (SourceId, &Registry),
    ) -> io::Result<Self> {
        match transport {
            Transport::Udp => {
                let any = match server {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let mut socket = UdpSocket::bind(any)?;
                socket.connect(server)?;
                id.register(&mut socket, registry)?;
                socket.send(query)?;
                Ok(Self::Udp(socket))
            }
            Transport::Tcp => {
                let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
                let mut stream = TcpStream::connect(server)?;
                id.register(&mut stream, registry)?;
                let unsent = [&length.to_be_bytes(), query].concat();
                Ok(Self::Tcp { stream, unsent, arrived: Vec::new() })
            }
        }
    }

    /// The next message, if one is there. `buffer` holds any datagram.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Udp(socket) => {
                Ok(if_ready(socket.recv(buffer))?.map(|length| buffer[..length].to_vec()))
            }
            Self::Tcp { stream, unsent, arrived } => {
                while !unsent.is_empty() {
                    match stream.write(unsent) {
                        // Not connected yet is told in this way, too.
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                            return Ok(None);
                        }
                        written => match if_ready(written)? {
                            Some(written) => drop(unsent.drain(..written)),
                            None => return Ok(None),
                        },
                    }
                }
                loop {
                    if let Some((length, message)) = arrived.split_first_chunk::<LENGTH_BYTES>()
                        && let Some(message) =
                            message.get(..usize::from(u16::from_be_bytes(*length)))
                    {
                        return Ok(Some(message.to_vec()));
                    }
                    match if_ready(stream.read(buffer))? {
                        Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Some(length) => arrived.extend_from_slice(&buffer[..length]),
                        None => return Ok(None),
                    }
                }
            }
        }
    }
}

fn if_ready<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}
