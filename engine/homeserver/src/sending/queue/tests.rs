use super::*;

fn event(room: usize, number: u64) -> Arc<Outgoing> {
    let room_id = RoomId::parse(&format!("!{room}:a")).unwrap();
    let event_id = EventId::parse(&format!("${number}:a")).unwrap();
    Arc::new(Outgoing { room_id, event_id, within: number..number + 1 })
}

fn edu(about: &str) -> Edu {
    Edu::new("m.test", &about, Some(about.to_owned())).unwrap()
}

/// Returns the places of the events that the queue wants to be sent, and how many EDUs.
fn sent(queue: &mut Queue) -> (Vec<u64>, usize) {
    match queue.next(|| "id".to_owned()) {
        Some(Step::Send(transaction)) => {
            (transaction.pdus.iter().map(|pdu| pdu.within.start).collect(), transaction.edus.len())
        }
        other => panic!("{other:?}"),
    }
}

fn queue_of(numbers: Range<u64>) -> Queue {
    let mut queue = Queue::default();
    numbers.for_each(|number| queue.push(&event(0, number), 0));
    queue
}

#[test]
fn a_transaction_has_50_pdus_and_100_edus() {
    let mut queue = queue_of(0..120);
    for number in 0..150 {
        assert!(queue.push_edu(edu(&number.to_string())).is_none());
    }
    for (pdus, edus) in [(0..50, 100), (50..100, 50), (100..120, 0)] {
        assert_eq!(sent(&mut queue), (pdus.collect(), edus));
        queue.ended(Ending::Delivered, 0);
    }
    assert!(queue.next(String::new).is_none() && queue.told(7).is_none());
}

#[test]
fn what_is_sent_again_is_the_same() {
    let mut queue = queue_of(0..1);
    let first = queue.next(|| "first".to_owned());
    queue.ended(Ending::Failed, 0);
    queue.push(&event(0, 1), 0);
    let (Some(Step::Send(first)), Some(Step::Send(again))) = (first, queue.next(|| "second".to_owned())) else {
        panic!("there is something to be sent")
    };
    assert!(Arc::ptr_eq(&first, &again));
    queue.ended(Ending::Delivered, 0);
    assert_eq!(sent(&mut queue).0, [1]);
}

#[test]
fn edus_replace_older_ones_and_are_bounded() {
    let mut queue = Queue::default();
    queue.push_edu(edu("a"));
    queue.push_edu(edu("b"));
    assert!(queue.push_edu(edu("a")).is_none());
    assert_eq!(queue.lengths(), (0, 2));
    let dropped = (0..1_000).filter_map(|number| queue.push_edu(edu(&number.to_string()))).count();
    assert_eq!((dropped, queue.lengths()), (1_002 - EDUS_MAX, (0, EDUS_MAX)));
    // What is kept is not dropped for what is not, nor the other way around.
    let kept = |number: usize| Edu::new("m.test", &number, None).unwrap().kept_by(Bytes::from(number.to_string()));
    assert!((0..KEPT_EDUS_MAX).all(|number| queue.push_edu(kept(number)).is_none()));
    let dropped = queue.push_edu(kept(KEPT_EDUS_MAX)).unwrap();
    assert_eq!(dropped.kept().unwrap(), &KEPT_EDUS_MAX.to_string());
    assert!(queue.push_edu(edu("new")).unwrap().kept().is_none());
    assert_eq!(queue.lengths(), (0, EDUS_MAX + KEPT_EDUS_MAX));
}

