//! A TCP proxy that can be cut.

use std::{
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// An address that stays the same, whatever is behind it: a server that is started again at another port, or nothing.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    target: Option<SocketAddr>,
    cut: bool,
    /// Both ends of each connection.
    open: Vec<TcpStream>,
}

impl Link {
    /// Takes a free port. Connections are closed at once as long as there is no target.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let link = Self { address: listener.local_addr().unwrap(), inner: Arc::default() };
        let inner = Arc::clone(&link.inner);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let _ = connect(near, &inner);
            }
        });
        link
    }

    /// Leads to another address from now on.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.inner.lock().unwrap().target = Some(target);
    }

    /// Closes all connections, and new ones at once.
    pub(crate) fn cut(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.cut = true;
        for stream in inner.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn heal(&self) {
        self.inner.lock().unwrap().cut = false;
    }
}

fn connect(near: TcpStream, inner: &Mutex<Inner>) -> std::io::Result<()> {
    let mut inner = inner.lock().unwrap();
    let Some(target) = inner.target.filter(|_| !inner.cut) else { return Ok(()) };
    let far = TcpStream::connect(target)?;
    inner.open.extend([near.try_clone()?, far.try_clone()?]);
    for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
