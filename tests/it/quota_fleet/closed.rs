//! A gate that a 429 closes in one process is closed in all of them.

use std::time::Instant;

use sluicegate::{Error, Retryability};

use super::*;

const LONG: Duration = Duration::from_secs(30);

/// A call of this model is refused, for so long.
async fn refused(gate: &AdmissionGate, model: &str, wait: Duration) {
    let permit = gate.admit(&Job::new(model).tokens(10, 0)).await.unwrap();
    let hint = Retryability::After(Some(wait));
    let error = Error::new(ErrorKind::RateLimited, "t", "").with_retryability(hint);
    permit.settle(Outcome::failed(&error, SECOND));
}

/// Whether a call of this model must wait for longer than a lease takes.
pub(super) async fn is_closed(gate: &AdmissionGate, model: &str) -> bool {
    let deadline = Instant::now() + SECOND;
    match gate.admit(&Job::new(model).tokens(10, 0).deadline(Some(deadline))).await {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::Deadline,
    }
}

async fn use_it(gate: &AdmissionGate, model: &str) {
    drop(gate.admit(&Job::new(model).tokens(10, 0)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_429_closes_the_gate_of_its_model_for_the_fleet() {
    let server = Server::start(&[]).await;
    let mut gates: Vec<_> = (0..3).map(|_| gate(&limits(), &server)).collect();
    for (gate, _) in &gates[..2] {
        use_it(gate, "m").await;
    }
    refused(&gates[0].0, "m", LONG).await;
    until("the second one hears of it", || is_closed(&gates[1].0, "m")).await;
    use_it(&gates[1].0, "other").await;
    assert!(is_closed(&gates[2].0, "m").await, "who has joined since, with its first call");
    use_it(&gates[2].0, "other").await;
    gates.push(gate(&limits().limit(Limit::requests(9).per(PERIOD).models(["m*"])), &server));
    assert!(is_closed(&gates[3].0, "m-mini").await, "the whole group, where there is one");
    // Where it came from it is no news.
    assert!(is_closed(&gates[0].0, "m").await);
    use_it(&gates[0].0, "other").await;
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_opens_at_its_time_and_a_later_one_holds() {
    let server = Server::start(&[]).await;
    let gates: Vec<_> = (0..2).map(|_| gate(&limits(), &server)).collect();
    for (gate, _) in &gates {
        use_it(gate, "m").await;
    }
    // Both are on their way when the first is refused.
    let late = gates[1].0.admit(&Job::new("m").tokens(10, 0)).await.unwrap();
    let begin = Instant::now();
    refused(&gates[0].0, "m", 2 * SECOND).await;
    until("the other hears of it", || is_closed(&gates[1].0, "m")).await;
    let hint = Retryability::After(Some(3 * SECOND));
    let error = Error::new(ErrorKind::RateLimited, "t", "").with_retryability(hint);
    let later = Instant::now();
    late.settle(Outcome::failed(&error, SECOND));
    for (number, (gate, _)) in gates.iter().enumerate().rev() {
        use_it(gate, "m").await;
        assert!(later.elapsed() >= 3 * SECOND, "{number}: after {:?} of {:?}", later.elapsed(), begin.elapsed());
    }
    let gone = || async { server.command(&["EXISTS", "sluicegate:limits:{tests}:closed"]).await == "0" };
    until("nothing is left of it", gone).await;
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_finds_out_and_tells_when_it_is_back() {
    let mut server = Server::stopped(&[]);
    let gates: Vec<_> = (0..2).map(|_| gate(&limits(), &server)).collect();
    for (gate, _) in &gates {
        use_it(gate, "m").await;
    }
    in_mode(&gates, FleetMode::Alone).await;
    refused(&gates[0].0, "m", LONG).await;
    let trips = gates[1].0.fleet().unwrap().trips;
    until("more trips fail", || async { gates[1].0.fleet().unwrap().trips >= trips + 3 }).await;
    use_it(&gates[1].0, "m").await;
    server.run().await;
    until("it hears of it after all", || is_closed(&gates[1].0, "m")).await;
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_time_does_not_replace_a_longer_one() {
    let server = Server::start(&[]).await;
    let (gate, env) = gate(&limits(), &server);
    let permit = gate.admit(&Job::new("m").tokens(10, 0)).await.unwrap();
    let time = server.command(&["TIME"]).await;
    let seconds = time.lines().next().unwrap().parse::<u64>().unwrap();
    // Told by another one, and not heard here yet.
    let longer = format!("{}000000 30000000 0 another", seconds + 30);
    let key = "sluicegate:limits:{tests}:closed";
    server.command(&["HSET", key, "m", &longer]).await;
    let hint = Retryability::After(Some(SECOND));
    let error = Error::new(ErrorKind::RateLimited, "t", "").with_retryability(hint);
    let trips = gate.fleet().unwrap().trips;
    permit.settle(Outcome::failed(&error, SECOND));
    until("it is told", || async { gate.fleet().unwrap().trips >= trips + 2 }).await;
    assert_eq!(server.command(&["HGET", key, "m"]).await, longer);
    end(vec![(gate, env)]).await;
}
