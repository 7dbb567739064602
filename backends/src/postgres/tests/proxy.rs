//! A server in between that cuts connections at the worst moment.

use std::{
    io::{Read, Write},
    mem,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// What happens to the connection that sends the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It goes on to the server, and the client is cut off before it hears the answer.
    CutAfter,
    /// The server never sees it: both sides are cut off.
    CutBefore,
    /// The client is cut off, and the server sees it only some time later.
    Delay(Duration),
    /// It goes on to the server, and nothing comes back, though nobody is cut off.
    SilenceAfter,
    /// The server never sees it, and nothing comes back, though nobody is cut off.
    SilenceBefore,
}

/// Forwards connections to a server.
pub(super) struct Proxy {
    state: Arc<Mutex<State>>,
    pub(super) port: u16,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    /// Whether the fault closes the door, so that no new connection is made.
    closes: bool,
    closed: bool,
    /// Whether behind the closed door somebody listens without a word.
    is_silent: bool,
    /// Whether LISTEN is made a statement no server knows.
    hides_listen: bool,
    faults: usize,
}

impl Proxy {
    pub(super) fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (closed, is_silent) = {
                    let state = shared.lock().unwrap();
                    (state.closed, state.is_silent)
                };
                if closed {
                    if is_silent {
                        // Open for as long as the test runs.
                        mem::forget(client);
                    }
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)) else { continue };
                let (from_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let muted = Arc::<AtomicBool>::default();
                let mutes = Arc::clone(&muted);
                thread::spawn(move || copy_until_end(from_server, to_client, &muted));
                let state = Arc::clone(&shared);
                thread::spawn(move || copy_until_commit(client, server, &state, &mutes));
            }
        });
        Self { state, port }
    }

    /// Arms the fault for the next COMMIT; if `closes`, no connection is let through after it until `open`.
    pub(super) fn arm(&self, fault: Fault, closes: bool) {
        let mut state = self.state.lock().unwrap();
        (state.fault, state.closes) = (Some(fault), closes);
    }

    /// Makes the server one without LISTEN, for connections and statements from now on.
    pub(super) fn hide_listen(&self) {
        self.state.lock().unwrap().hides_listen = true;
    }

    pub(super) fn open(&self) {
        self.state.lock().unwrap().closed = false;
    }

    pub(super) fn faults(&self) -> usize {
        self.state.lock().unwrap().faults
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn copy_until_end(mut from: TcpStream, mut to: TcpStream, muted: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    // Either side may be cut off.
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if !muted.load(Ordering::Relaxed) && to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn copy_until_commit(mut client: TcpStream, mut server: TcpStream, state: &Mutex<State>, mutes: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(len) = client.read(&mut buffer) {
        if len == 0 {
            break;
        }
        let bytes = &mut buffer[..len];
        let fault = {
            let mut state = state.lock().unwrap();
            if state.hides_listen
                && let Some(at) = bytes.windows(7).position(|window| window == b"LISTEN ")
            {
                bytes[at..at + 6].copy_from_slice(b"HEARKN");
            }
            // A commit in one statement is known by the channel it notifies.
            let is_commit = has(bytes, b"COMMIT\0") || (has(bytes, b"ravel:") && !has(bytes, b"LISTEN "));
            let fault = if is_commit { state.fault.take() } else { None };
            if fault.is_some() {
                state.closed = state.closes;
                state.is_silent = matches!(fault, Some(Fault::SilenceAfter | Fault::SilenceBefore));
                state.faults += 1;
            }
            fault
        };
        match fault {
            None => {
                if server.write_all(bytes).is_err() {
                    break;
                }
            }
            Some(Fault::SilenceAfter | Fault::SilenceBefore) => {
                mutes.store(true, Ordering::Relaxed);
                if fault == Some(Fault::SilenceAfter) {
                    let _ = server.write_all(bytes);
                }
                // Until the client gives up.
                while let Ok(1..) = client.read(&mut buffer) {}
                break;
            }
            Some(fault) => {
                let _ = client.shutdown(Shutdown::Both);
                match fault {
                    Fault::CutBefore => break,
                    Fault::Delay(delay) => thread::sleep(delay),
                    Fault::CutAfter | Fault::SilenceAfter | Fault::SilenceBefore => {}
                }
                let _ = server.write_all(bytes);
                // The server answers into the void, then hears the end.
                thread::sleep(Duration::from_millis(50));
                break;
            }
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}
