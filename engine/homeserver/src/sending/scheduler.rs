//! The task that has the queues of all servers.

mod counting;
mod writing;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use ravel_core::id::ServerName;
use ravel_store::log::LogError;
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinError, JoinSet},
};

pub(super) use self::counting::EDUS_DROPPED;
use self::{
    counting::{PDUS_REFUSED, count, describe_metrics},
    writing::{Forgetting, WRITE_EVERY_MS},
};
use super::{
    Edu, EduToSend,
    queue::{Ending, Outgoing, Queue, Round, Step},
    told::{Told, kept_edus},
};
use crate::{
    clock::Clock,
    federation::{FederationClient, Pauses},
    homeserver::{Homeserver, Parts},
    random::{Random, random_text},
    rooms::{RoomsError, ToSend},
};

/// What comes to the task.
pub(super) struct Inputs {
    pub(super) to_send: mpsc::Receiver<ToSend>,
    pub(super) edus: mpsc::Receiver<EduToSend>,
    /// Servers that had been given up and are there again.
    pub(super) revived: mpsc::UnboundedReceiver<ServerName>,
    pub(super) stop: watch::Receiver<bool>,
}

/// The queues, and what is done for them.
pub(super) struct Scheduler {
    /// Weak, so that a server that is dropped without being stopped goes away.
    parts: Weak<Parts>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    client: FederationClient,
    positions: watch::Receiver<u64>,
    pauses: Pauses,
    inputs: Inputs,
    destinations: HashMap<ServerName, Destination>,
    /// Whose turn it is, of those that answered last time and of the others.
    ready: [VecDeque<ServerName>; 2],
    running: [usize; 2],
    /// When those that wait are to be tried again.
    due: BTreeSet<(i64, ServerName)>,
    steps: JoinSet<Done>,
    /// For whom each of them is.
    runs_for: HashMap<Id, (ServerName, usize)>,
    /// The place in the log before which everything that came through the outbox is in the queues.
    horizon: u64,
    written: Told,
    /// The keys of facts that keep EDUs which are delivered or dropped.
    gone: Vec<Bytes>,
    is_writing: bool,
    /// Whether something was sent since.
    has_sent: bool,
    write_at_ms: i64,
    forgetting: Option<Forgetting>,
}

/// A server that something is to be done for.
struct Destination {
    queue: Queue,
    state: State,
    /// Whether it is one that may not answer, for all that is known.
    is_doubtful: bool,
    tried_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is not looked at, until something is pushed.
    Idle,
    Ready,
    Running,
    WaitingUntil(i64),
}

/// What came of a step.
enum Done {
    Sent(Ending),
    Found(Result<(Round, Vec<Outgoing>), RoomsError>),
    Written(Told, Result<(), LogError>),
}

/// How many servers something is done for at the same time: of those that answered last time, and of the others. So servers that
/// do not answer, each of which may take a minute, do not delay those that do.
const RUNNING_MAX: [usize; 2] = [256, 64];

/// A server that has failed is not tried sooner than this, whatever signs of life there are.
const TRIED_AGAIN_MS: i64 = 1_000;

/// How long transactions are waited for when the server stops.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// How much is taken from the outbox before something else gets its turn.
const TAKEN_MAX: usize = 1_000;

impl Scheduler {
    pub(super) fn new(server: &Homeserver, inputs: Inputs) -> Self {
        Self {
            parts: server.downgrade(),
            clock: server.clock.clone(),
            random: server.random.clone(),
            client: server.client.clone(),
            positions: server.rooms.positions(),
            pauses: server.client.pauses(),
            inputs,
            destinations: HashMap::new(),
            ready: [VecDeque::new(), VecDeque::new()],
            running: [0; 2],
            due: BTreeSet::new(),
            steps: JoinSet::new(),
            runs_for: HashMap::new(),
            horizon: 0,
            written: Told::default(),
            gone: Vec::new(),
            is_writing: false,
            has_sent: false,
            write_at_ms: i64::MAX,
            forgetting: None,
        }
    }