#[test]
fn what_is_refused_is_halved_and_given_up_alone() {
    let mut queue = queue_of(0..50);
    let (mut delivered, mut refused, mut requests) = (Vec::new(), Vec::new(), 0);
    while let Some(Step::Send(transaction)) = queue.next(String::new) {
        requests += 1;
        let numbers = transaction.pdus.iter().map(|pdu| pdu.within.start);
        if transaction.pdus.contains(&event(0, 33)) {
            refused.extend(queue.ended(Ending::Refused, 0).into_iter().flat_map(|it| it.pdus.clone()));
        } else {
            delivered.extend(numbers);
            queue.ended(Ending::Delivered, 0);
        }
        assert_eq!(queue.failures(), u32::from(delivered.len() == 33 && !refused.is_empty()), "pauses do not grow");
    }
    assert_eq!(refused, [event(0, 33)]);
    assert_eq!(delivered, (0..50).filter(|number| *number != 33).collect::<Vec<_>>());
    assert!(requests < 40, "{requests}");
}

#[test]
fn a_server_that_refuses_everything_is_asked_less_and_less() {
    let mut queue = queue_of(0..5);
    let mut given_up = 0;
    while queue.next(String::new).is_some() {
        given_up += u32::from(queue.ended(Ending::Refused, 0).is_some());
        assert_eq!(queue.failures(), given_up);
    }
    assert_eq!(given_up, 5);
}

#[test]
fn a_full_queue_keeps_its_place_only() {
    let mut queue = queue_of(100..100 + PDUS_MAX as u64);
    assert_eq!(queue.told(1_000), Some(100));
    queue.push(&event(0, 900), 90);
    assert_eq!((queue.lengths(), queue.told(1_000)), ((0, 0), Some(90)));
    queue.push(&event(0, 950), 90);
    let Some(Step::Look(look)) = queue.next(String::new) else { panic!("it looks into the log") };
    assert_eq!(look, Look { from: 90, until: 951, round: None });
    // What is pushed after the look began may be beyond it.
    queue.push(&event(0, 2_000), 90);
    queue.found(Round { to: 1_000, after: None, is_over: true }, Vec::new());
    let Some(Step::Look(look)) = queue.next(String::new) else { panic!("it looks into the log again") };
    assert_eq!((look.from, look.until), (1_000, 2_001));
    queue.found(Round { to: 2_001, after: None, is_over: true }, Vec::new());
    assert!(queue.next(String::new).is_none() && !queue.is_catching_up());
}

#[test]
fn a_server_that_does_not_answer_takes_no_memory() {
    let mut queue = queue_of(10..300);
    let Some(Step::Send(first)) = queue.next(String::new) else { panic!("there is something to be sent") };
    for _ in 0..FAILURES_KEPT_MAX {
        assert_eq!(queue.lengths().0, 290);
        queue.ended(Ending::Failed, 300);
    }
    assert_eq!((queue.lengths(), queue.told(300), queue.failures()), ((0, 0), Some(10), FAILURES_KEPT_MAX));
    assert_eq!(Arc::strong_count(&first), 1);
}

/// A small source of numbers that are the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

const ROOMS: usize = 3;

/// A log that rooms append to at the same time, and the queue of one server.
struct Model {
    numbers: Numbers,
    /// The room of each event.
    log: Vec<usize>,
    /// Of each room, what is appended and not pushed yet; and what the position waits for.
    under_way: [VecDeque<u64>; ROOMS],
    queue: Queue,
    horizon: u64,
    /// In the order in which it was delivered.
    delivered: Vec<u64>,
    given_up: usize,
}

impl Model {
    fn position(&self) -> u64 {
        let first = self.under_way.iter().filter_map(|events| events.front()).min();
        first.copied().unwrap_or(self.log.len() as u64)
    }

    fn append(&mut self) {
        let room = self.numbers.below(ROOMS as u64) as usize;
        self.under_way[room].push_back(self.log.len() as u64);
        self.log.push(room);
    }

    fn push(&mut self, room: usize) {
        if let Some(number) = self.under_way[room].pop_front() {
            // Where it is is known less well than that.
            let within = number.saturating_sub(self.numbers.below(3))..number + 1 + self.numbers.below(3);
            let within = within.start..within.end.min(self.log.len() as u64);
            let Outgoing { room_id, event_id, .. } = Arc::into_inner(event(room, number)).unwrap();
            self.queue.push(&Arc::new(Outgoing { room_id, event_id, within }), self.horizon);
        }
        if self.numbers.below(4) == 0 {
            self.horizon = self.position();
        }
    }

