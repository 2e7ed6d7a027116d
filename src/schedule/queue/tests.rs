use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn queue() -> Queue {
    let weights = HashMap::from([("heavy".into(), NonZeroU32::MIN.saturating_add(2))]);
    Queue::new(Order { ageing: Duration::MAX, weights }, None)
}

#[allow(clippy::disallowed_methods, reason = "any instant will do as the start")]
fn start() -> Instant {
    Instant::now()
}

fn who<'a>(tenant: &'a str, model: &'a str) -> Who<'a> {
    Who { priority: Priority::Normal, tenant: Some(tenant), model, cost: 10 }
}

/// Serves whoever is next.
fn serve(queue: &mut Queue, now: Instant) -> Option<Seat> {
    let seat = queue.next(now)?;
    queue.serve(seat, Verdict::Shed).map(|_| seat)
}

#[test]
fn a_parked_lane_lets_others_by_and_keeps_its_order() {
    let (mut queue, now) = (queue(), start());
    let slow: Vec<_> = (0..2).map(|_| queue.enter(who("a", "slow"), Ask::of(1), now)).collect();
    let fast = queue.enter(who("a", "fast"), Ask::of(1), now);
    let other = queue.enter(who("b", "slow"), Ask::of(1), now);
    assert_eq!(queue.next(now), Some(slow[0]));
    queue.park(slow[0], now + SECOND);
    assert_eq!(queue.first_parked(), Some((now + SECOND, slow[0])));
    assert_eq!(serve(&mut queue, now), Some(fast), "the same tenant's other model");
    assert_eq!(serve(&mut queue, now), Some(other));
    assert_eq!(queue.next(now), None);
    queue.unpark_until(now + SECOND / 2);
    assert_eq!(queue.next(now), None);
    queue.unpark_until(now + SECOND);
    assert_eq!([serve(&mut queue, now), serve(&mut queue, now)], [Some(slow[0]), Some(slow[1])]);
    assert_eq!((queue.len(), queue.first_parked()), (0, None));
}

#[test]
fn who_leaves_a_parked_lane_takes_it_along_and_a_newcomer_starts_afresh() {
    let (mut queue, now) = (queue(), start());
    let first = queue.enter(who("a", "m"), Ask::of(1), now);
    queue.park(first, now + SECOND);
    let second = queue.enter(who("a", "m"), Ask::of(1), now);
    assert_eq!(queue.next(now), None, "it shares the key that holds the lane back");
    queue.leave(first);
    assert_eq!((queue.first_parked(), queue.next(now)), (None, Some(second)), "it may need less");
    queue.park(second, now + SECOND);
    queue.leave(second);
    assert_eq!((queue.first_parked(), queue.len()), (None, 0));
    let third = queue.enter(who("a", "m"), Ask::of(3), now);
    assert_eq!(queue.next(now), Some(third));
    assert_eq!(queue.waiter(third).map(|waiter| Ask::clone(&waiter.ask).tokens()), Some(3));
}

#[test]
fn what_comes_back_is_offered_to_all_parked_lanes_in_turn() {
    let (mut queue, now) = (queue(), start());
    let names: Vec<_> = (0..100).map(|number| format!("tenant {number}")).collect();
    let seats: Vec<_> = names.iter().map(|name| queue.enter(who(name, "m"), Ask::of(1), now)).collect();
    for (seat, until) in seats.iter().zip(1..) {
        queue.park(*seat, now + until * SECOND);
    }
    let mut asked = std::collections::HashSet::new();
    for _ in 0..4 {
        queue.reconsider();
        while let Some(seat) = queue.next(now) {
            asked.insert(seat);
            let until = seats.iter().position(|other| *other == seat).unwrap_or_default();
            queue.park(seat, now + (u32::try_from(until).unwrap_or_default() + 1) * SECOND);
        }
    }
    assert_eq!(asked.len(), 100, "four times 32 reach everybody");
}

#[test]
fn a_parked_flow_does_not_make_up_for_its_time() {
    let (mut queue, now) = (queue(), start());
    let parked: Vec<_> = (0..20).map(|_| queue.enter(who("parked", "m"), Ask::of(1), now)).collect();
    queue.park(parked[0], now + SECOND);
    for _ in 0..40 {
        queue.enter(who("other", "m"), Ask::of(1), now);
    }
    (0..20).for_each(|_| assert!(serve(&mut queue, now).is_some()));
    queue.unpark_until(now + SECOND);
    let turns: Vec<_> = (0..20).filter_map(|_| serve(&mut queue, now)).collect();
    assert_eq!(turns.iter().filter(|seat| parked.contains(seat)).count(), 10);
}

#[test]
fn nothing_is_kept_of_those_who_have_gone() {
    let (mut queue, now) = (queue(), start());
    let names: Vec<_> = (0..1_000).map(|number| format!("tenant {number}")).collect();
    let mut seats: Vec<_> = names.iter().map(|name| queue.enter(who(name, name), Ask::of(1), now)).collect();
    assert_eq!((queue.tenants(), queue.room.tenants.len(), queue.room.models.len()), (1_000, 1_000, 1_000));
    for seat in seats.drain(..500) {
        queue.leave(seat);
    }
    for _ in 0..250 {
        let seat = serve(&mut queue, now).unwrap_or_default();
        queue.leave(seat);
        seats.retain(|other| *other != seat);
    }
    assert!(queue.room.tenants.len() <= 750, "who owes is remembered for about a round");
    for seat in seats {
        queue.leave(seat);
    }
    assert_eq!((queue.room.tenants.len(), queue.room.models.len(), queue.tenants()), (0, 0, 0));
}

#[test]
fn a_lane_held_back_anew_has_one_time() {
    let (mut queue, now) = (queue(), start());
    let seat = queue.enter(who("a", "m"), Ask::of(1), now);
    queue.park(seat, now + SECOND);
    queue.park(seat, now + 3 * SECOND);
    assert_eq!(queue.first_parked(), Some((now + 3 * SECOND, seat)));
    queue.unpark_until(now + 2 * SECOND);
    assert_eq!(queue.next(now), None);
    queue.unpark_until(now + 3 * SECOND);
    assert_eq!((queue.next(now), queue.first_parked()), (Some(seat), None));
}