    /// Runs until the server stops or is dropped.
    pub(super) async fn run(mut self, opened_at: u64) {
        describe_metrics();
        if let Err(error) = self.find_unsent(opened_at).await {
            // Nothing is written then, so it is found at the next start.
            tracing::error!(error = &error as &dyn std::error::Error, "what was not sent before can't be found out");
            return self.drain().await;
        }
        self.write_at_ms = self.clock.now_ms().saturating_add(WRITE_EVERY_MS);
        loop {
            self.start_steps();
            let timer = self.timer();
            tokio::select! {
                first = self.inputs.to_send.recv() => match first {
                    Some(first) => self.take(first),
                    None => return,
                },
                Some((destinations, edu)) = self.inputs.edus.recv() => self.take_edu(destinations, &edu),
                Some(server) = self.inputs.revived.recv() => self.revive(&server),
                Some(done) = self.steps.join_next_with_id() => self.done(done),
                () = timer => self.on_time(),
                _ = self.inputs.stop.changed() => break,
            }
        }
        self.stop().await;
    }

    /// Finds what was to be sent before the server was opened.
    async fn find_unsent(&mut self, opened_at: u64) -> Result<(), LogError> {
        let Some(server) = self.server() else { return Ok(()) };
        self.written = Told::read(&server.log).await?;
        self.horizon = self.written.all;
        for (destination, told) in self.written.behind.clone() {
            if !self.client.allows(&destination) {
                continue;
            }
            let queue = Queue::behind(told);
            let of_last_time = Destination { queue, state: State::Idle, is_doubtful: true, tried_ms: 0 };
            self.destinations.insert(destination.clone(), of_last_time);
            self.make_ready(&destination);
        }
        for (room_id, _) in server.log.rooms() {
            match server.rooms.to_send_of(&room_id, self.written.all, opened_at).await {
                Ok(events) => events.into_iter().for_each(|event| self.push(event)),
                // Others are not to suffer from it.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(%room_id, error, "what was not sent before of a room can't be found out");
                }
            }
        }
        self.horizon = opened_at;
        for (destination, edu) in kept_edus(&server.log).await? {
            self.take_edu([destination].into(), &edu);
        }
        Ok(())
    }

    /// Takes what comes out of the outbox and does nothing with it.
    async fn drain(mut self) {
        tokio::select! {
            _ = self.inputs.stop.changed() => {}
            () = async { while self.inputs.to_send.recv().await.is_some() {} } => {}
        }
    }

    fn server(&self) -> Option<Homeserver> {
        Homeserver::upgrade(&self.parts)
    }

    /// Takes what is in the outbox. Events before the place that is known now are among it, if it is emptied.
    fn take(&mut self, first: ToSend) {
        let known = *self.positions.borrow();
        self.push(first);
        for _ in 0..TAKEN_MAX {
            match self.inputs.to_send.try_recv() {
                Ok(event) => self.push(event),
                Err(_) => {
                    self.horizon = self.horizon.max(known);
                    return;
                }
            }
        }
    }

    fn push(&mut self, event: ToSend) {
        let ToSend { room_id, event_id, within, destinations } = event;
        let event = Arc::new(Outgoing { room_id, event_id, within });
        for name in destinations {
            let horizon = self.horizon;
            if let Some(destination) = self.destination(&name) {
                destination.queue.push(&event, horizon);
                self.make_ready(&name);
            }
        }
    }

    fn take_edu(&mut self, destinations: BTreeSet<ServerName>, edu: &Edu) {
        for name in destinations {
            let Some(destination) = self.destination(&name) else { continue };
            if let Some(dropped) = destination.queue.push_edu(edu.clone()) {
                metrics::counter!(EDUS_DROPPED).increment(1);
                self.gone.extend(dropped.kept().cloned());
            }
            self.make_ready(&name);
        }
    }

    /// `None` for a server that is denied: it is told nothing, and nothing is kept for it.
    fn destination(&mut self, name: &ServerName) -> Option<&mut Destination> {
        let new = || Destination { queue: Queue::default(), state: State::Idle, is_doubtful: false, tried_ms: 0 };
        self.client.allows(name).then(|| self.destinations.entry(name.clone()).or_insert_with(new))
    }

    /// Gives a server its turn, unless it has or waits for it.
    fn make_ready(&mut self, name: &ServerName) {
        if let Some(destination) = self.destinations.get_mut(name)
            && destination.state == State::Idle
        {
            destination.state = State::Ready;
            if let Some(ready) = self.ready.get_mut(usize::from(destination.is_doubtful)) {
                ready.push_back(name.clone());
            }
        }
    }

    fn wait_until(&mut self, name: &ServerName, until_ms: i64) {
        if let Some(destination) = self.destinations.get_mut(name) {
            destination.state = State::WaitingUntil(until_ms);
            self.due.insert((until_ms, name.clone()));
        }
    }

    /// Tries a server again that waits, since it is there.
    fn revive(&mut self, name: &ServerName) {
        let now_ms = self.clock.now_ms();
        let Some(destination) = self.destinations.get(name) else { return };
        let State::WaitingUntil(until_ms) = destination.state else { return };
        let at_ms = destination.tried_ms.saturating_add(TRIED_AGAIN_MS).max(now_ms).min(until_ms);
        self.due.remove(&(until_ms, name.clone()));
        self.wait_until(name, at_ms);
        self.wake_due();
    }

    fn wake_due(&mut self) {
        let now_ms = self.clock.now_ms();
        while let Some((due_ms, name)) = self.due.pop_first() {
            if due_ms > now_ms {
                self.due.insert((due_ms, name));
                return;
            }
            if let Some(destination) = self.destinations.get_mut(&name) {
                destination.state = State::Idle;
            }
            self.make_ready(&name);
        }
    }

    /// Returns when there is something to do though nothing comes in.
    fn timer(&self) -> futures_util::future::BoxFuture<'static, ()> {
        let due_ms = self.due.first().map_or(i64::MAX, |(due_ms, _)| *due_ms);
        let wait_ms = due_ms.min(self.write_at_ms).saturating_sub(self.clock.now_ms());
        self.clock.sleep(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)))
    }

    fn on_time(&mut self) {
        self.wake_due();
        if self.write_at_ms <= self.clock.now_ms() {
            self.write();
        }
    }

    /// Begins what there is room for.
    fn start_steps(&mut self) {
        for (lane, max) in RUNNING_MAX.into_iter().enumerate() {
            while self.running.get(lane).is_some_and(|running| *running < max)
                && let Some(name) = self.ready.get_mut(lane).and_then(VecDeque::pop_front)
            {
                self.start_step(lane, name);
            }
        }
    }

    fn start_step(&mut self, lane: usize, name: ServerName) {
        if let Some(until_ms) = self.client.backing_off_until_ms(&name) {
            return self.wait_until(&name, until_ms);
        }
        let Some(server) = self.server() else { return };
        let (random, now_ms) = (&*self.random, self.clock.now_ms());
        let Some(destination) = self.destinations.get_mut(&name) else { return };
        let Some(step) = destination.queue.next(|| random_text(random, 16)) else {
            self.destinations.remove(&name);
            return;
        };
        (destination.state, destination.tried_ms) = (State::Running, now_ms);
        if let Some(running) = self.running.get_mut(lane) {
            *running += 1;
        }
        let to = name.clone();
        let task = self.steps.spawn(async move {
            match step {
                Step::Send(transaction) => Done::Sent(server.send_transaction(&to, &transaction).await),
                Step::Look(look) => Done::Found(server.look_for(&to, look).await),
            }
        });
        self.runs_for.insert(task.id(), (name, lane));
    }

    /// Takes what came of a step.
    fn done(&mut self, done: Result<(Id, Done), JoinError>) {
        let (id, done) = match done {
            Ok((id, done)) => (id, Some(done)),
            Err(error) => {
                tracing::error!(%error, "a task that sends has failed");
                (error.id(), None)
            }
        };
        if let Some(Done::Written(told, result)) = done {
            return self.written(told, result);
        }
        let Some((name, lane)) = self.runs_for.remove(&id) else {
            // It was to write.
            self.is_writing = false;
            return;
        };
        if let Some(running) = self.running.get_mut(lane) {
            *running = running.saturating_sub(1);
        }
        let (horizon, now_ms) = (self.horizon, self.clock.now_ms());
        let Some(destination) = self.destinations.get_mut(&name) else { return };
        destination.state = State::Idle;
        destination.tried_ms = now_ms;
        let ending = match done {
            Some(Done::Found(Ok((round, found)))) => {
                destination.queue.found(round, found);
                return self.make_ready(&name);
            }
            Some(Done::Found(Err(error))) => {
                tracing::error!(destination = %name, error = &error as &dyn std::error::Error, "the log can't be looked into");
                return self.wait_until(&name, now_ms.saturating_add(self.pauses.after(1, &*self.random)));
            }
            Some(Done::Sent(ending)) => ending,
            Some(Done::Written(..)) | None => Ending::Failed,
        };
        self.ended(&name, ending, horizon, now_ms);
    }

    fn ended(&mut self, name: &ServerName, ending: Ending, horizon: u64, now_ms: i64) {
        let Some(destination) = self.destinations.get_mut(name) else { return };
        let (pdus, edus) = destination.queue.in_transaction();
        count(ending, pdus, edus);
        let kept = destination.queue.kept_in_transaction();
        if ending == Ending::Delivered {
            self.gone.extend(kept);
        }
        if let Some(given_up) = destination.queue.ended(ending, horizon) {
            metrics::counter!(PDUS_REFUSED).increment(1);
            let event_id = given_up.pdus.first().map(|pdu| tracing::field::display(&pdu.event_id));
            let edu_type = given_up.edus.first().map(Edu::edu_type);
            tracing::warn!(destination = %name, event_id, edu_type, "given up: the server refuses it");
            self.gone.extend(given_up.edus.iter().filter_map(|edu| edu.kept().cloned()));
        }
        destination.is_doubtful = !matches!(ending, Ending::Delivered);
        let failures = destination.queue.failures().max(1);
        self.write_soon(now_ms);
        match ending {
            Ending::Delivered => self.make_ready(name),
            Ending::NotSent | Ending::Refused | Ending::TooLarge | Ending::Failed => {
                let pause = now_ms.saturating_add(self.pauses.after(failures, &*self.random));
                let until_ms = self.client.backing_off_until_ms(name).unwrap_or(pause);
                self.wait_until(name, until_ms);
            }
        }
    }

    /// Moves the horizon on if nothing is in the outbox.
    fn look_ahead(&mut self) {
        let known = *self.positions.borrow();
        match self.inputs.to_send.try_recv() {
            Ok(event) => self.take(event),
            Err(_) => self.horizon = self.horizon.max(known),
        }
    }

    /// Waits for what runs, not for long, and writes how far servers were told.
    async fn stop(mut self) {
        let mut over = self.clock.sleep(STOP_WAIT);
        while !self.steps.is_empty() {
            tokio::select! {
                Some(done) = self.steps.join_next_with_id() => self.done(done),
                () = &mut over => break,
            }
        }
        self.steps.shutdown().await;
        self.look_ahead();
        let Some(server) = self.server() else { return };
        let told = self.told();
        if let Err(error) = told.write(&self.written, &self.gone, &server.log).await {
            tracing::error!(error = &error as &dyn std::error::Error, "how far servers were told can't be written");
        }
    }
}