    fn step(&mut self) -> bool {
        match self.queue.next(String::new) {
            None => return false,
            Some(Step::Look(look)) => {
                let to = look.round.as_ref().map_or(self.position(), |round| round.to);
                if look.round.is_none() && to < look.until {
                    // It waits.
                    return true;
                }
                let rooms: Vec<usize> = (0..ROOMS).collect();
                let done = look.round.and_then(|round| round.after);
                let room = rooms.iter().find(|room| done.as_ref().is_none_or(|done| event(**room, 0).room_id > *done));
                let Some(room) = room else {
                    self.queue.found(Round { to, after: done, is_over: true }, Vec::new());
                    return true;
                };
                let owed = (look.from..to).filter(|number| self.log[*number as usize] == *room);
                let found = owed.map(|number| Arc::into_inner(event(*room, number)).unwrap()).collect();
                let round = Round { to, after: Some(event(*room, 0).room_id.clone()), is_over: false };
                self.queue.found(round, found);
            }
            Some(Step::Send(transaction)) => {
                let ending = match self.numbers.below(10) {
                    0..=3 => Ending::Failed,
                    4 => Ending::NotSent,
                    5 if transaction.pdus.len() > 1 => Ending::TooLarge,
                    _ => Ending::Delivered,
                };
                let maybe = ending == Ending::Failed && self.numbers.below(2) == 0;
                if ending == Ending::Delivered || maybe {
                    let number = |pdu: &Arc<Outgoing>| {
                        pdu.event_id.as_str().trim_start_matches('$').trim_end_matches(":a").parse::<u64>().unwrap()
                    };
                    self.delivered.extend(transaction.pdus.iter().map(number));
                }
                self.given_up += usize::from(self.queue.ended(ending, self.horizon).is_some());
            }
        }
        true
    }

    /// Starts again with what was written, which may be told of later than it was so.
    fn crash(&mut self, written: u64) {
        for room in 0..ROOMS {
            self.under_way[room].clear();
        }
        self.queue = Queue::behind(written);
        self.horizon = self.log.len() as u64;
    }
}

#[test]
fn nothing_is_lost_between_the_log_and_what_is_pushed() {
    for seed in 0..1_000 {
        let numbers = Numbers(seed);
        let (queue, under_way) = (Queue::default(), [const { VecDeque::new() }; ROOMS]);
        let (log, delivered) = (Vec::new(), Vec::new());
        let mut model = Model { numbers, log, under_way, queue, horizon: 0, delivered, given_up: 0 };
        let mut written = 0;
        for _ in 0..300 {
            match model.numbers.below(12) {
                0..=3 => model.append(),
                4..=6 => {
                    let room = model.numbers.below(ROOMS as u64) as usize;
                    model.push(room);
                }
                7 => written = model.queue.told(model.horizon).unwrap_or(model.horizon),
                8 if model.numbers.below(10) == 0 => model.crash(written),
                9 if model.numbers.below(5) == 0 && !model.queue.is_catching_up() => {
                    model.queue.fall_behind(model.horizon);
                }
                _ => drop(model.step()),
            }
        }
        for room in 0..ROOMS {
            while !model.under_way[room].is_empty() {
                model.push(room);
            }
        }
        while model.step() {}
        let mut first = std::collections::HashSet::new();
        model.delivered.retain(|number| first.insert(*number));
        assert_eq!((first.len(), model.given_up), (model.log.len(), 0), "seed {seed}");
        for room in 0..ROOMS {
            let of_room = model.delivered.iter().filter(|number| model.log[**number as usize] == room);
            assert!(of_room.is_sorted(), "seed {seed}: the order of a room is kept");
        }
    }
}
